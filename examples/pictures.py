"""Play a shipped trace with the actions nearest to the compiler's own mapping and save pictures of the game.

    python examples/pictures.py mobilenet-v5e docs/img/game

writes docs/img/game_first.png, game_middle.png and game_last.png.
"""

import sys

import gymnasium
from PIL import Image

import mallocgame  # noqa: F401 (registers MallocGame-v0)
from mallocgame.game.rules import actions_of
from mallocgame.workloads import suite


def main(name: str, prefix: str) -> None:
    """Play one episode."""
    trace = suite.load(name)
    env = gymnasium.make("MallocGame-v0", suite=name, render_mode="rgb_array").unwrapped
    game = env.batch.games[0]
    wanted = actions_of(game, trace.mapping)
    env.reset()
    for turn, action in enumerate(wanted):
        if turn in (0, len(wanted) // 2):
            Image.fromarray(env.render()).save(f"{prefix}_{'middle' if turn else 'first'}.png")
        mask = env.action_masks()
        other = action + 1 if action % 2 else action - 1  # copy it in instead of finding it there, and the reverse
        choice = action if mask[action] else other if action and mask[other] else 0
        env.step(choice)
    Image.fromarray(env.render()).save(f"{prefix}_last.png")
    print(f"{name}: {len(wanted)} decisions, return {env.batch.returns[0]:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How fast the rules are: ``python -m tests.benchmarks.game``. Rates and ratios, medians; no timed asserts.

Time is the processor time of this process, so that other work on the machine does not count.
The programs are blocks with weights, activations and residual connections on the v5e preset, sized so that about a
third of what is wanted fits in fast memory.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from mallocgame.game.rules import Game, initial_state, make_batch, make_game, to_mapping
from mallocgame.game.rules.batch import BatchState, Trial, batch_mask, batch_reset, batch_step, make_trial
from mallocgame.game.rules.state import Bool, Rules, State
from mallocgame.game.rules.step import do_step, write_mask
from mallocgame.game.rules.views import F64, I64
from mallocgame.hierarchy import preset
from mallocgame.jit import jit
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind

MIB = 2**20


def blocks(num_uses: int, seed: int = 0) -> Program:
    """Return a program with about ``num_uses`` uses: per step a weight, the last activation and an older one."""
    rng = np.random.default_rng(seed)
    num_steps = max(num_uses // 4, 2)
    uses: list[list[Use]] = []
    sizes: list[int] = []
    parameters: set[int] = set()
    activations: list[int] = []
    for step in range(num_steps):
        reads = activations[-1:]
        if len(activations) > 6:
            reads.append(activations[-int(rng.integers(2, 7))])
        size = int(rng.integers(1, 24)) * MIB
        parameters.add(len(uses))
        uses.append([Use(step=step, bytes=size, operand=0)])
        sizes.append(size)
        for operand, tensor in enumerate(dict.fromkeys(reads), start=1):
            uses[tensor].append(Use(step=step, bytes=sizes[tensor], operand=operand))
        size = int(rng.integers(1, 24)) * MIB
        activations.append(len(uses))
        uses.append([Use(step=step, bytes=size, kind=UseKind.DEFINE)])
        sizes.append(size)
    tensors = tuple(
        Tensor(
            name=f"t{i}",
            size_bytes=sizes[i],
            uses=tuple(uses[i]),
            is_parameter=i in parameters,
            is_output=i == activations[-1],
        )
        for i in range(len(uses))
    )
    compute = rng.uniform(1e-5, 8e-5, num_steps)
    instructions = tuple(Instruction(name=f"i{t}", compute_seconds=float(compute[t])) for t in range(num_steps))
    return Program(name=f"blocks-{num_uses}", instructions=instructions, tensors=tensors)


@jit
def episode(rules: Rules, start_ints: I64, start_floats: F64, s: State, seed: int, masks: bool) -> float:
    """Play one random episode, choosing among the legal actions (``masks``) or trying one and falling back on Drop."""
    np.random.seed(seed)
    s.ints[:] = start_ints
    s.floats[:] = start_floats
    num_actions = 2 * rules.layers.shape[0] - 1
    mask = np.empty(num_actions, dtype=np.bool_)
    total = 0.0
    for _ in range(rules.decisions.shape[0]):
        action = np.random.randint(num_actions)
        if masks:
            write_mask(rules, s, mask)
            while not mask[action]:
                action = np.random.randint(num_actions)
        reward = do_step(rules, s, action)
        if np.isnan(reward):
            reward = do_step(rules, s, 0)
        total += reward
    return total


def rate(work: Callable[[int], int], repeats: int = 7) -> float:
    """Return the median of steps per second of ``work(seed)``, which returns its steps."""
    work(0)
    found = []
    for seed in range(repeats):
        begun = time.process_time()
        steps = 0
        while time.process_time() - begun < 0.3:
            steps += work(seed)
        found.append(steps / (time.process_time() - begun))
    return median(found)


def single(game: Game, masks: bool) -> float:
    """Return steps per second of one game."""
    state = initial_state(game)

    def work(seed: int) -> int:
        episode(game.rules, game.start.ints, game.start.floats, state, seed, masks)
        return game.num_decisions

    return rate(work)


@jit
def batch_episode(
    batch: BatchState, actions: I64, rewards: F64, flags: Bool, masks: Bool, steps: int, trial: Trial
) -> None:
    """Play ``steps`` random legal moves in every game."""
    for _ in range(steps):
        for b in range(actions.shape[0]):
            actions[b] = np.random.randint(masks.shape[1])
            while not masks[b, actions[b]]:
                actions[b] = np.random.randint(masks.shape[1])
        batch_step(batch, actions, rewards, flags[0], flags[1], masks, trial)


def batched(game: Game, size: int) -> float:
    """Return steps per second, all games together, masks included."""
    batch = make_batch([game], np.zeros(size, dtype=np.int64))
    actions, rewards = np.zeros(size, dtype=np.int64), np.zeros(size)
    flags = np.zeros((2, size), dtype=np.bool_)
    masks, nothing = np.zeros((size, game.num_actions), dtype=np.bool_), make_trial(batch, 0)

    def work(seed: int) -> int:
        batch_reset(batch, np.ones(size, dtype=np.bool_))
        batch_mask(batch, masks)
        batch_episode(batch, actions, rewards, flags, masks, game.num_decisions - 1, nothing)
        return size * (game.num_decisions - 1)

    return rate(work, repeats=3)


def main() -> None:
    """Print the tables."""
    games = {n: make_game(blocks(n), preset("v5e")) for n in (100, 300, 500, 1000, 3000, 10_000)}
    rates = {n: (single(game, False), single(game, True)) for n, game in games.items()}
    print("uses  decisions  steps/s  with masks  us/step  simulate us")
    for n, game in games.items():
        begun = time.process_time()
        for _ in range(3):
            simulate(game.program, game.hierarchy, _full(game))
        judged = (time.process_time() - begun) / 3
        plain, masked = rates[n]
        print(
            f"{n:5d}  {game.num_decisions:9d}  {plain:7.0f}  {masked:10.0f}  {1e6 / plain:7.2f}  {judged * 1e6:11.0f}"
        )
    small, large = games[100], games[10_000]
    exponent = np.log(rates[100][0] / rates[10_000][0]) / np.log(large.num_decisions / small.num_decisions)
    print(f"cost per step grows as decisions ** {exponent:.2f} (100 to 10,000 uses)")
    game = games[500]
    begun = time.process_time()
    for _ in range(1000):
        initial_state(game)
    print(f"reset of a parsed program: {(time.process_time() - begun):.3f} ms")
    for size in (1, 64):
        print(f"batch of {size:2d}: {batched(game, size):.0f} steps/s with masks (single play {rates[500][1]:.0f})")


def _full(game: Game) -> Mapping:
    state = initial_state(game)
    episode(game.rules, game.start.ints, game.start.floats, state, 0, True)
    return to_mapping(game, state)


if __name__ == "__main__":
    main()

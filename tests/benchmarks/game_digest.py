"""Is play what it was? ``python -m tests.benchmarks.game_digest [TRACE...]`` prints a line per trace, for ``diff``.

Each digest covers every action, mask, reward, observation and simulated time, bit for bit, of games that ask for the
compiler's own mapping, of games that ask for random actions, and of random legal play in a batch.
"""

import argparse
import hashlib

import numpy as np

from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.rules import actions_of, decode
from mallocgame.workloads import suite


def digest(name: str, games: int) -> str:
    """Return the digest of ``games`` games of each kind on a shipped trace."""
    trace = suite.load(name)
    found = hashlib.sha256()
    rng = np.random.default_rng(0)
    for program in (trace.program, trace.program.without_hoisting()):
        batch = MallocGameBatch([(program, trace.hierarchy)], games)
        game = batch.games[0]
        random = rng.integers(batch.num_actions, size=(games, game.num_decisions))
        for wanted in (actions_of(game, trace.mapping), *random):
            totals = np.empty(game.num_decisions)
            seconds, taken = decode(game, wanted, totals=totals)
            found.update(np.float64(seconds).tobytes() + taken.tobytes() + totals.tobytes())
        while not batch.done.all():
            draws = rng.random(batch.action_masks.shape)
            batch.step(np.where(batch.action_masks, draws, -1.0).argmax(axis=1))
            legal = batch.action_masks & ~batch.done[:, None]
            for array in (legal, batch.rewards, batch.done, *batch.observations.values()):
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    """Print the digests."""
    parser = argparse.ArgumentParser(description="digests of play")
    parser.add_argument("traces", nargs="*", help="default: all")
    parser.add_argument("--games", type=int, default=2, help="of each kind")
    arguments = parser.parse_args()
    for name in arguments.traces or suite.names(base=True):
        print(f"{name:<28} {digest(name, arguments.games)}", flush=True)


if __name__ == "__main__":
    main()

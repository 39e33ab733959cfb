"""What the rules cost a good mapping: ``python -m tests.benchmarks.game_replay [TRACE...] [--seconds 2]``.

Annealed mappings and the compiler's own are turned into actions (``actions_of``) and played (``decode``). Kept is the
mapping's own simulated time / that of the mapping that the game ends with; 1.01 means that the game's is faster by 1 %.
The programs are those that the compiler could make: without hoisting.
"""

import argparse
from statistics import geometric_mean, median

from mallocgame.baselines.anneal import anneal
from mallocgame.game.rules import Game, actions_of, decode, make_game
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.workloads import suite


def kept(game: Game, mapping: Mapping) -> float:
    """Return the seconds of ``mapping`` over those of the game that asks for the same."""
    seconds = simulate(game.program, game.hierarchy, mapping).total_seconds
    return seconds / decode(game, actions_of(game, mapping))[0]


def main() -> None:
    """Print a row per trace, and means."""
    parser = argparse.ArgumentParser(description="what replay keeps of good mappings")
    parser.add_argument("traces", nargs="*", help="default: all of v5e")
    parser.add_argument("--seconds", type=float, default=2.0, help="of annealing for each trace")
    arguments = parser.parse_args()
    found: list[tuple[float, float]] = []
    print(f"{'trace':<28} decisions  annealed kept  compiler's kept")
    for name in arguments.traces or suite.names(chip="v5e", base=True):
        trace = suite.load(name)
        game = make_game(trace.program.without_hoisting(), trace.hierarchy)
        annealed = anneal(game.program, game.hierarchy, seconds=arguments.seconds).mapping
        found.append((kept(game, annealed), kept(game, trace.mapping)))
        print(f"{name:<28} {game.num_decisions:9d} {found[-1][0]:14.4f} {found[-1][1]:16.4f}", flush=True)
    columns = tuple(zip(*found, strict=True))
    for title, mean in (("geometric mean", geometric_mean), ("median", median), ("least", min)):
        print(f"{title:<38} {mean(columns[0]):14.4f} {mean(columns[1]):16.4f}")


if __name__ == "__main__":
    main()

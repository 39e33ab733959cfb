"""How far ahead games make one look: ``python -m tests.benchmarks.horizon [--horizon 4] [TRACE...]``.

The effective horizon of shipped traces (default: the small ones) and of small synthetic games, by GORP with k = 1, 2, 3
(``baselines/play/gorp.py``): least k + log_A(rollouts) that saves 90 % of what the best run saved; inf: not reached.
"""

import argparse
import time

from mallocgame.baselines.play.gorp import effective_horizon
from mallocgame.judge.simulation import home_seconds
from mallocgame.workloads.make import find_programs
from mallocgame.workloads.synthetic.generate import FAMILIES, PLANTED

SMALL = ("alexnet-v5e", "alexnet-v4")


def main() -> None:
    """Print a row per game."""
    parser = argparse.ArgumentParser(description="effective horizons by GORP")
    parser.add_argument("traces", nargs="*", default=list(SMALL))
    parser.add_argument("--horizon", type=float, default=4.0, help="the largest horizon that is tried")
    parser.add_argument("--decisions", type=int, default=30, help="of the synthetic games; 0: none")
    arguments = parser.parse_args()
    games = [(name, find_programs(suite=name)[0]) for name in arguments.traces]
    if arguments.decisions:
        games += [
            (family, find_programs(family=family, decisions=arguments.decisions, seed=1)[0])
            for family in (*FAMILIES, PLANTED)
        ]
    print(
        "game                   decisions  horizon  k  rollouts  best saves "
        "  k=1 reaches  k=2 reaches  k=3 reaches      s"
    )
    for name, (program, hierarchy) in games:
        begun = time.process_time()
        found = effective_horizon(program, hierarchy, max_horizon=arguments.horizon)
        home = home_seconds(program, hierarchy)
        saves = home - found.target_seconds
        most = {
            k: max((m, (home - seconds) / saves) for j, m, seconds in found.medians if j == k)[1] for k in (1, 2, 3)
        }
        print(
            f"{name:<22} {program.num_decisions:9d} {found.horizon:8.2f} {found.look_ahead:2d} {found.rollouts:9d} "
            f"{saves / home:11.1%} "
            + " ".join(f"{most[k]:12.1%}" for k in (1, 2, 3))
            + f" {time.process_time() - begun:7.1f}"
        )


if __name__ == "__main__":
    main()

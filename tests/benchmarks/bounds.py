"""How tight and how fast the bounds are on traces: ``python -m tests.benchmarks.bounds TRACE... [--seconds N]``.

``--programs N`` instead checks N random tiny programs against brute force over mappings.
"""

import argparse
import time
from pathlib import Path

from mallocgame.baselines.bounds import capacity_bound
from mallocgame.baselines.bounds.linear import solve
from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.workloads.trace import load_trace
from tests.baselines.solvers.tiny import tiny_hierarchy, tiny_program
from tests.brute_force import brute_force


def on_traces(paths: list[Path], seconds: float) -> None:
    """Print one row a trace: milliseconds of each bound, and the solve time."""
    print("| trace | decisions | home | compiler | simple | LP | integer | s |\n|---|---|---|---|---|---|---|---|")
    for path in paths:
        trace = load_trace(path)
        program, hierarchy = trace.program, trace.hierarchy
        bound = capacity_bound(program, hierarchy, seconds=seconds)
        theirs = simulate(program, hierarchy, trace.mapping).total_seconds if trace.mapping else float("nan")
        times = (home_seconds(program, hierarchy), theirs, bound.simple_seconds, bound.linear_seconds)
        cells = " | ".join(f"{1e3 * t:.4f}" for t in (*times, bound.integer_seconds))
        print(f"| {trace.name} | {program.num_decisions} | {cells} | {bound.solve_seconds:.1f} |", flush=True)


def on_tiny_programs(count: int) -> None:
    """Check the linear bound against the optimum of tiny programs; exit with an error if it is ever above."""
    exact, begun = 0, time.perf_counter()
    for seed in range(count):
        program, hierarchy = tiny_program(seed), tiny_hierarchy(7 * seed + 1)
        best = brute_force(program, hierarchy, seconds=60.0)
        relaxation = relax(program, hierarchy)
        bound = solve(relaxation.linear).bound * relaxation.unit_seconds
        if bound > best.seconds * (1 + 1e-12) + 1e-12:
            raise SystemExit(f"seed {seed}: bound {bound} is above the optimum {best.seconds}")
        exact += bound >= best.seconds * (1 - 1e-6)
    print(
        f"{count} programs, bound never above the optimum, equal to it on {exact}, {time.perf_counter() - begun:.0f} s"
    )


def main() -> None:
    """Run either."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--programs", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.programs:
        on_tiny_programs(arguments.programs)
    on_traces(arguments.traces, arguments.seconds)


if __name__ == "__main__":
    main()

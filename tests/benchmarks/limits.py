"""Do limits hold: ``python -m tests.benchmarks.limits [--seconds S] [--solvers A,B] [--sizes N,...] [TRACE...]``.

Every solver on every shipped trace (or those named) and on synthetic programs, kernels warm: the seconds from call to
answer against 1.1 x S + 0.5, and whether the answer is valid and no worse than its start. One row each; the last lines
count what failed.
"""

import argparse
import json
import time
from collections.abc import Iterator

from mallocgame.evaluation import XLA, find_solver, solver_names
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.solver import Problem
from mallocgame.workloads import suite
from mallocgame.workloads.synthetic.generate import Recipe, generate


def allowed_seconds(seconds: float) -> float:
    """Return how long a solver with this limit may take."""
    return 1.1 * seconds + 0.5


def synthetic(size: int) -> Problem:
    """Return a generated training program of about ``size`` decisions on v5e."""
    return Problem(
        generate(Recipe(family="training", decisions=size), seed=size, hierarchy=preset("v5e")).program, preset("v5e")
    )


def cases(names: list[str], sizes: list[int]) -> Iterator[tuple[str, Problem, Mapping | None]]:
    """Yield a name, a problem and a start of each case."""
    for name in names:
        trace = suite.load(name)
        yield name, Problem(trace.program, trace.hierarchy), trace.mapping
    for size in sizes:
        yield f"synthetic-{size}", synthetic(size), None


def main() -> None:
    """Measure, print, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--solvers", default=",".join(name for name in solver_names() if name != XLA))
    parser.add_argument("--sizes", default="5000")
    arguments = parser.parse_args()
    late, wrong, total = 0, 0, 0
    sizes = [int(size) for size in arguments.sizes.split(",") if size]
    for name, problem, start in cases(arguments.traces or list(suite.names(base=True)), sizes):
        least = home_seconds(*problem) if start is None else simulate(*problem, start).total_seconds
        for wanted in arguments.solvers.split(","):
            solve, options = find_solver(wanted)
            solve.prepare(problem, **options)
            begun = time.perf_counter()
            found = solve(*problem, seconds=arguments.seconds, start=start, **options)
            spent = time.perf_counter() - begun
            is_late = spent > allowed_seconds(arguments.seconds)
            is_wrong = bool(validate(*problem, found.mapping)) or found.seconds > least * (1 + 1e-9)
            late, wrong, total = late + is_late, wrong + is_wrong, total + 1
            row = {"trace": name, "solver": wanted, "seconds": round(spent, 2), "late": is_late, "wrong": is_wrong}
            print(json.dumps({**row, "judged_seconds": found.seconds}), flush=True)
    print(f"{late} of {total} late (more than {allowed_seconds(arguments.seconds):.1f} s), {wrong} wrong")


if __name__ == "__main__":
    main()

"""How tight and how fast the bounds are on traces: ``python -m tests.benchmarks.bounds TRACE... [--seconds N]``.

``--programs N`` instead attacks the bounds with N random tiny programs: brute force over mappings, whose copies come
in slices and go from one residency to another, in two and three layers by turns. The bounds of prices (drawn at random
and raised), of the linear program, and of ``capacity_bound`` with that optimum as its cutoff (each 10th program) must
not be above it. ``--count FILE`` keeps how many held: a second call goes on from there.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np

from mallocgame.baselines.bounds import capacity_bound
from mallocgame.baselines.bounds.ascent import Ascent
from mallocgame.baselines.bounds.linear import solve
from mallocgame.baselines.bounds.prices import Point, market, value
from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.files import write_text
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.program import Program
from mallocgame.solver import Incumbent, Problem
from mallocgame.workloads.trace import load_trace
from tests.baselines.solvers.tiny import deep_hierarchy, tiny_hierarchy, tiny_program
from tests.brute_force import brute_force


def on_traces(paths: list[Path], seconds: float) -> None:
    """Print one row a trace: milliseconds of each bound, and the solve time."""
    print("| trace | decisions | home | compiler | simple | prices | LP | integer | s |\n" + "|---" * 9 + "|")
    for path in paths:
        trace = load_trace(path)
        program, hierarchy = trace.program, trace.hierarchy
        bound = capacity_bound(program, hierarchy, seconds=seconds)
        theirs = simulate(program, hierarchy, trace.mapping).total_seconds if trace.mapping else float("nan")
        times = (
            home_seconds(program, hierarchy),
            theirs,
            bound.simple_seconds,
            bound.priced_seconds,
            bound.linear_seconds,
        )
        cells = " | ".join(f"{1e3 * t:.4f}" for t in (*times, bound.integer_seconds))
        print(f"| {trace.name} | {program.num_decisions} | {cells} | {bound.solve_seconds:.1f} |", flush=True)


def attack(seed: int) -> float:
    """Check all bounds on one program; return the linear bound over the optimum.

    Raises:
        SystemExit: a bound is above the optimum.
    """
    rng = random.Random(seed)
    num_layers = 2 + seed % 2
    is_chained = num_layers > 2 and seed % 4 == 1
    num_steps, num_tensors = (2, 1 + (seed % 16 == 1)) if is_chained else (rng.choice([2, 3]), rng.choice([1, 2, 2]))
    program = tiny_program(seed, num_steps=num_steps, num_tensors=num_tensors)
    hierarchy = tiny_hierarchy(7 * seed + 1) if num_layers == 2 else deep_hierarchy(seed)
    most, copies = (2, "chained") if is_chained else (1, "sliced")
    best = brute_force(program, hierarchy, seconds=60.0, max_residencies=most, copies=copies)
    relaxation = relax(program, hierarchy, num_slots=rng.choice([1, 3, 64]))
    bounds = {
        "linear": solve(relaxation.linear).bound * relaxation.unit_seconds,
        "prices": priced(program, hierarchy, seed),
    }
    if seed % 10 == 0:
        search = Incumbent(Problem(program, hierarchy))
        search.offer(best.mapping)
        bounds["all"] = capacity_bound(program, hierarchy, seconds=0.5, search=search).seconds
    for name, bound in bounds.items():
        if bound > best.seconds * (1 + 1e-9) + 1e-12:
            raise SystemExit(f"seed {seed}: bound {name} {bound} is above the optimum {best.seconds}: {best.mapping}")
    return bounds["linear"] / best.seconds if best.seconds else 1.0


def priced(program: Program, hierarchy: Hierarchy, seed: int) -> float:
    """Return the best bound of prices, some drawn at random, some raised."""
    rng = np.random.default_rng(seed)
    goods = market(program, hierarchy, num_slots=int(rng.choice([1, 3, 64])))
    found = 0.0
    for _ in range(4):
        step = Point(
            rng.exponential(size=goods.num_steps),
            rng.exponential(size=goods.is_priced.shape) * rng.choice([0.01, 0.1, 1.0]),
            rng.exponential(size=goods.free.shape) * rng.choice([0.0, 0.1, 1.0]),
        )
        nothing = Point(0.0 * step.time, 0.0 * step.space, 0.0 * step.slot)
        found = max(found, value(goods, nothing.moved(step, 1.0, goods))[0])
    ascent = Ascent(goods)
    for _ in range(20):
        ascent.step(float("inf"))
    return max(found, ascent.best) * goods.unit_seconds


def on_tiny_programs(count: int, file: Path | None) -> None:
    """Attack until so many programs held; exit with an error if one does not."""
    done = int(file.read_text("utf-8")) if file is not None and file.exists() else 0
    begun, first, exact = time.perf_counter(), done, 0
    for seed in range(done, count):
        exact += attack(seed) >= 1 - 1e-6
        done = seed + 1
        if file is not None and (done % 50 == 0 or done == count):
            write_text(file, f"{done}\n")
    spent = time.perf_counter() - begun
    print(f"{done} programs held, {done - first} of them now, the linear bound exact on {exact}, {spent:.0f} s")


def main() -> None:
    """Run either."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--programs", type=int, default=0)
    parser.add_argument("--count", type=Path, help="file with the number of programs that held")
    arguments = parser.parse_args()
    if arguments.programs:
        on_tiny_programs(arguments.programs, arguments.count)
    else:
        on_traces(arguments.traces, arguments.seconds)


if __name__ == "__main__":
    main()

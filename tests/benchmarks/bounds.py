"""How tight and how fast the bounds are on traces: ``python -m tests.benchmarks.bounds TRACE... [--seconds N]``.

``--programs N`` instead attacks the bounds with N random tiny programs: brute force over mappings, whose copies come
in slices and go from one residency to another, in two and three layers by turns. The bounds of prices (drawn at random
and raised), of the linear program, of stretches of the schedule (at the program's duals, or at any), and of
``capacity_bound`` with that optimum as its cutoff (each 10th program) must not be above it. Nor may the linear program,
with the shares of a mapping that annealing met on a program of up to nine steps, be above that mapping's time: each row
is tried on mappings far from the best too. ``--count FILE`` keeps how many held: a second call goes on from there.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds import capacity_bound
from mallocgame.baselines.bounds.ascent import Ascent
from mallocgame.baselines.bounds.linear import LinearSolution, solve
from mallocgame.baselines.bounds.prices import Point, market, value
from mallocgame.baselines.bounds.relaxation import Relaxation, relax
from mallocgame.baselines.bounds.stretches import stretch_bound
from mallocgame.baselines.milp.encode import encode
from mallocgame.files import write_text
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Incumbent, Limits, Problem
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
    solution = solve(relaxation.linear)
    bounds = {
        "linear": solution.bound * relaxation.unit_seconds,
        "prices": priced(program, hierarchy, seed),
        "stretches": stretched(relaxation, solution, seed),
    }
    if seed % 10 == 0:
        search = Incumbent(Problem(program, hierarchy))
        search.offer(best.mapping)
        bounds["all"] = capacity_bound(program, hierarchy, seconds=0.5, search=search).seconds
    for name, bound in bounds.items():
        if bound > best.seconds * (1 + 1e-9) + 1e-12:
            raise SystemExit(f"seed {seed}: bound {name} {bound} is above the optimum {best.seconds}: {best.mapping}")
    return bounds["linear"] / best.seconds if best.seconds else 1.0


def attack_with_mappings(seed: int) -> int:
    """Check that each mapping that annealing meets is a point of the relaxation that costs no more than it takes.

    Which layer serves a use is fixed; what is kept and copied is at most what the mapping keeps and copies. Returns how
    many mappings held.

    Raises:
        SystemExit: one is not.
    """
    rng = random.Random(seed)
    program = tiny_program(seed, num_steps=rng.choice([3, 4, 6, 9]), num_tensors=rng.choice([1, 2, 3, 5]))
    problem = Problem(program, tiny_hierarchy(7 * seed + 1))
    relaxation = relax(*problem, num_slots=rng.choice([1, 3, 8, 64]))
    linear, search = relaxation.linear, _Met(problem, Limits(steps=rng.choice([1, 2])), seed=seed)
    search.offer(Mapping())
    anneal.improve(search)
    for mapping, seconds in search.met_mappings:
        answer = linprog(
            np.array(linear.cost),
            A_ub=-linear.matrix,
            b_ub=-np.array(linear.row_bound),
            bounds=boxes_of(relaxation, mapping).T,
        )
        found = (float(answer.fun) + linear.constant) * relaxation.unit_seconds if answer.status == 0 else float("inf")
        if found > seconds * (1 + 1e-9) + 1e-9:
            raise SystemExit(f"seed {seed}: {found} for a mapping that takes {seconds}: {mapping}")
    return len(search.met_mappings)


class _Met(Incumbent):
    """Notes each mapping that it takes."""

    def __init__(self, problem: Problem, limits: Limits, *, seed: int) -> None:
        super().__init__(problem, limits, seed=seed)
        self.met_mappings: list[tuple[Mapping, float]] = []

    def _take(self, mapping: Mapping, seconds: float) -> bool:
        self.met_mappings.append((mapping, seconds))
        return super()._take(mapping, seconds)


def boxes_of(relaxation: Relaxation, mapping: Mapping) -> npt.NDArray[np.float64]:
    """Return float64[2, columns], the relaxation's boxes with the shares of a mapping as ends."""
    low, high = np.array(relaxation.linear.low), np.array(relaxation.linear.high)
    point = encode(relaxation, mapping)
    for flow in relaxation.flows:
        for table in (flow.served, flow.present, flow.kept):
            columns = [c for places in table.values() for place in places[1:] for c, _ in place.terms]
            high[columns] = point[columns]
            if table is flow.served:
                low[columns] = point[columns]
        moves = [move.column for move in flow.moves]
        high[moves] = point[moves]
    return np.array([low, high])


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


def stretched(relaxation: Relaxation, solution: LinearSolution, seed: int) -> float:
    """Return the bound of two to five stretches, at the duals of a linear solution or at some drawn at random."""
    rng, linear = np.random.default_rng(seed), relaxation.linear
    duals = solution.duals if seed % 3 else rng.exponential(size=len(linear.row_bound)) * (rng.random() < 0.7)
    boxes = np.array([linear.low, linear.high])
    return stretch_bound(relaxation, duals, int(rng.integers(2, 6)), seconds=10.0, boxes=boxes)


def on_tiny_programs(count: int, file: Path | None) -> None:
    """Attack until so many programs held; exit with an error if one does not."""
    done = int(file.read_text("utf-8")) if file is not None and file.exists() else 0
    begun, first, exact, mappings = time.perf_counter(), done, 0, 0
    for seed in range(done, count):
        exact += attack(seed) >= 1 - 1e-6
        mappings += attack_with_mappings(seed)
        done = seed + 1
        if file is not None and (done % 50 == 0 or done == count):
            write_text(file, f"{done}\n")
    spent = time.perf_counter() - begun
    print(f"{done} programs held, {done - first} of them now, the linear bound exact on {exact}, {spent:.0f} s")
    print(f"{mappings} mappings of larger ones held")


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

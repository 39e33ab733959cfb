"""Every solver on random programs: ``python -m tests.benchmarks.validity --programs 1000 [--solver NAME] [--seed 0]``.

Programs have loops, conditionals, updates, outputs and held parameters; hierarchies two to four layers with alignments
and capacities that fit no alignment. The frame refuses an invalid mapping, so no solver can return one; here every
mapping that a solver *offers* is looked at, for an invalid one is a fault even if nobody sees it. Exit code 1: a solver
offered an invalid mapping, raised, or returned a time that is not the judge's.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, given, seed, settings

from mallocgame.evaluation import find_solver
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.program import Program
from mallocgame.registry import SOLVERS, registered
from mallocgame.solver import Problem
from tests.strategies import branching_programs, programs, small_hierarchy

SLOW = ("muzero",)  # asked only by name: JAX compiles for the shapes of each program


@dataclass
class Count:
    """What one solver did."""

    runs: int = 0
    offers: int = 0
    improved: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


@st.composite
def hierarchies(draw: st.DrawFn) -> Hierarchy:
    """Two to four layers; the fast ones hold a few tensors of a few bytes, and seldom a multiple of their alignment."""
    hierarchy = small_hierarchy(num_layers=draw(st.integers(2, 4)))
    layers = [
        replace(
            layer, capacity_bytes=draw(st.integers(1, 21)), alignment_bytes=draw(st.sampled_from((1, 1, 2, 3, 4, 8)))
        )
        for layer in hierarchy.layers[1:]
    ]
    links = [replace(link, max_in_flight=draw(st.integers(1, 3))) for link in hierarchy.links]
    return replace(hierarchy, layers=(hierarchy.layers[0], *layers), links=tuple(links))


@contextmanager
def _watched(count: Count) -> Iterator[None]:
    """Count what is offered to incumbents, and note each mapping that is not valid."""

    def look(*problem: Any) -> list[Any]:
        broken = validate(*problem)
        count.offers += 1
        if broken:
            count.faults.append(f"offered an invalid mapping: {broken[0].message}")
        return broken

    with patch("mallocgame.solver.validate", look):
        yield


def solve(name: str, problem: Problem, seconds: float, number: int, count: Count) -> None:
    """Run a solver on one problem and look at all that it does."""
    solver, options = find_solver(name)
    begun, before = time.perf_counter(), len(count.faults)
    try:
        with _watched(count):
            found = solver(*problem, seconds=seconds, seed=number, **options)
        if validate(*problem, found.mapping):
            count.faults.append("returned an invalid mapping")
        elif abs(found.seconds - simulate(*problem, found.mapping).total_seconds) > 1e-12 * found.seconds:
            count.faults.append(f"returned {found.seconds} s, which is not the judge's time")
        if found.lower_bound_seconds > found.seconds * (1 + 1e-6) + 1e-12:
            count.faults.append(f"proved {found.lower_bound_seconds} s, which is above its own {found.seconds} s")
        count.improved += bool(found.mapping.residencies)
    except Exception:
        count.faults.append(f"raised: {traceback.format_exc().strip().splitlines()[-1]}")
        traceback.print_exc()
    count.runs += 1
    count.seconds += time.perf_counter() - begun
    if len(count.faults) > before:
        print(f"{name}, problem {number}: {count.faults[-1]}", flush=True)


def run(solvers: list[str], number: int, first: int, seconds: float) -> dict[str, Count]:
    """Run every solver on ``number`` random problems."""
    counts = {name: Count() for name in solvers}
    done = 0
    quiet = settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @seed(first)
    @quiet
    @given(programs(max_steps=10, max_tensors=6) | branching_programs(), hierarchies())
    def each(program: Program, hierarchy: Hierarchy) -> None:
        nonlocal done
        problem = Problem(program, hierarchy)
        assert lower_bound(*problem) >= 0.0
        for name in solvers:
            solve(name, problem, seconds, done, counts[name])
        done += 1

    each()
    return counts


def main() -> None:
    """Print a row for each solver."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everyone = sorted(registered(SOLVERS))
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--solver", action="append", choices=everyone, help="only this one; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.03, help="limit of each run")
    args = parser.parse_args()
    chosen = args.solver or [name for name in everyone if name not in SLOW]
    counts = run(chosen, args.programs, args.seed, args.seconds)
    print("| solver | problems | mappings offered | not all at home | seconds | faults |\n|---|---|---|---|---|---|")
    for name, count in counts.items():
        row = (count.runs, count.offers, count.improved, f"{count.seconds:.0f}", len(count.faults))
        print(f"| {name} | {' | '.join(map(str, row))} |", flush=True)
    sys.exit(1 if any(count.faults for count in counts.values()) else 0)


if __name__ == "__main__":
    main()

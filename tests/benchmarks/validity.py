"""Every solver on random programs: ``python -m tests.benchmarks.validity --programs 1000 [--solver NAME] [--seed N]``.

Programs have loops, conditionals, updates, outputs and held parameters; hierarchies two to four layers with alignments
and capacities that fit no alignment. The frame refuses an invalid mapping, so no solver can return one; here every
mapping that a solver *offers* is looked at, for an invalid one is a fault even if nobody sees it. Exit code 1: a solver
offered an invalid mapping, raised, or returned a time that is not the judge's.

Solvers that count their steps have a few each time; those that start processes or an exact solver take a second
at least, and get one program in ``--slow-every``. ``--rows FILE`` takes a row for each solver and counts on: ``--seed``
left out takes the next, so that a run can be made in pieces. ``--report`` prints what all rows come to.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
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

BY_NAME = ("muzero",)  # asked only by name: JAX compiles for the shapes of each program
LIMITS: dict[str, dict[str, Any]] = {  # where a step is thousands of moves, or an episode with games after each move
    "anneal": {"steps": 2},
    "evolution": {"steps": 1, "workers": 1},
    "gorp": {"steps": 2},
    "random": {"steps": 12},
}
STEPS = {"steps": 50}
SLOW = ("best", "cpsat", "hybrid", "lns", "muzero")  # limited in seconds


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


def solve(name: str, problem: Problem, limit: dict[str, Any], number: int, count: Count) -> None:
    """Run a solver on one problem and look at all that it does."""
    solver, options = find_solver(name)
    begun, before = time.perf_counter(), len(count.faults)
    try:
        with _watched(count):
            found = solver(*problem, seed=number, **limit, **options)
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


def run(solvers: list[str], args: argparse.Namespace, first: int) -> dict[str, Count]:
    """Run every solver on random problems."""
    counts = {name: Count() for name in solvers}
    limits = {name: {"seconds": args.seconds} if name in SLOW else LIMITS.get(name, STEPS) for name in solvers}
    done = 0
    quiet = settings(
        max_examples=args.programs,
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
            if name not in SLOW or done % args.slow_every == 0:
                solve(name, problem, limits[name], done, counts[name])
        done += 1

    each()
    return counts


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of all that was run."""
    yield "| solver | problems | mappings offered | not all at home | seconds | faults |\n|---|---|---|---|---|---|"
    for name in dict.fromkeys(row["solver"] for row in rows):
        mine = [row for row in rows if row["solver"] == name]
        totals = (sum(row[key] for row in mine) for key in ("runs", "offers", "improved", "seconds", "faults"))
        yield f"| {name} | {' | '.join(f'{total:.0f}' for total in totals)} |"


def main() -> None:
    """Print a row for each solver."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everyone = sorted(registered(SOLVERS))
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--solver", action="append", choices=everyone, help="only this one; repeatable")
    parser.add_argument("--seed", type=int, help="left out: one more than the last of --rows")
    parser.add_argument("--seconds", type=float, default=0.03, help="limit of each run of a slow solver")
    parser.add_argument("--slow-every", type=int, default=50, help="of so many problems, those get one")
    parser.add_argument("--rows", type=Path, help="a .jsonl file that counts")
    parser.add_argument("--report", action="store_true", help="print what --rows holds, run nothing")
    args = parser.parse_args()
    kept = args.rows.read_text(encoding="utf-8").splitlines() if args.rows and args.rows.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in kept]
    if not args.report:
        first = args.seed if args.seed is not None else max((row["seed"] for row in rows), default=-1) + 1
        counts = run(args.solver or [name for name in everyone if name not in BY_NAME], args, first)
        for name, count in counts.items():
            row = {"solver": name, "seed": first, "runs": count.runs, "offers": count.offers}
            row |= {"improved": count.improved, "seconds": round(count.seconds, 1), "faults": len(count.faults)}
            rows.append(row)
            if args.rows:
                with args.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    print("\n".join(report(rows)))
    sys.exit(1 if any(row["faults"] for row in rows) else 0)


if __name__ == "__main__":
    main()

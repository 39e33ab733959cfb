"""A solver beside another checkout's: ``python -m tests.benchmarks.checkouts --against DIR [--solver NAME] [TRACE…]``.

Both run in turn on every shipped trace, with hoisting and without, as the command line runs them (``greedy`` from
nothing, others from ``auto``), with a limit of ``--seconds``, each in a process of its own with its kernels warm. A row
goes to ``--out`` as soon as it is made, and is not made again; without ``--against`` only the table is printed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mallocgame.workloads import suite
from tests.benchmarks.solvers import geometric_mean

HERE = Path(__file__).parents[2]
CHILD = """
import json, sys
from mallocgame.cli.cases import open_case
from mallocgame.evaluation import run
from mallocgame.solver import Limits

for line in sys.stdin:
    solver, name, hoist, seconds, seed = json.loads(line)
    case = open_case(name, hoist=hoist, bound_seconds=0)
    run(case, solver, limits=Limits(seconds=0.5))  # loads the kernels
    case.starts.clear()
    found = run(case, solver, limits=Limits(seconds=seconds), seed=seed)
    print(json.dumps([found.judged_seconds, found.solve_seconds, found.xla_judged_seconds]), flush=True)
"""
Row = dict[str, Any]


class Checkout:
    """A process that solves with the code of one checkout."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=folder, env=environment, stdin=-1, stdout=-1, text=True
        )

    def run(self, *which: str | bool | float) -> list[float]:
        """Return judged seconds, seconds spent, and the judged seconds of the compiler's mapping."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(which) + "\n")
        self.process.stdin.flush()
        found: list[float] = json.loads(self.process.stdout.readline())
        return found


def report(rows: Sequence[Row]) -> str:
    """Return the table of the docs: geometric means over the traces, and how many are slower than before."""
    columns = (
        "solver | seconds | hoisting | runs | before / XLA | now / XLA | times as fast | slower | s before | s now"
    )
    lines = [f"| {columns} |", "|---" * 10 + "|"]
    for solver, limit, hoist in sorted({(row["solver"], row["limit"], row["hoist"]) for row in rows}):
        own = [row for row in rows if (row["solver"], row["limit"], row["hoist"]) == (solver, limit, hoist)]
        before, now = (geometric_mean([row["xla"] / row[key] for row in own]) for key in ("before", "now"))
        slower = sum(row["now"] > row["before"] * (1 + 1e-9) for row in own)
        spent = " | ".join(f"{sum(row[key] for row in own):.1f}" for key in ("before_solve_seconds", "solve_seconds"))
        means = f"{before:.3f} | {now:.3f} | {now / before:.3f}"
        what = f"{solver} | {limit:g} | {'yes' if hoist else 'no'} | {len(own)}"
        lines.append(f"| {what} | {means} | {slower} | {spent} |")
    worst = sorted(rows, key=lambda row: row["before"] / row["now"])[:5]
    told = ", ".join(f"{row['trace']} {row['before'] / row['now']:.3f}" for row in worst)
    return "\n".join([*lines, f"least gained: {told}"])


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", metavar="TRACE", help="left out: all that are shipped")
    parser.add_argument("--against", type=Path, metavar="DIR", help="the other checkout; without it, only the table")
    parser.add_argument("--solver", default="greedy")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/results/checkouts.jsonl"))
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    if arguments.against:
        done = {(row["solver"], row["trace"], row["hoist"], row["limit"], row["seed"]) for row in rows}
        other, own = Checkout(arguments.against.resolve()), Checkout(HERE)
        names = arguments.traces or suite.names()
        for name, seed, hoist in product(names, range(arguments.seeds), (True, False)):
            which = (arguments.solver, name, hoist, arguments.seconds, seed)
            if which in done:
                continue
            before, now = other.run(*which), own.run(*which)
            row = dict(zip(("solver", "trace", "hoist", "limit", "seed"), which, strict=True))
            row |= {"xla": now[2], "before": before[0], "now": now[0], "before_solve_seconds": round(before[1], 4)}
            rows.append({**row, "solve_seconds": round(now[1], 4)})
            with arguments.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
    print(report(rows))


if __name__ == "__main__":
    main()

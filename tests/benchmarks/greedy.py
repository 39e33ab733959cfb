"""``greedy`` beside another checkout's: ``python -m tests.benchmarks.greedy --against DIR [TRACE...]``.

Both run in turn on every shipped trace, with hoisting and without, from nothing, with a limit of ``--seconds``, each in
a process of its own with its kernels warm. A row a trace goes to ``--out`` as soon as it is made, and not made again;
without ``--against`` only the table is printed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallocgame.workloads import suite
from tests.benchmarks.solvers import geometric_mean

HERE = Path(__file__).parents[2]
CHILD = """
import json, sys
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.cli.cases import open_case

for line in sys.stdin:
    name, hoist, seconds = json.loads(line)
    case = open_case(name, hoist=hoist, bound_seconds=0)
    greedy.prepare(case.problem)
    found = greedy(*case.problem, seconds=seconds)
    print(json.dumps([found.seconds, found.solve_seconds, case.xla_judged_seconds]), flush=True)
"""
Row = dict[str, Any]


class Checkout:
    """A process that runs ``greedy`` with the code of one checkout."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=folder, env=environment, stdin=-1, stdout=-1, text=True
        )

    def run(self, name: str, hoist: bool, seconds: float) -> list[float]:
        """Return judged seconds, seconds spent, and the judged seconds of the compiler's mapping."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, hoist, seconds]) + "\n")
        self.process.stdin.flush()
        found: list[float] = json.loads(self.process.stdout.readline())
        return found


def report(rows: Sequence[Row]) -> str:
    """Return the table of the docs: geometric means over the traces, and how many are slower than before."""
    lines = ["| hoisting | traces | before / XLA | now / XLA | times as fast | slower | seconds before | now |"]
    lines.append("|---" * 8 + "|")
    for hoist in (True, False):
        own = [row for row in rows if row["hoist"] is hoist]
        if not own:
            continue
        before = geometric_mean([row["xla"] / row["before"] for row in own])
        now = geometric_mean([row["xla"] / row["now"] for row in own])
        slower = sum(row["now"] > row["before"] * (1 + 1e-9) for row in own)
        spent = [sum(row[key] for row in own) for key in ("before_solve_seconds", "solve_seconds")]
        means = f"{before:.3f} | {now:.3f} | {now / before:.3f}"
        lines.append(
            f"| {'yes' if hoist else 'no'} | {len(own)} | {means} | {slower} | {spent[0]:.1f} | {spent[1]:.1f} |"
        )
    worst = sorted(rows, key=lambda row: row["before"] / row["now"])[:5]
    told = ", ".join(f"{row['trace']} {row['before'] / row['now']:.3f}" for row in worst)
    return "\n".join([*lines, f"least gained: {told}"])


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", metavar="TRACE", help="left out: all that are shipped")
    parser.add_argument("--against", type=Path, metavar="DIR", help="the other checkout; without it, only the table")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/greedy.jsonl"))
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    if arguments.against:
        done = {(row["trace"], row["hoist"], row["limit"]) for row in rows}
        other, own = Checkout(arguments.against.resolve()), Checkout(HERE)
        for name in arguments.traces or suite.names():
            for hoist in (True, False):
                which = (name, hoist, arguments.seconds)
                if which in done:
                    continue
                before, now = other.run(*which), own.run(*which)
                row = {"trace": name, "hoist": hoist, "limit": arguments.seconds, "xla": now[2]}
                row |= {"before": before[0], "now": now[0], "before_solve_seconds": round(before[1], 4)}
                rows.append({**row, "solve_seconds": round(now[1], 4)})
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
    print(report(rows))


if __name__ == "__main__":
    main()

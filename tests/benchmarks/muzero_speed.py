"""Training's moves a second in several checkouts, in turn.

``python -m tests.benchmarks.muzero_speed CHECKOUT... --rounds 3 --out FILE``: in each round each checkout (a folder, as
``git worktree add`` makes it) trains a new agent on the trace with its own ``train`` command, in a process of its own;
the next round begins with another one. What counts is the time between two numbers of moves, as the run's
``metrics.jsonl`` tells it: before the first of them are games that are not searched. A short run of each comes first
and makes its machine code. Printed are the medians, and each as a multiple of the first checkout's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.muzero_report import read, table


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--trace", default="bert_training-v5e")
    parser.add_argument("--begin", type=int, default=12_000, help="moves before those that count")
    parser.add_argument("--end", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    for number in range(chosen.rounds):
        turn = number % len(chosen.checkouts)
        for checkout in chosen.checkouts[turn:] + chosen.checkouts[:turn]:
            key = {"checkout": _commit(checkout), "trace": chosen.trace, "moves": [chosen.begin, chosen.end]}
            key |= {"round": number, "cores": len(os.sched_getaffinity(0))}
            if any(key.items() <= row.items() for row in read(chosen.out)):
                continue
            if number == 0:
                moves_a_second(checkout, chosen.trace, 0, 200)
            row = key | {"moves a second": moves_a_second(checkout, chosen.trace, chosen.begin, chosen.end)}
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    commits, rows = [_commit(checkout) for checkout in chosen.checkouts], read(chosen.out)
    speeds = [
        statistics.median([row["moves a second"] for row in rows if row["checkout"] == commit]) for commit in commits
    ]
    table([{"checkout": x, "moves a second": y, "x": y / speeds[0]} for x, y in zip(commits, speeds, strict=True)])


def moves_a_second(checkout: Path, trace: str, begin: int, end: int) -> float:
    """Train in ``checkout`` and return the moves a second between the moves ``begin`` and ``end``."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["train", "--workload", trace, "--out", str(run), "--steps", str(end), "--json"]
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
        subprocess.run(
            [sys.executable, "-m", "mallocgame", *command],
            cwd=checkout,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    moves, seconds = ([float(row[name]) for row in rows] for name in ("steps", "elapsed_seconds"))
    first, last = np.interp([begin, end], moves, seconds)
    return float((end - begin) / max(last - first, 1e-9))


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

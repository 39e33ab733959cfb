"""What a sweep costs: ``python -m tests.benchmarks.sweeps --programs 12 --seconds 15 --workers 1 --out FOLDER``.

Captures programs of the suite and solves their traces with the commands that a user runs, and prints core-seconds a
program and the most memory that the whole process tree held; then what 1,000 such programs take. The second run of each
command, which finds every row made, is timed too.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from mallocgame.workloads.models import MODELS

MIB = 2**20
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took."""

    wall_seconds: float
    core_seconds: float
    peak_bytes: int  # resident, of the command and all that it started


def measured(command: list[str]) -> Cost:
    """Run a ``mallocgame`` command and return what it took.

    Raises:
        CalledProcessError: it failed.
    """
    before, begun = os.times(), time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mallocgame", *command], stdout=subprocess.DEVNULL)
    peak = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            peak[0] = max(peak[0], _tree_bytes(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    over.set()
    thread.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    after = os.times()
    cores = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - begun, cores, peak[0])


def _tree_bytes(root: int) -> int:
    """Return the proportional resident memory of a process and its descendants: what they share counts once."""
    parents, sizes = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    tree = {root}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    for process in tree:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        sizes[process] = sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return sum(sizes.values())


def main() -> None:
    """Print a row for each command, and the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=12, help="of the suite, evenly picked")
    parser.add_argument("--seconds", type=float, default=15.0, help="of the solver, and of the bound")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--solver", default="best")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    names = list(MODELS)[:: max(len(MODELS) // args.programs, 1)][: args.programs]
    args.out.mkdir(parents=True, exist_ok=True)
    table = args.out / "programs.csv"
    table.write_text("function\n" + "".join(f"mallocgame.workloads.models:{name}\n" for name in names))
    many = ["--workers", str(args.workers)]
    capture = ["capture", "--programs", str(table), "--out", str(args.out / "traces"), *many]
    traces = [str(args.out / "traces" / f"{name}-v5e.json.gz") for name in names]
    limits = ["--seconds", str(args.seconds), "--bound-seconds", str(args.seconds)]
    solve = ["compare", *traces, "--solvers", f"xla,{args.solver}", *limits, "--out", str(args.out / "rows.jsonl")]
    print("| command | programs | wall s | core s a program | most memory, MiB |\n|---|---|---|---|---|")
    total = 0.0
    for command, is_first in ((capture, True), (capture, False), ([*solve, *many], True), ([*solve, *many], False)):
        cost = measured(command)
        total += cost.core_seconds / len(names) if is_first else 0.0
        name = f"{command[0]}{'' if is_first else ', again'}"
        figures = f"{cost.wall_seconds:.1f} | {cost.core_seconds / len(names):.2f} | {cost.peak_bytes / MIB:.0f}"
        print(f"| {name} | {len(names)} | {figures} |", flush=True)
    print(f"1,000 such programs: {1000 * total / 3600:.1f} core-hours")


if __name__ == "__main__":
    main()

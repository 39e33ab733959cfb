"""Measure the packing solvers: ``python -m tests.benchmarks.packing [--minimalloc BINARY] [--folder DIR]``.

Or, beside PyPI's omnimalloc: ``--omnimalloc PYTHON``. Or, command beside command, from start to exit: ``--commands``;
or with gaps: ``--gaps``.

Real instances in ``shared/data``, planted ones made here, and every ``NAME.CAPACITY.csv`` of a further folder. With
``--minimalloc`` a build of the C++ solver runs on the same machine in the same run, interleaved. Times are wall-clock
medians; ours are of ``pack()`` with the kernels compiled, the binary's are of its process.
"""

import argparse
import csv
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mallocgame.baselines.packing import SolverName, pack
from mallocgame.baselines.packing.buffers import (
    Buffer,
    Gap,
    max_live_bytes,
    packing_height,
    read_buffers,
    validate_packing,
    write_packing,
)
from tests.baselines.packing.instances import planted
from tests.paths import SHARED_DATA


def ours(buffers: Sequence[Buffer], capacity: int, solver: SolverName, workers: int | None, limit: float) -> float:
    """Return the seconds until packed, or infinity; every packing is validated."""
    began = time.perf_counter()
    result = pack(buffers, capacity, solver=solver, seconds=limit, workers=workers)
    spent = time.perf_counter() - began
    if result.status not in ("optimal", "feasible"):
        return float("inf")
    assert not validate_packing(buffers, result.offsets.tolist(), capacity)
    return spent


def theirs(binary: Path, buffers: Sequence[Buffer], capacity: int, limit: float) -> float:
    """Return the seconds until the C++ MiniMalloc has packed, or infinity."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.csv", Path(folder) / "out.csv"
        with source.open("w", newline="") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["id", "lower", "upper", "size"])
            table.writerows([i, b.lower, b.upper, b.size_bytes] for i, b in enumerate(buffers))
        command = [str(binary), f"--capacity={capacity}", f"--input={source}", f"--output={target}"]
        began = time.perf_counter()
        done = subprocess.run([*command, f"--timeout={limit}s"], capture_output=True, check=False)
        spent = time.perf_counter() - began
        if done.returncode != 0:
            return float("inf")
        assert not validate_packing(buffers, [b.fixed_offset or 0 for b in read_buffers(target)], capacity)
        return spent


def instances(folder: Path | None, seeds: int) -> dict[str, list[tuple[str, list[Buffer], int]]]:
    """Return groups of (name, buffers, capacity)."""
    groups: dict[str, list[tuple[str, list[Buffer], int]]] = {}
    for where in [SHARED_DATA / "minimalloc", *([folder] if folder else [])]:
        rows = [(p.stem, read_buffers(p), int(p.stem.rsplit(".", 1)[1])) for p in sorted(where.glob("*.*.csv"))]
        groups[where.name] = [row for row in rows if len(row[1]) > 10]
    for num_buffers, slack in ((60, 0.0), (100, 0.0), (150, 0.0), (150, 0.3)):
        rows = []
        for seed in range(seeds):
            buffers, _ = planted(
                seed, num_buffers=num_buffers, capacity_bytes=1 << 20, num_steps=200, unit_bytes=1024, slack=slack
            )
            rows.append((f"planted {num_buffers} slack {slack} seed {seed}", buffers, 1 << 20))
        groups[f"planted {num_buffers}, slack {slack}"] = rows
    return groups


def race(args: argparse.Namespace) -> None:
    """Print the time of each solver on each instance, and totals and unsolved counts by group."""
    limit: float = args.seconds
    columns: dict[str, Callable[[Sequence[Buffer], int], float]] = {
        "search, 1 worker": lambda b, c: ours(b, c, "search", 1, limit),
        "best, all cores": lambda b, c: ours(b, c, "best", None, limit),
    }
    if args.cpsat:
        columns["cpsat, all cores"] = lambda b, c: ours(b, c, "cpsat", None, limit)
    if args.minimalloc:
        columns["minimalloc C++"] = lambda b, c: theirs(args.minimalloc, b, c, limit)
    for group, rows in instances(args.folder, args.seeds).items():
        print(f"\n## {group} (limit {limit:g} s, median of {args.repeats}, seconds)")
        print("| instance | n | " + " | ".join(columns) + " |\n|---|---|" + "---|" * len(columns))
        medians: dict[str, list[float]] = {name: [] for name in columns}
        for name, buffers, capacity in rows:
            times: dict[str, list[float]] = {column: [] for column in columns}
            for _ in range(args.repeats):
                for column, solve in columns.items():
                    times[column].append(solve(buffers, capacity))
            for column in columns:
                medians[column].append(statistics.median(times[column]))
            cells = " | ".join(f"{medians[column][-1]:.2f}" for column in columns)
            print(f"| {name} | {len(buffers)} | {cells} |", flush=True)
        totals = [
            f"{sum(t for t in medians[c] if t < limit * 10):.2f} ({sum(t > limit * 10 for t in medians[c])} not found)"
            for c in columns
        ]
        print(f"| total of those packed | | {' | '.join(totals)} |", flush=True)


def our_command(source: Path, buffers: Sequence[Buffer], capacity: int, limit: float) -> float:
    """Return the seconds that ``mallocgame pack`` takes until it has exited, or infinity."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.csv"
        options = [f"--capacity={capacity}", f"--output={target}", f"--seconds={limit}", "--workers=1"]
        began = time.perf_counter()
        command = [sys.executable, "-m", "mallocgame", "pack", str(source), *options]
        done = subprocess.run(command, capture_output=True, check=False)
        spent = time.perf_counter() - began
        if done.returncode != 0:
            return float("inf")
        assert not validate_packing(buffers, [b.fixed_offset or 0 for b in read_buffers(target)], capacity)
        return spent


def commands(args: argparse.Namespace) -> None:
    """Print what each command takes on each instance, the kernels compiled before: wall and processor seconds."""
    print("| instance | n | mallocgame pack, 1 worker: wall, CPU s | minimalloc: wall, CPU s |\n|---|---|---|---|")
    totals = np.zeros((2, 2))
    for where in (SHARED_DATA / "minimalloc", *([args.folder] if args.folder else [])):
        for source in sorted(where.glob("[A-K].*.csv")):
            buffers, capacity = read_buffers(source), int(source.stem.rsplit(".", 1)[1])
            row = np.zeros((2, 2))
            row[0] = _timed(lambda: our_command(source, buffers, capacity, args.seconds))  # noqa: B023
            if args.minimalloc:
                row[1] = _timed(lambda: theirs(args.minimalloc, buffers, capacity, args.seconds))  # noqa: B023
            totals += row
            cells = " | ".join(f"{wall:.2f}, {cpu:.2f}" for wall, cpu in row)
            print(f"| {source.stem} | {len(buffers)} | {cells} |", flush=True)
    print(f"| total | | {' | '.join(f'{wall:.2f}, {cpu:.2f}' for wall, cpu in totals)} |")


def _timed(run: Callable[[], float]) -> tuple[float, float]:
    """Return (wall, processor) seconds of a command, that of its children included; what is not found is infinite."""
    before = os.times()
    wall = run()
    after = os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def gapped(buffers: Sequence[Buffer], seed: int, share: float = 0.3) -> list[Buffer]:
    """Return the buffers, some of which hold nothing in the middle third of their life."""
    rng = random.Random(seed)
    found = []
    for b in buffers:
        third = (b.upper - b.lower) // 3
        hole = Gap(lower=b.lower + third, upper=b.upper - third)
        found.append(replace(b, gaps=(hole,)) if third and rng.random() < share else b)
    return found


def gaps(args: argparse.Namespace) -> None:
    """Print height / most live bytes of MiniMalloc's instances with random gaps, one worker."""
    solvers: tuple[SolverName, ...] = ("hill-climb", "search", "cpsat", "best")
    print(f"| instance with gaps | n | {' | '.join(solvers)} |\n|---|---|{'---|' * len(solvers)}")
    for group in instances(args.folder, 0).values():
        for name, buffers, _ in group:
            some = gapped(buffers, args.seeds)
            cells = []
            for solver in solvers:
                result = pack(some, solver=solver, seconds=args.seconds, workers=1)
                assert not validate_packing(some, result.offsets.tolist(), result.height_bytes)
                ratio = result.height_bytes / max_live_bytes(some)
                cells.append(f"{ratio:.4f} {'proved' if result.status == 'optimal' else ''} {result.seconds:.1f} s")
            print(f"| {name} | {len(buffers)} | {' | '.join(cells)} |", flush=True)


def heights(args: argparse.Namespace) -> None:
    """Print height / most live bytes on the larger real instances, and of the heuristics on MiniMalloc's."""
    print(
        "\n## height / max-live, no capacity\n"
        "| instance | n | seconds | height / max-live | status |\n|---|---|---|---|---|"
    )
    for name, seconds in (("G_1", 10.0), ("resnet50", 10.0), ("pangu_2.6B", 60.0)):
        buffers = read_buffers(SHARED_DATA / "idealloc" / f"{name}.csv")
        result = pack(buffers, seconds=seconds)
        assert not validate_packing(buffers, result.offsets.tolist(), result.height_bytes)
        ratio = result.height_bytes / max_live_bytes(buffers)
        print(f"| {name} | {len(buffers)} | {result.seconds:.2f} | {ratio:.4f} | {result.status} |", flush=True)
    print("\n| heuristic | mean height / max-live over MiniMalloc's |\n|---|---|")
    rows = [row for row in instances(args.folder, 0).values() if row]
    every = {name: buffers for group in rows for name, buffers, _ in group}.values()
    for solver, seconds in (("first-fit", 60.0), ("best-fit", 60.0), ("hill-climb", 5.0)):
        ratios = [pack(b, solver=solver, seconds=seconds).height_bytes / max_live_bytes(b) for b in every]  # type: ignore[arg-type]
        print(f"| {solver}, at most {seconds:g} s | {statistics.mean(ratios):.3f} |", flush=True)


_OMNIMALLOC = """
import csv, sys, time
from omnimalloc import Allocation, Pool, allocate
rows = list(csv.DictReader(open(sys.argv[1])))
made = [Allocation(id=i, size=int(r["size"]), start=int(r["lower"]), end=int(r["upper"])) for i, r in enumerate(rows)]
began = time.perf_counter()
pool = allocate(Pool(id="p", allocations=made), sys.argv[2])
print(time.perf_counter() - began, *(a.offset for a in sorted(pool.allocations, key=lambda a: a.id)))
"""


def omnimalloc(args: argparse.Namespace) -> None:
    """Print height / most live bytes of omnimalloc's allocators (their own time limits) and of ours in 3 s."""
    print(
        "\n## height / max-live, no capacity\n| allocator | mean | best | worst | mean seconds |\n|---|---|---|---|---|"
    )
    rows = [row for group in instances(args.folder, 0).values() for row in group]
    for name in ("omni", "greedy_by_all", "telamalloc", "hill_climb", "tabu_search", "supermalloc", "ours"):
        found = []
        for _, buffers, _ in rows:
            began = time.perf_counter()
            if name == "ours":
                offsets = pack(buffers, seconds=3.0, workers=1).offsets.tolist()
                took = time.perf_counter() - began
            else:
                offsets, took = _theirs_offsets(args.omnimalloc, name, buffers)
            assert not validate_packing(buffers, offsets)
            found.append((packing_height(buffers, offsets) / max_live_bytes(buffers), took))
        ratios = [ratio for ratio, _ in found]
        mean = statistics.mean(seconds for _, seconds in found)
        print(
            f"| {name} | {statistics.mean(ratios):.3f} | {min(ratios):.3f} | {max(ratios):.3f} | {mean:.2f} |",
            flush=True,
        )


def _theirs_offsets(python: Path, allocator: str, buffers: Sequence[Buffer]) -> tuple[list[int], float]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.csv"
        write_packing(source, buffers, [0] * len(buffers))
        command = [str(python), "-c", _OMNIMALLOC, str(source), allocator]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [int(word) for word in words[1:]], float(words[0])


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minimalloc", type=Path, help="a build of the C++ MiniMalloc")
    parser.add_argument("--omnimalloc", type=Path, help="a Python with PyPI's omnimalloc: only this table")
    parser.add_argument("--commands", action="store_true", help="only this table")
    parser.add_argument("--gaps", action="store_true", help="only this table")
    parser.add_argument("--folder", type=Path, help="more instances, NAME.CAPACITY.csv")
    parser.add_argument("--cpsat", action="store_true", help="also CP-SAT alone (slow)")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit for each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5, help="planted instances of each kind")
    args = parser.parse_args()
    if args.omnimalloc:
        omnimalloc(args)
        return
    if args.commands or args.gaps:
        (commands if args.commands else gaps)(args)
        return
    race(args)
    heights(args)


if __name__ == "__main__":
    main()

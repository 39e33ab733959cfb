"""The promised Python, JAX and libtpu: ``python -m tests.benchmarks.matrix [--python python3.12] [--row NAME]``.

For each row a fresh virtual environment is made in a temporary folder, the checkout is installed into it with the row's
pins, and a smoke suite runs there: the command line, the judge, a solver, the game, the agent's network, and a capture
where there is a libtpu. Exit code 1: a row failed. A Python that is not on this machine is said to be missing, not
passed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PYTHONS = ("python3.11", "python3.12", "python3.13")


@dataclass(frozen=True, slots=True)
class Row:
    """Versions that are installed together; ``pins`` are for pip."""

    name: str
    pins: tuple[str, ...]
    extras: str = "tpu"


def lower_bounds() -> tuple[str, ...]:
    """Return pins for the oldest version that pyproject.toml promises of each dependency, the latest of its series."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        promised = tomllib.load(file)["project"]["dependencies"]
    return tuple("{}=={}.*".format(*one.split(">=")) for one in promised)


ROWS = (
    Row("pinned", ("-c", "constraints.txt")),
    Row("latest", ("--upgrade", "jax", "libtpu")),
    Row("lower bounds", lower_bounds(), extras=""),
    Row("oldest jax", ("jax==0.6.*", "jaxlib==0.6.*"), extras=""),
    Row("oldest libtpu", ("libtpu==0.0.52",)),
)
SMOKE = (
    ("mallocgame", "--version"),
    ("mallocgame", "evaluate", "lstm-v5e", "--solver", "anneal", "--steps", "2000", "--json"),
    ("mallocgame", "compare", "lstm-v5e", "--solvers", "xla,greedy", "--steps", "10", "--bound-seconds", "0"),
    ("mallocgame", "train", "--workload", "mlp-v5e", "--out", "run", "--steps", "64"),
    ("mallocgame", "paging", "run", "zipf:num_pages=200,num_requests=2000", "--k", "20"),
)
CAPTURE = ("mallocgame", "capture", "mallocgame.workloads.models:mlp", "--out", "mlp.json.gz")


def try_row(row: Row, python: str, folder: Path) -> str:
    """Install and run a row; return what went wrong, empty if nothing did."""
    environment = folder / "venv"
    wheel = f"{ROOT}[{row.extras}]" if row.extras else str(ROOT)
    steps: list[tuple[str, ...]] = [
        (python, "-m", "venv", str(environment)),
        (str(environment / "bin/python"), "-m", "pip", "install", "--quiet", wheel, *row.pins),
        (str(environment / "bin/python"), "-m", "pip", "check"),
    ]
    commands = [*SMOKE, *([CAPTURE] if row.extras else [])]
    steps += [(str(environment / "bin" / command[0]), *command[1:]) for command in commands]
    for number, step in enumerate(steps):
        place = ROOT if number < 3 else folder
        done = subprocess.run(step, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            return f"{' '.join(step[:6])}: {' '.join(last)[:300]}"
    return ""


def versions(folder: Path) -> str:
    """Return the versions of what a row has installed."""
    python = folder / "venv/bin/python"
    done = subprocess.run(
        [python, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True, check=False
    )
    wanted = ("jax==", "jaxlib==", "libtpu==", "numpy==", "numba==", "flax==", "scipy==", "ortools==")
    return ", ".join(line for line in done.stdout.splitlines() if line.startswith(wanted))


def main() -> None:
    """Print a line for each row and Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help=f"repeatable; else {', '.join(PYTHONS)}")
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS], help="repeatable")
    args = parser.parse_args()
    failed = 0
    print("| Python | row | result | seconds | versions |\n|---|---|---|---|---|")
    for python in args.python or PYTHONS:
        if shutil.which(python) is None:
            print(f"| {python} | | is not on this machine | | |", flush=True)
            continue
        for row in ROWS:
            if args.row and row.name not in args.row:
                continue
            with tempfile.TemporaryDirectory(prefix="mallocgame-matrix-") as text:
                begun = time.perf_counter()
                wrong = try_row(row, python, Path(text))
                failed += bool(wrong)
                took = time.perf_counter() - begun
                print(
                    f"| {python} | {row.name} | {wrong or 'passed'} | {took:.0f} | {versions(Path(text))} |", flush=True
                )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Capture programs that others wrote or published: ``python -m tests.benchmarks.zoo`` (needs the network once).

It makes an environment of its own from PyPI (``--environment FOLDER``), starts itself there, captures every program of
tests/benchmarks/zoo on each chip, and writes docs/results/zoo.jsonl and docs/zoo_table.md. ``--here`` uses the
environment at hand and leaves out programs whose library it lacks.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mallocgame.files import write_text
from tests.paths import ROOT

FOLDER = ROOT / "tests" / "benchmarks" / "zoo"
ROWS = ROOT / "docs" / "results" / "zoo.jsonl"
TABLE = ROOT / "docs" / "zoo_table.md"
LIBRARIES = ("dm-haiku", "jraph", "e3nn-jax", "equinox", "flax", "optax", "transformers<4.57")
SEVERAL = {"v5e": "v5e:2x2", "v4": "v4:2x2x1", "v6e": "v6e:2x2"}
DEVICES = {"v5e": 4, "v4": 8, "v6e": 4}
_PROGRAM = re.compile(r"^@(?:with_args|_given)\((?:.|\n)*?\ndef (\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program on one chip; ``refused`` says why there is no trace (empty: there is)."""

    program: str
    chip: str
    refused: str = ""
    instructions: int = 0
    within_1_percent: float = 0.0  # of XLA's instruction time, its errors repeated
    total_error: float = 0.0  # (judge, XLA's errors repeated) / XLA - 1
    opaque_share: float = 0.0  # of the time with everything in HBM
    gain: float | None = None  # of the solver over XLA's own mapping, of the judged time
    capture_seconds: float = 0.0


def programs() -> Iterator[tuple[str, str]]:
    """Yield (module, function) of all programs."""
    for path in sorted(FOLDER.glob("*.py")):
        for name in _PROGRAM.findall(path.read_text(encoding="utf-8")):
            yield path.stem, name


def measure(module: str, name: str, chip: str, compiler: Any, solver_seconds: float) -> Row:
    """Capture one program, compare it with XLA's figures, and plan it."""
    from mallocgame.errors import InputError
    from mallocgame.workloads.capture import capture
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.xla.fidelity import compare

    several = module == "parallel"
    half = f"data={DEVICES[chip] // 2},model=2"
    mesh = "" if not several else half if name.startswith("two_axes") else f"data={DEVICES[chip]}"
    reference = parse_reference(f"{module}:{name}", folder=str(FOLDER), mesh=mesh)
    start = time.perf_counter()
    try:
        trace = capture(reference, chip=SEVERAL[chip] if several else chip, compiler=compiler)
        seconds = time.perf_counter() - start
        found = compare(trace)
    except InputError as error:
        return Row(program=f"{module}:{name}", chip=chip, refused=" ".join(str(error).split())[:300])
    share = trace.provenance.get("opaque_share", 0.0)
    return Row(
        program=f"{module}:{name}",
        chip=chip,
        instructions=trace.program.num_steps,
        within_1_percent=found.step_share_within_1_percent,
        total_error=found.total_error,
        opaque_share=float(share) if isinstance(share, float) else 0.0,
        gain=_gain(trace, solver_seconds) if solver_seconds else None,
        capture_seconds=seconds,
    )


def _gain(trace: Any, seconds: float) -> float:
    from mallocgame.baselines.portfolio import best
    from mallocgame.judge.simulation import simulate

    own = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
    found = best(trace.program, trace.hierarchy, seed=0, seconds=seconds)
    return 1 - simulate(trace.program, trace.hierarchy, found.mapping).total_seconds / own


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown, summed up by chip."""
    lines = ["<!-- written by python -m tests.benchmarks.zoo -->"]
    for chip in sorted({row.chip for row in rows}):
        here = [row for row in rows if row.chip == chip]
        read = [row for row in here if not row.refused]
        exact = sum(row.within_1_percent > 0.99 for row in read)
        totals = sum(abs(row.total_error) < 0.01 for row in read)
        lines.append(
            f"{chip}: {len(read)} of {len(here)} captured; {exact} with 99 % of the instruction time within 1 % of "
            f"XLA's, {totals} with the total within 1 %.\n"
        )
    lines += [
        "| program | chip | instructions | within 1 %, by time | total | opaque | solver's gain | capture, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.refused:
            lines.append(f"| {row.program} | {row.chip} | refused: {row.refused.replace('|', '/')} | | | | | |")
            continue
        gain = "" if row.gain is None else f"{100 * row.gain:.1f} %"
        lines.append(
            f"| {row.program} | {row.chip} | {row.instructions} | {100 * row.within_1_percent:.2f} % | "
            f"{100 * row.total_error:+.2f} % | {100 * row.opaque_share:.1f} % | {gain} | {row.capture_seconds:.1f} |"
        )
    return "\n".join(lines) + "\n"


def environment(folder: Path) -> Path:
    """Return the Python of an environment with this package and the libraries, made if it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-e", f"{ROOT}[tpu]", *LIBRARIES], check=True)
        (folder / "complete").touch()
    return python


def run(options: argparse.Namespace) -> None:
    """Measure, writing each row as it is known; rows that are there already are kept."""
    from mallocgame.workloads.xla.compiler import Compiler

    kept = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []
    rows = {(row["program"], row["chip"]): Row(**row) for row in kept}
    with Compiler() as compiler:
        for chip in options.chips.split(","):
            for module, name in programs():
                key = (f"{module}:{name}", chip)
                if options.only not in key[0] or (key in rows and not options.again):
                    continue
                rows[key] = measure(module, name, chip, compiler, options.solver_seconds)
                if options.here and "No module named" in rows[key].refused:
                    del rows[key]
                    continue
                sys.stderr.write(f"{rows[key]}\n")
                order = sorted(rows)
                write_text(ROWS, "".join(json.dumps(asdict(rows[each])) + "\n" for each in order))
                write_text(TABLE, table([rows[each] for each in order]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.zoo", description=__doc__)
    parser.add_argument("--chips", default="v5e,v4,v6e", help="comma-separated")
    parser.add_argument("--only", default="", help="programs whose name holds this")
    parser.add_argument("--again", action="store_true", help="measure what is in the results already")
    parser.add_argument("--solver-seconds", type=float, default=20.0, help="0: no solver")
    parser.add_argument("--environment", type=Path, default=Path.home() / ".cache" / "mallocgame" / "zoo")
    parser.add_argument("--here", action="store_true", help="in the environment at hand")
    options = parser.parse_args()
    if options.here:
        run(options)
        return
    python = environment(options.environment)
    raise SystemExit(
        subprocess.run([str(python), "-m", "tests.benchmarks.zoo", *sys.argv[1:], "--here"], check=False).returncode
    )


if __name__ == "__main__":
    main()

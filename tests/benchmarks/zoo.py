"""Capture programs that others wrote or published: ``python -m tests.benchmarks.zoo`` (needs the network once).

It makes an environment of its own from PyPI (``--environment FOLDER``), starts itself there, captures every program of
tests/benchmarks/zoo on each chip, and writes docs/results/zoo.jsonl and docs/zoo_table.md. Rows that are there are kept
(``--again``: made anew), so that it may be stopped and started. ``--traces FOLDER`` keeps the traces, and ``--solve``
plans those that are there, for the solver's gain: without a compiler, so that it can be timed on a free machine.
``--here`` uses the environment at hand and leaves out programs whose library it lacks.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mallocgame.files import write_text
from mallocgame.mapping import Mapping
from tests.paths import ROOT

FOLDER = ROOT / "tests" / "benchmarks" / "zoo"
ROWS = ROOT / "docs" / "results" / "zoo.jsonl"
TABLE = ROOT / "docs" / "zoo_table.md"
LIBRARIES = ("dm-haiku", "jraph", "e3nn-jax", "equinox", "flax", "optax", "transformers<4.57")
ALONE = ("diffusers<0.34", "google-tunix", "google-metrax", "clu", "wrapt", "sentencepiece", "perfetto")
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
    solver_seconds: float = 0.0
    capture_seconds: float = 0.0


def programs() -> Iterator[tuple[str, str]]:
    """Yield (module, function) of all programs."""
    for path in sorted(FOLDER.glob("*.py")):
        for name in _PROGRAM.findall(path.read_text(encoding="utf-8")):
            yield path.stem, name


def measure(module: str, name: str, chip: str, compiler: Any, kept: Path | None) -> Row:
    """Capture one program, keep the trace, and compare it with XLA's figures."""
    from mallocgame.errors import InputError
    from mallocgame.workloads.capture import capture
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.trace import save_trace
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
    if kept is not None:
        save_trace(_file(kept, f"{module}:{name}", chip), trace)
    share = trace.provenance.get("opaque_share", 0.0)
    return Row(
        program=f"{module}:{name}",
        chip=chip,
        instructions=trace.program.num_steps,
        within_1_percent=found.step_share_within_1_percent,
        total_error=found.total_error,
        opaque_share=float(share) if isinstance(share, float) else 0.0,
        capture_seconds=seconds,
    )


def _file(folder: Path, program: str, chip: str) -> Path:
    return folder / f"{program.replace(':', '-')}-{chip}.json.gz"


def _gain(path: Path, seconds: float) -> float:
    """Return how much of XLA's own judged time the portfolio saves, from XLA's mapping on."""
    from mallocgame.baselines.portfolio import best
    from mallocgame.judge.simulation import simulate
    from mallocgame.workloads.trace import load_trace

    trace = load_trace(path)
    own = simulate(trace.program, trace.hierarchy, trace.mapping or Mapping()).total_seconds
    found = best(trace.program, trace.hierarchy, seed=0, seconds=seconds, start=trace.mapping)
    return 1 - found.seconds / own


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown, a program a line, summed up by chip."""
    chips = sorted({row.chip for row in rows})
    lines = ["<!-- written by python -m tests.benchmarks.zoo -->"]
    for chip in chips:
        here = [row for row in rows if row.chip == chip]
        read = [row for row in here if not row.refused]
        exact = sum(row.within_1_percent > 0.99 for row in read)
        totals = sum(abs(row.total_error) < 0.01 for row in read)
        lines.append(
            f"{chip}: {len(read)} of {len(here)} captured; {exact} with 99 % of the instruction time within 1 % of "
            f"XLA's, {totals} with the total within 1 %."
        )
    solved = [row for row in rows if row.gain is not None]
    if solved:
        mean = sum(row.gain or 0.0 for row in solved) / len(solved)
        seconds = "/".join(f"{each:g}" for each in sorted({row.solver_seconds for row in solved}))
        lines.append(f"Gain: of `best` over XLA's own judged time in {seconds} s; mean {100 * mean:.1f} %.")
    lines += [
        "",
        f"Cells are {' / '.join(chips)}.",
        "",
        "| program | instructions | within 1 %, by time | total, % | opaque, % | gain, % | capture, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for program in sorted({row.program for row in rows}):
        here = [next((row for row in rows if (row.program, row.chip) == (program, chip)), None) for chip in chips]
        cells = [" / ".join(_cells(row)[i] for row in here) for i in range(6)]
        lines.append(f"| {program} | {' | '.join(cells)} |")
    lines += [f"\n{row.program}, {row.chip}, refused: {row.refused}" for row in rows if row.refused]
    return "\n".join(lines) + "\n"


def _cells(row: Row | None) -> tuple[str, ...]:
    if row is None:
        return ("",) * 6
    if row.refused:
        return ("refused", *("",) * 5)
    gain = "" if row.gain is None else f"{100 * row.gain:.1f}"
    shares = (f"{100 * row.within_1_percent:.4g}", f"{100 * row.total_error:+.2f}", f"{100 * row.opaque_share:.3g}")
    return (str(row.instructions), *shares, gain, f"{row.capture_seconds:.1f}")


def environment(folder: Path) -> Path:
    """Return the Python of an environment with this package and the libraries, made if it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-e", f"{ROOT}[tpu]", *LIBRARIES], check=True)
        # without what they depend on (TensorFlow, data sets): what is used of them needs no more
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", *ALONE], check=True)
        (folder / "complete").touch()
    return python


def _is_wanted(program: str, only: str) -> bool:
    return any(part in program for part in only.split(","))


def _rows() -> dict[tuple[str, str], Row]:
    kept = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []
    return {(row["program"], row["chip"]): Row(**row) for row in kept}


def _write(rows: dict[tuple[str, str], Row]) -> None:
    order = sorted(rows)
    write_text(ROWS, "".join(json.dumps(asdict(rows[each])) + "\n" for each in order))
    write_text(TABLE, table([rows[each] for each in order]))


def run(options: argparse.Namespace) -> None:
    """Measure, writing each row as it is known; rows that are there already are kept."""
    from mallocgame.workloads.xla.compiler import Compiler

    rows = _rows()
    if options.traces is not None:
        options.traces.mkdir(parents=True, exist_ok=True)
    with Compiler() as compiler:
        for chip in options.chips.split(","):
            for module, name in programs():
                key = (f"{module}:{name}", chip)
                if not _is_wanted(key[0], options.only) or (key in rows and not options.again):
                    continue
                found = measure(module, name, chip, compiler, options.traces)
                sys.stderr.write(f"{found}\n")
                if not (options.here and "No module named" in found.refused):
                    rows[key] = found
                    _write(rows)


def solve(options: argparse.Namespace) -> None:
    """Plan each program whose trace was kept; rows with a gain already are left alone."""
    rows = _rows()
    for key in sorted(rows):
        row, wanted = rows[key], _is_wanted(key[0], options.only) and key[1] in options.chips.split(",")
        path = _file(options.traces, *key)
        if row.refused or not wanted or not path.exists() or (row.gain is not None and not options.again):
            continue
        rows[key] = replace(row, gain=_gain(path, options.solver_seconds), solver_seconds=options.solver_seconds)
        sys.stderr.write(f"{rows[key]}\n")
        _write(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.zoo", description=__doc__)
    parser.add_argument("--chips", default="v5e,v4,v6e", help="comma-separated")
    parser.add_argument("--only", default="", help="programs whose name holds one of these, comma-separated")
    parser.add_argument("--again", action="store_true", help="measure what is in the results already")
    parser.add_argument("--traces", type=Path, help="keep the traces in this folder")
    parser.add_argument("--solve", action="store_true", help="plan the traces in --traces")
    parser.add_argument("--solver-seconds", type=float, default=20.0)
    parser.add_argument("--environment", type=Path, default=Path.home() / ".cache" / "mallocgame" / "zoo")
    parser.add_argument("--here", action="store_true", help="in the environment at hand")
    options = parser.parse_args()
    if options.solve:
        if options.traces is None:
            parser.error("--solve needs --traces FOLDER")
        solve(options)
        return
    if options.here:
        run(options)
        return
    python = environment(options.environment)
    raise SystemExit(
        subprocess.run([str(python), "-m", "tests.benchmarks.zoo", *sys.argv[1:], "--here"], check=False).returncode
    )


if __name__ == "__main__":
    main()

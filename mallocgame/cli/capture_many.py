"""``mallocgame capture --programs TABLE``: many functions, each a job of a sweep."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallocgame.cli.captured import remarks_of, row_of
from mallocgame.cli.programs import ProgramLine, read_programs, run_table, with_compiler

if TYPE_CHECKING:
    from mallocgame.sweep import Job, Made
    from mallocgame.sweep.jobs import Work
    from mallocgame.workloads.capture import Assumptions
    from mallocgame.workloads.xla.compiler import Compiler

COLUMNS: dict[str, type] = {
    "job": str,
    "program": str,
    "chip": str,
    "status": str,
    "trace": str,  # the file, in the folder of the rows
    "instructions": float,
    "decisions": float,
    "tensors": float,
    "capacity_bytes": float,
    "xla_judged_seconds": float,
    "xla_estimate_seconds": float,
    "none_judged_seconds": float,
    "lower_bound_seconds": float,
    "capture_seconds": float,
    "remarks": str,
    "error": str,
}
SHOWN = ("program", "chip", "status", "decisions", "xla_judged_seconds", "lower_bound_seconds", "trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSettings:
    """What the command says of all functions."""

    options: dict[str, str | bool] = field(default_factory=dict)
    assumptions: "Assumptions"
    full: bool = False
    anonymise: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureTask:
    """One function to capture."""

    entry: ProgramLine
    how: CaptureSettings


def capture_many(
    programs: Path, chip: str, how: CaptureSettings, *, out: Path, workers: int, ray: str | None, as_json: bool
) -> None:
    """Capture the functions of a table.

    Raises:
        InputError: the table is bad, the folder cannot be written, a function could not be captured.
        MissingExtraError: there is no compiler.
    """
    from mallocgame.workloads.xla.compiler import Compiler

    with Compiler():  # says at once if there is none
        jobs = _jobs(read_programs(programs, chip), how)
    run_table(jobs, capturing, COLUMNS, out=out, workers=workers, ray=ray, json=as_json, shown=SHOWN)


def _jobs(entries: Sequence[ProgramLine], how: CaptureSettings) -> "list[Job]":
    from functools import partial

    from mallocgame.sweep import Job, digest_of

    return [
        Job(
            key=digest_of("capture", repr(how), entry.content(), entry.name),
            about={"program": entry.function, "chip": entry.chip},
            task=partial(CaptureTask, entry=entry, how=how),
            group=entry.name,
        )
        for entry in entries
    ]


@contextmanager
def capturing() -> "Iterator[Work]":
    """Yield what captures one function after the other with a warm compiler."""
    with with_compiler(_capture) as work:
        yield work


def _capture(task: CaptureTask, compiler: "Compiler") -> "Made":
    from mallocgame.sweep import Made
    from mallocgame.workloads.anonymise import anonymise
    from mallocgame.workloads.capture import capture
    from mallocgame.workloads.trace import save_trace

    entry, how, begin = task.entry, task.how, time.perf_counter()
    trace = capture(
        entry.reference,
        chip=entry.chip,
        compiler_options=how.options,
        assumptions=how.assumptions,
        full=how.full,
        name=entry.name,
        compiler=compiler,
    )
    if how.anonymise:
        trace = anonymise(trace)
    row: dict[str, Any] = row_of(trace)
    file = f"{entry.name}.json.gz"
    row |= {"program": entry.function, "chip": entry.chip, "status": "captured", "trace": file}
    row |= {"capture_seconds": time.perf_counter() - begin, "remarks": " ".join(remarks_of(trace)) or None}
    with tempfile.TemporaryDirectory(prefix="mallocgame-") as folder:
        save_trace(Path(folder) / file, trace)
        return Made(row=row, files={file: (Path(folder) / file).read_bytes()})

"""``mallocgame tune --programs TABLE``: many functions, each a job of a sweep."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallocgame.cli.programs import ProgramLine, read_programs, run_table

if TYPE_CHECKING:
    from mallocgame.sweep import Job, Made
    from mallocgame.sweep.jobs import Work
    from mallocgame.workloads.capture import Assumptions

COLUMNS: dict[str, type] = {
    "job": str,
    "program": str,
    "chip": str,
    "status": str,
    "folder": str,  # of options.json, in the folder of the rows
    "default_seconds": float,
    "judged_seconds": float,
    "speedup": float,
    "default_xla_seconds": float,
    "xla_seconds": float,
    "default_cycles": float,
    "cycles": float,
    "goal_seconds": float,
    "realised_share": float,
    "full_compile_seconds": float,
    "evaluations": float,
    "seconds_per_evaluation": float,
    "unchecked": str,
    "options": object,
    "error": str,
}
SHOWN = ("program", "chip", "status", "default_seconds", "judged_seconds", "speedup", "folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """What the command says of all functions."""

    seconds: float
    solver_seconds: float
    seed: int
    full: bool
    assumptions: "Assumptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneTask:
    """One function to tune, in a folder of this machine; None: in one whose files go with the row."""

    entry: ProgramLine
    how: TuneSettings
    folder: Path | None


def tune_many(
    programs: Path, chip: str, how: TuneSettings, *, out: Path, workers: int, ray: str | None, as_json: bool
) -> None:
    """Tune the functions of a table, each in a folder of its own in ``out``.

    Raises:
        InputError: the table is bad, the folder cannot be written, a function could not be tuned.
        MissingExtraError: there is no compiler.
    """
    from mallocgame.workloads.xla.compiler import Compiler

    with Compiler():  # says at once if there is none
        jobs = _jobs(read_programs(programs, chip), how, out if ray is None else None)
    run_table(jobs, _tuning, COLUMNS, out=out, workers=workers, ray=ray, json=as_json, shown=SHOWN)


def _jobs(entries: Sequence[ProgramLine], how: TuneSettings, out: Path | None) -> "list[Job]":
    from mallocgame.sweep import Job, digest_of

    return [
        Job(
            key=digest_of("tune", repr(how), entry.content(), entry.name),
            about={"program": entry.function, "chip": entry.chip},
            task=partial(TuneTask, entry=entry, how=how, folder=None if out is None else out / entry.name),
            group=entry.name,
        )
        for entry in entries
    ]


@contextmanager
def _tuning() -> "Iterator[Work]":
    yield _tune


def _tune(task: TuneTask) -> "Made":
    from mallocgame.workloads.compiler_loop.tuning_folder import LOCK

    if task.folder is not None:
        return _made(task, task.folder, dict)
    with tempfile.TemporaryDirectory(prefix="mallocgame-") as text:
        folder = Path(text)

        def files() -> dict[str, bytes]:
            found = [path for path in folder.iterdir() if path.is_file() and path.name != LOCK]
            return {f"{task.entry.name}/{path.name}": path.read_bytes() for path in found}

        return _made(task, folder, files)


def _made(task: TuneTask, folder: Path, files: Callable[[], dict[str, bytes]]) -> "Made":
    from mallocgame.baselines.anneal import anneal
    from mallocgame.sweep import Made
    from mallocgame.workloads.compiler_loop.settings import Settings
    from mallocgame.workloads.compiler_loop.tune import tune

    entry, how = task.entry, task.how
    settings = Settings(
        solve=anneal,
        seconds=how.seconds,
        solver_seconds=how.solver_seconds,
        folder=folder,
        seed=how.seed,
        workers=1,  # the others work on other programs
        full=how.full,
    )
    found = tune(entry.reference, chip=entry.chip, settings=settings, assumptions=how.assumptions)
    row: dict[str, Any] = found.figures()
    row |= {"program": entry.function, "chip": entry.chip, "folder": entry.name}
    row["status"] = "interrupted" if found.interrupted else "tuned" if found.options else "default"
    row["speedup"] = found.default_seconds / found.judged_seconds
    other = "another program in a new process" if found.lowers_alike is False else ""
    row["unchecked"] = "; ".join(text for text in (found.unchecked, other) if text) or None
    return Made(row=row, files=files())

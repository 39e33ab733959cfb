"""The jobs of ``compare``: one for each solver on each trace, and what a worker does with one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.evaluation import Case
    from mallocgame.sweep import Job, Made
    from mallocgame.sweep.jobs import Work

SKIPPED = "skipped"  # the compiler's mapping of a trace that has none
COLUMNS: dict[str, type] = {
    "trace": str,
    "chip": str,
    "solver": str,
    "valid": bool,
    "status": str,
    "judged_seconds": float,
    "xla_judged_seconds": float,
    "speedup_over_xla": float,
    "lower_bound_seconds": float,
    "gap": float,
    "solve_seconds": float,
    "error": str,  # why there is no mapping
    "settings": str,
    "job": str,  # a digest of all that the row depends on
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """What all rows of one call have in common."""

    seconds: float
    steps: int | None
    seed: int
    start: str
    bound_seconds: float
    hierarchy: str | None
    hoist: bool
    plan_for: str | None = None  # None: all that the hardware can

    def __str__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareTask:
    """One solver on one trace. ``data`` is the trace file's content where a worker may not see the file."""

    trace: str
    solver: str
    settings: CompareSettings
    data: bytes | None = None


def jobs_of(traces: Sequence[str], solvers: Sequence[str], settings: CompareSettings, *, ships: bool) -> "list[Job]":
    """Return a job for each trace and solver.

    Args:
        traces: files or names of shipped traces.
        solvers: their names.
        settings: of all.
        ships: the contents of files go with the tasks, to machines that may not see the files.

    Raises:
        InputError: no such trace, start or hierarchy.
    """
    from mallocgame import __version__
    from mallocgame.cli.cases import find_hierarchy
    from mallocgame.files import open_input, read_bytes
    from mallocgame.sweep import Job, digest_of
    from mallocgame.workloads.find import trace_file

    if settings.hierarchy is not None:
        find_hierarchy(settings.hierarchy)
    named = [text for text in (settings.start, settings.hierarchy) if text is not None and Path(text).is_file()]
    common = [__version__, str(settings), *(digest_of(read_bytes(text)) for text in named)]
    if named and ships:
        raise InputError(f"{named[0]}: a file cannot go to a cluster's machines; give the name of a solver or a preset")
    jobs = []
    for name in traces:
        path, is_shipped = trace_file(name)
        with open_input(path) as file:
            content = digest_of(file.read())
        for solver in solvers:
            about = {"trace": name, "solver": solver, "settings": str(settings)}
            task = partial(_task, name, solver, settings, path if ships and not is_shipped else None)
            key = digest_of("compare", *common, content, solver, _source_of(solver))
            jobs.append(Job(key=key, about=about, task=task, group=content))
    return jobs


def _task(trace: str, solver: str, settings: CompareSettings, shipped: Path | None) -> CompareTask:
    from mallocgame.files import read_bytes

    data = None if shipped is None else read_bytes(shipped)
    return CompareTask(trace=trace, solver=solver, settings=settings, data=data)


def _source_of(solver: str) -> str:
    """Return the digest of the file of a solver that is named ``package.module:name``, empty for a registered one."""
    from mallocgame.registry import SOLVERS, registered
    from mallocgame.sweep import source_digest

    module, colon, _ = solver.partition(":")
    return source_digest(module) if colon and module not in registered(SOLVERS) else ""


@contextmanager
def comparing(tell: Callable[[float], None] | None = None) -> "Iterator[Work]":
    """Yield what makes a row; a trace that several solvers get in turn is opened, and its bound proved, once."""
    opened: dict[str, Case] = {}

    def make(task: CompareTask) -> "Made":
        if task.trace not in opened:
            opened.clear()
            opened[task.trace] = _open(task)
        return _made(opened[task.trace], task, tell)

    yield make


def _open(task: CompareTask) -> "Case":
    """Return the case of a task.

    Raises:
        InputError: the trace cannot be read.
    """
    import tempfile

    from mallocgame.cli.cases import open_case

    chosen = task.settings
    options: dict[str, Any] = {
        "hoist": chosen.hoist,
        "bound_seconds": chosen.bound_seconds,
        "hierarchy": chosen.hierarchy,
        "plan_for": chosen.plan_for or "hardware",
    }
    if task.data is None:
        return open_case(task.trace, **options)
    with tempfile.TemporaryDirectory(prefix="mallocgame-") as folder:
        path = Path(folder) / Path(task.trace).name
        path.write_bytes(task.data)
        try:
            return open_case(str(path), **options)
        except InputError as error:
            raise InputError(str(error).replace(str(path), task.trace)) from None


def _made(case: "Case", task: CompareTask, tell: Callable[[float], None] | None) -> "Made":
    from mallocgame.cli.cases import find_start
    from mallocgame.evaluation import XLA, run
    from mallocgame.solver import Limits
    from mallocgame.sweep import Made

    chosen = task.settings
    if task.solver == XLA and case.compiler_mapping is None:
        return Made(row={"trace": case.name, "chip": case.chip, "status": SKIPPED})
    limits = Limits(seconds=chosen.seconds, steps=chosen.steps)
    start = find_start(chosen.start, case)
    return Made(row=run(case, task.solver, limits=limits, seed=chosen.seed, start=start, progress=tell).row())

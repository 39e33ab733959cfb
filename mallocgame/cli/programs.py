"""A table of functions to compile, and the jobs of the commands that take one."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import interrupted, print_json, print_table, progress, say
from mallocgame.cli.sweeping import pool_of, report_errors
from mallocgame.errors import InputError, TraceError
from mallocgame.files import check_folder, read_text

if TYPE_CHECKING:
    from mallocgame.sweep import Job
    from mallocgame.sweep.jobs import Maker
    from mallocgame.workloads.program_reference import ProgramReference

ProgramsOption = Annotated[
    Path | None,
    typer.Option(
        "--programs",
        metavar="TABLE",
        help="Many functions: CSV with a column function, and if need be args, chip, mesh, name. --out: a folder.",
    ),
]
COLUMNS = ("function", "args", "chip", "mesh", "name")
ROWS = "rows.jsonl"
MAX_NAME_BYTES = 200  # a file system takes 255, with what is put behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLine:
    """A line of the table. ``name`` is that of what is written for it."""

    function: str
    args: str
    chip: str
    mesh: str
    name: str

    @property
    def reference(self) -> "ProgramReference":
        """The function.

        Raises:
            InputError: not of the form ``package.module:function``.
        """
        from mallocgame.workloads.program_reference import parse_reference

        return parse_reference(self.function, self.args, mesh=self.mesh)

    def content(self) -> list[str]:
        """Return what a row about the function depends on: its name, arguments, source file, and the versions."""
        from importlib import metadata

        from mallocgame import __version__
        from mallocgame.sweep import source_digest

        versions = []
        for package in ("jax", "jaxlib", "libtpu"):
            try:
                versions.append(metadata.version(package))
            except metadata.PackageNotFoundError:
                versions.append("")
        source = source_digest(self.reference.module, self.reference.folder or None)
        return [__version__, *versions, self.function, self.args, self.chip, self.mesh, source]


def read_programs(path: Path, chip: str) -> list[ProgramLine]:
    """Read a table of functions.

    Args:
        path: CSV with a header; what it must and may hold is in ``COLUMNS``.
        chip: of lines that name none.

    Raises:
        TraceError: another column, a line without a function, a function that is none, two lines of one name.
    """
    lines = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True, restkey="", restval="")
    found: dict[str, ProgramLine] = {}
    try:
        header = lines.fieldnames or ()
        if "function" not in header or set(header) - set(COLUMNS) or len(set(header)) < len(header):
            raise TraceError(path, 1, f"expected a header with function, and some of {', '.join(COLUMNS[1:])}")
        for line in lines:
            entry = _entry(path, lines.line_num, line, chip)
            if entry.name in found:
                raise TraceError(path, lines.line_num, f"is the second line of the name {entry.name}; name them apart")
            found[entry.name] = entry
    except csv.Error as error:
        raise TraceError(path, lines.line_num, f"is not CSV: {error}") from None
    if not found:
        raise TraceError(path, None, "names no function")
    return list(found.values())


def _entry(path: Path, number: int, line: Mapping[str, Any], chip: str) -> ProgramLine:
    import re

    from mallocgame.workloads.compiler_loop.tuning_folder import LOCK

    if "" in line:
        raise TraceError(path, number, "has more cells than the header; arguments with commas stand in quotes")
    function, args = line["function"].strip(), line.get("args", "").strip()
    chosen = line.get("chip", "").strip() or chip
    name = line.get("name", "").strip() or f"{function.rpartition(':')[2]}-{chosen}"
    entry = ProgramLine(
        function=function,
        args=args,
        chip=chosen,
        mesh=line.get("mesh", "").strip(),
        name=re.sub(r"[^\w.-]+", "_", name).lstrip("."),
    )
    if not entry.name or len(entry.name.encode()) > MAX_NAME_BYTES or entry.name in (ROWS, LOCK):
        raise TraceError(path, number, f"the name {entry.name[:40]!r} cannot be that of a file; name it otherwise")
    try:
        entry.reference  # noqa: B018 (raises where it is none)
    except InputError as error:
        raise TraceError(path, number, str(error)) from None
    return entry


def run_table(
    jobs: "list[Job]",
    make: "Maker",
    columns: Mapping[str, type],
    *,
    out: Path,
    workers: int,
    ray: str | None,
    json: bool,
    shown: tuple[str, ...],
) -> None:
    """Make the rows of a table of programs in ``out``/rows.jsonl, print them, and say what went wrong.

    Args:
        jobs: one a program.
        make: what a worker enters.
        columns: of the rows; ``program`` names them.
        out: the folder, where files that jobs make go, too.
        workers: how many.
        ray: the address of a cluster.
        json: print rows as they are made, all columns.
        shown: columns of the printed table.
    """
    from mallocgame.sweep import RowFile, sweep

    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    stopped = False
    with RowFile.open(out / ROWS, columns) as table, progress("programs", total=len(jobs)) as advance:
        done = sum(table.is_made(job.key) for job in jobs)

        def take(job: "Job", row: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            advance(done)
            if json:
                print_json([row])

        if json:
            print_json([table.rows[job.key] for job in jobs if table.is_made(job.key)])
        advance(done)
        try:
            sweep(jobs, pool_of(make, workers, ray), table, folder=out, on_row=take)
        except KeyboardInterrupt:
            stopped = True
        rows = [table.rows[job.key] for job in jobs if job.key in table.rows]
        table.settle(job.key for job in jobs)
    if not json:
        print_table(str(out), shown, [[_cell(row[name]) for name in shown] for row in rows])
    say(f"rows: {out / ROWS}")
    if stopped:
        raise interrupted(f"{len(rows)} of {len(jobs)} rows were made")
    report_errors(rows, "program")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextmanager
def with_compiler(work: Callable[..., Any]) -> Iterator[Callable[[Any], Any]]:
    """Yield ``work`` with a warm compiler as its second argument: what a worker enters."""
    from mallocgame.workloads.xla.compiler import Compiler

    with Compiler() as compiler:
        yield lambda task: work(task, compiler)

"""``mallocgame compare``: several solvers on several traces, as a table, JSON Lines, CSV and a figure."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.cases import (
    BoundSecondsOption,
    ForOption,
    HierarchyOption,
    HoistOption,
    SecondsOption,
    SeedOption,
    StartOption,
    StepsOption,
)
from mallocgame.cli.common import JsonOption, interrupted, print_json, print_table, progress, say
from mallocgame.cli.compare_jobs import COLUMNS, SKIPPED, CompareSettings, comparing, jobs_of
from mallocgame.cli.sweeping import RayOption, WorkersOption, pool_of, report_errors
from mallocgame.cli.traces import TracesArgument
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.sweep import Job, RowFile

Row = dict[str, Any]
PLOTS, TABLES = (".png", ".svg", ".pdf"), (".csv", ".jsonl")


def compare(
    traces: TracesArgument = None,
    solvers: Annotated[
        str, typer.Option("--solvers", help="Solvers, comma-separated, e.g. xla,none,random,greedy,xla-heuristic.")
    ] = "xla,none,random,greedy,xla-heuristic",
    seconds: SecondsOption = 10.0,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    start: StartOption = "auto",
    bound_seconds: BoundSecondsOption = 10.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write each row as soon as it is made (.csv or .jsonl); rows that it has stay."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw speed-ups by trace and solver (.png, .svg or .pdf).")
    ] = None,
    hierarchy: HierarchyOption = None,
    hoist: HoistOption = True,
    plan_for: ForOption = "hardware",
    workers: WorkersOption = 1,
    ray: RayOption = None,
    json: JsonOption = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", hidden=True)] = None,
    figure: Annotated[Path | None, typer.Option("--figure", hidden=True)] = None,
) -> None:
    """Compare solvers under one judge: judged time, speed-up over XLA, gap to the best bound proved in this run.

    Solver xla is skipped on traces without a compiler mapping. Exit code 1: a solver returned an invalid mapping.
    Ctrl-C: what was done so far is printed and written; the same command goes on from there.

    Example: mallocgame compare lstm-v5e lstm-v4 --solvers xla,greedy --seconds 5 --out rows.csv --plot rows.png
    """
    from mallocgame.cli.traces import trace_names
    from mallocgame.files import is_stream
    from mallocgame.solver import Limits
    from mallocgame.sweep import RowFile, sweep
    from mallocgame.sweep.rows import write_rows

    wanted, plot = _solver_names(solvers), plot or figure
    Limits(seconds=seconds, steps=steps)
    settings = CompareSettings(
        seconds=seconds,
        steps=steps,
        seed=seed,
        start=start,
        bound_seconds=bound_seconds,
        hierarchy=hierarchy,
        hoist=hoist,
        plan_for=None if plan_for == "hardware" else plan_for,
    )
    outputs = [path for path in (out, csv_file) if path is not None]
    _check_outputs(outputs, plot)
    journal = next((path for path in outputs if not is_stream(path)), None)
    jobs = jobs_of(trace_names(traces), wanted, settings, ships=ray is not None)
    stopped = False
    with RowFile.open(journal, COLUMNS) as table, progress("comparing", total=len(jobs)) as advance:
        shown = _Shown(jobs, table, advance, json=json)
        try:
            sweep(jobs, pool_of(comparing, workers, ray, partial(comparing, shown.tell)), table, on_row=shown.take)
        except KeyboardInterrupt:
            stopped = True
        rows = shown.finish()
        table.settle(job.key for job in jobs)
    for path in outputs:
        if path != journal:
            write_rows(path, COLUMNS, rows)
        if rows:
            say(f"rows: {path}")
    if plot is not None and rows:
        from mallocgame.report.comparison import save_comparison

        save_comparison(plot, rows, wanted)
        say(f"figure: {plot}")
    if not json and not all(row["error"] for row in rows):
        print_table("speed-up over XLA's own mapping, all judged alike", *_table(rows, wanted))
    if stopped:
        raise interrupted(f"{len(rows)} rows were made")
    report_errors(rows, "trace")
    _report_invalid(rows)


class _Shown:
    """Each trace's rows: printed as soon as they are complete, all with the best bound of the trace."""

    def __init__(
        self, jobs: "Sequence[Job]", table: "RowFile", advance: Callable[[float], None], *, json: bool
    ) -> None:
        self.jobs, self.table, self.advance, self.json = jobs, table, advance, json
        self._traces: dict[str, list[Job]] = {}
        for job in jobs:
            self._traces.setdefault(job.group, []).append(job)
        self._printed: set[str] = set()
        self._done = sum(table.is_made(job.key) for job in jobs)
        for group in self._traces:
            self._print(group)
        advance(self._done)

    def tell(self, part: float) -> None:
        """Show how far the row is that is being made."""
        self.advance(self._done + min(part, 1.0))

    def take(self, job: "Job", row: Row) -> None:
        """Take note of a row."""
        self._done += 1
        self.advance(self._done)
        self._print(job.group)

    def finish(self) -> list[Row]:
        """Return all rows, in the order of the jobs; print what was not printed."""
        found = []
        for group in self._traces:
            self._print(group, complete=False)
            found += self._rows(group)
        return found

    def _rows(self, group: str) -> list[Row]:
        """Return the rows of a trace; each gets the best bound of all."""
        rows = [self.table.rows[job.key] for job in self._traces[group] if job.key in self.table.rows]
        rows = [row for row in rows if row["status"] != SKIPPED]
        best = max((row["lower_bound_seconds"] or 0.0 for row in rows), default=0.0)
        for row in rows:
            if row["lower_bound_seconds"] is not None:
                row["lower_bound_seconds"] = best
                row["gap"] = 1.0 - best / row["judged_seconds"] if row["judged_seconds"] else None
        return rows

    def _print(self, group: str, *, complete: bool = True) -> None:
        if not self.json or group in self._printed:
            return
        if complete and not all(self.table.is_made(job.key) for job in self._traces[group]):
            return
        self._printed.add(group)
        print_json(self._rows(group))


def _report_invalid(rows: Sequence[Row]) -> None:
    invalid = [row for row in rows if row["valid"] is False]
    for row in invalid:
        say(f"{row['trace']}: the mapping of {row['solver']} is invalid")
    if invalid:
        raise typer.Exit(1)


def _check_outputs(tables: Sequence[Path], plot: Path | None) -> None:
    from mallocgame.files import check_name, check_writable

    if plot is not None and plot.suffix not in PLOTS:
        raise InputError(f"--plot {plot}: expected a name that ends in {', '.join(PLOTS)}")
    for path in tables:
        check_name(path, TABLES, "--out")
    check_writable(*tables, plot)


def _solver_names(text: str) -> list[str]:
    from mallocgame.evaluation import XLA, find_solver

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != XLA:
            find_solver(name)
        if names.count(name) > 1:
            raise InputError(f"--solvers names {name!r} twice")
    return names


def _table(rows: Sequence[Row], solvers: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and cells: speed-ups over XLA, or milliseconds where there is no compiler mapping."""
    others = [solver for solver in solvers if solver != "xla"]
    by_key = {(row["trace"], row["solver"]): row for row in rows}
    table = []
    for trace in dict.fromkeys(row["trace"] for row in rows):
        first = next((r for r in rows if r["trace"] == trace and not r["error"]), None)
        if first is None:
            continue
        xla = first["xla_judged_seconds"]
        times = ["" if xla is None else f"{1e3 * xla:.4f}", f"{1e3 * first['lower_bound_seconds']:.4f}"]
        table.append([trace, *times, *(_cell(by_key.get((trace, solver))) for solver in others)])
    means = [geometric_mean([r["speedup_over_xla"] for r in rows if r["solver"] == s]) for s in others]
    table.append(["geometric mean", "", "", *("" if m is None else f"{m:.3f}×" for m in means)])
    return ["trace", "XLA ms", "bound ms", *others], table


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if not row["valid"]:
        return str(row["status"])
    if row["speedup_over_xla"] is None:
        return f"{1e3 * row['judged_seconds']:.4f} ms"
    return f"{row['speedup_over_xla']:.3f}×"


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Return the geometric mean of the values that are not None; None if there are none."""
    from math import exp, log

    known = [value for value in values if value is not None]
    return exp(sum(log(value) for value in known) / len(known)) if known else None

"""``mallocgame compare``: several solvers on several traces, as a table, JSON Lines, CSV and a figure."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.cases import (
    BoundSecondsOption,
    HierarchyOption,
    HoistOption,
    SecondsOption,
    SeedOption,
    StartOption,
    StepsOption,
)
from mallocgame.cli.common import JsonOption, interrupted, print_json, print_table, progress, say
from mallocgame.cli.traces import TracesArgument
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.evaluation import Case, Judged
    from mallocgame.solver import Limits

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
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows (.csv or .jsonl).")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw speed-ups by trace and solver (.png, .svg or .pdf).")
    ] = None,
    hierarchy: HierarchyOption = None,
    hoist: HoistOption = True,
    json: JsonOption = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", hidden=True)] = None,
    figure: Annotated[Path | None, typer.Option("--figure", hidden=True)] = None,
) -> None:
    """Compare solvers under one judge: judged time, speed-up over XLA, gap to the best bound proved in this run.

    Solver xla is skipped on traces without a compiler mapping. Exit code 1: a solver returned an invalid mapping.
    Ctrl-C: what was done so far is printed and written.

    Example: mallocgame compare lstm-v5e lstm-v4 --solvers xla,greedy --seconds 5 --out rows.csv --plot rows.png
    """
    from mallocgame.cli.cases import open_case
    from mallocgame.cli.traces import trace_names
    from mallocgame.solver import Limits

    wanted, limits = _solver_names(solvers), Limits(seconds=seconds, steps=steps)
    outputs, plot = [path for path in (out, csv_file) if path is not None], plot or figure
    _check_outputs(outputs, plot)
    names = trace_names(traces)
    rows: list[Row] = []
    stopped = False
    try:
        with progress("comparing", total=len(names)) as advance:
            for done, name in enumerate(names):
                case = open_case(name, hoist=hoist, bound_seconds=bound_seconds, hierarchy=hierarchy)
                tell = lambda part, done=done: advance(done + part)  # noqa: E731
                found, stopped = _rows_of(case, wanted, limits, seed, start, tell)
                rows += found
                if json:
                    print_json(found)
                advance(done + 1)
                if stopped:
                    break
    except KeyboardInterrupt:  # while a bound is proved: what was done counts
        stopped = True
    if not json and rows:
        print_table("speed-up over XLA's own mapping, all judged alike", *_table(rows, wanted))
    for path in outputs:
        _write_rows(path, rows)
    if plot is not None and rows:
        from mallocgame.report.comparison import save_comparison

        save_comparison(plot, rows, wanted)
        say(f"figure: {plot}")
    if stopped:
        raise interrupted(f"{len(rows)} rows were made")
    _report_invalid(rows)


def _report_invalid(rows: Sequence[Row]) -> None:
    invalid = [row for row in rows if not row["valid"]]
    for row in invalid:
        say(f"{row['trace']}: the mapping of {row['solver']} is invalid")
    if invalid:
        raise typer.Exit(1)


def _check_outputs(tables: Sequence[Path], plot: Path | None) -> None:
    from mallocgame.files import check_writable

    if plot is not None and plot.suffix not in PLOTS:
        raise InputError(f"--plot {plot}: expected a name that ends in {', '.join(PLOTS)}")
    for path in tables:
        if path.suffix not in TABLES:
            raise InputError(f"--out {path}: expected a name that ends in {' or '.join(TABLES)}")
    for path in (*tables, *([plot] if plot is not None else [])):
        check_writable(path)


def _solver_names(text: str) -> list[str]:
    from mallocgame.evaluation import XLA, find_solver

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != XLA:
            find_solver(name)
        if names.count(name) > 1:
            raise InputError(f"--solvers names {name!r} twice")
    return names


def _rows_of(
    case: "Case", solvers: Sequence[str], limits: "Limits", seed: int, start: str, advance: Callable[[float], None]
) -> tuple[list[Row], bool]:
    """Return a row for each solver, and whether Ctrl-C ended it early."""
    from mallocgame.cli.cases import find_start
    from mallocgame.evaluation import XLA, run

    runnable = [solver for solver in solvers if solver != XLA or case.compiler_mapping is not None]
    first = find_start(start, case)
    judged: list[Judged] = []
    stopped = False
    for index, solver in enumerate(runnable):
        tell = lambda part, index=index: advance((index + min(part, 1.0)) / len(runnable))  # noqa: E731
        try:
            judged.append(run(case, solver, limits=limits, seed=seed, start=first, progress=tell))
            stopped = judged[-1].status == "interrupted"
        except KeyboardInterrupt:  # between a solver's start and its clock
            stopped = True
        if stopped:
            break
    best_bound = max((each.lower_bound_seconds for each in judged), default=case.lower_bound_seconds)
    return [each.row(best_bound) for each in judged], stopped


def _table(rows: Sequence[Row], solvers: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and cells: speed-ups over XLA, or milliseconds where there is no compiler mapping."""
    others = [solver for solver in solvers if solver != "xla"]
    by_key = {(row["trace"], row["solver"]): row for row in rows}
    table = []
    for trace in dict.fromkeys(row["trace"] for row in rows):
        first = next(row for row in rows if row["trace"] == trace)
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
        return "invalid"
    if row["speedup_over_xla"] is None:
        return f"{1e3 * row['judged_seconds']:.4f} ms"
    return f"{row['speedup_over_xla']:.3f}×"


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Return the geometric mean of the values that are not None; None if there are none."""
    from math import exp, log

    known = [value for value in values if value is not None]
    return exp(sum(log(value) for value in known) / len(known)) if known else None


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    import json

    from mallocgame.files import write_text
    from mallocgame.text import cell

    out = io.StringIO()
    if path.suffix == ".csv":
        writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    else:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    try:
        write_text(path, out.getvalue())
    except OSError as error:
        raise InputError(f"--out {path}: cannot write: {error.strerror or error}") from None
    say(f"rows: {path}")

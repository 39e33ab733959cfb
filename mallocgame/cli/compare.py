"""``mallocgame compare``: several solvers on several traces, as a table, JSON Lines, CSV and a figure."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.cli.evaluate import BoundSecondsOption, NoHoistOption, SecondsOption, SeedOption
from mallocgame.cli.traces import TracesArgument
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.evaluation import Case, Judged

Row = dict[str, Any]


def compare(
    traces: TracesArgument = None,
    solvers: Annotated[
        str, typer.Option("--solvers", help="Solvers, comma-separated, e.g. xla,none,random,greedy,xla-heuristic.")
    ] = "xla,none,random,greedy,xla-heuristic",
    seconds: SecondsOption = 10.0,
    seed: SeedOption = 0,
    bound_seconds: BoundSecondsOption = 10.0,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows as CSV.")] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw speed-ups by trace and solver (.png, .svg or .pdf).")
    ] = None,
    no_hoist: NoHoistOption = False,
    json: JsonOption = False,
) -> None:
    """Compare solvers under one judge: judged time, speed-up over XLA, gap to the best bound proved in this run.

    Solver xla is skipped on traces without a compiler mapping. Exit code 1: a solver returned an invalid mapping.

    Example: mallocgame compare lstm-v5e lstm-v4 --solvers xla,greedy --seconds 5 --csv rows.csv --figure rows.png
    """
    from mallocgame.cli.traces import trace_names
    from mallocgame.evaluation import open_case

    wanted = _solver_names(solvers)
    if figure is not None and figure.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--figure {figure}: expected a name that ends in .png, .svg or .pdf")
    names = trace_names(traces)
    rows: list[Row] = []
    with progress("comparing", total=len(names)) as advance:
        for done, name in enumerate(names):
            case = open_case(name, hoist=not no_hoist, bound_seconds=bound_seconds)
            found = _rows_of(case, wanted, seconds, seed, lambda part, done=done: advance(done + part))
            rows += found
            if json:
                print_json(found)
            advance(done + 1)
    if not json:
        print_table("speed-up over XLA's own mapping, all judged alike", *_table(rows, wanted))
    if csv_file is not None:
        _write_csv(csv_file, rows)
    if figure is not None:
        from mallocgame.report.comparison import save_comparison

        save_comparison(figure, rows, wanted)
        say(f"figure: {figure}")
    invalid = [row for row in rows if not row["valid"]]
    for row in invalid:
        say(f"{row['trace']}: the mapping of {row['solver']} is invalid")
    if invalid:
        raise typer.Exit(1)


def _solver_names(text: str) -> list[str]:
    from mallocgame.cli.solvers import known_solvers

    names = [name.strip() for name in text.split(",")]
    known = known_solvers()
    for name in names:
        if name.partition(":")[0] not in known:
            raise InputError(f"unknown solver {name!r}, expected one of {', '.join(known)}")
        if names.count(name) > 1:
            raise InputError(f"--solvers names {name!r} twice")
    return names


def _rows_of(case: "Case", solvers: Sequence[str], seconds: float, seed: int, advance: Any) -> list[Row]:
    from mallocgame.evaluation import solve

    runnable = [solver for solver in solvers if solver != "xla" or case.trace.mapping is not None]
    judged: list[Judged] = []
    for index, solver in enumerate(runnable):
        report = lambda part, index=index: advance((index + min(part, 1.0)) / len(runnable))  # noqa: E731
        judged.append(solve(case, solver, seconds=seconds, seed=seed, advance=report))
    best_bound = max((each.lower_bound_seconds for each in judged), default=case.lower_bound_seconds)
    return [each.row(best_bound) for each in judged]


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


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    from mallocgame.files import write_text

    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_text(path, out.getvalue())
    except OSError as error:
        raise InputError(f"--csv {path}: cannot write: {error.strerror or error}") from None
    say(f"rows: {path}")

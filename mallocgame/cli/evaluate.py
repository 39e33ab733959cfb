"""``mallocgame evaluate``: one trace, one mapping, judged; figures, pictures and files of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from mallocgame.cli.traces import TraceArgument
from mallocgame.errors import InputError
from mallocgame.text import counted

if TYPE_CHECKING:
    from mallocgame.evaluation import Judged


def evaluate(
    trace: TraceArgument,
    solver: Annotated[str | None, typer.Option("--solver", help="Solver to run, e.g. xla, greedy.")] = None,
    mapping: Annotated[Path | None, typer.Option("--mapping", help="Judge this mapping file instead.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Save the mapping here (.json or .json.gz).")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the memory map: .html (self-contained) or .png.")
    ] = None,
    perfetto: Annotated[
        Path | None, typer.Option("--perfetto", help="Write the timeline for ui.perfetto.dev (.json or .json.gz).")
    ] = None,
    seconds: SecondsOption = 10.0,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    start: StartOption = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Cores for a solver that can use several.")
    ] = None,
    simulations: Annotated[
        int | None, typer.Option("--simulations", min=0, help="Search simulations a move (solver muzero[:RUN]).")
    ] = None,
    bound_seconds: BoundSecondsOption = 10.0,
    hierarchy: HierarchyOption = None,
    hoist: HoistOption = True,
    plan_for: ForOption = "hardware",
    json: JsonOption = False,
    report: Annotated[Path | None, typer.Option("--report", hidden=True)] = None,
) -> None:
    """Judge one mapping of a trace: time, speed-up over XLA, gap to the bound, stalls, link traffic.

    Exit code 1: the mapping is invalid (every violation is listed).

    Example: mallocgame evaluate lstm-v5e --solver greedy --plot lstm.html --out lstm_mapping.json
    """
    from mallocgame.cli.cases import find_start, open_case
    from mallocgame.evaluation import judge, run
    from mallocgame.solver import Limits
    from mallocgame.workloads.trace import load_mapping

    if (solver is None) == (mapping is None):
        raise InputError("give --solver NAME or --mapping FILE, one of them")
    plot = plot or report
    _check_outputs(out, plot, perfetto)
    limits = Limits(seconds=seconds, steps=steps)
    with progress(f"proving a bound for {trace}"):
        case = open_case(trace, hoist=hoist, bound_seconds=bound_seconds, hierarchy=hierarchy, plan_for=plan_for)
    if mapping is not None:
        judged = judge(case, load_mapping(mapping, *case.problem), solver=mapping.name)
    else:
        assert solver is not None
        with progress(f"{solver} on {case.name}", total=1.0) as advance:
            judged = run(
                case,
                solver,
                limits=limits,
                seed=seed,
                start=find_start(start, case),
                progress=advance,
                workers=workers,
                simulations=simulations,
            )
    if judged.timeline is not None:
        _write(judged, out, plot, perfetto)  # before anything is printed: standard output may be broken
    if json:
        print_json([judged.row()])
    elif judged.timeline is not None:
        print_table(f"{judged.solver} on {case.name}", ("", "value"), _figures(judged))
    if judged.timeline is None:
        for violation in judged.violations:
            say(f"{violation.rule}: {violation.message}")
        say(f"{case.name}: the mapping of {judged.solver} is invalid, {counted(len(judged.violations), 'violation')}")
        raise typer.Exit(1)
    if judged.status == "interrupted":
        raise interrupted("the best mapping so far was kept")


def _check_outputs(out: Path | None, plot: Path | None, perfetto: Path | None) -> None:
    from mallocgame.files import check_name, check_writable

    if plot is not None and plot.suffix not in (".html", ".png"):
        raise InputError(f"--plot {plot}: expected a name that ends in .html or .png")
    if perfetto is not None:
        check_name(perfetto, (".json", ".json.gz"), "--perfetto")
    check_writable(out, plot, perfetto)


def _figures(judged: "Judged") -> list[tuple[str, str]]:
    from mallocgame.judge.simulation import home_seconds
    from mallocgame.text import bytes_text, seconds_text

    case, timeline, row = judged.case, judged.timeline, judged.row()
    assert timeline is not None
    home = home_seconds(*case.problem)
    seconds = timeline.total_seconds
    rows = [
        ("judged time", seconds_text(seconds)),
        ("XLA's own mapping", seconds_text(row["xla_judged_seconds"])),
        (f"all in {case.hierarchy.layers[0].name}", seconds_text(home)),
        ("lower bound (proved)", seconds_text(row["lower_bound_seconds"])),
        ("speed-up over XLA", _ratio(row["speedup_over_xla"])),
        (f"speed-up over all in {case.hierarchy.layers[0].name}", _ratio(home / seconds if seconds else None)),
        ("gap to the bound", "" if row["gap"] is None else f"{100 * row['gap']:z.2f} %"),
        ("stalls", seconds_text(float(timeline.stall_seconds.sum()))),
        ("copies", str(len(judged.mapping.transfers))),
    ]
    for k, link in enumerate(case.hierarchy.links):
        fetched, evicted = (int(x) for x in timeline.link_bytes[k])
        busy = f", busy {100 * timeline.link_busy_seconds[k] / seconds:.0f} %" if seconds else ""
        rows.append((f"link {link.name}", f"{bytes_text(fetched)} in, {bytes_text(evicted)} out{busy}"))
    for index, layer in enumerate(case.hierarchy.layers[1:], start=1):
        peak = int(timeline.occupancy_bytes[:, index].max(initial=0))
        share = 100 * peak / layer.capacity_bytes
        filled = f"{bytes_text(peak)} of {bytes_text(layer.capacity_bytes)}, {share:.0f} %"
        rows.append((f"peak of {layer.name}", filled))
    if judged.solve_seconds is not None:
        rows.append(("solver", f"{judged.status}, {judged.solve_seconds:.2f} s"))
    return [(name, value) for name, value in rows if value]


def _ratio(value: float | None) -> str:
    return "no compiler mapping" if value is None else f"{value:.3f}×"


def _write(judged: "Judged", out: Path | None, plot: Path | None, perfetto: Path | None) -> None:
    case, timeline = judged.case, judged.timeline
    assert timeline is not None
    if out is not None:
        from mallocgame.workloads.trace import save_mapping

        save_mapping(out, judged.mapping, *case.problem)
        say(f"mapping: {out}")
    if plot is not None:
        _draw(judged, plot)
    if perfetto is not None:
        from mallocgame.report.perfetto import save_perfetto

        save_perfetto(perfetto, *case.problem, judged.mapping, timeline)
        say(f"timeline (open it in ui.perfetto.dev): {perfetto}")


def _draw(judged: "Judged", plot: Path) -> None:
    from mallocgame.report.memory_map import Report, save_report

    assert judged.timeline is not None
    with progress(f"drawing {plot}"):
        row, case = judged.row(), judged.case
        subject = Report(
            title=f"{case.name}, {judged.solver}",
            program=case.program,
            hierarchy=case.hierarchy,
            mapping=judged.mapping,
            timeline=judged.timeline,
            xla_judged_seconds=row["xla_judged_seconds"],
            lower_bound_seconds=row["lower_bound_seconds"],
        )
        save_report(plot, subject)
    say(f"memory map: {plot}")

"""``mallocgame tune``: search options for the real compiler until the time is over."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, interrupted, print_json, print_table, say
from mallocgame.cli.compiling import (
    ArgsOption,
    BranchWeightsOption,
    ChipOption,
    IciOption,
    MeshOption,
    TripCountOption,
    assumptions_of,
)
from mallocgame.cli.programs import ProgramsOption
from mallocgame.cli.status import status
from mallocgame.cli.sweeping import RayOption, WorkersOption
from mallocgame.errors import InputError
from mallocgame.files import check_folder, check_writable
from mallocgame.system import num_cores

if TYPE_CHECKING:
    from mallocgame.workloads.compiler_loop.settings import Tuned

MAX_WORKERS = 4  # compilations at a time: each takes a core and up to 1 GB


def tune(
    function: Annotated[
        str | None,
        typer.Argument(
            metavar="[PACKAGE.MODULE:FUNCTION]", help="The JAX function; FILE.py:FUNCTION; 'train.py --layers 4:step'."
        ),
    ] = None,
    chip: ChipOption = "v5e",
    mesh: MeshOption = "",
    args: ArgsOption = "",
    trip_count: TripCountOption = None,
    branch_weights: BranchWeightsOption = None,
    ici_gbps: IciOption = None,
    programs: ProgramsOption = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long you wait: compilations to the end included.")
    ] = 120.0,
    solver_seconds: Annotated[float, typer.Option("--solver-seconds", help="For each mapping on paper.")] = 10.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Keep the best in this folder, and go on from it: options.json, empty where the default is best.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the solver.")] = 0,
    full: Annotated[
        bool, typer.Option("--full/--no-full", help="Compile the best to its end, as a last check.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the memory before and after (FILE.html; FILE.png: after).")
    ] = None,
    json: JsonOption = False,
    folder: Annotated[Path | None, typer.Option("--folder", hidden=True)] = None,
    solve_seconds: Annotated[float | None, typer.Option("--solve-seconds", hidden=True)] = None,
) -> None:
    """Search compiler options that make a function faster on a TPU that need not be there.

    Example: mallocgame tune my_package.model:step --chip v5e --seconds 300 --out tuned
    """
    begin = time.monotonic()
    where = out or folder
    known = assumptions_of(trip_count, branch_weights, ici_gbps)
    if programs is not None:
        if any((function, args, mesh, plot)) or where is None:
            raise InputError("--programs needs --out FOLDER, and no function, --args, --mesh or --plot beside it")
        from mallocgame.cli.tune_many import TuneSettings, tune_many

        paper = solver_seconds if solve_seconds is None else solve_seconds
        how = TuneSettings(seconds=seconds, solver_seconds=paper, seed=seed, full=full, assumptions=known)
        tune_many(programs, chip, how, out=where, workers=workers, ray=ray, as_json=json)
        return
    if function is None or workers > 1 or ray is not None:
        raise InputError("give a function (package.module:function), or many: --programs TABLE [--workers N]")
    if plot is not None:
        check_plot(plot, where)
    if where is not None:
        check_folder(where)
    from mallocgame.baselines.anneal import anneal
    from mallocgame.workloads.compiler_loop.settings import Settings
    from mallocgame.workloads.compiler_loop.tune import tune as run
    from mallocgame.workloads.program_reference import parse_reference

    reference = parse_reference(function, args, mesh=mesh)
    with status(seconds) as shown:
        settings = Settings(
            solve=anneal,
            seconds=seconds,
            begin=begin,
            solver_seconds=solver_seconds if solve_seconds is None else solve_seconds,
            folder=where,
            seed=seed,
            workers=workers_here(),
            lanes=workers_here(),
            full=full,
            say=shown.say,
            phase=shown.phase,
        )
        found = run(reference, chip=chip, settings=settings, assumptions=known)
    if plot is not None:
        _draw(found, plot)
    _show(found, function, chip, where, json)
    if found.interrupted:
        gain = found.default_seconds / found.judged_seconds
        kept = f", kept in {where}" if where else ""
        raise interrupted(f"the best so far is {gain:.3f} times faster{kept}")


def workers_here() -> int:
    """Return how many compilations, or plans, run at a time: one core lowers and thinks."""
    return max(min(num_cores() - 1, MAX_WORKERS), 1)


def check_plot(path: Path, made: Path | None = None) -> None:
    """See before the work that a picture can be written after it; ``made`` is a folder that the work makes."""
    if path.suffix not in (".html", ".png"):
        raise InputError(f"--plot {path}: expected a name that ends in .html or .png")
    if made is None or path.parent != made or made.exists():
        check_writable(path)


def _draw(found: "Tuned", plot: Path) -> None:
    from mallocgame.judge.simulation import simulate
    from mallocgame.report.memory_map import Report, save_report

    program, hierarchy = found.trace.program, found.trace.hierarchy
    subject = Report(
        title=f"{found.trace.name}, tuned",
        program=program,
        hierarchy=hierarchy,
        mapping=found.mapping,
        timeline=simulate(program, hierarchy, found.mapping),
        before=found.trace.mapping,
    )
    save_report(plot, subject)
    say(f"memory map: {plot}")


def _cells(found: "Tuned") -> list[tuple[str, str]]:
    default, now = found.default_seconds, found.judged_seconds
    own = "by the compiler's own estimate"
    cells = [("by default", f"{_time(default)} judged, {_time(found.default_xla_seconds)} {own}")]
    if found.options:
        gain = f"{default / now:.3f} times faster"
        cells.append(("tuned", f"{_time(now)} judged, {gain}; {_time(found.xla_seconds)} {own}"))
    done = f"; the compiler does {100 * found.realised_share:.0f} % of it" if found.evaluations else ""
    cells.append(("best on paper", f"{_time(found.goal_seconds)}{done}"))
    each = f" of {found.seconds_per_evaluation:.1f} s" if found.evaluations else ""
    cells.append(("compilations", f"{found.evaluations}{each}"))
    if found.lowers_alike is False:
        cells.append(("warning", "in a new process it is another program: these options may not fit it"))
    if found.cycles is not None and found.default_cycles is not None:
        cells.append(("estimated cycles", f"{found.cycles} (by default {found.default_cycles})"))
    if found.full_compile_seconds is not None:
        cells.append(("to its end", f"the compiler takes {found.full_compile_seconds:.0f} s"))
    return cells


def _time(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown"
    return f"{1e3 * seconds:.3f} ms" if seconds >= 1e-2 else f"{1e6 * seconds:.1f} µs"


def _show(found: "Tuned", function: str, chip: str, where: Path | None, json: bool) -> None:
    """Print the figures, and the options themselves where no file holds them: they may be long."""
    from mallocgame.cli.inject import NO_OPTIONS, print_options, say_saved
    from mallocgame.compiler_options import load_compiler_options
    from mallocgame.workloads.compiler_loop.tuning_folder import OPTIONS

    row: dict[str, Any] = {"program": function, "chip": chip, **found.figures(), "is_faster": bool(found.options)}
    row["lowers_alike"] = found.lowers_alike
    if json:
        print_json([row])
        return
    print_table(f"{function} for {chip}", ("", ""), _cells(found))
    if found.options:
        if where is None:
            print_options(found.options)
        else:
            say_saved(where / OPTIONS)
        if found.unchecked and not found.interrupted:
            say(f"not compiled to its end ({found.unchecked}): what is illegal only there is not known")
    elif where is not None and (where / OPTIONS).exists() and load_compiler_options(where / OPTIONS):
        say(f"{where / OPTIONS} stands as it was: nothing faster was found in this time")
    elif not found.interrupted and not found.evaluations:
        say(f"nothing but the compiler's default was compiled: {NO_OPTIONS}")
    elif not found.interrupted:
        say(f"nothing that was tried is faster than the compiler's default: {NO_OPTIONS}")

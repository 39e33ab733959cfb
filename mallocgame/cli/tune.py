"""``mallocgame tune``: search options for the real compiler until the time is over."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, interrupted, print_json, print_table, say
from mallocgame.cli.status import status

MAX_WORKERS = 4  # compilations at a time: each takes a core and up to 1 GB


def tune(
    function: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:FUNCTION", help="The JAX function to compile.")],
    chip: Annotated[str, typer.Option("--chip", help="v4, v5e, v5p or v6e.")] = "v5e",
    args: Annotated[str, typer.Option("--args", help="Its arguments; none: example_args() of its module.")] = "",
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long you wait: compilations to the end included.")
    ] = 120.0,
    solver_seconds: Annotated[float, typer.Option("--solver-seconds", help="For each mapping on paper.")] = 10.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the best in this folder (options.json), and go on from it.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the solver.")] = 0,
    full: Annotated[
        bool, typer.Option("--full/--no-full", help="Compile the best to its end, as a last check.")
    ] = True,
    json: JsonOption = False,
    folder: Annotated[Path | None, typer.Option("--folder", hidden=True)] = None,
    solve_seconds: Annotated[float | None, typer.Option("--solve-seconds", hidden=True)] = None,
) -> None:
    """Search compiler options that make a function faster on a TPU that need not be there.

    Example: mallocgame tune my_package.model:step --chip v5e --seconds 300 --out tuned
    """
    from mallocgame.baselines.anneal import anneal
    from mallocgame.workloads.compiler_loop.tune import Settings
    from mallocgame.workloads.compiler_loop.tune import tune as run

    with status(seconds) as shown:
        settings = Settings(
            solve=anneal,
            seconds=seconds,
            solver_seconds=solver_seconds if solve_seconds is None else solve_seconds,
            folder=out or folder,
            seed=seed,
            workers=max(min(len(os.sched_getaffinity(0)) - 1, MAX_WORKERS), 1),  # one core lowers and thinks
            full=full,
            say=shown.say,
            phase=shown.phase,
        )
        found = run(function, args, chip=chip, settings=settings)
    _show(found, function, chip, json)
    if found.interrupted:
        gain = found.default_seconds / found.judged_seconds
        where = f", kept in {out or folder}" if out or folder else ""
        raise interrupted(f"the best so far is {gain:.3f} times faster{where}")


def _show(found: Any, function: str, chip: str, json: bool) -> None:
    from dataclasses import asdict

    from mallocgame.cli.inject import print_options

    row: dict[str, Any] = {"program": function, "chip": chip, **asdict(found)}
    if json:
        print_json([row])
        return
    shown = {key: value for key, value in row.items() if key != "options"}
    cells = [(key.replace("_", " "), f"{v:.6g}" if isinstance(v, float) else str(v)) for key, v in shown.items()]
    print_table(function, ("", "value"), cells)
    if found.options:
        print_options(found.options)
        if found.unchecked and not found.interrupted:
            say(f"not compiled to its end ({found.unchecked}): what is illegal only there is not known")
    elif not found.interrupted:
        say("nothing that was tried is faster than the compiler's default: no options")

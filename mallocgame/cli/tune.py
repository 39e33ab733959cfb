"""``mallocgame tune``: search options for the real compiler until the time is over."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, say


def tune(
    function: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:FUNCTION", help="The JAX function to compile.")],
    chip: Annotated[str, typer.Option("--chip", help="v4, v5e, v5p or v6e.")] = "v5e",
    args: Annotated[str, typer.Option("--args", help="Its arguments; none: example_args() of its module.")] = "",
    seconds: Annotated[float, typer.Option("--seconds", help="Time to search.")] = 120.0,
    solve_seconds: Annotated[float, typer.Option("--solve-seconds", help="Of which for the first mapping.")] = 10.0,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Keep the best here (options.json), and go on from it next time.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the solver.")] = 0,
    full: Annotated[
        bool, typer.Option("--full/--no-full", help="Compile the best to its end, as a last check.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Search compiler options that make a function faster on a TPU that need not be there.

    Example: mallocgame tune my_package.model:step --chip v5e --seconds 300 --folder tuned
    """
    from dataclasses import asdict

    from mallocgame.cli.inject import print_options
    from mallocgame.workloads.compiler_loop.tune import tune as run

    found = run(
        function,
        args,
        chip=chip,
        seconds=seconds,
        solve_seconds=solve_seconds,
        folder=folder,
        seed=seed,
        full=full,
        note=say,
    )
    row: dict[str, Any] = {"program": function, "chip": chip, **asdict(found)}
    if json:
        print_json([row])
        return
    shown = {key: value for key, value in row.items() if key != "options"}
    cells = [(key.replace("_", " "), f"{v:.6g}" if isinstance(v, float) else str(v)) for key, v in shown.items()]
    print_table(function, ("", "value"), cells)
    if found.options:
        print_options(found.options)
    else:
        say("nothing that was tried is faster than the compiler's default: no options")

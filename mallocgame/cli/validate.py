"""``mallocgame validate``: every rule that a mapping breaks."""

from pathlib import Path
from typing import Annotated

import typer

from mallocgame.cli.cases import HoistOption
from mallocgame.cli.common import JsonOption, print_json, print_table
from mallocgame.cli.traces import TraceArgument
from mallocgame.errors import printable
from mallocgame.text import counted


def validate(
    trace: TraceArgument,
    mapping: Annotated[Path, typer.Argument(metavar="MAPPING", help="A mapping file.")],
    hoist: HoistOption = True,
    json: JsonOption = False,
) -> None:
    """List every violation of a mapping. Exit code 0: valid, 1: invalid.

    Example: mallocgame validate lstm-v5e lstm_mapping.json
    """
    from mallocgame.cli.traces import open_trace
    from mallocgame.judge.validation import validate as find_violations
    from mallocgame.workloads.trace import load_mapping

    opened = open_trace(trace)
    program = opened.program if hoist else opened.program.without_hoisting()
    found = find_violations(program, opened.hierarchy, load_mapping(mapping, program, opened.hierarchy))
    names = [program.tensors[v.tensor].name if 0 <= v.tensor < len(program.tensors) else "" for v in found]
    if json:
        print_json(
            {"rule": v.rule, "tensor": v.tensor, "name": name, "step": v.step, "message": v.message}
            for v, name in zip(found, names, strict=True)
        )
    elif found:
        rows = [(v.rule, name, str(v.step), v.message) for v, name in zip(found, names, strict=True)]
        print_table(f"{mapping}: {counted(len(found), 'violation')}", ("rule", "tensor", "step", "what"), rows)
    else:
        typer.echo(printable(f"{mapping}: valid for {opened.name}"))
    if found:
        raise typer.Exit(1)

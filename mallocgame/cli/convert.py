"""``mallocgame convert``: traces and mappings in other forms."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.cli.common import JsonOption, print_json, say
from mallocgame.errors import InputError
from mallocgame.files import check_writable, is_stream

if TYPE_CHECKING:
    from mallocgame.mapping import Mapping
    from mallocgame.workloads.trace import Trace


def convert(
    trace: Annotated[
        str,
        typer.Argument(metavar="TRACE", help="A trace file or the name of a shipped trace; left out with --hierarchy."),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT", help="Name that ends in .json, .json.gz, .mapping.json[.gz] or .csv (MiniMalloc)."
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="A mapping file to use instead of the compiler's own mapping.")
    ] = None,
    layer: Annotated[int, typer.Option("--layer", min=1, help="For .csv: the layer whose residencies to write.")] = 1,
    hierarchy: Annotated[
        str | None,
        typer.Option("--hierarchy", metavar="NAME|FILE", help="Write this memory to OUT; other commands take it back."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a trace as JSON, its mapping alone, a fast layer's buffers as MiniMalloc CSV, or a memory to change.

    Example: mallocgame convert lstm-v5e lstm.csv && mallocgame pack lstm.csv --capacity 117440512

    Example: mallocgame convert --hierarchy v5e mine.json
    """
    from mallocgame.cli.traces import open_trace
    from mallocgame.workloads.trace import load_mapping, save_mapping, save_trace

    if hierarchy is not None:
        if target is not None or mapping is not None:
            raise InputError("--hierarchy writes a memory: give OUT alone, no trace and no --mapping")
        _write_hierarchy(hierarchy, Path(trace), json)
        return
    if target is None:
        raise InputError(f"give TRACE and OUT, two names; got {trace} alone")
    check_writable(target)
    opened = open_trace(trace)
    given = None if mapping is None else load_mapping(mapping, opened.program, opened.hierarchy)
    used = given or opened.mapping
    if target.name.endswith((".mapping.json", ".mapping.json.gz")):
        save_mapping(target, _needed(opened, used), opened.program, opened.hierarchy)
    elif target.name.endswith((".json", ".json.gz")) or is_stream(target):
        if given is not None:
            raise InputError(f"{target}: a trace file holds the compiler's own mapping; end the name in .mapping.json")
        save_trace(target, opened)
    elif target.suffix == ".csv":
        _write_csv(target, opened, _needed(opened, used), layer)
    else:
        raise InputError(f"{target}: expected a name that ends in .json, .json.gz, .mapping.json[.gz] or .csv")
    _tell("trace", opened.name, target, json)


def _tell(kind: str, name: str, target: Path, json: bool) -> None:
    size = target.stat().st_size if target.is_file() else 0  # a pipe or a device has none
    if json:
        print_json([{kind: name, "file": str(target), "bytes": size}])
    else:
        say(f"{name}: {target}, {size} bytes")


def _write_hierarchy(text: str, target: Path, json: bool) -> None:
    from mallocgame.cli.cases import find_hierarchy
    from mallocgame.files import check_name
    from mallocgame.workloads.formats.hierarchy_file import save_hierarchy

    check_name(target, (".json", ".json.gz"), "OUT")
    check_writable(target)
    found = find_hierarchy(text)
    save_hierarchy(target, found)
    _tell("hierarchy", found.name, target, json)


def _needed(trace: "Trace", mapping: "Mapping | None") -> "Mapping":
    if mapping is None:
        raise InputError(f"trace {trace.name} holds no compiler mapping; name one with --mapping")
    return mapping


def _write_csv(target: Path, trace: "Trace", mapping: "Mapping", layer: int) -> None:
    from mallocgame.baselines.packing.buffers import Buffer, write_packing
    from mallocgame.mapping import rectangles

    if layer >= trace.hierarchy.num_layers:
        raise InputError(f"--layer {layer}: {trace.hierarchy.name} has layers 0 to {trace.hierarchy.num_layers - 1}")
    alignment = trace.hierarchy.layers[layer].alignment_bytes
    buffers: list[Buffer] = []
    offsets: list[int] = []
    for index, offset, size, start, end in rectangles(trace.program, mapping).tolist():
        r = mapping.residencies[index]
        if r.layer != layer:
            continue
        buffers.append(
            Buffer(
                name=f"{len(buffers)}:{trace.program.tensors[r.tensor].name}",
                lower=max(start, 0),
                upper=end,
                size_bytes=size,
                alignment_bytes=1 if offset % alignment else alignment,  # a slice begins where the one before ends
            )
        )
        offsets.append(offset)
    write_packing(target, buffers, offsets)

"""``mallocgame convert``: traces and mappings in other forms."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.cli.common import JsonOption, print_json, say
from mallocgame.cli.traces import TraceArgument
from mallocgame.errors import InputError
from mallocgame.files import check_writable, is_stream

if TYPE_CHECKING:
    from mallocgame.mapping import Mapping
    from mallocgame.workloads.trace import Trace


def convert(
    trace: TraceArgument,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Name that ends in .json, .json.gz, .mapping.json[.gz] or .csv (MiniMalloc)."
        ),
    ],
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="A mapping file to use instead of the compiler's own mapping.")
    ] = None,
    layer: Annotated[int, typer.Option("--layer", min=1, help="For .csv: the layer whose residencies to write.")] = 1,
    json: JsonOption = False,
) -> None:
    """Write a trace as plain or compressed JSON, its mapping alone, or a fast layer's buffers as MiniMalloc CSV.

    Example: mallocgame convert lstm-v5e lstm.csv && mallocgame pack lstm.csv --capacity 117440512
    """
    from mallocgame.cli.traces import open_trace
    from mallocgame.workloads.trace import load_mapping, save_mapping, save_trace

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
    size = target.stat().st_size if target.is_file() else 0  # a pipe or a device has none
    if json:
        print_json([{"trace": opened.name, "file": str(target), "bytes": size}])
    else:
        say(f"{opened.name}: {target}, {size} bytes")


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

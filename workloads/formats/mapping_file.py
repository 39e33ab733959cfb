"""Mappings as files: versioned JSON, readable without this package (docs/trace_format.md)."""

from typing import Any

from mallocgame.errors import TraceError
from mallocgame.files import MAX_INTEGER, StrPath
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping, Residency, Transfer
from mallocgame.program import Program
from mallocgame.workloads.formats import strict_json
from mallocgame.workloads.formats.strict_json import Node

MAPPING_FORMAT = "mallocgame-mapping"
MAPPING_VERSION = 1

_TRANSFER_COLUMNS = ("tensor", "source", "target", "start_after", "done_before", "size_bytes", "slice_offset_bytes")


def save_mapping(path: StrPath, mapping: Mapping, program: Program, hierarchy: Hierarchy) -> None:
    """Write ``mapping``; gzip if the name ends in ``.gz``.

    Raises:
        TraceError: the file cannot be written.
    """
    value = {
        "format": MAPPING_FORMAT,
        "version": MAPPING_VERSION,
        "program": program.name,
        "hierarchy": hierarchy.name,
        "layers": [layer.name for layer in hierarchy.layers],
        **encode_mapping(mapping, program),
    }
    strict_json.write(path, value)


def load_mapping(path: StrPath, program: Program, hierarchy: Hierarchy) -> Mapping:
    """Read a mapping of ``program`` onto ``hierarchy``. Whether it is valid is for ``validate`` to say.

    Raises:
        TraceError: not a readable mapping file, or one of another program (tensor names) or memory (layer names).
    """
    node = strict_json.read(path)
    strict_json.check_header(node, MAPPING_FORMAT, MAPPING_VERSION)
    keys = ("format", "version", "program", "hierarchy", "layers", "residencies", "transfers")
    _, _, made_for, hierarchy_name, layers, residencies, transfers = node.fields(*keys)
    other = made_for.text()
    hierarchy_name.text()
    expected = [layer.name for layer in hierarchy.layers]
    if layers.texts() != expected:
        layers.fail(f"the mapping is for layers {layers.value}, hierarchy {hierarchy.name} has {expected}")
    try:
        return decode_mapping(residencies, transfers, program)
    except TraceError as error:
        if other == program.name:
            raise
        raise TraceError(path, error.line, f"made for {other}, not for {program.name}: {error.reason}") from None


def encode_mapping(mapping: Mapping, program: Program) -> dict[str, Any]:
    """Return the ``residencies`` and ``transfers`` tables of a mapping or trace file."""
    places, moves = mapping.residencies, mapping.transfers
    residencies = {
        "tensor": [r.tensor for r in places],
        "name": [program.tensors[r.tensor].name for r in places],
        "layer": [r.layer for r in places],
        "offset_bytes": [r.offset_bytes for r in places],
        "start_step": [r.start_step for r in places],
        "end_step": [r.end_step for r in places],
    }
    transfers = {name: [int(getattr(x, name)) for x in moves] for name in _TRANSFER_COLUMNS}
    return {"residencies": residencies, "transfers": transfers}


def decode_mapping(residencies: Node, transfers: Node, program: Program) -> Mapping:
    """Read the two tables; tensor indices must exist and agree with the names."""
    last = len(program.tensors) - 1
    count, columns = residencies.columns("tensor", "name", "layer", "offset_bytes", "start_step", "end_step")
    tensors, names = columns[0].integers(0, last), columns[1].texts()
    for i in range(count):
        if program.tensors[tensors[i]].name != names[i]:
            Node(residencies.path, f"{columns[1].where}[{i}]", names[i]).fail(
                f"tensor {tensors[i]} of {program.name} is {program.tensors[tensors[i]].name!r}, not {names[i]!r}"
            )
    rest = [column.integers(-MAX_INTEGER) for column in columns[2:]]
    rows = zip(tensors, *rest, strict=True)
    places = tuple(
        Residency(tensor=tensor, layer=layer, offset_bytes=offset, start_step=start, end_step=end)
        for tensor, layer, offset, start, end in rows
    )
    _, columns = transfers.columns(*_TRANSFER_COLUMNS)
    moves = [columns[0].integers(0, last), *(column.integers(-MAX_INTEGER) for column in columns[1:])]
    return Mapping(
        residencies=places,
        transfers=tuple(
            Transfer(
                tensor=tensor,
                source=source,
                target=target,
                start_after=after,
                done_before=before,
                size_bytes=size,
                slice_offset_bytes=begin,
            )
            for tensor, source, target, after, before, size, begin in zip(*moves, strict=True)
        ),
    )

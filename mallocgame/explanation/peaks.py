"""What fills each layer when it is fullest: the largest tensors, with the source line that makes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mallocgame.explanation.remedy import definition_source
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping, rectangles
from mallocgame.program import Program

LARGEST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A tensor, or slices of it, in a layer. ``padding_bytes`` is None where the trace does not tell."""

    tensor: str
    size_bytes: int
    padding_bytes: int | None
    source: str
    is_parameter: bool  # an argument of the user's; a constant, which lies in layer 0 as well, is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The step at which a layer is fullest. Of layer 0, which is not planned: the bytes that are live there."""

    layer: str
    capacity_bytes: int
    occupied_bytes: int
    step: int
    instruction: str
    source: str
    num_tensors: int
    largest: tuple[Occupant, ...]


def peaks(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, padding_bytes: Sequence[int] | None = None
) -> tuple[Peak, ...]:
    """Return the peak of each layer; ``padding_bytes`` is of each tensor, where known.

    Parameters lie in layer 0 for the whole run, other tensors while they are live, in whichever layer: a copy in fast
    memory does not free its place in layer 0.
    """
    if not program.num_steps:
        return ()
    spans = [
        (tensor, program.tensors[tensor].size_bytes, start, end)
        for tensor, live in enumerate(program.live_steps)
        for start, end in ([(0, program.num_steps)] if program.tensors[tensor].is_parameter else live)
    ]
    found = [_peak(program, hierarchy, 0, spans, padding_bytes)]
    for layer in range(1, hierarchy.num_layers):
        rows = []
        for index, _, size, start, end in rectangles(program, mapping).tolist():
            if mapping.residencies[index].layer == layer:
                rows.append((mapping.residencies[index].tensor, size, max(start, 0), end))
        found.append(_peak(program, hierarchy, layer, rows, padding_bytes))
    return tuple(found)


def _peak(
    program: Program,
    hierarchy: Hierarchy,
    layer: int,
    spans: list[tuple[int, int, int, int]],
    padding_bytes: Sequence[int] | None,
) -> Peak:
    change = np.zeros(program.num_steps + 1, dtype=np.int64)
    for _, size, start, end in spans:
        change[start] += size
        change[end] -= size
    occupied = np.cumsum(change)[:-1]
    step = int(np.argmax(occupied))
    there: dict[int, int] = {}
    for tensor, size, start, end in spans:
        if start <= step < end:
            there[tensor] = there.get(tensor, 0) + size
    largest = sorted(there, key=lambda t: (-there[t], t))[:LARGEST]
    return Peak(
        layer=hierarchy.layers[layer].name,
        capacity_bytes=hierarchy.layers[layer].capacity_bytes,
        occupied_bytes=int(occupied[step]),
        step=step,
        instruction=program.instructions[step].name,
        source=program.instructions[step].source,
        num_tensors=len(there),
        largest=tuple(_occupant(program, tensor, there[tensor], padding_bytes) for tensor in largest),
    )


def _occupant(program: Program, tensor: int, size_bytes: int, padding_bytes: Sequence[int] | None) -> Occupant:
    subject = program.tensors[tensor]
    is_constant = any(i.opcode == "constant" and i.name == subject.name for i in program.instructions)
    return Occupant(
        tensor=subject.title,
        size_bytes=size_bytes,
        padding_bytes=None if padding_bytes is None else padding_bytes[tensor],
        source=definition_source(program, tensor),
        is_parameter=subject.is_parameter and not is_constant,
    )

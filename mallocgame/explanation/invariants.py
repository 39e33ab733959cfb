"""Loop-invariant parameters: what a loop reads in every iteration though it never changes, and what that costs."""

from dataclasses import dataclass

from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import HOME, Mapping, serving_layers
from mallocgame.program import Program, UseKind


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantParameter:
    """A parameter that crosses from layer 0 in every iteration of a loop."""

    tensor: str
    size_bytes: int
    moved_bytes: float  # in one run: copied toward fast memory, or read in layer 0
    iterations: float
    repeated_seconds: float  # of layer 0's bandwidth, beyond bringing it once
    source: str  # file:line of a use in the loop


def invariant_parameters(program: Program) -> list[int]:
    """Return the movable parameters that a loop reads in every iteration and nothing writes."""
    loops = [loop for loop in program.loops if loop.trip_count > 1]
    return [
        index
        for index, tensor in enumerate(program.tensors)
        if tensor.is_parameter
        and tensor.movable
        and all(use.kind == UseKind.READ for use in tensor.uses)
        and any(loop.start_step <= use.step < loop.end_step for use in tensor.uses for loop in loops)
    ]


def moved_parameters(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> tuple[InvariantParameter, ...]:
    """Return the loop-invariant parameters that ``mapping`` moves more than once, the costliest first."""
    serving, uses, found = serving_layers(program, mapping), program.uses, []
    for index in invariant_parameters(program):
        tensor = program.tensors[index]
        first = int(uses.first[index])
        moved = sum(
            use.bytes * program.instructions[use.step].trip_count
            for at, use in enumerate(tensor.uses)
            if serving[first + at] == 0
        )
        for x in mapping.transfers:
            if x.tensor == index and x.target != HOME:
                moved += x.size_bytes * program.boundary_trip_count(x.start_after + 1, x.done_before)
        repeated = moved - tensor.size_bytes
        trips = [program.instructions[use.step].trip_count for use in tensor.uses]
        step = tensor.uses[trips.index(max(trips))].step
        if repeated > 0:
            found.append(
                InvariantParameter(
                    tensor=tensor.title,
                    size_bytes=tensor.size_bytes,
                    moved_bytes=moved,
                    iterations=max(trips),
                    repeated_seconds=repeated / hierarchy.layers[0].bytes_per_second,
                    source=next((i.source for i in program.instructions[step:] if i.source), ""),
                )
            )
    return tuple(sorted(found, key=lambda p: -p.repeated_seconds))

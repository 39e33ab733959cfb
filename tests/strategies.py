"""Random small programs and mappings: sizes of a few bytes, so that an oracle can look at every byte."""

from dataclasses import dataclass, replace
from itertools import pairwise

import hypothesis.strategies as st

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Conditional, Instruction, Loop, Program, Tensor, Use, UseKind


def small_hierarchy(capacity_bytes: int = 8, num_layers: int = 2) -> Hierarchy:
    """Layers whose bandwidths are powers of two, so that times are exact in float64."""
    layers = [MemoryLayer(name="home", capacity_bytes=10**6, bytes_per_second=1.0)]
    for layer in range(1, num_layers):
        speed = 4.0**layer
        layers.append(MemoryLayer(name=f"fast{layer}", capacity_bytes=capacity_bytes, bytes_per_second=speed))
    pairs = [(a, b) for a in range(num_layers) for b in range(a + 1, num_layers)]
    links = [Link(name=f"{a}-{b}", pairs=((a, b),), bytes_per_second=1.0, shared_layer=a) for a, b in pairs]
    return Hierarchy(name="small", layers=tuple(layers), links=tuple(links))


@st.composite
def loops(draw: st.DrawFn, num_steps: int) -> tuple[Loop, ...]:
    """At most one loop, with at most one loop inside it."""
    if num_steps < 3 or not draw(st.booleans()):
        return ()
    start = draw(st.integers(0, num_steps - 2))
    end = draw(st.integers(start + 1, num_steps))
    found = [Loop(start_step=start, end_step=end, trip_count=draw(st.integers(1, 3)))]
    if end - start >= 3 and draw(st.booleans()):
        inner = draw(st.integers(start, end - 2))
        inner_end = draw(st.integers(inner + 1, end))
        if (inner, inner_end) != (start, end):
            found.append(Loop(start_step=inner, end_step=inner_end, trip_count=draw(st.integers(1, 3))))
    return tuple(found)


@st.composite
def programs(draw: st.DrawFn, max_steps: int = 8, max_tensors: int = 4, max_size: int = 4) -> Program:
    """A random program; tensors have parameters, outputs, redefinitions, updates and carried contents."""
    num_steps = draw(st.integers(1, max_steps))
    found = draw(loops(num_steps))
    instructions = []
    for step in range(num_steps):
        trips = 1
        for loop in found:
            trips *= loop.trip_count if loop.start_step <= step < loop.end_step else 1
        fixed = (draw(st.integers(0, 2)),)
        seconds = draw(st.integers(0, 6)) / 2
        instructions.append(Instruction(name=f"i{step}", compute_seconds=seconds, trip_count=trips, fixed_bytes=fixed))
    tensors = tuple(draw(_tensors(num_steps, i, max_size)) for i in range(draw(st.integers(1, max_tensors))))
    return Program(name="random", instructions=tuple(instructions), tensors=tensors, loops=found)


@st.composite
def branching_programs(draw: st.DrawFn, max_steps: int = 9) -> Program:
    """A random program with conditionals: nested, side by side, in loops and around them, with empty branches."""
    num_steps = draw(st.integers(2, max_steps))
    regions = _Regions([], [])
    draw(_regions(regions, 0, num_steps, 2))
    trips = [1.0] * num_steps
    for loop in regions.loops:
        for step in range(loop.start_step, loop.end_step):
            trips[step] *= loop.trip_count
    for conditional in regions.conditionals:
        for start, end, weight in conditional.branches():
            for step in range(start, end):
                trips[step] *= weight
    instructions = tuple(
        Instruction(
            name=f"i{step}",
            compute_seconds=draw(st.integers(0, 6)) / 2,
            trip_count=trips[step],
            fixed_bytes=(draw(st.integers(0, 2)),),
        )
        for step in range(num_steps)
    )
    found = {"loops": tuple(regions.loops), "conditionals": tuple(regions.conditionals)}
    tensors: list[Tensor] = []
    for index in range(draw(st.integers(1, 4))):
        tensor = draw(_tensors(num_steps, index, 4))
        try:  # one that a branch leaves undefined is no tensor of a program: make it a parameter
            Program(name="try", instructions=instructions, tensors=(tensor,), **found)  # type: ignore[arg-type]
        except InputError:
            tensor = replace(tensor, is_parameter=True)
        tensors.append(tensor)
    return Program(name="branches", instructions=instructions, tensors=tuple(tensors), **found)  # type: ignore[arg-type]


@dataclass
class _Regions:
    loops: list[Loop]
    conditionals: list[Conditional]


@st.composite
def _regions(draw: st.DrawFn, regions: _Regions, start: int, end: int, depth: int) -> None:
    """Put loops and conditionals side by side into [start, end)."""
    at = start
    while depth and end - at >= 2 and draw(st.integers(0, 3)):
        first = draw(st.integers(at, end - 1))
        last = draw(st.integers(first + 1, end))
        if draw(st.integers(0, 2)):
            cuts = sorted(draw(st.lists(st.integers(first, last), min_size=1, max_size=2)))
            edges = (first, *cuts, last)
            weights = draw(st.sampled_from(((0.5, 0.5), (0.25, 0.75)))) if len(edges) == 3 else (0.25, 0.25, 0.5)
            regions.conditionals.append(Conditional(edges=edges, weights=weights))
            for a, b in pairwise(edges):
                if a < b and (a, b) != (first, last):
                    draw(_regions(regions, a, b, depth - 1))
        else:
            count = draw(st.sampled_from((1, 2, 3, 1.5, 2.25)))
            regions.loops.append(Loop(start_step=first, end_step=last, trip_count=count))
            if last - first >= 3:
                draw(_regions(regions, first, last - 1, depth - 1))
        at = last


@st.composite
def _tensors(draw: st.DrawFn, num_steps: int, index: int, max_size: int) -> Tensor:
    is_parameter = draw(st.booleans())
    steps = sorted(draw(st.sets(st.integers(0, num_steps - 1), min_size=0 if is_parameter else 1, max_size=4)))
    kinds = [draw(st.sampled_from((UseKind.READ, UseKind.READ, UseKind.DEFINE, UseKind.UPDATE))) for _ in steps]
    if not is_parameter:
        kinds[0] = UseKind.DEFINE
    uses = tuple(
        Use(step=s, bytes=draw(st.integers(0, 4)), kind=k, home_only=draw(st.integers(0, 9)) == 0)
        for s, k in zip(steps, kinds, strict=True)
    )
    read_only = all(kind == UseKind.READ for kind in kinds)
    return Tensor(
        name=f"t{index}",
        size_bytes=draw(st.integers(1, max_size)),
        uses=uses,
        is_parameter=is_parameter,
        is_output=draw(st.booleans()),
        movable=draw(st.integers(0, 9)) > 0,
        holdable=is_parameter and read_only and draw(st.booleans()),
        hoistable=draw(st.integers(0, 3)) > 0,
    )


@st.composite
def loose_mappings(draw: st.DrawFn, program: Program, hierarchy: Hierarchy) -> Mapping:
    """Any residencies and transfers whose indices and spans exist; mostly invalid otherwise."""
    num_steps = program.num_steps
    residencies, transfers = [], []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, num_steps - 1))
        residencies.append(
            Residency(
                tensor=draw(st.integers(0, len(program.tensors) - 1)),
                layer=draw(st.integers(1, hierarchy.num_layers - 1)),
                offset_bytes=draw(st.integers(0, 6)),
                start_step=start,
                end_step=draw(st.integers(start + 1, num_steps)),
            )
        )
    for index, r in enumerate(residencies):
        for _ in range(draw(st.integers(0, 2))):
            after = draw(st.integers(-1, num_steps - 1))
            source, target = draw(st.permutations([index, HOME]))
            transfers.append(
                Transfer(
                    tensor=r.tensor,
                    source=source,
                    target=target,
                    start_after=after,
                    done_before=draw(st.integers(after + 1, num_steps)),
                    size_bytes=program.tensors[r.tensor].size_bytes,
                )
            )
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


@dataclass
class _Builder:
    program: Program
    residencies: list[Residency]
    transfers: list[Transfer]


@st.composite
def likely_mappings(draw: st.DrawFn, program: Program, hierarchy: Hierarchy) -> Mapping:
    """Mappings built the way a compiler would: copies before reads, definitions into fast memory with write-backs."""
    built = _Builder(program, [], [])
    capacity = hierarchy.layers[1].capacity_bytes
    for index, tensor in enumerate(program.tensors):
        if not tensor.movable or draw(st.integers(0, 3)) == 0:
            continue
        offset = draw(st.integers(0, max(0, capacity - tensor.size_bytes)))
        layer = draw(st.integers(1, hierarchy.num_layers - 1))
        if tensor.holdable and draw(st.booleans()):
            _hold(draw, built, index, layer, offset)
        elif tensor.uses and tensor.uses[0].kind == UseKind.DEFINE:
            _define(draw, built, index, layer, offset)
        elif tensor.uses:
            _copy(draw, built, index, layer, offset)
    return Mapping(residencies=tuple(built.residencies), transfers=tuple(built.transfers))


def _copy(draw: st.DrawFn, built: _Builder, index: int, layer: int, offset: int) -> None:
    tensor = built.program.tensors[index]
    first = draw(st.integers(0, len(tensor.uses) - 1))
    due = tensor.uses[first].step
    after = draw(st.integers(-1, due - 1)) if due else -1
    end = max(draw(st.integers(due, built.program.num_steps - 1)), due) + 1
    _add(built, index, layer, offset, after + 1, end, after, due)
    if draw(st.booleans()):
        _write_back(draw, built, index, end)


def _define(draw: st.DrawFn, built: _Builder, index: int, layer: int, offset: int) -> None:
    start = built.program.tensors[index].uses[0].step
    end = draw(st.integers(start, built.program.num_steps - 1)) + 1
    residency = Residency(tensor=index, layer=layer, offset_bytes=offset, start_step=start, end_step=end)
    built.residencies.append(residency)
    if draw(st.booleans()):
        _write_back(draw, built, index, end)


def _hold(draw: st.DrawFn, built: _Builder, index: int, layer: int, offset: int) -> None:
    num_steps = built.program.num_steps
    end = draw(st.integers(1, num_steps))
    held = Residency(tensor=index, layer=layer, offset_bytes=offset, start_step=HELD, end_step=end)
    built.residencies.append(held)
    after = draw(st.integers(end - 1, num_steps - 1))
    if after + 1 < num_steps:
        _add(built, index, layer, offset, after + 1, num_steps, after, num_steps)


def _write_back(draw: st.DrawFn, built: _Builder, index: int, end: int) -> None:
    source = len(built.residencies) - 1
    start = max(built.residencies[source].start_step, 0)
    after = draw(st.integers(start, end - 1))
    due = draw(st.integers(after + 1, end))
    size = built.program.tensors[index].size_bytes
    built.transfers.append(
        Transfer(tensor=index, source=source, target=HOME, start_after=after, done_before=due, size_bytes=size)
    )


def _add(built: _Builder, index: int, layer: int, offset: int, start: int, end: int, after: int, due: int) -> None:
    built.residencies.append(Residency(tensor=index, layer=layer, offset_bytes=offset, start_step=start, end_step=end))
    target, size = len(built.residencies) - 1, built.program.tensors[index].size_bytes
    built.transfers.append(
        Transfer(tensor=index, source=HOME, target=target, start_after=after, done_before=due, size_bytes=size)
    )

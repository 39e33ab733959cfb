"""Why a program waits: each stall's copy, where it comes from, what would mend it, and what fast memory lay idle.

Every remedy is tried: the changed mapping is validated and judged, and what it saves is the difference. Savings of
several such remedies do not add up (``combination`` has those that do).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mallocgame.explanation.remedy import KEEP, LOOP, NOT, PREFETCH, Remedy, source_of
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer, rectangles
from mallocgame.program import Loop, Program, UseKind

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A copy that the program waits for. Copies due at the same moment share the wait by their bytes."""

    tensor: str
    size_bytes: int
    copied_bytes: int  # by one execution of this copy, all slices
    toward_fast: bool
    waited_seconds: float  # in the whole run
    executions: float
    issued_after: str  # instruction; empty: at the program's start
    due_before: str  # instruction; empty: the program's end
    source: str  # file:line of the instruction that waits, or of the nearest one after it that has one
    idle_bytes: int  # fast memory that is free from issue to the end of the wait
    is_loop_invariant: bool  # a parameter that nothing writes, copied again in each iteration of a loop
    remedies: tuple[Remedy, ...]  # the best first; empty: none was found, or none was tried


def stalls(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline, idle: I64, limit: int
) -> tuple[Stall, ...]:
    """Return the stalls, the costliest first; remedies are tried for the first ``limit``.

    ``idle`` is int64[T], the bytes of fast memory that are free at each step.
    """
    groups = sorted(_copies(mapping), key=lambda group: -_waited(mapping, timeline, group))
    found = []
    for rank, group in enumerate(groups):
        waited = _waited(mapping, timeline, group)
        if waited <= 0:
            break
        tried = _remedies(program, hierarchy, mapping, timeline, group, waited) if rank < limit else ()
        found.append(_stall(program, mapping, group, waited, idle, tried))
    return tuple(found)


def _copies(mapping: Mapping) -> Iterator[list[int]]:
    """Yield the transfers of each copy: slices that fill one residency belong together."""
    filling: dict[int, list[int]] = {}
    for index, transfer in enumerate(mapping.transfers):
        if transfer.target == HOME:
            yield [index]
        else:
            filling.setdefault(transfer.target, []).append(index)
    yield from filling.values()


def _waited(mapping: Mapping, timeline: Timeline, group: Iterable[int]) -> float:
    """Return the copy's share of the waits at the boundaries where it is due."""
    table = mapping.transfer_table
    share = 0.0
    for index in group:
        due = int(table[index, 4])
        together = int(table[table[:, 4] == due, 5].sum())
        share += float(timeline.stall_seconds[due]) * int(table[index, 5]) / together if together else 0.0
    return share


def _stall(
    program: Program,
    mapping: Mapping,
    group: list[int],
    waited: float,
    idle: I64,
    remedies: tuple[Remedy, ...],
) -> Stall:
    parts = [mapping.transfers[x] for x in group]
    after, due = min(x.start_after for x in parts), max(x.done_before for x in parts)
    tensor = program.tensors[parts[0].tensor]
    steps = program.instructions
    window = idle[max(after, 0) : max(due, after + 1)]
    return Stall(
        tensor=tensor.title,
        size_bytes=tensor.size_bytes,
        copied_bytes=sum(x.size_bytes for x in parts),
        toward_fast=parts[0].target != HOME,
        waited_seconds=waited,
        executions=program.boundary_trip_count(after + 1, due),
        issued_after=steps[after].name if after >= 0 else "",
        due_before=steps[due].name if due < program.num_steps else "",
        source=source_of(program, due),
        idle_bytes=int(window.min()) if len(window) else 0,
        is_loop_invariant=parts[0].target != HOME and _invariant_loop(program, parts[0], after + 1) is not None,
        remedies=remedies,
    )


def _invariant_loop(program: Program, transfer: Transfer, issue: int) -> Loop | None:
    """Return the outermost repeated loop in which the copy recurs though nothing writes the parameter."""
    tensor = program.tensors[transfer.tensor]
    if not tensor.is_parameter or any(use.kind != UseKind.READ for use in tensor.uses):
        return None
    around = [
        x
        for x in program.loops
        if x.trip_count > 1 and x.contains_boundary(issue) and x.contains_boundary(transfer.done_before)
    ]
    return max(around, key=lambda x: x.end_step - x.start_step, default=None)


def _remedies(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline, group: list[int], waited: float
) -> tuple[Remedy, ...]:
    """Return what saves at least a hundredth of the wait, the best of each kind, the best first."""
    found = []
    for action, by, changed in _changes(program, hierarchy, mapping, group):
        if not validate(program, hierarchy, changed):
            saved = timeline.total_seconds - simulate(program, hierarchy, changed).total_seconds
            if saved > 1e-2 * waited:
                found.append(Remedy(action=action, saved_seconds=saved, ordered_by=by))
    best: dict[str, Remedy] = {}
    for remedy in sorted(found, key=lambda r: -r.saved_seconds):
        best.setdefault(remedy.action.split(":")[0], remedy)
    return tuple(best.values())


def _changes(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, group: list[int]
) -> Iterator[tuple[str, str, Mapping]]:
    """Yield (what, what orders it, changed mapping); the part before a colon says which kind of remedy it is."""
    first = mapping.transfers[group[0]]
    place = first.source if first.target == HOME else first.target
    if place == HOME:
        return
    residency = mapping.residencies[place]
    tensor = program.tensors[residency.tensor]
    yield "leave it in slow memory", KEEP, without(mapping, {place})
    issue, due = min(mapping.transfers[x].start_after for x in group) + 1, first.done_before
    if first.target != HOME and residency.start_step != HELD:
        loop = _invariant_loop(program, first, issue)
        if loop is not None:
            hoisted = _hoisted(program, hierarchy, mapping, residency, loop)
            if hoisted is not None:
                yield (
                    "copy it once before the loop (`mallocgame tune` orders it, mallocgame.hoist writes it)",
                    LOOP,
                    hoisted,
                )
        for earlier in _earlier(program, issue):
            where = program.instructions[earlier - 1].name if earlier else "the program's start"
            yield f"start the copy earlier: after {where}", PREFETCH, _reissued(mapping, group, place, issue, earlier)
    elif first.target == HOME:
        for later in (u.step for u in tensor.uses if u.step > due):
            moved = tuple(replace(x, done_before=later) if i in group else x for i, x in enumerate(mapping.transfers))
            stays = tuple(
                replace(r, end_step=max(r.end_step, later)) if i == place else r
                for i, r in enumerate(mapping.residencies)
            )
            where = program.instructions[later].name
            yield f"give the write-back more time: until {where}", NOT, Mapping(residencies=stays, transfers=moved)


def _earlier(program: Program, issue: int) -> list[int]:
    """Return earlier boundaries in the same loop bodies, ever further apart."""
    around = [x.start_step + 1 for x in program.loops if x.contains_boundary(issue)]
    low, found, gap = max([0, *around]), [], 1
    while issue - gap > low:
        found.append(issue - gap)
        gap *= 2
    return [*found, low] if issue > low else []


def _reissued(mapping: Mapping, group: list[int], place: int, issue: int, earlier: int) -> Mapping:
    residencies = list(mapping.residencies)
    residencies[place] = replace(residencies[place], start_step=earlier)
    moved = (
        replace(x, start_after=earlier - 1 if x.start_after == issue - 1 else x.start_after) if i in group else x
        for i, x in enumerate(mapping.transfers)
    )
    return Mapping(residencies=tuple(residencies), transfers=tuple(moved))


def _hoisted(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, residency: Residency, loop: Loop
) -> Mapping | None:
    """Return the mapping in which one copy before the loop serves it; None if there is no room for it."""
    inside = {
        i
        for i, r in enumerate(mapping.residencies)
        if r.tensor == residency.tensor and r.start_step < loop.end_step and loop.start_step < r.end_step
    }
    rest = without(mapping, inside)
    size, layer = program.tensors[residency.tensor].size_bytes, hierarchy.layers[residency.layer]
    start = max(loop.start_step - 1, 0)
    offset = free_offset(program, rest, residency.layer, start, loop.end_step, size, layer.alignment_bytes)
    if offset + size > layer.capacity_bytes:
        return None
    stay = replace(residency, offset_bytes=offset, start_step=start, end_step=loop.end_step)
    copy = Transfer(
        tensor=residency.tensor,
        source=HOME,
        target=len(rest.residencies),
        start_after=start - 1,
        done_before=loop.start_step,
        size_bytes=size,
    )
    return Mapping(residencies=(*rest.residencies, stay), transfers=(*rest.transfers, copy))


def free_offset(program: Program, mapping: Mapping, layer: int, start: int, end: int, size: int, alignment: int) -> int:
    """Return the lowest aligned offset at which ``size`` bytes are free in a layer during ``[start, end)``."""
    taken = []
    for index, offset, length, begin, until in rectangles(program, mapping).tolist():
        if mapping.residencies[index].layer == layer and begin < end and start < until:
            taken.append((offset, offset + length))
    at = 0
    for low, high in sorted(taken):
        if at + size <= low:
            break
        at = max(at, -(-high // alignment) * alignment)
    return at


def without(mapping: Mapping, removed: set[int]) -> Mapping:
    """Return the mapping without some residencies and the transfers that touch them."""
    new = {old: i for i, old in enumerate(x for x in range(len(mapping.residencies)) if x not in removed)}
    new[HOME] = HOME
    return Mapping(
        residencies=tuple(r for i, r in enumerate(mapping.residencies) if i not in removed),
        transfers=tuple(
            replace(x, source=new[x.source], target=new[x.target])
            for x in mapping.transfers
            if x.source in new and x.target in new
        ),
    )

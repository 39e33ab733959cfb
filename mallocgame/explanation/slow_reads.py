"""Time that goes into slow memory without any wait: tensors that are used there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mallocgame.explanation.placement import Placements, TensorPlacement, put_together, take_apart
from mallocgame.explanation.remedy import NEXT_TO_NOTHING, Remedy, definition_source, in_words, ordered_by
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline, simulate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer, serving_layers
from mallocgame.program import Program, UseKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowTensor:
    """A tensor that instructions read or write in slow memory.

    ``worth_seconds`` is what it would save to have it in fast memory for nothing: no copies, no space taken. Of the
    ``remedies``, each alone, the best comes first; there may be none for want of space.
    """

    tensor: str
    size_bytes: int
    slow_bytes: int  # that instructions move there in one run
    worth_seconds: float
    source: str
    remedies: tuple[Remedy, ...]


def slow_tensors(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline, layer: int, limit: int
) -> tuple[SlowTensor, ...]:
    """Return the movable tensors that fast memory (``layer``) would serve better, the most worth first."""
    serving = serving_layers(program, mapping)
    traffic = program.uses.bytes * program.trip_counts[program.uses.step] * (serving == 0) * ~program.uses.home_only
    moved = np.zeros(len(program.tensors))
    np.add.at(moved, program.uses.tensor, traffic)
    order = [t for t in np.argsort(-moved, kind="stable").tolist() if moved[t] > 0 and program.tensors[t].movable]
    total, found = timeline.total_seconds, []
    for tensor in order[: 4 * limit]:
        ideal = serving.copy()
        rows = slice(int(program.uses.first[tensor]), int(program.uses.first[tensor + 1]))
        ideal[rows] = np.where(program.uses.home_only[rows], 0, np.maximum(ideal[rows], layer))
        worth = total - simulate(program, hierarchy, mapping, serving=ideal).total_seconds
        if worth > NEXT_TO_NOTHING * total:
            found.append((worth, tensor))
    found.sort(key=lambda row: -row[0])
    parts = take_apart(mapping)
    return tuple(
        SlowTensor(
            tensor=program.tensors[tensor].title,
            size_bytes=program.tensors[tensor].size_bytes,
            slow_bytes=int(moved[tensor]),
            worth_seconds=worth,
            source=definition_source(program, tensor),
            remedies=_remedies(program, hierarchy, parts, total, (tensor, layer)),
        )
        for worth, tensor in found[:limit]
    )


def _remedies(
    program: Program, hierarchy: Hierarchy, parts: Placements, total: float, where: tuple[int, int]
) -> tuple[Remedy, ...]:
    tensor, layer = where
    rest = {t: p for t, p in parts.items() if t != tensor}
    occupied = simulate(program, hierarchy, put_together(rest)).occupancy_bytes[:, layer]
    free = hierarchy.layers[layer].capacity_bytes - occupied
    found = []
    for placement in placements_in(program, tensor, layer):
        spans = [free[max(r.start_step, 0) : r.end_step] for r in placement.residencies]
        room = min(span.min(initial=hierarchy.layers[layer].capacity_bytes) for span in spans)
        if room < program.tensors[tensor].size_bytes:
            continue
        then = simulate(program, hierarchy, put_together(rest | {tensor: placement})).total_seconds
        if total - then > NEXT_TO_NOTHING * total:
            remedy = Remedy(
                action=in_words(program, tensor, placement),
                saved_seconds=total - then,
                ordered_by=ordered_by(program, tensor, placement),
                tensors=(tensor,),
            )
            found.append(remedy)
    return tuple(sorted(found, key=lambda r: (-r.saved_seconds, not r.ordered_by)))[:2]


def placements_in(program: Program, tensor: int, layer: int) -> Iterator[TensorPlacement]:
    """Yield simple ways to have a tensor in a layer: from its definition on, or copied in once, for all uses."""
    subject = program.tensors[tensor]
    if any(use.home_only for use in subject.uses):
        return
    first, last = subject.uses[0].step, subject.uses[-1].step
    written = any(use.kind != UseKind.READ for use in subject.uses)

    def stay(start: int) -> Residency:
        return Residency(tensor=tensor, layer=layer, offset_bytes=0, start_step=start, end_step=last + 1)

    if not subject.is_parameter:
        if not subject.is_output:
            yield TensorPlacement(residencies=(stay(first),))
        return
    if written or subject.is_output:
        return
    if subject.holdable:
        held = Residency(tensor=tensor, layer=layer, offset_bytes=0, start_step=HELD, end_step=program.num_steps)
        yield TensorPlacement(residencies=(held,))
    outside = [loop.start_step for loop in program.loops if loop.start_step <= first < loop.end_step]
    due = min([first, *outside]) if subject.hoistable else first
    for start in sorted({0, max(due - 8, 0), max(due - 32, 0), max(due - 128, 0)}):
        if start < due:
            copy = Transfer(
                tensor=tensor,
                source=HOME,
                target=0,
                start_after=start - 1,
                done_before=due,
                size_bytes=subject.size_bytes,
            )
            yield TensorPlacement(residencies=(stay(start),), transfers=(copy,))

"""Changes to what the compiler did, as overrides that it takes, each with what the judge expects of it.

A mapping is taken apart by tensor. A move puts other parts in place of a tensor's own; the judge says what that would
bring if the compiler did nothing else. Space is only checked by its sum: the compiler chooses addresses.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Table
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from mallocgame.explanation.placement import Placements, TensorPlacement, put_together, take_apart
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline, simulate
from mallocgame.mapping import HELD, HOME, Mapping, Residency
from mallocgame.program import Program, Use, UseKind
from mallocgame.workloads.compiler_loop.loop_operands import NONE, LoopOperands, place_of_copy
from mallocgame.workloads.compiler_loop.overrides import Action, Override, definitions, overrides_of
from mallocgame.workloads.xla.records import Position

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MAX_DISPLACED = 40
EARLIER = (2, 4)  # a copy that is waited for is tried to begin so many times as far ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideMove:
    """Overrides for one tensor and what they should make of it. ``whole``: they replace all overrides that it has.

    ``displaced`` are other tensors that have to give way, without an override.
    """

    tensor: int
    part: TensorPlacement
    overrides: tuple[Override, ...]
    whole: bool = True
    displaced: tuple[tuple[int, TensorPlacement], ...] = ()

    def expected(self, parts: Placements) -> Placements:
        """Return ``parts`` with what this move should make of them."""
        return parts | dict(self.displaced) | {self.tensor: self.part}

    def apply(self, overrides: Sequence[Override]) -> tuple[Override, ...]:
        """Return ``overrides`` with this move's overrides, without those that they replace."""
        places = {d.place for d in self.overrides}
        kept = [d for d in overrides if d.tensor != self.tensor or not (self.whole or d.place in places)]
        return (*kept, *self.overrides)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveEstimator:
    """Judges parts."""

    program: Program
    hierarchy: Hierarchy

    def timeline(self, parts: Table[int, TensorPlacement]) -> Timeline:
        """Judge parts, whatever space they take."""
        return simulate(self.program, self.hierarchy, put_together(parts))

    def seconds(self, parts: Table[int, TensorPlacement]) -> float:
        """Return the time of parts, infinite where they do not fit."""
        found = self.timeline(parts)
        return found.total_seconds if self._excess(found).max(initial=0) <= 0 else float("inf")

    def _excess(self, found: Timeline) -> I64:
        capacities = [layer.capacity_bytes for layer in self.hierarchy.layers]
        above: I64 = (found.occupancy_bytes - np.array(capacities, dtype=np.int64))[:, 1:].max(axis=1)
        return above

    def make_room(self, parts: Placements, move: OverrideMove) -> OverrideMove | None:
        """Let what moves the fewest bytes give way to a move that does not fit; None if that does not succeed."""
        displaced: Placements = {}
        for _ in range(MAX_DISPLACED):
            excess = self._excess(self.timeline(move.expected(parts) | displaced))
            step = int(np.argmax(excess))
            if excess[step] <= 0:
                return replace(move, displaced=tuple(displaced.items()))
            there = [
                (tensor, number)
                for tensor, part in (parts | displaced).items()
                for number, r in enumerate(part.residencies)
                if tensor != move.tensor and r.start_step <= step < r.end_step
            ]
            large = [(t, n) for t, n in there if 16 * self.program.tensors[t].size_bytes >= excess[step]]
            if not large:
                return None
            tensor, number = min(large, key=lambda place: self._traffic(parts | displaced, *place))
            displaced[tensor] = displaced.get(tensor, parts[tensor]).without(number)
        return None

    def _traffic(self, parts: Placements, tensor: int, number: int) -> int:
        r, trips = parts[tensor].residencies[number], self.program.trip_counts
        uses = self.program.tensors[tensor].uses
        return sum(u.bytes * int(trips[u.step]) for u in uses if r.start_step <= u.step < r.end_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedMapping:
    """A mapping that the compiler might be brought nearer to: its parts, and the overrides for each."""

    parts: Placements
    overrides: dict[int, tuple[Override, ...]]
    operands: LoopOperands = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, mapping: Mapping, operands: LoopOperands = NONE) -> Self:
        """Take a mapping apart."""
        overrides: dict[int, list[Override]] = {}
        for override in overrides_of(program, mapping, operands):
            action = Action.PREFER if override.action is Action.PREFETCH else override.action
            overrides.setdefault(override.tensor, []).append(replace(override, action=action))
        given = {tensor: tuple(found) for tensor, found in overrides.items()}
        return cls(parts=take_apart(mapping), overrides=given, operands=operands)


def moves(program: Program, parts: Placements, stalls: F64, wanted_mapping: WantedMapping) -> Iterator[OverrideMove]:
    """Yield moves from a mapping, taken apart, whose copies are waited for before steps as ``stalls`` says.

    A tensor may be kept in slow memory, wholly or for what one copy serves; pinned from its definition to its last
    use; copied in earlier; or treated as in the mapping that is wished for, where there are overrides for that.
    """
    places = {  # and sizes, of results that may be fast
        (step, program.tensors[t].size_bytes)
        for t, part in parts.items()
        if part.residencies
        for step in (
            *(r.start_step for r in part.residencies),
            *(use.step for use in program.tensors[t].uses if use.kind != UseKind.READ),
        )
    }
    for tensor in sorted(parts.keys() | wanted_mapping.parts.keys()):
        if not program.tensors[tensor].movable:
            continue
        now, then = parts.get(tensor, TensorPlacement()), wanted_mapping.parts.get(tensor, TensorPlacement())
        if now.residencies:
            yield OverrideMove(
                tensor=tensor, part=TensorPlacement(), overrides=tuple(definitions(program, tensor, Action.KEEP))
            )
        if any(stalls[x.done_before] > 0 for x in now.transfers):
            yield from _without_one(program, tensor, now, places)
            yield from _earlier(program, tensor, now, stalls, wanted_mapping.operands)
        if now.transfers or not now.residencies:
            yield from _pinned(program, tensor)
        if now != then and tensor in wanted_mapping.overrides and not any(x.target == HOME for x in then.transfers):
            yield OverrideMove(tensor=tensor, part=then, overrides=wanted_mapping.overrides[tensor])


def _pinned(program: Program, tensor: int) -> Iterator[OverrideMove]:
    subject = program.tensors[tensor]
    if subject.is_parameter or subject.is_output or any(use.home_only for use in subject.uses):
        return
    stay = Residency(
        tensor=tensor, layer=1, offset_bytes=0, start_step=subject.uses[0].step, end_step=subject.uses[-1].step + 1
    )
    overrides = (*definitions(program, tensor, Action.FIRST), *definitions(program, tensor, Action.PIN))
    yield OverrideMove(tensor=tensor, part=TensorPlacement(residencies=(stay,)), overrides=overrides)


def _without_one(
    program: Program, tensor: int, part: TensorPlacement, places: set[tuple[int, int]]
) -> Iterator[OverrideMove]:
    """Leave out one copy into fast memory, and read what it serves from slow memory.

    The override would also hit results of the same size of the instructions that read: only where those are not fast.
    """
    for number, residency in enumerate(part.residencies):
        inward = [x for x in part.transfers if x.target == number]
        if len(part.residencies) < 2 or not inward or any(x.source == number for x in part.transfers):
            continue
        served = _served(program, residency, max(x.done_before for x in inward))
        size = program.tensors[tensor].size_bytes
        if any(use.operand < 0 or (use.step, size) in places for use in served):
            continue
        yield OverrideMove(
            tensor=tensor,
            part=part.without(number),
            overrides=tuple(
                Override(action=Action.KEEP, tensor=tensor, place=_operand(program, use), step=use.step)
                for use in served
            ),
            whole=False,
        )


def _earlier(
    program: Program, tensor: int, part: TensorPlacement, stalls: F64, operands: LoopOperands
) -> Iterator[OverrideMove]:
    """Begin a copy that is waited for earlier, in one piece, but not before what the copy would miss."""
    uses = program.tensors[tensor].uses
    for number, residency in enumerate(part.residencies):
        inward = [x for x in part.transfers if x.target == number]
        if not inward or residency.start_step == HELD or stalls[inward[0].done_before] <= 0:
            continue
        done, now = max(x.done_before for x in inward), min(x.start_after for x in inward)
        asked = place_of_copy(program, operands, tensor, done, _served(program, residency, done))
        if asked is None:
            continue
        place, step = asked
        ends = [r.end_step - 1 for r in part.residencies if r.start_step < residency.start_step]
        least = max([use.step for use in uses if use.step < done] + ends, default=-1)
        for factor in EARLIER:
            start = max(done - factor * (done - now), least)
            if start >= now:
                continue
            copy = replace(
                inward[0],
                start_after=start,
                done_before=done,
                size_bytes=program.tensors[tensor].size_bytes,
                slice_offset_bytes=0,
            )
            override = Override(action=Action.PREFER, tensor=tensor, place=place, step=step, start_after=start)
            moved = replace(residency, start_step=start + 1)
            yield OverrideMove(
                tensor=tensor,
                part=TensorPlacement(
                    residencies=(*part.residencies[:number], moved, *part.residencies[number + 1 :]),
                    transfers=(*(x for x in part.transfers if x.target != number), copy),
                ),
                overrides=(override,),
                whole=False,
            )


def _served(program: Program, residency: Residency, filled: int) -> list[Use]:
    return [u for u in program.tensors[residency.tensor].uses if filled <= u.step < residency.end_step]


def _operand(program: Program, use: Use) -> Position:
    return Position(instruction=program.instructions[use.step].name, operand=use.operand, index=use.index)

"""Placements: one tensor's stay in a fast layer, with the copies that bring it there and back; addresses come later.

A placement is right on its own: the judge's validator accepts it as the only one of the program. What couples those of
different tensors (addresses, copies in flight) is kept by ``PartialMapping``; what they do to time is the judge's to
say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.placement.address_space import Span
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import bytes_by_layer
from mallocgame.judge.timeline import instruction_times
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer, serving_layers
from mallocgame.program import Program, UseKind

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A whole copy between two of a plan's spans, or ``HOME``; boundaries, not steps."""

    source: int
    target: int
    issue: int
    due: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Spans of one tensor in one layer, at one address, and its copies."""

    tensor: int
    layer: int
    spans: tuple[Span, ...]
    moves: tuple[Copy, ...]


def to_mapping(program: Program, plans: Sequence[Placement], offsets: Sequence[int]) -> Mapping:
    """Return the mapping that carries out ``plans``, each at its offset in bytes."""
    residencies: list[Residency] = []
    transfers: list[Transfer] = []
    for plan, offset in zip(plans, offsets, strict=True):
        append(program, plan, offset, residencies, transfers)
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


def append(
    program: Program, plan: Placement, offset: int, residencies: list[Residency], transfers: list[Transfer]
) -> None:
    """Append what carries out ``plan`` at ``offset`` bytes."""
    first, size = len(residencies), program.tensors[plan.tensor].size_bytes
    residencies += [
        Residency(tensor=plan.tensor, layer=plan.layer, offset_bytes=offset, start_step=start, end_step=end)
        for start, end in plan.spans
    ]
    transfers += [
        Transfer(
            tensor=plan.tensor,
            source=move.source if move.source == HOME else first + move.source,
            target=move.target if move.target == HOME else first + move.target,
            start_after=move.issue - 1,
            done_before=move.due,
            size_bytes=size,
        )
        for move in plan.moves
    ]


class PlacementFactory:
    """Makes plans for a program: when to copy, given how much of each link the instructions leave free."""

    def __init__(self, program: Program, hierarchy: Hierarchy) -> None:
        self.program = program
        self.hierarchy = hierarchy
        num_steps, num_links = program.num_steps, len(hierarchy.links)
        home = bytes_by_layer(program, hierarchy, serving_layers(program, Mapping()))
        speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers])
        shared = np.array([-1 if x.shared_layer is None else x.shared_layer for x in hierarchy.links], dtype=np.int64)
        self.elapsed, idle = np.empty(num_steps), np.empty((num_steps, num_links))
        instruction_times(program.compute_seconds, program.trip_counts, home, speeds, shared, self.elapsed, idle)
        self.home_memory_seconds: F64 = (home / speeds).sum(axis=1)  # float64[T], of one execution
        self._free = np.zeros((num_links, num_steps + 1))  # link seconds free before each boundary, loops unrolled
        np.cumsum(idle.T, axis=1, out=self._free[:, 1:])
        self._body: list[int] = program.loop_context.tolist()
        self._steps = [sorted({use.step for use in tensor.uses}) for tensor in program.tensors]

    def use_steps(self, tensor: int) -> list[int]:
        """Return the steps that use ``tensor``, in order."""
        return self._steps[tensor]

    def is_defined(self, tensor: int, step: int) -> bool:
        """Whether ``step`` writes ``tensor`` whole and reads nothing of it, so that it can be born in any layer."""
        uses = self.program.tensors[tensor].uses
        return {use.kind for use in uses if use.step == step} == {UseKind.DEFINE}

    def dues(self, step: int) -> list[int]:
        """Return when a copy for a use at ``step`` can be due: right before it, or before a loop around it."""
        loops = [loop for loop in self.program.enclosing_loops(step) if loop.trip_count > 1]
        return list(dict.fromkeys((step, *sorted((loop.start_step for loop in loops), reverse=True))))

    def stays(
        self, tensor: int, layer: int, first: int, last: int, issue: int | None = None, due: int | None = None
    ) -> Iterator[Placement]:
        """Yield the plans that hold ``tensor`` from its use at step ``first`` to its use at step ``last``.

        At most one: without a write-back if that is right, else with one; none if neither is. A copy in, where one is
        needed, is issued at boundary ``issue`` (None: as late as the link can afford) and complete at ``due`` (None: at
        the first use). A stay that enters a loop from before lasts at least as long as the loop.
        """
        due = first if due is None else due
        for written_back in (False, True):
            copied_at = None
            if not self.is_defined(tensor, first):
                copied_at = self.latest_issue(0, layer, tensor, due) if issue is None else issue
            plan = self._stay(tensor, layer, (first, last), copied_at, due, written_back)
            if self.is_right([plan]):
                yield plan
                return

    def held(self, tensor: int, layer: int) -> Iterator[Placement]:
        """Yield the plan that keeps a parameter from the run before and loads it again for the next."""
        steps, end = self._steps[tensor], self.program.num_steps
        if not steps or not self.program.tensors[tensor].holdable:
            return
        last = steps[-1] + 1
        issue = self.latest_issue(0, layer, tensor, end, last)
        if issue >= end:
            return
        move = Copy(source=HOME, target=1, issue=issue, due=end)
        plan = Placement(tensor=tensor, layer=layer, spans=((HELD, last), (issue, end)), moves=(move,))
        if self.is_right([plan]):
            yield plan

    def same_body(self, a: int, b: int) -> bool:
        """Whether two boundaries lie in the same loop body, so that a copy may last from one to the other."""
        return self._body[a] == self._body[b]

    def is_right(self, plans: Sequence[Placement]) -> bool:
        """Whether the plans, all of one tensor, are a valid mapping of a memory that is theirs alone."""
        return not validate(self.program, self.hierarchy, to_mapping(self.program, plans, [0] * len(plans)))

    def work_seconds(self, source: int, target: int, tensor: int) -> float:
        """Return the link seconds of one copy of ``tensor`` between two layers."""
        link = self.hierarchy.links[self.hierarchy.link_index(source, target)]
        return float(self.program.sizes_bytes[tensor]) / link.bytes_per_second + link.latency_seconds

    def latest_issue(self, source: int, target: int, tensor: int, due: int, earliest: int = 0) -> int:
        """Return the latest boundary from which the link has time for the copy before ``due``.

        It lies in the same loop body as ``due``. If no boundary from ``earliest`` on leaves enough time, the earliest
        one is returned: the rest of the copy will be a stall.
        """
        free = self._free[self.hierarchy.link_index(source, target)]
        needed = self.work_seconds(source, target, tensor) * self._executions(due)
        issue = int(np.searchsorted(free, free[due] - needed, side="right")) - 1
        issue = max(min(issue, due), earliest)
        while issue > earliest and self._body[issue] != self._body[due]:
            issue -= 1
        while issue < due and self._body[issue] != self._body[due]:
            issue += 1
        return issue

    def earliest_due(self, source: int, target: int, tensor: int, issue: int, latest: int) -> int:
        """Return the first boundary by which the link has had time for a copy issued at ``issue``, else ``latest``."""
        free = self._free[self.hierarchy.link_index(source, target)]
        needed = self.work_seconds(source, target, tensor) * self._executions(issue)
        due = max(min(int(np.searchsorted(free, free[issue] + needed, side="left")), latest), issue)
        while due < latest and self._body[due] != self._body[issue]:
            due += 1
        while due > issue and self._body[due] != self._body[issue]:
            due -= 1
        return due

    def _stay(
        self, tensor: int, layer: int, uses: Span, copied_at: int | None, copied_by: int, written_back: bool
    ) -> Placement:
        first, last = uses
        start = first if copied_at is None else copied_at
        end = self._past_loops(start, last + 1)
        moves = []
        if copied_at is not None:
            moves.append(Copy(source=HOME, target=0, issue=start, due=copied_by))
        if written_back:
            writes = [u.step for u in self.program.tensors[tensor].uses if u.kind != UseKind.READ and u.step <= last]
            issue = self._past_loops(start, max((w for w in writes if w >= first), default=first) + 1)
            following = [step for step in self._steps[tensor] if step > last]
            due = self.earliest_due(layer, 0, tensor, issue, min(following, default=self.program.num_steps))
            moves.append(Copy(source=0, target=HOME, issue=issue, due=due))
            end = max(end, due, min(issue + 1, self.program.num_steps))
        return Placement(tensor=tensor, layer=layer, spans=((start, end),), moves=tuple(moves))

    def _past_loops(self, start: int, end: int) -> int:
        """Return ``end``, or the end of the outermost repeated loop that [start, end) enters and does not leave."""
        entered = [x.end_step for x in self.program.loops if x.trip_count > 1 and start < x.start_step < end]
        return max([end, *entered])

    def _executions(self, boundary: int) -> float:
        return self.program.boundary_trip_count(boundary, boundary)

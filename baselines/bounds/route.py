"""A tensor's route: its uses, and the loop edges that matter to it, in schedule order, and what may happen between.

The relaxation (``relaxation.py``) and the prices (``prices.py``) are flows of *current contents* along routes: between
two stops a place keeps the contents, or a copy brings them there. ``Routes`` holds those of many tensors as tables;
``Routes.route`` shows one as objects.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit
from mallocgame.program import Loop, Program

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class StopKind(Enum):
    """What a stop on the route is."""

    START = 0
    USE = 1
    ENTRY = 2  # a loop's first step: contents come from before the loop and from the end of its body
    EXIT = 3  # a loop's end
    END = 4


class StopColumn(IntEnum):
    """Columns of ``Routes.stops``; see ``Stop``."""

    KIND = 0
    BOUNDARY = 1
    LOOP = 2  # index into ``Routes.loops``, -1: none
    NEEDS_CONTENTS = 3
    NEEDS_HOME = 4
    WRITES = 5
    WRITES_HOME = 6
    IS_FREE = 7
    FREE_BYTES = 8
    HOME_BYTES = 9
    PARTNER = 10  # of a loop's entry the stop at which it ends, of its exit the one at which it begins


class LegColumn(IntEnum):
    """Columns of ``Routes.legs``; see ``Leg``."""

    FIRST_DUE = 0
    LAST_DUE = 1
    FIRST_ISSUE = 2
    FROM_STEP = 3
    TO_STEP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One stop. All uses of one step are one stop.

    ``boundary`` is the moment just before the stop (boundary b comes before step b); a use also takes its step.
    """

    kind: StopKind
    boundary: int
    loop: Loop | None = None
    needs_contents: bool = False  # a free use reads, or updates in place
    needs_home: bool = False  # a home-only use reads, or updates in place
    writes: bool = False
    writes_home: bool = False  # the write is home-only
    is_free: bool = False  # some use here may be served by any layer
    free_bytes: int = 0  # bytes of the uses that any layer may serve
    home_bytes: int = 0  # bytes of home-only uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The time between two stops.

    A copy that arrives here is complete at a boundary in ``[first_due, last_due]`` (none can if that is empty), was
    issued at boundary ``first_issue`` or later, and happens ``trip_count`` times in a run. What stays in place occupies
    steps ``[from_step, to_step)``, the stops' own steps apart.
    """

    first_due: int
    last_due: int
    first_issue: int
    trip_count: float
    from_step: int
    to_step: int

    @property
    def can_arrive(self) -> bool:
        """Whether some copy can be complete here."""
        return self.first_due <= self.last_due


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """``legs[k]`` leads from ``stops[k]`` to ``stops[k + 1]``; stops begin with START and finish with END."""

    tensor: int
    stops: tuple[Stop, ...]
    legs: tuple[Leg, ...]

    def exit_of(self, entry: int) -> int:
        """Return the stop at which the loop entered at stop ``entry`` ends."""
        loop = self.stops[entry].loop
        return next(i for i, s in enumerate(self.stops) if s.kind is StopKind.EXIT and s.loop == loop)


class Routes(NamedTuple):
    """The routes of some tensors, one after the other; leg s leads from stop s to stop s + 1."""

    tensors: I64  # [N]
    first: I64  # [N + 1]: tensor i has the stops first[i] .. first[i + 1] - 1
    stops: I64  # [S, len(StopColumn)]
    legs: I64  # [S, len(LegColumn)]; a route's last row stands for no leg
    trip_counts: F64  # [S], of the legs
    loops: tuple[Loop, ...]  # those that repeat

    @property
    def can_arrive(self) -> npt.NDArray[np.bool_]:
        """bool[S]: whether some copy can be complete on a leg."""
        found: npt.NDArray[np.bool_] = self.legs[:, LegColumn.FIRST_DUE] <= self.legs[:, LegColumn.LAST_DUE]
        return found

    def route(self, index: int) -> Route:
        """Return the route of ``tensors[index]``."""
        rows = range(int(self.first[index]), int(self.first[index + 1]))
        stops, legs = self.stops[rows.start : rows.stop].tolist(), self.legs[rows.start : rows.stop].tolist()
        trips = self.trip_counts[rows.start : rows.stop].tolist()
        return Route(
            tensor=int(self.tensors[index]),
            stops=tuple(self._stop(row) for row in stops),
            legs=tuple(
                Leg(first_due=a, last_due=b, first_issue=c, from_step=d, to_step=e, trip_count=trip)
                for (a, b, c, d, e), trip in zip(legs[:-1], trips[:-1], strict=True)
            ),
        )

    def _stop(self, row: list[int]) -> Stop:
        kind, boundary, loop, contents, home, writes, writes_home, is_free, free_bytes, home_bytes, _ = row
        return Stop(
            kind=StopKind(kind),
            boundary=boundary,
            loop=self.loops[loop] if loop >= 0 else None,
            needs_contents=bool(contents),
            needs_home=bool(home),
            writes=bool(writes),
            writes_home=bool(writes_home),
            is_free=bool(is_free),
            free_bytes=free_bytes,
            home_bytes=home_bytes,
        )


def routes(program: Program, tensors: I64) -> Routes:
    """Return the routes of ``tensors``: loops without a use of it, and loops that run once, leave no trace on one."""
    repeating = {loop for loop in program.loops if loop.trip_count > 1}
    loops = sorted(repeating, key=lambda loop: (loop.start_step, -loop.end_step, loop.trip_count))
    spans = np.array([(loop.start_step, loop.end_step) for loop in loops], dtype=np.int64).reshape(-1, 2)
    uses = program.uses
    first, stops, legs = _walk(
        tensors, uses.first, uses.step, uses.bytes, uses.kind, uses.home_only, spans, program.num_steps
    )
    trips = boundary_trip_counts(program)
    low = legs[:, LegColumn.FIRST_DUE]
    counts = np.minimum(trips[low], trips[np.maximum(low, legs[:, LegColumn.LAST_DUE])])
    return Routes(tensors, first, stops, legs, counts, tuple(loops))


def boundary_trip_counts(program: Program) -> F64:
    """Return float64[T + 1]: how often the moment before each step happens in a run."""
    counts = np.ones(program.num_steps + 1)
    for loop in program.loops:
        counts[loop.start_step + 1 : loop.end_step] *= loop.trip_count
    for conditional in program.conditionals:
        for start, end, weight in conditional.branches():
            counts[start + 1 : end] *= weight
    return counts


@jit
def _walk(
    tensors: I64,
    use_first: I64,
    use_step: I64,
    use_bytes: I64,
    use_kind: I64,
    use_home: npt.NDArray[np.bool_],
    loops: I64,
    num_steps: int,
) -> tuple[I64, I64, I64]:
    """Return ``Routes.first``, ``stops`` and ``legs``."""
    inside = np.zeros((len(tensors), 2), np.int64)
    own = np.empty(len(loops), np.int64)
    for i in range(len(tensors)):
        steps = use_step[use_first[tensors[i]] : use_first[tensors[i] + 1]]
        inside[i, 0] = len(steps)
        inside[i, 1] = _own_loops(steps, loops, own)
    most = 2 * len(tensors) + inside[:, 0].sum() + 2 * inside[:, 1].sum()
    first = np.zeros(len(tensors) + 1, np.int64)
    stops, legs = np.zeros((most, 11), np.int64), np.zeros((most, 5), np.int64)
    stack = np.empty((len(loops) + 1, 2), np.int64)
    at = 0
    for i in range(len(tensors)):
        tensor = tensors[i]
        begin, use, until = at, use_first[tensor], use_first[tensor + 1]
        count, entered, depth = _own_loops(use_step[use:until], loops, own), 0, 0
        stops[at, 0], stops[at, 2] = 0, -1
        at += 1
        while use < until or entered < count or depth > 0:
            here = num_steps + 1
            if use < until:
                here = use_step[use]
            enters = entered < count and loops[own[entered], 0] <= here
            if enters:
                here = loops[own[entered], 0]
            if depth > 0 and loops[stack[depth - 1, 0], 1] <= here:  # inner loops end first
                depth -= 1
                loop, entry = stack[depth, 0], stack[depth, 1]
                stops[at, 0], stops[at, 1], stops[at, 2], stops[at, 10] = 3, loops[loop, 1], loop, entry
                stops[entry, 10] = at
            elif enters:  # then outer loops begin first
                loop = own[entered]
                entered += 1
                stops[at, 0], stops[at, 1], stops[at, 2] = 2, here, loop
                stack[depth, 0], stack[depth, 1] = loop, at
                depth += 1
            else:
                stops[at, 0], stops[at, 1], stops[at, 2] = 1, here, -1
                while use < until and use_step[use] == here:
                    _add_use(stops[at], use_bytes[use], use_kind[use], use_home[use])
                    use += 1
            at += 1
        stops[at, 0], stops[at, 1], stops[at, 2] = 4, num_steps, -1
        at += 1
        first[i + 1] = at
        _legs(stops[begin:at], legs[begin:at], loops)
    return first, stops[:at].copy(), legs[:at].copy()


@jit
def _own_loops(steps: I64, loops: I64, own: I64) -> int:
    """Write which loops hold one of ``steps`` into ``own``; return how many."""
    count = 0
    for loop in range(len(loops)):
        low = np.searchsorted(steps, loops[loop, 0])
        if low < len(steps) and steps[low] < loops[loop, 1]:
            own[count] = loop
            count += 1
    return count


@jit
def _add_use(stop: I64, size: int, kind: int, is_home: bool) -> None:
    reads, writes = kind != 1, kind != 0
    if is_home:
        stop[4] |= reads
        stop[6] |= writes
        stop[9] += size
    else:
        stop[3] |= reads
        stop[7] = 1
        stop[8] += size
    stop[5] |= writes


@jit
def _legs(stops: I64, legs: I64, loops: I64) -> None:
    """Fill the legs of one route."""
    around, depth, written = np.empty(len(loops) + 1, np.int64), 0, 0
    for k in range(len(stops) - 1):
        kind, here, there = stops[k, 0], stops[k, 1], stops[k + 1, 1]
        if stops[k, 5]:
            written = here + 1
        if kind == 2:
            around[depth] = stops[k, 2]
            depth += 1
        elif kind == 3:
            depth -= 1
        first_due = here + (1 if kind in (1, 2) else 0)
        issue = written
        for i in range(depth):
            start, end = loops[around[i]]
            if start < first_due < end:
                issue = max(issue, start + 1)
        legs[k, 0], legs[k, 1] = first_due, there - (1 if stops[k + 1, 0] == 3 else 0)
        legs[k, 2], legs[k, 3], legs[k, 4] = issue, here + (1 if kind == 1 else 0), there

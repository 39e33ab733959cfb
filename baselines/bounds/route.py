"""A tensor's route: its uses, and the loop edges that matter to it, in schedule order, and what may happen between.

Both the relaxation (``relaxation.py``) and the exact model (``baselines/residency/``) are flows of *current contents*
along routes: between two stops a place keeps the contents, or a copy brings them there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from mallocgame.program import Loop, Program, UseKind


class StopKind(Enum):
    """What a stop on the route is."""

    START = "start"
    USE = "use"
    ENTRY = "entry"  # a loop's first step: contents come from before the loop and from the end of its body
    EXIT = "exit"  # a loop's end
    END = "end"


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


def route(program: Program, tensor: int) -> Route:
    """Return the route of a tensor: loops in which it has no use, and loops that run once, leave no trace on it."""
    stops = (
        Stop(kind=StopKind.START, boundary=0),
        *_stops(program, tensor),
        Stop(kind=StopKind.END, boundary=program.num_steps),
    )
    return Route(tensor=tensor, stops=stops, legs=tuple(_legs(program, stops)))


def _stops(program: Program, tensor: int) -> Iterator[Stop]:
    steps: dict[int, list[int]] = {}
    uses = program.tensors[tensor].uses
    for index, use in enumerate(uses):
        steps.setdefault(use.step, []).append(index)
    repeating = (loop for loop in program.loops if loop.trip_count > 1)
    loops = {loop for loop in repeating if any(loop.start_step <= s < loop.end_step for s in steps)}
    # At one boundary: inner loops end first, then outer loops begin first, then the step itself.
    keyed: list[tuple[tuple[int, int, int], Stop]] = []
    for loop in loops:
        length = loop.end_step - loop.start_step
        keyed.append(((loop.end_step, 0, length), Stop(kind=StopKind.EXIT, boundary=loop.end_step, loop=loop)))
        keyed.append(((loop.start_step, 1, -length), Stop(kind=StopKind.ENTRY, boundary=loop.start_step, loop=loop)))
    for step, indices in steps.items():
        here = [uses[i] for i in indices]
        free, home = [u for u in here if not u.home_only], [u for u in here if u.home_only]
        stop = Stop(
            kind=StopKind.USE,
            boundary=step,
            needs_contents=any(u.kind != UseKind.DEFINE for u in free),
            needs_home=any(u.kind != UseKind.DEFINE for u in home),
            writes=any(u.kind != UseKind.READ for u in here),
            writes_home=any(u.kind != UseKind.READ for u in home),
            is_free=bool(free),
            free_bytes=sum(u.bytes for u in free),
            home_bytes=sum(u.bytes for u in home),
        )
        keyed.append(((step, 2, 0), stop))
    return (stop for _, stop in sorted(keyed, key=lambda pair: pair[0]))


def _legs(program: Program, stops: tuple[Stop, ...]) -> Iterator[Leg]:
    own = {stop.loop for stop in stops if stop.loop is not None}
    for here, there in pairwise(stops):
        after_use = here.kind is StopKind.USE
        first_due = here.boundary + (1 if after_use or here.kind is StopKind.ENTRY else 0)
        last_due = there.boundary - (1 if there.kind is StopKind.EXIT else 0)
        around = [loop for loop in own if loop.contains_boundary(first_due)]
        written = [s.boundary + 1 for s in stops if s.writes and s.boundary <= here.boundary and s.boundary < first_due]
        yield Leg(
            first_due=first_due,
            last_due=last_due,
            first_issue=max([0, *written, *(loop.start_step + 1 for loop in around)]),
            trip_count=min(program.boundary_trip_count(b, b) for b in (first_due, max(first_due, last_due))),
            from_step=here.boundary + (1 if after_use else 0),
            to_step=there.boundary,
        )

"""When the copies of a set of stays run: as late as the link's idle time allows for fills, as early for write-backs.

Every copy gets the idle link time it needs, latest first for copies in (so that they take space for a short time),
earliest first for copies out. Where there is room for a part of a tensor only, that part is a slice, and comes earlier.
What the space does not allow even so becomes waiting, which the judge charges.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.milp.stays import Back, Stay
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge import timeline
from mallocgame.judge.simulation import bytes_by_layer, simulate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Program

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

LEAST_SLICE = 1e-3  # of a copy: what is less is not worth a slice


class Slices(NamedTuple):
    """A copy in two slices: ``early_bytes`` of the tensor's end or beginning come first, the rest from ``late`` on."""

    early_bytes: int
    late: int
    is_top: bool = False  # whether the earlier one is the end of the tensor

    def window(self, size_bytes: int) -> tuple[int, int]:
        """Return the bytes of the earlier one."""
        return (size_bytes - self.early_bytes, size_bytes) if self.is_top else (0, self.early_bytes)

    def copies(self, size_bytes: int, fill: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Return each slice's (issue, due) and bytes, the earlier one first."""
        early, rest = self.window(size_bytes), size_bytes - self.early_bytes
        late = (0, rest) if self.is_top else (self.early_bytes, size_bytes)
        return [(fill, early), ((self.late, fill[1]), late)]


@dataclass(slots=True, kw_only=True)
class Timed:
    """A stay with its space ``[start, end)`` and its copies' (issue, due) boundaries."""

    stay: Stay
    start: int
    end: int
    fill: tuple[int, int] | None
    backs: list[tuple[int, int]]
    slices: Slices | None = None  # of the fill; None: it is one copy

    def flipped(self) -> "Timed":
        """Return the same with the other end of the tensor first."""
        return replace(self, slices=self.slices and self.slices._replace(is_top=not self.slices.is_top))


def idle_seconds(program: Program, hierarchy: Hierarchy, chosen: list[Stay]) -> F64:
    """Return float64[T, K], the free time of each link if the stays serve the uses in their spans."""
    serving = np.zeros(len(program.uses.tensor), dtype=np.int64)
    for stay in chosen:
        first, last = program.uses.first[stay.tensor], program.uses.first[stay.tensor + 1]
        low, high = np.searchsorted(program.uses.step[first:last], [stay.start, stay.end]) + first
        serving[low:high] = stay.layer
    serving[program.uses.home_only] = 0
    speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers])
    shared = np.array([-1 if link.shared_layer is None else link.shared_layer for link in hierarchy.links])
    elapsed, idle = np.empty(program.num_steps), np.empty((program.num_steps, len(hierarchy.links)))
    table = bytes_by_layer(program, hierarchy, serving)
    timeline.instruction_times(program.compute_seconds, program.trip_counts, table, speeds, shared, elapsed, idle)
    return idle


def time_copies(program: Program, hierarchy: Hierarchy, chosen: list[Stay], *, is_forward: bool = False) -> list[Timed]:
    """Give every stay its copies' times (two layers).

    Copies in get theirs from the last due to the first, so that the program waits for as few as may be; where it waits
    even so, others are in the way of those before them, and it is better ``is_forward``: from the first to the last.
    """
    link = hierarchy.links[hierarchy.link_index(0, 1)]
    idle = idle_seconds(program, hierarchy, chosen)[:, hierarchy.link_index(0, 1)].copy()
    grain, capacity = hierarchy.layers[1].alignment_bytes, hierarchy.layers[1].capacity_bytes
    sizes = [-(-program.tensors[stay.tensor].size_bytes // grain) * grain for stay in chosen]
    room = np.full(program.num_steps + 1, capacity, dtype=np.int64)
    bodies = program.loop_context
    timed = []
    for stay, size in zip(chosen, sizes, strict=True):
        start = stay.start if not stay.is_reload else program.num_steps - 1
        room[max(start, 0) : stay.end] -= size
        timed.append(Timed(stay=stay, start=start, end=stay.end, fill=None, backs=[]))

    def work(stay: Stay, trips: float) -> float:
        return (program.tensors[stay.tensor].size_bytes / link.bytes_per_second + link.latency_seconds) * trips

    for i in sorted(range(len(chosen)), key=lambda i: chosen[i].start, reverse=not is_forward):
        stay, leg = chosen[i], chosen[i].fill
        if leg is None:
            continue
        due, is_open = stay.start, room >= sizes[i]
        is_open[timed[i].start :] = True
        wanted, before = work(stay, leg.trip_count), float(idle.sum())
        _, step = _take(bodies, idle, is_open, due, leg.first_issue, wanted)
        room[step : timed[i].start] -= sizes[i]
        missing = (wanted - before + float(idle.sum())) / wanted  # had no time while there was room for all of it
        first = step
        if missing > LEAST_SLICE and leg.first_issue < step <= timed[i].start and not room[step - 1] >= sizes[i]:
            size = program.tensors[stay.tensor].size_bytes
            early = min(math.ceil(missing * size / grain) * grain, int(room[step - 1]) // grain * grain, size - 1)
            if early >= LEAST_SLICE * size:
                _, first = _take(bodies, idle, room >= early, step, leg.first_issue, wanted * early / size)
        if first < step:
            timed[i].slices = Slices(early, step)
            room[first:step] -= early
        timed[i].fill = (first, due)
        timed[i].start = min(timed[i].start, first)
    urgent = sorted((back.due, back.issue, i) for i, stay in enumerate(chosen) for back in _needed(stay))
    for last, earliest, i in urgent:
        for back in [b for b in _needed(chosen[i]) if (b.due, b.issue) == (last, earliest)]:
            is_open = room >= sizes[i]
            is_open[: timed[i].end] = True
            issue, step = _take(bodies, idle, is_open, back.issue, back.due, work(chosen[i], back.trip_count))
            end = max(timed[i].end, step, min(issue + 1, program.num_steps))
            room[timed[i].end : end] -= sizes[i]
            timed[i].end = end
            timed[i].backs.append((issue, max(step, issue)))
    return timed


def _take(
    bodies: I64, idle: F64, is_open: npt.NDArray[np.bool_], begin: int, limit: int, work_seconds: float
) -> tuple[int, int]:
    """Walk from boundary ``begin`` toward ``limit``, take ``work_seconds`` of the idle time of the open steps crossed.

    A loop on the way is gone around or not entered. Returns the boundary, still in ``begin``'s body, from which on idle
    time was taken (``begin`` if none was), and the one that ends the walk.
    """
    ahead, at, reached, left = (1 if limit > begin else -1), begin, begin, work_seconds
    first: int | None = None
    unsettled: list[tuple[int, float]] = []  # taken in a loop not yet gone around
    while at != limit and (left > 0.0 or at != reached):
        crossed = at if ahead > 0 else at - 1
        if not is_open[crossed]:
            break
        taken = min(left, float(idle[crossed]))
        first = reached if first is None and taken > 0.0 else first
        idle[crossed] -= taken
        left -= taken
        unsettled.append((crossed, taken))
        at += ahead
        if bodies[at] == bodies[begin]:
            reached = at
            unsettled.clear()
    for step, taken in unsettled:
        idle[step] += taken
    return begin if first is None else first, reached


def _needed(stay: Stay) -> list[Back]:
    """Return one write-back per write: a second copy of the same contents would be idle work."""
    first: dict[int, Back] = {}
    for back in stay.back:
        first.setdefault(back.written, back)
    return list(first.values())


def retime(
    program: Program,
    hierarchy: Hierarchy,
    timed: list[Timed],
    *,
    rounds: int = 12,
    stop: Callable[[], bool] = lambda: False,
) -> list[Timed]:
    """Give copies that the judge waits for more time, as far as the space allows; return the best set met."""
    best, best_seconds = timed, _judged(program, hierarchy, timed)
    current = timed
    for _ in range(rounds):
        if stop():
            break
        mapping = to_mapping(program, current, [0] * len(current))
        stall = simulate(program, hierarchy, mapping).stall_seconds
        current = _stretched(program, hierarchy, current, stall > 1e-4 * max(float(stall.sum()), 1e-30))
        seconds = _judged(program, hierarchy, current)
        if seconds < best_seconds:
            best, best_seconds = current, seconds
    return best


def timed_best(
    program: Program, hierarchy: Hierarchy, chosen: list[Stay], *, stop: Callable[[], bool] = lambda: False
) -> list[Timed]:
    """Time the copies from the last to the first and from the first to the last; return what the judge prefers."""
    ways = [time_copies(program, hierarchy, chosen, is_forward=way) for way in (False, True)]
    found = [retime(program, hierarchy, timed, stop=stop) for timed in ways]
    return min(found, key=lambda timed: _judged(program, hierarchy, timed))


def _judged(program: Program, hierarchy: Hierarchy, timed: list[Timed]) -> float:
    return simulate(program, hierarchy, to_mapping(program, timed, [0] * len(timed))).total_seconds


def _stretched(program: Program, hierarchy: Hierarchy, timed: list[Timed], waits: npt.NDArray[np.bool_]) -> list[Timed]:
    """Return copies of ``timed`` in which what is due where the program waits starts earlier, or may end later."""
    room = np.full(program.num_steps + 1, hierarchy.layers[1].capacity_bytes, dtype=np.int64)
    grain = hierarchy.layers[1].alignment_bytes
    sizes = [-(-program.tensors[item.stay.tensor].size_bytes // grain) * grain for item in timed]
    for item, size in zip(timed, sizes, strict=True):
        since = item.slices.late if item.slices is not None else max(item.start, 0)
        room[since : item.end] -= size
        room[max(item.start, 0) : since] -= item.slices.early_bytes if item.slices is not None else 0
    bodies = program.loop_context
    result = []
    for item, size in zip(timed, sizes, strict=True):
        fill, backs, start, end = item.fill, [], item.start, item.end
        leg = item.stay.fill
        if fill is not None and leg is not None and waits[fill[1]] and item.slices is None:
            issue = max(leg.first_issue, fill[0] - max(2, (fill[1] - fill[0]) // 2))
            while issue < fill[0] and (bodies[issue] != bodies[fill[1]] or (room[issue:start] < size).any()):
                issue += 1
            if issue < start:
                room[issue:start] -= size
                start = issue
            fill = (min(issue, fill[0]), fill[1])
        for at, (issue, due) in enumerate(item.backs):
            limit = _needed(item.stay)[at].due
            if waits[due] and due < limit:
                later = min(limit, due + max(2, (due - issue) // 2))
                while later > due and (bodies[later] != bodies[due] or (room[end:later] < size).any()):
                    later -= 1
                if later > end:
                    room[end:later] -= size
                    end = later
                due = max(due, later)
            backs.append((issue, due))
        result.append(replace(item, start=start, end=end, fill=fill, backs=backs))
    return result


def to_mapping(program: Program, timed: list[Timed], offsets: list[int]) -> Mapping:
    """Return the mapping of timed stays at these offsets."""
    residencies, transfers = [], []
    for index, (item, offset) in enumerate(zip(timed, offsets, strict=True)):
        tensor, size = item.stay.tensor, program.tensors[item.stay.tensor].size_bytes
        start = HELD if item.stay.start == HELD and item.fill is None else item.start
        residencies.append(
            Residency(tensor=tensor, layer=item.stay.layer, offset_bytes=offset, start_step=start, end_step=item.end)
        )
        copies = [] if item.fill is None else [(HOME, index, item.fill, (0, size))]
        if item.fill is not None and item.slices is not None:
            copies = [(HOME, index, *each) for each in item.slices.copies(size, item.fill)]
        copies += [(index, HOME, span, (0, size)) for span in item.backs]
        for source, target, (issue, due), (low, high) in copies:
            transfers.append(
                Transfer(
                    tensor=tensor,
                    source=source,
                    target=target,
                    start_after=issue - 1,
                    done_before=due,
                    size_bytes=high - low,
                    slice_offset_bytes=low,
                )
            )
    transfers.sort(key=lambda x: (x.start_after, x.done_before))  # of those issued at once the first due goes first
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))

"""Where annealing begins: at a mapping, and, with three layers and more, at what a greedy pass adds to it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mallocgame.baselines.anneal import kernel
from mallocgame.baselines.anneal.assembly import Candidate
from mallocgame.baselines.anneal.orders import FIRST, Order, density, passes
from mallocgame.baselines.anneal.state import BORN, COPIED, FOREVER, HELD_OVER, I64, ROW, Choice, Tables
from mallocgame.mapping import HELD, HOME, Mapping, Transfer
from mallocgame.program import Program
from mallocgame.solver import Incumbent

STEPS_PER_CALL = 500_000  # of the schedule that the judge walks between looks at the clock
MANY = 3000  # residencies above which taking a mapping over is done once: it takes as long as their number squared
LARGE = 500  # residencies above which it is first tried to take all over as they are
FINISH = 8.0  # times what it takes to make a candidate: to make a mapping of a chosen one, validate and judge it
SLOW = 5e-5  # seconds for a candidate, at most: what takes longer is something else


def pace(seconds: float, count: int) -> float:
    """Return the seconds that a candidate takes where so many took ``seconds``: how fast this machine is."""
    return min(seconds / count, SLOW) if count else SLOW


def finish_share(search: Incumbent, count: int, candidate_seconds: float) -> float:
    """Return the share of the limit that it will take to make a mapping of so many chosen candidates."""
    if search.limits.steps is not None or search.limits.seconds <= 0:
        return 0.0
    return FINISH * candidate_seconds * count / search.limits.seconds


def construct(
    search: Incumbent,
    tables: Tables,
    choice: Choice,
    share: float,
    *,
    candidate_seconds: float = 0.0,
    least_layer: int = 1,
    order: Order = FIRST,
) -> None:
    """Add what saves most, layer by layer from the slowest, until the share of the limit is spent.

    ``candidate_seconds``: see ``finish_share``, what that takes is left; the choice becomes a mapping next.
    """
    for own in passes(tables, density(search.problem, tables, order), least_layer):
        for part in _parts(tables, own):
            spent = search.spent_share + finish_share(search, int(choice.number[0]), candidate_seconds)
            if spent > share or search.out_of_time():
                return
            search.count()
            kernel.construct(tables, choice, part, search.seed % 2**32)


def add(search: Incumbent, tables: Tables, choice: Choice, order: I64) -> None:
    """Add candidates in this order, those that fit and that the judge agrees to."""
    for part in _parts(tables, order):
        if search.should_stop:
            return
        kernel.construct(tables, choice, part, search.seed % 2**32)


def _parts(tables: Tables, order: I64) -> Iterator[I64]:
    """Cut an order of candidates into parts, between which there is time to look at the clock."""
    at_once = max(STEPS_PER_CALL // max(len(tables.compute), 1), 1)
    for first in range(0, len(order), at_once):
        yield order[first : first + at_once]


class _Stay(NamedTuple):
    """What a mapping does with a tensor in one layer, residencies that follow one another at one offset joined."""

    tensor: int
    layer: int
    base: int
    kind: int
    start: int
    fill: int
    end: int
    offset: int
    back: int
    cut: int  # where its copy is cut in two slices (state.Choice), 0: it is whole
    is_low: int
    late: int
    again: int  # the boundary at which it is copied again for a loop's next iteration; -1: it is not


def adopt(program: Program, tables: Tables, pieces: list[Candidate], choice: Choice, mapping: Mapping) -> None:
    """Choose the candidates that come nearest to ``mapping``'s residencies, at the same offsets and times.

    Where some do not go beside the others (a copy in more than two slices, say), those are shifted or left out,
    whichever is faster. How many copies are under way is looked at in the end: before, with some of the rest missing,
    time passes otherwise. Only where there are too many then, those that are one too many in their turn are left out.
    """
    lookup: dict[tuple[int, int, int, int, int], list[int]] = {}
    for index, piece in enumerate(pieces):
        lookup.setdefault((piece.tensor, piece.layer, piece.base, piece.kind, piece.first_use), []).append(index)
    rows = []
    for stay in sorted(_stays(program, mapping), key=lambda stay: stay.layer):
        nearest = _nearest(program, pieces, lookup, stay)
        if nearest is not None:
            late = max(stay.late, stay.again)
            rows.append((nearest, max(stay.start, 0), stay.back, stay.offset, stay.cut, stay.is_low, late))
    wanted = np.array(rows, dtype=np.int64).reshape(-1, ROW)
    if len(wanted) > LARGE and kernel.adopt_all(tables, choice, wanted):
        chosen = choice.chosen[: choice.number[0]]
        by_time = chosen[np.argsort(choice.begin[chosen, 0], kind="stable")]
        if kernel.is_apart(tables, choice, by_time, np.zeros_like(by_time)):
            return
    ways = (False, True) if len(wanted) <= MANY else (True,)
    for is_judged in (False, True):
        seconds = {shifted: kernel.adopt(tables, choice, wanted, shifted, is_judged) for shifted in ways}
        best = min(seconds, key=lambda shifted: seconds[shifted])
        if seconds[best] < np.inf:
            if best != ways[-1]:
                kernel.adopt(tables, choice, wanted, best, is_judged)
            return


def _nearest(
    program: Program,
    pieces: list[Candidate],
    lookup: dict[tuple[int, int, int, int, int], list[int]],
    stay: _Stay,
) -> int | None:
    low, high = program.uses.first[stay.tensor], program.uses.first[stay.tensor + 1]
    served = [u for u in range(low, high) if stay.fill <= program.uses.step[u] < stay.end]
    if not served:
        return None
    options = lookup.get((stay.tensor, stay.layer, stay.base, stay.kind, served[0]), [])
    options = [o for o in options if pieces[o].last_use <= served[-1]]
    is_again = stay.again >= 0
    options = [o for o in options if (pieces[o].again_due >= 0) == is_again]
    return max(options, key=lambda o: (pieces[o].last_use, -pieces[o].end)) if options else None


def _stays(program: Program, mapping: Mapping) -> list[_Stay]:
    """Return the residencies as stays; one that is filled by a write-back goes on from the one before it."""
    layer_of = [*(r.layer for r in mapping.residencies), 0]  # HOME, -1, is the last entry
    source: dict[int, int] = {}
    back: dict[int, tuple[int, int]] = {}
    parts: dict[int, list[Transfer]] = {}
    for x in mapping.transfers:
        if layer_of[x.target] > layer_of[x.source]:
            source[x.target] = layer_of[x.source]
            parts.setdefault(x.target, []).append(x)
        elif x.source != HOME:
            back[x.source] = max((layer_of[x.target], x.done_before), back.get(x.source, (0, -1)))
    follows = {x.target for x in mapping.transfers if layer_of[x.target] < layer_of[x.source] and x.target != HOME}
    fills = mapping.fill_boundaries.tolist()
    first: dict[tuple[int, int, int], list[int]] = {}
    for index, r in enumerate(mapping.residencies):
        first.setdefault((r.tensor, r.layer, r.offset_bytes), []).append(index)
    stays = []
    for index, r in enumerate(mapping.residencies):
        if index in follows:
            continue
        end, last = r.end_step, index
        for later in sorted(first[r.tensor, r.layer, r.offset_bytes], key=lambda i: mapping.residencies[i].start_step):
            if later in follows and mapping.residencies[later].start_step == end:
                end, last = mapping.residencies[later].end_step, later
        kind = COPIED if index in source else BORN
        begun = r.start_step
        if begun == HELD:
            kind = FOREVER if end == program.num_steps and index not in source else HELD_OVER
            again = (mapping.residencies[i].start_step for i in first[r.tensor, r.layer, r.offset_bytes] if i in source)
            begun = max(again, default=0)  # where it is loaded for the next run
        base, done = back.get(last, (0, -1))
        base = source.get(index, base if kind == BORN else 0)
        issue, *cut = _slices(parts.get(index, []))
        times = (kind, begun if issue is None else issue, fills[index], end)
        same = (i for i in first[r.tensor, r.layer, r.offset_bytes] if source.get(i) == 0)
        carrying = [parts[i][-1].start_after + 1 for i in same if _carries(program, mapping, (r.start_step, end), i)]
        placed = (*times, r.offset_bytes, done, *cut, max(carrying, default=-1))
        stays.append(_Stay(r.tensor, r.layer, base, *placed))
    return stays


def _carries(program: Program, mapping: Mapping, steps: tuple[int, int], other: int) -> bool:
    """Whether a residency is there at the end of a loop's body, so that what is there during ``steps`` is in place."""
    start, end = mapping.residencies[other].start_step, mapping.residencies[other].end_step
    loops = (loop for loop in program.loops if loop.trip_count > 1)
    return any(steps[0] <= x.start_step < steps[1] <= start < x.end_step <= end for x in loops)


def _slices(copies: list[Transfer]) -> tuple[int | None, int, int, int]:
    """Return (issue, cut, is_low, late) that come nearest to a residency's copies; (None, 0, 0, -1) of one copy.

    More than two slices become two that are issued when the last of each is, those of the first together at one end of
    the tensor; or a whole copy, issued when the last one is.
    """
    if len(copies) < 2:
        return None, 0, 0, -1
    by_time = sorted(copies, key=lambda x: x.start_after)
    last = by_time[-1].start_after + 1
    found: tuple[int, tuple[int | None, int, int, int]] = (0, (last, 0, 0, -1))
    for count in range(1, len(copies)):
        early, late = by_time[:count], by_time[count:]
        low = min(x.slice_offset_bytes for x in late)
        high = min(x.slice_offset_bytes for x in early)
        issue, size = early[-1].start_after + 1, sum(x.size_bytes for x in early)
        is_low = int(low < high)
        cut = max(low, high)
        is_apart = all((x.slice_offset_bytes >= cut) == (is_low == 1) for x in early)
        is_apart &= all((x.slice_offset_bytes >= cut) == (is_low == 0) for x in late)
        ahead = size * (last - issue)
        if is_apart and ahead > found[0]:
            found = (ahead, (issue, cut, is_low, last))
    return found[1]

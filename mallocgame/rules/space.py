"""The space of each layer: which offsets are free when, and which space may be wanted again. Numba kernels."""

import numpy as np

from mallocgame.jit import jit
from mallocgame.rules.tables import (
    ALIGNMENT,
    BEGIN,
    CAPACITY,
    END,
    FINISH,
    GROUPS,
    HOME_ONLY,
    I64,
    ISSUE,
    LAST,
    OFFSET,
    READS,
    SIZE,
    STEP,
    STEPS,
    TENSOR,
    Rules,
    State,
)


@jit
def rect_begin(s: State, rect: int) -> int:
    """Return the first step of a rectangle: residency ``rect // 2``, or its reload if odd."""
    if rect % 2:
        return int(s.copies[rect - 1, ISSUE])
    return int(max(s.places[rect // 2, BEGIN], 0))


@jit
def put_sorted(offsets: I64, tops: I64, count: int, offset: int, top: int) -> None:
    """Insert [offset, top) into ``count`` intervals that are sorted by offset."""
    j = count
    while j > 0 and offsets[j - 1] > offset:
        offsets[j] = offsets[j - 1]
        tops[j] = tops[j - 1]
        j -= 1
    offsets[j] = offset
    tops[j] = top


@jit
def tightest(offsets: I64, tops: I64, count: int, size: int, unit: int, capacity: int, high: bool) -> int:
    """Return an aligned offset in the tightest gap between ``count`` intervals that holds ``size``, -1: none.

    The lowest in that gap, or with ``high`` the highest.
    """
    free = np.int64(0)
    answer = np.int64(-1)
    slack = np.int64(1) << 62
    for i in range(count + 1):
        until = offsets[i] if i < count else capacity
        if until - free - size >= 0 and until - free - size < slack:
            slack = until - free - size
            answer = free + (slack // unit * unit if high else 0)
        if i < count:
            free = max(free, (tops[i] + unit - 1) // unit * unit)
    return int(answer)


@jit
def find_taken(r: Rules, s: State, layer: int, begin: int, end: int, again: int, num_wishes: int) -> int:
    """Write what is taken over [begin, end) and from ``again`` on (if >= 0) to ``scratch``, sorted; return how many.

    The first ``num_wishes`` of the layer's wishes count as taken.
    """
    limit = 3 * r.dims[GROUPS]
    offsets = s.scratch[:limit]
    tops = s.scratch[limit : 2 * limit]
    earliest = begin if again < 0 else min(begin, again)
    n = 0
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        finish = s.rect_ends[layer, i]
        if finish <= earliest:
            break
        rect = s.rects[layer, i]
        if (finish > begin and rect_begin(s, rect) < end) or (again >= 0 and finish > again):
            offset = s.places[rect // 2, OFFSET]
            put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[rect // 2, TENSOR], SIZE])
            n += 1
    for i in range(num_wishes - 1, -1, -1):
        if s.wish_ends[layer, i] <= begin:
            break
        place = s.wishes[layer, i]
        if s.places[place, FINISH] < end:
            offset = s.places[place, OFFSET]
            put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[place, TENSOR], SIZE])
            n += 1
    return n


@jit
def best_fit(r: Rules, s: State, layer: int, group: int, last: int, begin: int, end: int, again: int) -> int:
    """Return an offset for the tensor of ``group`` in the tightest gap that is free over [begin, end), -1: none.

    With ``again`` >= 0 the gap must be free from there on too. Space that residencies would need to go on to their
    tensors' next uses (wishes) is taken only if nothing else fits, that for the furthest uses first. A tensor that has
    no group after ``last`` goes to the upper end of the gap, away from those that may go on.
    """
    limit = 3 * r.dims[GROUPS]
    offsets = s.scratch[:limit]
    tops = s.scratch[limit : 2 * limit]
    tensor = r.groups[group, TENSOR]
    size, high = r.tensors[tensor, SIZE], last + 1 >= r.tensors[tensor, END]
    unit, capacity = r.layers[layer, ALIGNMENT], r.layers[layer, CAPACITY]
    answer, offset = -1, -1
    enough, too_many = 0, s.wish_counts[layer] + 1  # bisection over the nearest wishes that are kept
    kept = s.wish_counts[layer]
    while enough < too_many - 1 or answer < 0:
        n = find_taken(r, s, layer, begin, end, again, kept)
        offset = tightest(offsets, tops, n, size, unit, capacity, high)
        if offset >= 0:
            answer, enough = offset, kept
        elif kept == 0:
            return -1
        else:
            too_many = kept
        kept = (enough + too_many) // 2 if answer >= 0 else 0
    return answer


@jit
def drop_wish(s: State, layer: int, place: int) -> None:
    """Forget that ``place`` may go on."""
    n = s.wish_counts[layer]
    i = n - 1
    while i >= 0 and s.wishes[layer, i] != place:
        i -= 1
    if i >= 0:
        for j in range(i, n - 1):
            s.wishes[layer, j] = s.wishes[layer, j + 1]
            s.wish_ends[layer, j] = s.wish_ends[layer, j + 1]
        s.wish_counts[layer] = n - 1


@jit
def add_wish(r: Rules, s: State, layer: int, place: int) -> None:
    """Note that ``place`` may go on to the next group that reads."""
    h = s.places[place, LAST] + 1
    end = r.tensors[r.groups[place, TENSOR], END]
    while h < end and r.groups[h, HOME_ONLY] == 1:
        h += 1
    if h >= end or r.groups[h, READS] == 0 or r.groups[h, STEP] < s.places[place, FINISH]:
        return
    n = s.wish_counts[layer]
    while n > 0 and s.wish_ends[layer, n - 1] > r.groups[h, STEP] + 1:
        s.wishes[layer, n] = s.wishes[layer, n - 1]
        s.wish_ends[layer, n] = s.wish_ends[layer, n - 1]
        n -= 1
    s.wishes[layer, n] = place
    s.wish_ends[layer, n] = r.groups[h, STEP] + 1
    s.wish_counts[layer] += 1


@jit
def set_current(s: State, tensor: int, layer: int, place: int) -> None:
    """Let ``place`` (-1: none) be the residency in ``layer`` that may go on."""
    if s.current[tensor, layer] >= 0:
        drop_wish(s, layer, s.current[tensor, layer])
    s.current[tensor, layer] = place


@jit
def free_until(r: Rules, s: State, layer: int, size: int, offset: int, begin: int, own: int) -> int:
    """Return the first step from ``begin`` on at which another residency than ``own`` takes part of the space."""
    until = r.dims[STEPS]
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        if s.rect_ends[layer, i] <= begin:
            break
        rect = s.rects[layer, i]
        place = rect // 2
        if place == own:
            continue
        other = s.places[place, OFFSET]
        if other < offset + size and offset < other + r.tensors[r.groups[place, TENSOR], SIZE]:
            until = min(until, rect_begin(s, rect))
    return int(max(until, begin))


@jit
def add_rect(s: State, layer: int, rect: int, begin: int, end: int, size: int) -> None:
    """Take space over [begin, end)."""
    n = s.rect_counts[layer]
    while n > 0 and s.rect_ends[layer, n - 1] > end:
        s.rects[layer, n] = s.rects[layer, n - 1]
        s.rect_ends[layer, n] = s.rect_ends[layer, n - 1]
        n -= 1
    s.rects[layer, n] = rect
    s.rect_ends[layer, n] = end
    s.rect_counts[layer] += 1
    for t in range(begin, end):
        s.occupied[t, layer] += size


@jit
def drop_rect(s: State, layer: int, rect: int, begin: int, end: int, size: int) -> None:
    """Undo ``add_rect``."""
    n = s.rect_counts[layer] - 1
    carried = s.rects[layer, n]
    carried_end = s.rect_ends[layer, n]
    while carried != rect:
        n -= 1
        carried, s.rects[layer, n] = s.rects[layer, n], carried
        carried_end, s.rect_ends[layer, n] = s.rect_ends[layer, n], carried_end
    s.rect_counts[layer] -= 1
    for t in range(begin, end):
        s.occupied[t, layer] -= size

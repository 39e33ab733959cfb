"""An offset for a new or longer residency: best fit, else by moving others in memory. Numba kernels, changing nothing.

The offset of a residency is a free choice until the game is over: nothing has run yet. So where enough space is free,
but not in one piece, what shares steps with the newcomer is packed anew; ``planned`` has the offsets that this gives.
"""

import numpy as np

from mallocgame.game.rules.occupancy import extent, has_room, meet, put_sorted, rect_begin, settle, tightest
from mallocgame.game.rules.state import Groups, Layers, Movables, Places, Rules, State
from mallocgame.game.rules.views import I64
from mallocgame.jit import jit, part

MOST_MOVED = 64  # residencies that are packed anew
ORDERS = 2  # by size, by duration
ROUNDS = 2  # of taking in what shares steps with what is moved
# columns of the table that a packing is made in; TOP is what may begin above it
_PLACE, _BEGIN, _END, _RELOAD, _OFFSET, _TOP, _SIZE, _DURATION, _COLUMNS = 0, 1, 2, 3, 4, 5, 6, 7, 8


@part
def find_taken(r: Rules, s: State, layer: int, begin: int, end: int, reload_step: int, num_reservations: int) -> int:
    """Write what is taken over [begin, end), and from ``reload_step`` on if >= 0, sorted; return how many intervals.

    They go to ``gap_offsets`` and ``gap_tops``. The first ``num_reservations`` of the layer count as taken.
    """
    offsets, tops = s.gap_offsets, s.gap_tops
    earliest = begin if reload_step < 0 else min(begin, reload_step)
    n = 0
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        finish = s.rect_ends[layer, i]
        if finish <= earliest:
            break
        rect = s.rects[layer, i]
        if (finish > begin and rect_begin(s, rect) < end) or (reload_step >= 0 and finish > reload_step):
            offset = s.planned[rect // 2]
            put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[rect // 2, Groups.TENSOR], Movables.SIZE])
            n += 1
    for i in range(num_reservations - 1, -1, -1):
        if s.reservation_ends[layer, i] <= begin:
            break
        place = s.reservations[layer, i]
        if s.places[place, Places.FINISH] < end:
            offset = s.planned[place]
            put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[place, Groups.TENSOR], Movables.SIZE])
            n += 1
    return n


@part
def best_fit(r: Rules, s: State, layer: int, group: int, last: int, begin: int, end: int, reload_step: int) -> int:
    """Return an offset for the tensor of ``group`` in the tightest gap that is free over [begin, end), -1: none.

    With ``reload_step`` >= 0 the gap must be free from there on too. Reservations, the space that residencies would
    need to go on to their tensors' next uses, are taken only if nothing else fits, that for the furthest uses first.
    A tensor that has no group after ``last`` goes to the upper end of the gap, away from those that may go on. If there
    is no gap, others are moved.
    """
    settle(s, False)
    offsets, tops = s.gap_offsets, s.gap_tops
    tensor = r.groups[group, Groups.TENSOR]
    size, high = r.tensors[tensor, Movables.SIZE], last + 1 >= r.tensors[tensor, Movables.END]
    unit, capacity = r.layers[layer, Layers.ALIGNMENT], r.layers[layer, Layers.CAPACITY]
    if not has_room(r, s, layer, size, begin, end):
        return -1
    if reload_step >= 0 and not has_room(r, s, layer, size, max(reload_step, end), r.num_steps):
        return -1
    answer, offset = -1, -1
    enough, too_many = 0, s.reservation_counts[layer] + 1  # bisection over the nearest reservations that are kept
    kept = s.reservation_counts[layer]
    while enough < too_many - 1 or answer < 0:
        n = find_taken(r, s, layer, begin, end, reload_step, kept)
        offset = tightest(offsets, tops, n, size, unit, capacity, high)
        if offset >= 0:
            answer, enough = offset, kept
        elif kept == 0:
            return repack(r, s, layer, group, (begin, end, reload_step))
        else:
            too_many = kept
        kept = (enough + too_many) // 2 if answer >= 0 else 0
    return answer


@part
def gather(s: State, layer: int, span: tuple[int, int, int], count: int, table: I64, seen: int) -> tuple[int, int]:
    """Add to the ``count`` residencies in ``moved`` what shares a step with ``span``, and mark it.

    Return how many there are, and from which of the layer's rectangles on ``table`` has the extents; before: ``seen``.
    """
    i = s.rect_counts[layer] - 1
    while i >= 0 and s.rect_ends[layer, i] > span[0] and count < MOST_MOVED:
        place = s.rects[layer, i] // 2
        row = table[i]
        if i < seen:
            row[_PLACE] = place
            row[_BEGIN], row[_END], row[_RELOAD] = extent(s, place)
            seen = i
        if s.marks[place] == 0 and meet((row[_BEGIN], row[_END], row[_RELOAD]), span):
            s.marks[place] = 1
            s.moved[count] = place
            count += 1
        i -= 1
    return count, seen


@part
def list_fixed(r: Rules, s: State, layer: int, earliest: int, table: I64, by_offset: I64) -> int:
    """Write the layer's rectangles that stay and end after ``earliest`` to ``table``; return how many.

    ``by_offset`` gets their rows, the lowest offset first.
    """
    n = 0
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        if s.rect_ends[layer, i] <= earliest:
            break
        rect = s.rects[layer, i]
        place = rect // 2
        if s.marks[place] == 0:
            row = table[n]
            row[_BEGIN], row[_END], row[_RELOAD] = rect_begin(s, rect), s.rect_ends[layer, i], -1
            row[_OFFSET] = s.planned[place]
            row[_TOP] = aligned(r, layer, row[_OFFSET] + r.tensors[r.groups[place, Groups.TENSOR], Movables.SIZE])
            put_row(table, by_offset, n, n)
            n += 1
    return n


@part
def aligned(r: Rules, layer: int, top: int) -> int:
    """Return the first offset from ``top`` on that something may begin at."""
    unit = r.layers[layer, Layers.ALIGNMENT]
    return int((top + unit - 1) // unit * unit)


@part
def put_row(table: I64, by_offset: I64, count: int, row: int) -> None:
    """Insert a row into ``count`` rows that are sorted by offset."""
    offset, j = table[row, _OFFSET], count
    while j > 0 and table[by_offset[j - 1], _OFFSET] > offset:
        by_offset[j] = by_offset[j - 1]
        j -= 1
    by_offset[j] = row


@part
def list_moved(r: Rules, s: State, own: int, span: tuple[int, int, int], count: int, table: I64) -> None:
    """Write the first ``count`` of ``moved`` to ``table``."""
    for i in range(count):
        place = s.moved[i]
        begin, end, reload_step = span if place == own else extent(s, place)
        row = table[i]
        row[_PLACE], row[_BEGIN], row[_END], row[_RELOAD] = place, begin, end, reload_step
        row[_SIZE] = r.tensors[r.groups[place, Groups.TENSOR], Movables.SIZE]
        row[_DURATION] = end - begin + (r.num_steps - reload_step if reload_step >= 0 else 0)


@part
def put_in_order(s: State, table: I64, order: int, count: int, ranks: I64) -> None:
    """Write the rows of ``table`` to ``ranks``, the largest, or the longest, first; ``moved`` follows."""
    key, tie = (_SIZE, _DURATION) if order == 0 else (_DURATION, _SIZE)
    for i in range(count):
        row = ranks[i] if order > 0 else i
        j = i
        while j > 0 and (
            table[ranks[j - 1], key] < table[row, key]
            or (table[ranks[j - 1], key] == table[row, key] and table[ranks[j - 1], tie] < table[row, tie])
        ):
            ranks[j] = ranks[j - 1]
            j -= 1
        ranks[j] = row
    for i in range(count):
        s.moved[i] = table[ranks[i], _PLACE]


@part
def pack(r: Rules, layer: int, table: I64, ranks: I64, by_offset: I64, fixed: int, count: int) -> bool:
    """Place ``count`` rows beside those that are there; return whether all fit.

    Args:
        r: the game.
        layer: where.
        table: the rows, first the ``fixed`` ones that are there.
        ranks: the rows to be placed, counted from ``fixed``, in this order.
        by_offset: the rows that are there, the lowest offset first; those that are placed come in.
        fixed: how many are there.
        count: how many are to be placed.
    """
    capacity = r.layers[layer, Layers.CAPACITY]
    for i in range(count):
        row = table[fixed + ranks[i]]
        span, size = (row[_BEGIN], row[_END], row[_RELOAD]), row[_SIZE]
        free, answer, slack = np.int64(0), np.int64(-1), np.int64(1) << 62
        for j in range(fixed + i + 1):  # as in ``tightest``
            until, top = capacity, free
            if j < fixed + i:
                other = table[by_offset[j]]
                if not meet((other[_BEGIN], other[_END], other[_RELOAD]), span):
                    continue
                until, top = other[_OFFSET], other[_TOP]
            if 0 <= until - free - size < slack:
                slack, answer = until - free - size, free
            free = max(free, top)
        if answer < 0:
            return False
        row[_OFFSET], row[_TOP] = answer, aligned(r, layer, answer + size)
        put_row(table, by_offset, fixed + i, fixed + ranks[i])
    return True


@jit
def repack(r: Rules, s: State, layer: int, own: int, span: tuple[int, int, int]) -> int:
    """Return an offset for residency ``own`` over ``span`` (see ``extent``), moving others; -1: none was found."""
    settle(s, False)
    rects = s.rect_counts[layer]
    extents = np.empty((rects, _RELOAD + 1), dtype=np.int64)
    table = np.empty((rects + MOST_MOVED, _COLUMNS), dtype=np.int64)
    lists = np.empty((3, rects + MOST_MOVED), dtype=np.int64)
    ranks, there, by_offset = lists[0], lists[1], lists[2]
    s.moved[0] = own
    s.marks[own] = 1
    count, seen = gather(s, layer, span, 1, extents, rects)
    done, fixed = False, 0
    for rounds in range(ROUNDS):
        known = count if rounds > 0 else 0
        for i in range(known):
            if s.moved[i] != own:
                count, seen = gather(s, layer, extent(s, s.moved[i]), count, extents, seen)
        if count == known:
            break
        earliest = span[0]
        for i in range(count):
            if s.moved[i] != own:
                earliest = min(earliest, extent(s, s.moved[i])[0])
        fixed = list_fixed(r, s, layer, earliest, table, there)
        list_moved(r, s, own, span, count, table[fixed:])
        for order in range(ORDERS):
            if not done:
                put_in_order(s, table[fixed:], order, count, ranks)
                for i in range(fixed):
                    by_offset[i] = there[i]
                done = pack(r, layer, table, ranks, by_offset, fixed, count)
        if done:
            for i in range(fixed, fixed + count):
                s.planned[table[i, _PLACE]] = table[i, _OFFSET]
            break
    for i in range(count):
        s.marks[s.moved[i]] = 0
    if not done:
        return -1
    s.moved_count[0] = count
    return int(s.planned[own])

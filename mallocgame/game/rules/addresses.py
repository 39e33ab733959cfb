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
# columns of the table that a packing is made in; before a row is placed its TOP is its size
_PLACE, _BEGIN, _END, _RELOAD, _OFFSET, _TOP, _KEY, _TIE, _COLUMNS = 0, 1, 2, 3, 4, 5, 6, 7, 8


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
def gather(s: State, layer: int, own: int, span: tuple[int, int, int], count: int) -> int:
    """Add to the ``count`` residencies in ``moved`` what shares a step with ``span``, and mark it; return how many."""
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        if s.rect_ends[layer, i] <= span[0] or count == MOST_MOVED:
            break
        place = s.rects[layer, i] // 2
        if place != own and s.marks[place] == 0 and meet(extent(s, place), span):
            s.marks[place] = 1
            s.moved[count] = place
            count += 1
    return count


@part
def list_fixed(r: Rules, s: State, layer: int, earliest: int, table: I64) -> int:
    """Write the layer's rectangles that stay and end after ``earliest`` to ``table``; return how many."""
    n = 0
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        if s.rect_ends[layer, i] <= earliest:
            break
        rect = s.rects[layer, i]
        if s.marks[rect // 2] == 0:
            row = table[n]
            row[_PLACE], row[_BEGIN], row[_END], row[_RELOAD] = (
                rect // 2,
                rect_begin(s, rect),
                s.rect_ends[layer, i],
                -1,
            )
            row[_OFFSET] = s.planned[rect // 2]
            row[_TOP] = row[_OFFSET] + r.tensors[r.groups[rect // 2, Groups.TENSOR], Movables.SIZE]
            n += 1
    return n


@part
def list_moved(r: Rules, s: State, own: int, span: tuple[int, int, int], count: int, order: int, table: I64) -> None:
    """Write the first ``count`` of ``moved`` to ``table``, and sort both: the largest, or the longest, first."""
    for i in range(count):
        place = s.moved[i]
        begin, end, reload_step = span if place == own else extent(s, place)
        size = r.tensors[r.groups[place, Groups.TENSOR], Movables.SIZE]
        duration = end - begin + (r.num_steps - reload_step if reload_step >= 0 else 0)
        key, tie = (size, duration) if order == 0 else (duration, size)
        j = i
        while j > 0 and (table[j - 1, _KEY] < key or (table[j - 1, _KEY] == key and table[j - 1, _TIE] < tie)):
            for column in range(_COLUMNS):
                table[j, column] = table[j - 1, column]
            s.moved[j] = s.moved[j - 1]
            j -= 1
        s.moved[j] = place
        row = table[j]
        row[_PLACE], row[_BEGIN], row[_END], row[_RELOAD], row[_OFFSET], row[_TOP] = (
            place,
            begin,
            end,
            reload_step,
            0,
            size,
        )
        row[_KEY], row[_TIE] = key, tie


@part
def pack(r: Rules, s: State, layer: int, table: I64, first: int, count: int) -> bool:
    """Place rows [first, first + count) of ``table`` beside the rows before each of them; return whether all fit."""
    offsets, tops = s.gap_offsets, s.gap_tops
    unit, capacity = r.layers[layer, Layers.ALIGNMENT], r.layers[layer, Layers.CAPACITY]
    for i in range(first, first + count):
        begin, end, reload_step = table[i, _BEGIN], table[i, _END], table[i, _RELOAD]
        n = 0
        for j in range(i):
            row = table[j]
            if meet((row[_BEGIN], row[_END], row[_RELOAD]), (begin, end, reload_step)):
                put_sorted(offsets, tops, n, row[_OFFSET], row[_TOP])
                n += 1
        size = table[i, _TOP]
        offset = tightest(offsets, tops, n, size, unit, capacity, False)
        if offset < 0:
            return False
        table[i, _OFFSET], table[i, _TOP] = offset, offset + size
    return True


@jit
def repack(r: Rules, s: State, layer: int, own: int, span: tuple[int, int, int]) -> int:
    """Return an offset for residency ``own`` over ``span`` (see ``extent``), moving others; -1: none was found."""
    settle(s, False)
    table = np.empty((s.rect_counts[layer] + MOST_MOVED, _COLUMNS), dtype=np.int64)
    s.moved[0] = own
    s.marks[own] = 1
    count = gather(s, layer, own, span, 1)
    done = False
    for rounds in range(ROUNDS):
        known = count if rounds > 0 else 0
        for i in range(known):
            if s.moved[i] != own:
                count = gather(s, layer, own, extent(s, s.moved[i]), count)
        if count == known:
            break
        earliest = span[0]
        for i in range(count):
            if s.moved[i] != own:
                earliest = min(earliest, extent(s, s.moved[i])[0])
        fixed = list_fixed(r, s, layer, earliest, table)
        for order in range(ORDERS):
            if not done:
                list_moved(r, s, own, span, count, order, table[fixed:])
                done = pack(r, s, layer, table, fixed, count)
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

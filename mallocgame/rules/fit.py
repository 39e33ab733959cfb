"""An offset for a new or longer residency: best fit, else by moving others in memory. Numba kernels, changing nothing.

The offset of a residency is a free choice until the game is over: nothing has run yet. So where enough space is free,
but not in one piece, what shares steps with the newcomer is packed anew; ``planned`` has the offsets that this gives.
"""

from mallocgame.jit import jit
from mallocgame.rules.space import extent, has_room, meet, put_sorted, rect_begin, settle, tightest
from mallocgame.rules.tables import (
    ALIGNMENT,
    CAPACITY,
    END,
    FINISH,
    GROUPS,
    SIZE,
    STEPS,
    TENSOR,
    Rules,
    State,
)

MOST_MOVED = 64  # residencies that are packed anew
ORDERS = 2  # by size, by duration
ROUNDS = 2  # of taking in what shares steps with what is moved


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
            offset = s.planned[rect // 2]
            put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[rect // 2, TENSOR], SIZE])
            n += 1
    for i in range(num_wishes - 1, -1, -1):
        if s.wish_ends[layer, i] <= begin:
            break
        place = s.wishes[layer, i]
        if s.places[place, FINISH] < end:
            offset = s.planned[place]
            put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[place, TENSOR], SIZE])
            n += 1
    return n


@jit
def best_fit(r: Rules, s: State, layer: int, group: int, last: int, begin: int, end: int, again: int) -> int:
    """Return an offset for the tensor of ``group`` in the tightest gap that is free over [begin, end), -1: none.

    With ``again`` >= 0 the gap must be free from there on too. Space that residencies would need to go on to their
    tensors' next uses (wishes) is taken only if nothing else fits, that for the furthest uses first. A tensor that has
    no group after ``last`` goes to the upper end of the gap, away from those that may go on. If there is no gap, others
    are moved.
    """
    settle(s, False)
    limit = 3 * r.dims[GROUPS]
    offsets = s.scratch[:limit]
    tops = s.scratch[limit : 2 * limit]
    tensor = r.groups[group, TENSOR]
    size, high = r.tensors[tensor, SIZE], last + 1 >= r.tensors[tensor, END]
    unit, capacity = r.layers[layer, ALIGNMENT], r.layers[layer, CAPACITY]
    if not has_room(r, s, layer, size, begin, end):
        return -1
    if again >= 0 and not has_room(r, s, layer, size, max(again, end), r.dims[STEPS]):
        return -1
    answer, offset = -1, -1
    enough, too_many = 0, s.wish_counts[layer] + 1  # bisection over the nearest wishes that are kept
    kept = s.wish_counts[layer]
    while enough < too_many - 1 or answer < 0:
        n = find_taken(r, s, layer, begin, end, again, kept)
        offset = tightest(offsets, tops, n, size, unit, capacity, high)
        if offset >= 0:
            answer, enough = offset, kept
        elif kept == 0:
            return repack(r, s, layer, group, (begin, end, again))
        else:
            too_many = kept
        kept = (enough + too_many) // 2 if answer >= 0 else 0
    return answer


@jit
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


@jit
def fit_beside(r: Rules, s: State, layer: int, own: int, span: tuple[int, int, int], place: int) -> int:
    """Return an offset for ``place`` beside what is not marked 1 (``own`` would take ``span``), -1: none."""
    limit = 3 * r.dims[GROUPS]
    offsets = s.scratch[:limit]
    tops = s.scratch[limit : 2 * limit]
    mine = span if place == own else extent(s, place)
    n = 0
    if place != own and s.marks[own] != 1 and meet(span, mine):
        put_sorted(offsets, tops, n, s.planned[own], s.planned[own] + r.tensors[r.groups[own, TENSOR], SIZE])
        n = 1
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        if s.rect_ends[layer, i] <= mine[0]:
            break
        other = s.rects[layer, i] // 2
        if other != own and other != place and s.marks[other] != 1 and meet(extent(s, other), mine):
            offset = s.planned[other]
            put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[other, TENSOR], SIZE])
            n += 1
    size = r.tensors[r.groups[place, TENSOR], SIZE]
    return tightest(offsets, tops, n, size, r.layers[layer, ALIGNMENT], r.layers[layer, CAPACITY], False)


@jit
def pack_key(r: Rules, s: State, own: int, span: tuple[int, int, int], place: int, order: int) -> tuple[int, int]:
    """Return what ``place`` is sorted by: its size, then its steps, or the reverse."""
    begin, end, again = span if place == own else extent(s, place)
    size = int(r.tensors[r.groups[place, TENSOR], SIZE])
    duration = int(end - begin + (r.dims[STEPS] - again if again >= 0 else 0))
    return (size, duration) if order == 0 else (duration, size)


@jit
def pack(r: Rules, s: State, layer: int, own: int, span: tuple[int, int, int], count: int, order: int) -> bool:
    """Place the first ``count`` of ``moved`` one after the other, the largest key first; return whether all fit."""
    for i in range(count):
        place = s.moved[i]
        s.marks[place] = 1
        key = pack_key(r, s, own, span, place, order)
        j = i
        while j > 0 and pack_key(r, s, own, span, s.moved[j - 1], order) < key:
            s.moved[j] = s.moved[j - 1]
            j -= 1
        s.moved[j] = place
    for i in range(count):
        place = s.moved[i]
        offset = fit_beside(r, s, layer, own, span, place)
        if offset < 0:
            return False
        s.planned[place] = offset
        s.marks[place] = 2
    return True


@jit
def repack(r: Rules, s: State, layer: int, own: int, span: tuple[int, int, int]) -> int:
    """Return an offset for residency ``own`` over ``span`` (see ``extent``), moving others; -1: none was found."""
    settle(s, False)
    s.moved[0] = own
    s.marks[own] = 1
    count = gather(s, layer, own, span, 1)
    done = False
    known = 0
    for rounds in range(ROUNDS):
        if rounds > 0:
            known = count
            for i in range(known):
                if s.moved[i] != own:
                    count = gather(s, layer, own, extent(s, s.moved[i]), count)
        for order in range(ORDERS):
            done = done or (count > known and pack(r, s, layer, own, span, count, order))
    for i in range(count):
        s.marks[s.moved[i]] = 0
    s.moved_count[0] = count
    if not done:
        settle(s, False)
        return -1
    return int(s.planned[own])

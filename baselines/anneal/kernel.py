"""Annealing over sets of candidates, in one Numba loop: insert with ejection, remove, retime, slice, move in space.

Every move is judged by the judge's own timeline. Traffic is kept in integers, so undoing a move leaves no trace.
"""

import numpy as np

from mallocgame.baselines.anneal.nest import goes_with, is_inside, is_right, kin, leans_on, outer_of
from mallocgame.baselines.anneal.space import fit, neighbours, occupies, place_sliced, set_span
from mallocgame.baselines.anneal.state import COPIED, HELD_OVER, I64, Choice, Tables
from mallocgame.baselines.anneal.timing import judge, put, take
from mallocgame.jit import jit, kernel

MAX_EJECTED = 24
SLICED = 0.3  # share of the insertions without room that try two slices first
RESLICED = 0.06  # share of new times that try two slices


@kernel
def draw_times(p: Tables, s: Choice, c: int, earliest: int) -> None:
    """Choose when c's copies are issued and due: early enough for a random multiple of the work to be hidden.

    Nothing is issued before ``earliest``. The copy is whole.
    """
    generosity = 0.5 + 2.5 * np.random.random()
    if np.random.random() < 0.15:
        generosity = 20.0
    k = p.link[c]
    s.cut[c] = 0
    if p.kind[c] == COPIED or p.kind[c] == HELD_OVER:
        boundary = p.latest[c]
        need = generosity * p.in_seconds[c] * p.context_trips[boundary]
        s.issue[c] = boundary
        earliest = max(earliest, p.start[c])
        while boundary > earliest and need > 0.0:
            boundary -= 1
            need -= s.idle[boundary, k]
            if p.context[boundary] == p.context[p.due[c]]:
                s.issue[c] = boundary
    if p.back_issue[c] >= 0:
        boundary = p.back_issue[c]
        need = generosity * p.in_seconds[c] * p.context_trips[boundary]
        s.back[c] = boundary
        while boundary < p.back_due[c] and need > 0.0:
            need -= s.idle[boundary, k]
            boundary += 1
            if p.context[boundary] == p.context[p.back_issue[c]]:
                s.back[c] = boundary
    set_span(p, s, c)


@kernel
def draw_inside(p: Tables, s: Choice, c: int) -> bool:
    """Draw c's times; False if c leans on a candidate that is not chosen."""
    if p.base[c] == 0:
        draw_times(p, s, c, 0)
        return True
    outer = outer_of(p, s, c)
    if outer < 0:
        return False
    earliest = s.begin[outer, 0]
    if p.kind[outer] == COPIED:
        earliest = max(p.due[outer], s.issue[outer] + 1)
    draw_times(p, s, c, earliest)
    return True


@kernel
def take_out(p: Tables, s: Choice, c: int, instead: int, ejected: I64, moved_from: I64, n: int) -> int:
    """Take c out, and what leans on it unless it may lean on ``instead`` (-1: nothing).

    Returns how many are ejected then; -1: too many, with nothing changed.
    """
    begun = n
    if p.layer[c] < p.layer_speed.shape[0] - 1:
        for i in range(s.number[0] - 1, -1, -1):
            other = s.chosen[i]
            if other != c and leans_on(p, other, c):
                if instead >= 0 and p.base[other] == p.layer[instead] and is_inside(p, s, other, instead):
                    continue
                if n == MAX_EJECTED:
                    break
                ejected[n], moved_from[n] = other, -1
                n += 1
                take(p, s, other)
    if n == MAX_EJECTED:
        put_back(p, s, ejected, moved_from, begun, n)
        return -1
    ejected[n], moved_from[n] = c, -1
    take(p, s, c)
    return n + 1


@kernel
def put_back(p: Tables, s: Choice, ejected: I64, moved_from: I64, first: int, n: int) -> None:
    """Undo what was done to ``ejected[first:n]``."""
    for i in range(n - 1, first - 1, -1):
        if moved_from[i] >= 0:
            s.offset[ejected[i]] = moved_from[i]
        else:
            put(p, s, ejected[i])


@kernel
def eject_rivals(p: Tables, s: Choice, c: int, ejected: I64, moved_from: I64) -> int:
    """Take out what cannot be chosen beside c for the same tensor; return how many, -1 (nothing changed): too many."""
    n = 0
    first = kin(p, s, c)
    i = first
    while i < s.number[0] and s.chosen[i] < p.kin_end[c]:
        i += 1
    i -= 1
    while i >= first:
        other = s.chosen[i]
        if p.tensor[other] == p.tensor[c] and not goes_with(p, s, c, other):
            m = take_out(p, s, other, c, ejected, moved_from, n)
            if m < 0:
                put_back(p, s, ejected, moved_from, 0, n)
                return -1
            n = m
            i = min(i, s.number[0])
        i -= 1
    return n


@kernel
def least_in_the_way(p: Tables, s: Choice, c: int, near: I64, m: int) -> int:
    """Return an offset for c, of four random ones beside its m neighbours, that overlaps the fewest bytes of them."""
    fewest, offset = 1 << 62, 0
    room = p.capacity[p.layer[c]] - p.size[c]
    for _ in range(4):
        at = 0
        if m > 0:
            other = np.random.randint(m)
            at = int(near[other, 2] if np.random.random() < 0.5 else near[other, 1] - p.size[c])
            if np.random.random() < 0.34:
                at = int(near[other, 1])
        at = min(max(at, 0), int(room))
        cost = 0
        for i in range(m):
            if near[i, 1] < at + p.size[c] and at < near[i, 2]:
                cost += int(p.size[near[i, 0]])
        if cost < fewest:
            fewest, offset = cost, at
    return offset


@kernel
def insert(p: Tables, s: Choice, c: int, ejected: I64, moved_from: I64, near: I64) -> int:
    """Choose c with fresh times, ejecting what is in its way; what finds other space stays. Return how many moved.

    ``ejected[i]`` is a candidate that was taken out, or moved from offset ``moved_from[i]`` if that is >= 0.
    Returns -1, with nothing changed, if too many would have to move or what c leans on is not there.
    """
    if not draw_inside(p, s, c):
        return -1
    n = eject_rivals(p, s, c, ejected, moved_from)
    if n < 0:
        return -1
    if p.base[c] > 0 and outer_of(p, s, c) < 0:
        put_back(p, s, ejected, moved_from, 0, n)
        return -1
    own = n
    found = near[0]
    m = neighbours(p, s, c, found)
    offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, np.random.random() < 0.5)
    if offset < 0 and np.random.random() < SLICED and place_sliced(p, s, c, found, m, near[1]):
        offset = s.offset[c]
    if offset < 0:
        offset = least_in_the_way(p, s, c, found, m)
        for i in range(m):
            if found[i, 1] < offset + p.size[c] and offset < found[i, 2]:
                if n == MAX_EJECTED:
                    put_back(p, s, ejected, moved_from, 0, n)
                    return -1
                ejected[n], moved_from[n] = found[i, 0], -1
                n += 1
                take(p, s, found[i, 0])
    s.offset[c] = offset
    put(p, s, c)
    return find_room(p, s, c, ejected, moved_from, own, n, found)


@kernel
def find_room(p: Tables, s: Choice, c: int, ejected: I64, moved_from: I64, first: int, n: int, found: I64) -> int:
    """Put what finds other space back: of ``ejected[first:n]``; what leans on the others goes, too."""
    for i in range(first, n):
        other = ejected[i]
        m = neighbours(p, s, other, found)
        offset = fit(p.capacity[p.layer[other]], p.size[other], found, m, True)
        if offset >= 0:
            moved_from[i] = s.offset[other]
            s.offset[other] = offset
            put(p, s, other)
    last = n
    for i in range(first, n):
        outer = ejected[i]
        if moved_from[i] >= 0 or p.layer[outer] == p.layer_speed.shape[0] - 1:
            continue
        for j in range(s.number[0] - 1, -1, -1):
            other = s.chosen[j]
            if other != c and leans_on(p, other, outer):
                if last == MAX_EJECTED:
                    take(p, s, c)
                    put_back(p, s, ejected, moved_from, 0, last)
                    return -1
                ejected[last], moved_from[last] = other, -1
                last += 1
                take(p, s, other)
    return last


@kernel
def restore(p: Tables, s: Choice, c: int, ejected: I64, moved_from: I64, n: int) -> None:
    """Undo ``insert``."""
    take(p, s, c)
    put_back(p, s, ejected, moved_from, 0, n)


@kernel
def retime(p: Tables, s: Choice, c: int, near: I64) -> bool:
    """Give c fresh times and, if it must or by chance, another offset or two slices; False if it then fits nowhere."""
    if not draw_inside(p, s, c) or not is_right(p, s, c):
        return False
    found = near[0]
    m = neighbours(p, s, c, found)
    draw = np.random.random()
    if draw < RESLICED and place_sliced(p, s, c, found, m, near[1]):
        return True
    if draw < RESLICED + 0.2 or occupies(p, s, c, found, m, near[1]):
        offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, np.random.random() < 0.5)
        if offset < 0:
            return np.random.random() < SLICED and place_sliced(p, s, c, found, m, near[1])
        s.offset[c] = offset
    return True


@jit
def anneal(
    p: Tables, s: Choice, best: I64, best_total: float, iterations: int, hot: float, cold: float, seed: int
) -> float:
    """Run ``iterations`` moves with the temperature (seconds) falling from ``hot`` to ``cold``; return the best total.

    ``best`` int64[C + 1, ROW] holds the best choice: the columns of ``state.ROW``, how many in ``best[-1, 0]``.
    """
    np.random.seed(seed)
    num = p.tensor.shape[0]
    near = np.empty((2, num, 3), dtype=np.int64)
    ejected = np.empty(MAX_EJECTED, dtype=np.int64)
    moved_from = np.empty(MAX_EJECTED, dtype=np.int64)
    temperature = hot
    cooling = (cold / hot) ** (1.0 / max(iterations, 1))
    for _ in range(iterations):
        temperature *= cooling
        draw = np.random.random()
        before = s.total[0]
        threshold = before - temperature * np.log(max(np.random.random(), 1e-300))
        if draw < 0.6 or s.number[0] == 0:
            c = min(int(np.searchsorted(p.cumulative, np.random.random() * p.cumulative[-1])), num - 1)
            if s.is_chosen[c]:
                continue
            n = insert(p, s, c, ejected, moved_from, near)
            if n < 0:
                continue
            after = judge(p, s, threshold)
            if after <= threshold:
                s.total[0] = after
            else:
                restore(p, s, c, ejected, moved_from, n)
        elif draw < 0.75:
            c = s.chosen[np.random.randint(s.number[0])]
            n = take_out(p, s, c, -1, ejected, moved_from, 0)
            if n < 0:
                continue
            after = judge(p, s, threshold)
            if after <= threshold:
                s.total[0] = after
            else:
                put_back(p, s, ejected, moved_from, 0, n)
        else:
            c = s.chosen[np.random.randint(s.number[0])]
            issue, back, offset, cut, is_low, late = (
                s.issue[c],
                s.back[c],
                s.offset[c],
                s.cut[c],
                s.is_low[c],
                s.late[c],
            )
            after = np.inf
            if retime(p, s, c, near):
                after = judge(p, s, threshold)
            if after <= threshold:
                s.total[0] = after
            else:
                s.issue[c], s.back[c], s.offset[c] = issue, back, offset
                s.cut[c], s.is_low[c], s.late[c] = cut, is_low, late
                set_span(p, s, c)
        if s.total[0] < best_total:
            best_total = s.total[0]
            save(s, best)
    return best_total


@jit
def construct(p: Tables, s: Choice, order: I64, near: I64, seed: int) -> None:
    """Add candidates in this order where they fit beside what is chosen, and where the judge agrees."""
    np.random.seed(seed)
    for c in order:
        if s.is_chosen[c] or not draw_inside(p, s, c) or not is_right(p, s, c):
            continue
        found = near[0]
        m = neighbours(p, s, c, found)
        offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, True)
        if offset < 0 and not place_sliced(p, s, c, found, m, near[1]):
            continue
        if offset >= 0:
            s.offset[c] = offset
        put(p, s, c)
        after = judge(p, s, s.total[0])
        if after < s.total[0]:
            s.total[0] = after
        else:
            take(p, s, c)


@kernel
def save(s: Choice, best: I64) -> None:
    """Copy what is chosen into ``best`` (see ``anneal``)."""
    for i in range(s.number[0]):
        c = s.chosen[i]
        best[i, 0], best[i, 1], best[i, 2], best[i, 3] = c, s.issue[c], s.back[c], s.offset[c]
        best[i, 4], best[i, 5], best[i, 6] = s.cut[c], s.is_low[c], s.late[c]
    best[-1, 0] = s.number[0]

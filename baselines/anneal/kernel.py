"""Annealing over sets of candidates, in one Numba loop.

Every move is judged by the judge's own timeline. Traffic is kept in integers, so undoing a move leaves no trace.
"""

import numpy as np

from mallocgame.baselines.anneal.cutting import cut_in
from mallocgame.baselines.anneal.journal import put_noted, undo
from mallocgame.baselines.anneal.moves import (
    another_run,
    draw_inside,
    graft,
    insert,
    late_copy,
    refill,
    retime,
    stands_in,
    take_out,
    weigh,
)
from mallocgame.baselines.anneal.nest import goes_with, is_right, kin
from mallocgame.baselines.anneal.space import fit, meet, neighbours, occupies, place_sliced, set_span, slices_meet
from mallocgame.baselines.anneal.state import COPIED, HELD_OVER, I64, Choice, Tables
from mallocgame.baselines.anneal.timing import forget, judge, judge_all, keep, put, take
from mallocgame.jit import kernel, part

INSERT, REFILL, REMOVE, RETIME, AGAIN, EXCHANGE, LATE, CUT, GRAFT = range(9)
SHARES = (0.19, 0.18, 0.1, 0.15, 0.1, 0.1, 0.1, 0.04, 0.04)  # of each kind of move


@part
def draw_move() -> int:
    """Return which move to make."""
    draw = np.random.random()
    what = 0
    while what < GRAFT and draw >= SHARES[what]:
        draw -= SHARES[what]
        what += 1
    return what


@part
def draw_candidate(p: Tables, s: Choice, what: int) -> int:
    """Return what a move is about; -1: nothing."""
    if what == LATE:
        return late_copy(p, s)
    if what not in (INSERT, REFILL, CUT):
        return int(s.chosen[np.random.randint(s.number[0])])
    c = min(int(np.searchsorted(s.drawn, np.random.random() * s.drawn[-1])), p.tensor.shape[0] - 1)
    return -1 if s.is_chosen[c] else c


@part
def move(p: Tables, s: Choice, what: int, other: I64) -> bool:
    """Make a move; False where there is nothing to judge (what it did is noted all the same).

    Each of its parts is called from one place: what is called from two is compiled twice.
    """
    if s.number[0] == 0:
        what = INSERT
    elif what == GRAFT and other[-1, 0] > 0:
        return graft(p, s, other)
    c = instead = draw_candidate(p, s, what)
    if what in (LATE, GRAFT):
        what = (AGAIN, RETIME, EXCHANGE)[np.random.randint(3)]
    if what == EXCHANGE and c >= 0:
        instead = another_run(p, s, c)
    if instead < 0:
        return False
    if what == RETIME:
        return retime(p, s, c)
    if what == CUT:
        return cut_in(p, s, c)
    if what not in (INSERT, REFILL):
        is_out = take_out(p, s, c, -1 if what == REMOVE else instead)
        if what == REMOVE or not is_out:
            return is_out
    if not draw_inside(p, s, instead):
        return False
    if what == EXCHANGE and stands_in(p, s, instead, c):
        return put_noted(p, s, instead)
    return insert(p, s, instead) and (what != REFILL or refill(p, s))


@part
def try_move(p: Tables, s: Choice, what: int, other: I64, limit: float) -> float:
    """Make a move; return the seconds then, infinity above ``limit`` and if it cannot be made: keep it or undo it."""
    forget(p, s)
    return judge(p, s, limit) if move(p, s, what, other) else np.inf


@part
def accept(p: Tables, s: Choice, after: float) -> None:
    """Keep what a move did, and its seconds."""
    s.changes[0] = 0
    s.total[0] = after
    keep(p, s)


@kernel
def anneal(
    p: Tables,
    s: Choice,
    best: I64,
    best_total: float,
    other: I64,
    iterations: int,
    temperature: float,
    seed: int,
) -> float:
    """Run ``iterations`` moves at a temperature in seconds; return the best total.

    ``best`` int64[C + 1, ROW] holds the best choice: the columns of ``state.ROW``, how many in ``best[-1, 0]``;
    ``other`` in the same way one that stretches are taken over from (it may hold nothing).
    """
    np.random.seed(seed)
    s.total[0] = judge_all(p, s)
    weigh(p, s)
    for _ in range(iterations):
        what = draw_move()
        threshold = s.total[0] - temperature * np.log(max(np.random.random(), 1e-300))
        after = try_move(p, s, what, other, threshold)
        if after > threshold:
            undo(p, s)
            continue
        accept(p, s, after)
        if after < best_total:
            best_total = after
            save(s, best)
    return best_total


@kernel
def construct(p: Tables, s: Choice, order: I64, seed: int) -> None:
    """Add candidates in this order where they fit beside what is chosen, and where the judge agrees."""
    np.random.seed(seed)
    for c in order:
        if s.is_chosen[c] or not draw_inside(p, s, c) or not is_right(p, s, c):
            continue
        found = s.near[0]
        m = neighbours(p, s, c, found)
        offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, True)
        if offset < 0 and not place_sliced(p, s, c, found, m, s.near[1]):
            continue
        if offset >= 0:
            s.offset[c] = offset
        forget(p, s)
        put(p, s, c)
        after = judge(p, s, s.total[0])
        if after < s.total[0]:
            s.total[0] = after
            keep(p, s)
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


@kernel
def load(p: Tables, s: Choice, best: I64) -> None:
    """Choose what ``best`` holds, where nothing is chosen yet."""
    for i in range(best[-1, 0]):
        c = best[i, 0]
        s.issue[c], s.back[c], s.offset[c] = best[i, 1], best[i, 2], best[i, 3]
        s.cut[c], s.is_low[c], s.late[c] = best[i, 4], best[i, 5], best[i, 6]
        set_span(p, s, c)
        put(p, s, c)
    s.total[0] = judge_all(p, s)


@kernel
def adopt(p: Tables, s: Choice, wanted: I64, is_shifted: bool, is_judged: bool) -> float:
    """Choose what a mapping holds; return the seconds then, infinity where a link holds too many copies.

    ``wanted`` int64[N, ROW] has the columns of ``state.ROW``. What does not go beside the rest as it is goes as near to
    it as may be if ``is_shifted``, else it is left out. ``is_judged``: what is one copy too many is left out, too.
    """
    np.random.seed(0)  # times that the mapping does not say are drawn: each call begins alike
    clear(p, s)
    judge_all(p, s)
    for row in wanted:
        c = row[0]
        if s.is_chosen[c] or not draw_inside(p, s, c):
            continue
        set_as_wanted(p, s, row)
        if not stands(p, s, c) and not (is_shifted and shift(p, s, c)):
            continue
        forget(p, s)
        put(p, s, c)
        if not is_judged:
            continue
        if judge(p, s, np.inf) < np.inf:
            keep(p, s)
        else:
            take(p, s, c)
    s.total[0] = judge_all(p, s)
    return float(s.total[0])


@part
def clear(p: Tables, s: Choice) -> None:
    """Take out everything."""
    while s.number[0] > 0:
        take(p, s, s.chosen[s.number[0] - 1])


@kernel
def adopt_all(p: Tables, s: Choice, wanted: I64) -> bool:
    """Choose what a large mapping holds, all as it is; False where some of it cannot be so.

    Whether it is apart in space is not looked at: ``is_apart``. Nothing may be chosen yet.
    """
    np.random.seed(0)
    for row in wanted:
        c = row[0]
        if s.is_chosen[c] or not draw_inside(p, s, c):
            return False
        set_as_wanted(p, s, row)
        set_span(p, s, c)
        if s.cut[c] != row[4] or not is_right(p, s, c):
            return False
        put(p, s, c)
    s.total[0] = judge_all(p, s)
    return bool(s.total[0] < np.inf)


@kernel
def is_apart(p: Tables, s: Choice, by_time: I64, there: I64) -> bool:
    """Whether no two of ``by_time``, candidates by their first step, are in one place at a time.

    In the order of time: to look at all for each one would take as long as their number squared. ``there`` int64[N] is
    scratch: what is still there.
    """
    count = 0
    for c in by_time:
        n = 0
        for i in range(count):
            other = there[i]
            if s.until[other, 1] == 0 and s.until[other, 0] <= s.begin[c, 0]:
                continue
            shares = s.offset[c] < s.offset[other] + p.size[other] and s.offset[other] < s.offset[c] + p.size[c]
            shares = shares and p.layer[c] == p.layer[other] and meet(s.begin, s.until, c, other)
            if shares and (s.until[c, 1] > 0 or s.until[other, 1] > 0 or slices_meet(p, s, c, other)):
                return False
            there[n] = other
            n += 1
        there[n] = c
        count = n + 1
    return True


@part
def set_as_wanted(p: Tables, s: Choice, row: I64) -> None:
    """Give a candidate the times, offset and slices of a row, as far as it may have them."""
    c, issue, back = row[0], row[1], row[2]
    if p.kind[c] == COPIED and p.context[issue] == p.context[p.due[c]]:
        s.issue[c] = min(max(issue, p.start[c]), p.latest[c])
        cut, is_low, late = row[4], row[5], row[6]
        is_aligned = cut % p.alignment[p.layer[c]] == 0 and 0 < cut < p.bytes[c] and p.sliceable[c] == 1
        if is_aligned and s.issue[c] < late <= p.due[c] and p.context[late] == p.context[p.due[c]]:
            s.cut[c], s.is_low[c], s.late[c] = cut, is_low, late
    if p.kind[c] == HELD_OVER and p.start[c] <= issue <= p.latest[c] and p.context[issue] == p.context[p.due[c]]:
        s.issue[c] = issue
    if p.back_issue[c] <= back <= p.back_due[c] and p.context[back] == p.context[p.back_issue[c]]:
        s.back[c] = back
    again, due = row[6], p.again_due[c]
    if due >= 0 and p.again_start[c] <= again <= due and p.context[again] == p.context[due]:
        s.late[c] = again
    s.offset[c] = row[3]


@part
def stands(p: Tables, s: Choice, c: int) -> bool:
    """Whether c, as it is, goes beside what is chosen."""
    set_span(p, s, c)
    m = neighbours(p, s, c, s.near[0])
    return not occupies(p, s, c, s.near[0], m, s.near[1]) and is_right(p, s, c)


@part
def shift(p: Tables, s: Choice, c: int) -> bool:
    """Let c go beside what is chosen: whole, issued later, or elsewhere; False: it cannot."""
    s.cut[c], s.is_low[c] = 0, 0
    first = s.issue[c]
    while not stands(p, s, c):
        issue = leaves_next(p, s, c) if p.kind[c] == COPIED else -1
        if issue < 0 or issue > p.latest[c] or p.context[issue] != p.context[p.due[c]]:
            break
        s.issue[c] = issue
    else:
        return True
    s.issue[c] = first
    set_span(p, s, c)
    m = neighbours(p, s, c, s.near[0])
    offset = fit(p.capacity[p.layer[c]], p.size[c], s.near[0], m, True)
    if offset >= 0:
        s.offset[c] = offset
    return bool(offset >= 0 and is_right(p, s, c))


@part
def leaves_next(p: Tables, s: Choice, c: int) -> int:
    """Return the first boundary after c's issue at which something that is in its way is gone; -1: there is none."""
    after, found = s.issue[c], -1
    low, high = s.offset[c], s.offset[c] + p.size[c]
    for i in range(neighbours(p, s, c, s.near[0])):
        until = s.until[s.near[0][i, 0], 0]
        if s.near[0][i, 1] < high and low < s.near[0][i, 2] and until > after and (found < 0 or until < found):
            found = until
    i = kin(p, s, c)
    while i < s.number[0] and s.chosen[i] < p.kin_end[c]:
        until = s.until[s.chosen[i], 0]
        if until > after and (found < 0 or until < found) and not goes_with(p, s, c, s.chosen[i]):
            found = until
        i += 1
    return int(found)

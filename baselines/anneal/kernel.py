"""Annealing over sets of candidates, in one Numba loop.

Every move is judged by the judge's own timeline. Traffic is kept in integers, so undoing a move leaves no trace.
"""

import numpy as np

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
from mallocgame.baselines.anneal.nest import is_right
from mallocgame.baselines.anneal.space import fit, neighbours, occupies, place_sliced, set_span
from mallocgame.baselines.anneal.state import COPIED, I64, Choice, Tables
from mallocgame.baselines.anneal.timing import forget, judge, judge_all, keep, put, take
from mallocgame.jit import kernel, part

INSERT, REFILL, REMOVE, RETIME, AGAIN, EXCHANGE, LATE, GRAFT = range(8)
SHARES = (0.21, 0.2, 0.1, 0.15, 0.1, 0.1, 0.1, 0.04)  # of each kind of move


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
    if what not in (INSERT, REFILL):
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
def adopt(p: Tables, s: Choice, c: int, issue: int, back: int, offset: int, slices: tuple[int, int, int]) -> None:
    """Choose c at an offset, with these times and (cut, is_low, late) where possible, beside what is chosen."""
    if s.is_chosen[c] or not draw_inside(p, s, c):
        return
    if p.kind[c] == COPIED and p.context[issue] == p.context[p.due[c]]:
        s.issue[c] = min(max(issue, p.start[c]), p.latest[c])
        cut, is_low, late = slices
        is_aligned = cut % p.alignment[p.layer[c]] == 0 and 0 < cut < p.bytes[c] and p.sliceable[c] == 1
        if is_aligned and s.issue[c] < late <= p.due[c] and p.context[late] == p.context[p.due[c]]:
            s.cut[c], s.is_low[c], s.late[c] = cut, is_low, late
    if p.back_issue[c] <= back <= p.back_due[c] and p.context[back] == p.context[p.back_issue[c]]:
        s.back[c] = back
    set_span(p, s, c)
    s.offset[c] = offset
    m = neighbours(p, s, c, s.near[0])
    if occupies(p, s, c, s.near[0], m, s.near[1]) or not is_right(p, s, c):
        return
    forget(p, s)
    put(p, s, c)
    if judge(p, s, np.inf) < np.inf:
        keep(p, s)
    else:  # too many copies under way at once
        take(p, s, c)

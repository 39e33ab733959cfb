"""A move: a stay makes room for another one between two of its uses, and comes again after it.

Of tensors that are used by turns, more than fit, two serve more uses together than one does all the while. To go from
the one to the other in small moves costs more than annealing pays: the stay must be cut before there is room.
"""

import numpy as np

from mallocgame.baselines.anneal.journal import put_noted, take_noted
from mallocgame.baselines.anneal.moves import draw_inside, eject_rivals, stands_in
from mallocgame.baselines.anneal.nest import is_right
from mallocgame.baselines.anneal.space import fit, neighbours, place_sliced, set_span
from mallocgame.baselines.anneal.state import COPIED, Choice, Tables
from mallocgame.jit import part

SLICE_TRIES = 4  # of slices, for each of the stays that find no room in one piece


@part
def cut_in(p: Tables, s: Choice, c: int) -> bool:
    """Choose c, with other times, where one of its neighbours has no use, and cut that in two around it."""
    if p.layer_speed.shape[0] > 2 or not draw_inside(p, s, c):
        return False
    m = neighbours(p, s, c, s.near[0])
    if m == 0:
        return False
    other = s.near[0, np.random.randint(m), 0]
    if p.kind[other] > COPIED or p.again_due[other] >= 0:
        return False
    first, second = halves(p, other, p.use_step[p.first_use[c]], p.use_step[p.last_use[c]])
    if first < 0 or second < 0 or not eject_rivals(p, s, c) or not s.is_chosen[other]:
        return False
    if not take_noted(p, s, other):
        return False
    if not draw_inside(p, s, first) or not stands_in(p, s, first, other) or not put_noted(p, s, first):
        return False
    if not find_place(p, s, c) or not put_noted(p, s, c) or not draw_inside(p, s, second):
        return False
    if is_right(p, s, second) and find_place(p, s, second):
        return put_noted(p, s, second)
    after = max(s.until[c, 0], p.start[second])  # else where c was
    if after > p.latest[second] or p.context[after] != p.context[p.due[second]]:
        return True
    s.issue[second] = after
    set_span(p, s, second)
    return not (is_right(p, s, second) and find_place(p, s, second)) or put_noted(p, s, second)


@part
def halves(p: Tables, c: int, since: int, until: int) -> tuple[int, int]:
    """Return the candidates that serve c's uses before step ``since`` and after ``until``; -1: there is none.

    Both are -1 where c has a use from the one to the other.
    """
    before, after = -1, -1
    for u in range(p.first_use[c], p.last_use[c] + 1):
        if p.use_step[u] < since:
            before = u
        elif p.use_step[u] <= until:
            return -1, -1
        elif after < 0:
            after = u
    first = second = -1
    for other in range(p.kin_first[c], p.kin_end[c]):
        if p.again_due[other] >= 0 or p.layer[other] != p.layer[c]:
            continue
        if p.first_use[other] == p.first_use[c] and p.last_use[other] == before and p.kind[other] == p.kind[c]:
            first = other
        is_same = p.last_use[other] == p.last_use[c] and p.back_issue[other] == p.back_issue[c]
        if p.first_use[other] == after and p.kind[other] == COPIED and is_same and p.end[other] == p.end[c]:
            second = other
    return int(first), int(second)


@part
def find_place(p: Tables, s: Choice, c: int) -> bool:
    """Give c, whole or in two slices, an offset that is free while it is there; False: it finds none."""
    found = s.near[0]
    m = neighbours(p, s, c, found)
    offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, True)
    if offset >= 0:
        s.offset[c] = offset
        return True
    for _ in range(SLICE_TRIES):  # noqa: SIM110 (a kernel)
        if place_sliced(p, s, c, found, m, s.near[1]):
            return True
    return False

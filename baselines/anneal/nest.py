"""Candidates that lean on others: with three layers and more, a copy from, and a write-back to, a middle layer.

A candidate with base b > 0 treats layer b as its home: it is copied from there and leaves it current whenever it does
not serve the tensor itself. So it is right where a candidate of layer b, the outer one, holds the tensor all the while.
"""

import numpy as np

from mallocgame.baselines.anneal.space import meet
from mallocgame.baselines.anneal.state import BORN, COPIED, FOREVER, HELD_OVER, Choice, Tables
from mallocgame.jit import part


@part
def serves_all(p: Tables, outer: int, inner: int) -> bool:
    """Whether each use that ``inner`` serves is one of ``outer``'s."""
    return bool(p.first_use[outer] <= p.first_use[inner] and p.last_use[inner] <= p.last_use[outer])


@part
def back_after(p: Tables, s: Choice, inner: int) -> int:
    """Return the first boundary at which what ``inner`` writes back may be copied on."""
    return int(s.back[inner] + (1 if s.back[inner] == p.back_issue[inner] else 0))


@part
def is_inside(p: Tables, s: Choice, inner: int, outer: int) -> bool:
    """Whether ``outer`` holds the tensor from before ``inner`` needs it until after it is done with it."""
    if not serves_all(p, outer, inner):
        return False
    if s.until[inner, 0] > s.until[outer, 0]:
        return False
    ready = p.due[outer] if p.kind[outer] == COPIED else s.begin[outer, 0]
    if p.kind[inner] == COPIED:
        if p.kind[outer] == COPIED and (s.issue[inner] < ready or s.issue[inner] <= s.issue[outer]):
            return False
        if p.kind[outer] == BORN and s.issue[inner] <= ready:
            return False
    elif p.kind[inner] == HELD_OVER and p.kind[outer] != FOREVER:
        return False
    if p.hull_start[inner] < p.hull_end[inner]:
        if p.kind[outer] == BORN:
            ready += 1
        if ready > p.hull_start[inner] or s.until[outer, 0] < p.hull_end[inner]:
            return False
    is_written = p.first_use[inner] <= p.last_write[outer] <= p.last_use[inner]
    if is_written and p.back_issue[outer] >= 0 and p.back_issue[inner] < 0:
        return False  # what the outer one writes back is never written into it
    if p.back_issue[inner] >= 0 and p.back_issue[outer] >= 0 and s.back[inner] >= p.back_issue[outer]:
        after = back_after(p, s, inner)
        if after > s.back[outer] or p.context[after] != p.context[p.back_issue[outer]]:
            return False
        if p.base[outer] > 0 and after >= p.compute.shape[0]:
            return False  # what the outer one leans on cannot begin to hold it at the end
        if s.until[outer, 0] < min(after + 1, p.compute.shape[0]):
            return False
    return True


@part
def clash(p: Tables, s: Choice, a: int, b: int) -> bool:
    """Whether two candidates of one tensor that meet in time cannot both be chosen."""
    if p.layer[a] == p.layer[b]:
        return True
    inner, outer = (a, b) if p.layer[a] > p.layer[b] else (b, a)
    return p.base[inner] < p.layer[outer] or not is_inside(p, s, inner, outer)


@part
def kin(p: Tables, s: Choice, c: int) -> int:
    """Return where in ``chosen`` the candidates of c's tensor begin."""
    return int(np.searchsorted(s.chosen[: s.number[0]], p.kin_first[c]))


@part
def outer_of(p: Tables, s: Choice, c: int) -> int:
    """Return the chosen candidate whose layer is c's base and which serves all of c's uses; -1: there is none."""
    i = kin(p, s, c)
    while i < s.number[0] and s.chosen[i] < p.kin_end[c]:
        other = s.chosen[i]
        if p.layer[other] == p.base[c] and serves_all(p, other, c):
            return int(other)
        i += 1
    return -1


@part
def leans_on(p: Tables, c: int, outer: int) -> bool:
    """Whether c, where it is chosen, can have no other outer candidate than ``outer``, or one that leans on it."""
    if p.tensor[c] != p.tensor[outer] or p.base[c] < p.layer[outer]:
        return False
    return serves_all(p, outer, c)


@part
def is_right(p: Tables, s: Choice, c: int) -> bool:
    """Whether c, with the times it has now, goes with every chosen candidate of its tensor."""
    i = kin(p, s, c)
    while i < s.number[0] and s.chosen[i] < p.kin_end[c]:
        if s.chosen[i] != c and not goes_with(p, s, c, s.chosen[i]):
            return False
        i += 1
    return True


@part
def back_issue(p: Tables, s: Choice, i: int) -> int:
    """Return the boundary at which the i-th chosen candidate's write-back begins: after those of what leans on it."""
    c = s.chosen[i]
    after = p.back_issue[c]
    for step in (-1, 1):
        j = i + step
        while 0 <= j < s.number[0] and p.tensor[s.chosen[j]] == p.tensor[c]:
            inner = s.chosen[j]
            is_late = p.back_issue[inner] >= 0 and s.back[inner] >= p.back_issue[c]
            if is_late and p.base[inner] == p.layer[c] and serves_all(p, c, inner):
                after = max(after, back_after(p, s, inner))
            j += step
    return int(after)


@part
def is_relieved(p: Tables, s: Choice, earlier: int, later: int) -> bool:
    """Whether ``later`` is filled when ``earlier``, which only lets the tensor be read, is there no more.

    Two copies of a tensor may be in a layer while one is on its way there.
    """
    if p.kind[later] != COPIED or p.back_issue[earlier] >= 0 or s.until[earlier, 1] > 0 or s.until[later, 1] > 0:
        return False
    return bool(p.kind[earlier] == COPIED and s.until[earlier, 0] <= p.due[later])


@part
def reads_too_soon(p: Tables, s: Choice, earlier: int, later: int) -> bool:
    """Whether ``later`` is copied from layer 0 by one link when ``earlier`` is due there by another."""
    if p.link[earlier] == p.link[later] or p.base[earlier] > 0 or p.base[later] > 0:
        return False
    is_copied = p.kind[later] == COPIED and p.back_issue[earlier] >= 0
    return bool(is_copied and s.issue[later] == s.back[earlier])


@part
def goes_with(p: Tables, s: Choice, a: int, b: int) -> bool:
    """Whether two candidates of one tensor can both be chosen."""
    if p.layer_speed.shape[0] == 2:
        return not meet(s.begin, s.until, a, b) or is_relieved(p, s, a, b) or is_relieved(p, s, b, a)
    if reads_too_soon(p, s, a, b) or reads_too_soon(p, s, b, a):
        return False
    if p.layer[a] != p.layer[b]:
        inner, outer = (a, b) if p.layer[a] > p.layer[b] else (b, a)
        if leans_on(p, inner, outer):
            return is_inside(p, s, inner, outer)
    return not meet(s.begin, s.until, a, b) or not clash(p, s, a, b)

"""The moves of annealing. Each notes what it does in the journal and returns False where it finds nothing to do."""

import numpy as np

from mallocgame.baselines.anneal.copies import MASK
from mallocgame.baselines.anneal.journal import (
    TAKEN,
    begin_timing,
    end_timing,
    lay_later,
    lay_noted,
    lift_noted,
    put_noted,
    take_noted,
)
from mallocgame.baselines.anneal.keys import where
from mallocgame.baselines.anneal.nest import goes_with, is_inside, is_right, kin, leans_on, outer_of
from mallocgame.baselines.anneal.space import fit, neighbours, occupies, place_sliced, set_span, sliced_at
from mallocgame.baselines.anneal.state import COPIED, HELD_OVER, I64, MAX_CHANGES, Choice, Tables
from mallocgame.jit import part

SLICED = 0.3  # share of the insertions without room that try two slices first
RESLICED = 0.06  # share of new times that try two slices
PRESENT = 0.5  # share of the weights that goes by what is chosen now
REFILLS = 4  # candidates tried for what a move took out


@part
def weigh(p: Tables, s: Choice) -> None:
    """Say with which weights candidates are drawn: ``Tables.weight``, and what they could save of the present waits.

    That counts the uses in layer 0, in steps that are longer than they would be without traffic.
    """
    num_uses = p.use_step.shape[0]
    for u in range(num_uses):
        t = p.use_step[u]
        waited = s.elapsed[t] - p.compute[t] * p.trips[t]
        s.could_save[u] = min(p.use_bytes[u] / p.layer_speed[0] * p.trips[t], waited)
    for i in range(s.number[0]):
        c = s.chosen[i]
        for u in range(p.first_use[c], p.last_use[c] + 1):
            s.could_save[u] = 0.0
    saved = 0.0
    for u in range(num_uses + 1):
        could = s.could_save[u]
        s.could_save[u] = saved
        saved += could
    total, most = 0.0, 0.0
    for c in range(p.tensor.shape[0]):
        could = s.could_save[p.last_use[c] + 1] - s.could_save[p.first_use[c]]
        s.drawn[c] = could / np.sqrt(p.kin_end[c] - p.kin_first[c])
        most += s.drawn[c]
        total += p.weight[c]
    share = PRESENT * total / most if most > 0.0 else 0.0
    running = 0.0
    for c in range(p.tensor.shape[0]):
        running += (1.0 - PRESENT) * p.weight[c] + share * s.drawn[c]
        s.drawn[c] = running


@part
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
    if p.again_due[c] >= 0:
        boundary = p.again_due[c]
        need = generosity * p.in_seconds[c] * p.context_trips[boundary]
        s.late[c] = boundary
        while boundary > p.again_start[c] and need > 0.0:
            boundary -= 1
            need -= s.idle[boundary, k]
            if p.context[boundary] == p.context[p.again_due[c]]:
                s.late[c] = boundary
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


@part
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


@part
def take_out(p: Tables, s: Choice, c: int, instead: int) -> bool:
    """Take c out, and what leans on it unless it may lean on ``instead`` (-1: nothing)."""
    if p.layer[c] < p.layer_speed.shape[0] - 1:
        for i in range(s.number[0] - 1, -1, -1):
            other = s.chosen[i]
            if other != c and leans_on(p, other, c):
                if instead >= 0 and p.base[other] == p.layer[instead] and is_inside(p, s, other, instead):
                    continue
                if not take_noted(p, s, other):
                    return False
    return take_noted(p, s, c)


@part
def eject_rivals(p: Tables, s: Choice, c: int) -> bool:
    """Take out what cannot be chosen beside c for the same tensor."""
    first = kin(p, s, c)
    i = first
    while i < s.number[0] and s.chosen[i] < p.kin_end[c]:
        i += 1
    i -= 1
    while i >= first:
        other = s.chosen[i]
        if p.tensor[other] == p.tensor[c] and not goes_with(p, s, c, other):
            if not take_out(p, s, other, c):
                return False
            i = min(i, s.number[0])
        i -= 1
    return True


@part
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


@part
def insert(p: Tables, s: Choice, c: int) -> bool:
    """Choose c with the times it has, taking out what is in its way; what finds other space stays."""
    if not eject_rivals(p, s, c) or (p.base[c] > 0 and outer_of(p, s, c) < 0):
        return False
    own = s.changes[0]
    found = s.near[0]
    m = neighbours(p, s, c, found)
    offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, np.random.random() < 0.5)
    if offset < 0 and np.random.random() < SLICED and place_sliced(p, s, c, found, m, s.near[1]):
        offset = s.offset[c]
    if offset < 0:
        offset = least_in_the_way(p, s, c, found, m)
        rows = s.changes[0] + 1
        for i in range(m):
            rows += found[i, 1] < offset + p.size[c] and offset < found[i, 2]
        if rows > MAX_CHANGES:
            return False
        for i in range(m):
            if found[i, 1] < offset + p.size[c] and offset < found[i, 2]:
                lift_noted(p, s, found[i, 0])
    until = s.changes[0]
    s.offset[c] = offset
    return put_noted(p, s, c) and find_room(p, s, c, own, until)


@part
def find_room(p: Tables, s: Choice, c: int, first: int, until: int) -> bool:
    """Lay what was lifted in these rows where there is space; the rest goes, and what leans on it."""
    found = s.near[0]
    for row in range(first, until):
        other = s.journal[row, 1]
        m = neighbours(p, s, other, found)
        offset = fit(p.capacity[p.layer[other]], p.size[other], found, m, True)
        if offset < 0 and gives_way(p, s, other, s.until[c, 0]):
            lay_later(p, s, row)
        else:
            lay_noted(p, s, row, offset)
    for row in range(first, until):
        outer = s.journal[row, 1]
        if s.journal[row, 0] != TAKEN or p.layer[outer] == p.layer_speed.shape[0] - 1:
            continue
        for j in range(s.number[0] - 1, -1, -1):
            other = s.chosen[j]
            if other != c and leans_on(p, other, outer) and not take_noted(p, s, other):
                return False
    return True


@part
def gives_way(p: Tables, s: Choice, c: int, since: int) -> bool:
    """Let c, which is lifted, or its later slice, be issued at boundary ``since``; False: it finds no place so."""
    if p.kind[c] != COPIED or not s.issue[c] < since <= p.latest[c] or p.context[since] != p.context[p.due[c]]:
        return False
    found = s.near[0]
    if np.random.random() < SLICED:
        m = neighbours(p, s, c, found)
        return sliced_at(p, s, c, since, found, m, s.near[1])
    s.issue[c], s.cut[c] = since, 0
    set_span(p, s, c)
    m = neighbours(p, s, c, found)
    s.offset[c] = fit(p.capacity[p.layer[c]], p.size[c], found, m, True)
    return bool(s.offset[c] >= 0 and is_right(p, s, c))


@part
def refill(p: Tables, s: Choice) -> bool:
    """For each candidate that a move took out try others of its tensor, with fewer uses, where they fit."""
    found = s.near[0]
    for row in range(s.changes[0]):
        if s.journal[row, 0] != TAKEN:
            continue
        out = s.journal[row, 1]
        for _ in range(REFILLS):
            c = p.kin_first[out] + np.random.randint(p.kin_end[out] - p.kin_first[out])
            if s.is_chosen[c] or p.first_use[c] < p.first_use[out] or p.last_use[c] > p.last_use[out]:
                continue
            if not draw_inside(p, s, c) or not is_right(p, s, c):
                continue
            m = neighbours(p, s, c, found)
            offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, True)
            if offset >= 0:
                s.offset[c] = offset
                if not put_noted(p, s, c):
                    return True
    return True


@part
def another_run(p: Tables, s: Choice, c: int) -> int:
    """Return another candidate of c's tensor between the same layers, -1: the one drawn is none."""
    other = p.kin_first[c] + np.random.randint(p.kin_end[c] - p.kin_first[c])
    if s.is_chosen[other] or p.layer[other] != p.layer[c] or p.base[other] != p.base[c]:
        return -1
    return int(other)


@part
def stands_in(p: Tables, s: Choice, c: int, out: int) -> bool:
    """Give c the times of ``out``, which is taken out, where it can have them; whether its offset is free, too."""
    if p.kind[c] == COPIED and p.kind[out] == COPIED and p.due[c] == p.due[out]:
        s.issue[c] = s.issue[out]
    if p.back_issue[c] == p.back_issue[out] and s.back[out] <= p.back_due[c]:
        s.back[c] = s.back[out]
    if p.again_due[c] >= 0 and p.again_due[c] == p.again_due[out] and s.late[out] >= p.again_start[c]:
        s.late[c] = s.late[out]
    set_span(p, s, c)
    s.offset[c] = s.offset[out]
    m = neighbours(p, s, c, s.near[0])
    return is_right(p, s, c) and not occupies(p, s, c, s.near[0], m, s.near[1])


@part
def retime(p: Tables, s: Choice, c: int) -> bool:
    """Give c fresh times and, if it must or by chance, another offset or two slices; False if it then fits nowhere."""
    return begin_timing(p, s, c) and draw_again(p, s, c) and end_timing(p, s, c)


@part
def draw_again(p: Tables, s: Choice, c: int) -> bool:
    """Draw times, and an offset or slices where needed or by chance; False if c then fits nowhere."""
    if not draw_inside(p, s, c) or not is_right(p, s, c):
        return False
    found = s.near[0]
    m = neighbours(p, s, c, found)
    draw = np.random.random()
    if draw < RESLICED and place_sliced(p, s, c, found, m, s.near[1]):
        return True
    if draw < RESLICED + 0.2 or occupies(p, s, c, found, m, s.near[1]):
        offset = fit(p.capacity[p.layer[c]], p.size[c], found, m, np.random.random() < 0.5)
        if offset < 0:
            return np.random.random() < SLICED and place_sliced(p, s, c, found, m, s.near[1])
        s.offset[c] = offset
    return True


@part
def late_copy(p: Tables, s: Choice) -> int:
    """Return the candidate of a copy that the program waits for, drawn by the wait; -1: there is none."""
    last = s.waited.shape[0] - 1
    if s.waited[last] <= 0.0:
        return -1
    wanted = np.random.random() * s.waited[last]
    low, high = 0, last  # the boundary during which the clock of waits passes ``wanted``
    while low + 1 < high:
        middle = (low + high) // 2
        if s.waited[middle] <= wanted:
            low = middle
        else:
            high = middle
    q = np.random.randint(s.queued.shape[0])
    for _ in range(s.queued.shape[0]):
        i = where(s.by_due[q], s.queued[q], (2 * low) << 32)
        n = 0
        while i + n < s.queued[q] and s.by_due[q, i + n] >> 33 == low:
            n += 1
        if n > 0:
            return int((s.by_due[q, i + np.random.randint(n)] & MASK) // 3)
        q = (q + 1) % s.queued.shape[0]
    return -1


@part
def graft(p: Tables, s: Choice, other: I64) -> bool:
    """Take over from another choice, saved as ``anneal`` does, what lies within a random stretch of time.

    What is chosen there goes; what the other has there comes, at its offset if that is free, else where it fits.
    """
    num_steps = p.compute.shape[0]
    begin = np.random.randint(num_steps)
    end = begin + int(2.0 + 0.5 * num_steps * np.random.random() ** 3)
    for i in range(s.number[0] - 1, -1, -1):
        if i < s.number[0]:
            c = s.chosen[i]
            if begin <= s.begin[c, 0] and s.until[c, 0] <= end and s.until[c, 1] == 0 and not take_out(p, s, c, -1):
                return False
    found = s.near[0]
    for i in range(other[-1, 0]):
        c = other[i, 0]
        if s.is_chosen[c] or p.due[c] < begin or p.end[c] > end or p.kind[c] >= HELD_OVER or p.again_due[c] >= 0:
            continue
        s.issue[c], s.back[c], s.offset[c] = other[i, 1], other[i, 2], other[i, 3]
        s.cut[c], s.is_low[c], s.late[c] = other[i, 4], other[i, 5], other[i, 6]
        set_span(p, s, c)
        if s.begin[c, 0] < begin or s.until[c, 0] > end or not is_right(p, s, c):
            continue
        if p.base[c] > 0 and outer_of(p, s, c) < 0:
            continue
        m = neighbours(p, s, c, found)
        if occupies(p, s, c, found, m, s.near[1]):
            s.cut[c] = 0
            s.offset[c] = fit(p.capacity[p.layer[c]], p.size[c], found, m, True)
        if s.offset[c] >= 0 and not put_noted(p, s, c):
            return False
    return True

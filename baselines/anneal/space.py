"""Where chosen candidates are in memory, and where another one fits: whole, or in two slices that arrive in turn.

What takes space stands in lists, each by offset; ``ALL`` holds everything. Long programs are also cut into buckets of
steps with a list each, so that a look at what is there for a short while takes as long as that has entries: a candidate
is in the list of each bucket that it touches, or, if they are many or one is full, in ``LONG``.
"""

import numpy as np

from mallocgame.baselines.anneal.keys import insert_key, remove_key
from mallocgame.baselines.anneal.state import COPIED, FOREVER, HELD_OVER, I64, Choice, Tables
from mallocgame.jit import part

MASK = (1 << 32) - 1
ID_BITS = 24  # of a candidate in a list; above them its offset: 2**39 bytes of a layer at most
IDS = (1 << ID_BITS) - 1
ALL, LONG, FIRST = 0, 1, 2  # lists; the first bucket's is ``FIRST``
MAX_GAPS = 6  # gaps in which a sliced copy's first part is tried
BUCKET_BITS = 7  # log2 of the steps in a bucket
BUCKET_ROOM = 1024  # candidates in the list of a bucket
MANY_STEPS = 4096  # of a program, from which on it has buckets
FAR = 4  # buckets: what touches more is in ``LONG``, and looks at ``ALL``


@part
def set_span(p: Tables, s: Choice, c: int) -> None:
    """Work out the steps that candidate c occupies from its issue and write-back."""
    num_steps = p.compute.shape[0]
    start = p.start[c]
    end = p.end[c]
    s.begin[c, 1] = s.until[c, 1] = 0
    if p.kind[c] == COPIED:
        start = s.issue[c]
    elif p.kind[c] == HELD_OVER:
        start = 0
        s.begin[c, 1], s.until[c, 1] = s.issue[c], num_steps
    elif p.kind[c] == FOREVER:
        start = 0
    if p.again_due[c] >= 0:
        s.begin[c, 1], s.until[c, 1] = s.late[c], p.again_due[c] + 1
    if p.back_issue[c] >= 0:
        end = min(max(end, s.back[c], p.back_issue[c] + 1), num_steps)
    s.begin[c, 0], s.until[c, 0] = start, end
    s.span[c] = start << 32 | end << 1 | (1 if s.until[c, 1] > 0 else 0)


@part
def meet(begin: I64, until: I64, a: int, b: int) -> bool:
    """Whether two candidates are in memory at the same time."""
    if begin[a, 0] < until[b, 0] and begin[b, 0] < until[a, 0]:
        return True
    if until[a, 1] == 0 and until[b, 1] == 0:
        return False
    for i in range(2):
        for j in range(2):
            if begin[a, i] < until[b, j] and begin[b, j] < until[a, i]:
                return True
    return False


@part
def slice_of(p: Tables, s: Choice, c: int, is_late: bool) -> tuple[int, int, int]:
    """Return (first byte, byte after the last, first step) of c's earlier or later slice; a whole copy: no later."""
    low, high = s.offset[c], s.offset[c] + p.size[c]
    if s.cut[c] == 0:
        return int(low), int(low if is_late else high), int(s.begin[c, 0])
    begin = s.late[c] if is_late else s.begin[c, 0]
    if is_late == (s.is_low[c] == 1):
        return int(low), int(low + s.cut[c]), int(begin)
    return int(low + s.cut[c]), int(high), int(begin)


@part
def slices_meet(p: Tables, s: Choice, a: int, b: int) -> bool:
    """Whether two candidates, neither held from run to run, have slices in one place at a time."""
    for i in range(2):
        low, high, begin = slice_of(p, s, a, i == 1)
        for j in range(2):
            first, last, start = slice_of(p, s, b, j == 1)
            if low < last and first < high and begin < s.until[b, 0] and start < s.until[a, 0]:
                return True
    return False


@part
def list_at(s: Choice, k: int) -> int:
    """Return where in ``by_offset`` the k-th list begins."""
    if k < FIRST:
        return int(k * s.near.shape[1])
    first = 2 * s.near.shape[1]
    return int(first + (k - FIRST) * ((s.by_offset.shape[0] - first) // (s.listed.shape[0] - FIRST)))


@part
def list_of(s: Choice, step: int) -> int:
    """Return the list of the bucket that a step is in."""
    return int((step >> s.bucket_bits[0]) + FIRST)


@part
def is_long(s: Choice, c: int) -> bool:
    """Whether c touches many buckets, or is held from run to run."""
    return bool(s.until[c, 1] > 0 or list_of(s, s.until[c, 0] - 1) - list_of(s, s.begin[c, 0]) >= FAR)


@part
def enter(s: Choice, c: int) -> None:
    """Count c among what takes space, at its offset."""
    key = s.offset[c] << ID_BITS | c
    insert_key(s.by_offset, s.listed[ALL], key)
    s.listed[ALL] += 1
    if s.listed.shape[0] == 1:
        return
    first, last = list_of(s, s.begin[c, 0]), list_of(s, s.until[c, 0] - 1)
    room, fullest = list_at(s, FIRST + 1) - list_at(s, FIRST), 0
    if not is_long(s, c):
        for k in range(first, last + 1):
            fullest = max(fullest, s.listed[k])
    s.is_long[c] = is_long(s, c) or fullest >= room
    if s.is_long[c]:
        first = last = LONG
    for k in range(first, last + 1):
        insert_key(s.by_offset[list_at(s, k) :], s.listed[k], key)
        s.listed[k] += 1


@part
def leave(s: Choice, c: int) -> None:
    """Undo ``enter``."""
    key = s.offset[c] << ID_BITS | c
    remove_key(s.by_offset, s.listed[ALL], key)
    s.listed[ALL] -= 1
    if s.listed.shape[0] == 1:
        return
    first, last = list_of(s, s.begin[c, 0]), list_of(s, s.until[c, 0] - 1)
    if s.is_long[c]:
        first = last = LONG
    for k in range(first, last + 1):
        remove_key(s.by_offset[list_at(s, k) :], s.listed[k], key)
        s.listed[k] -= 1


@part
def neighbours(p: Tables, s: Choice, c: int, near: I64) -> int:
    """List what chosen candidates of c's layer occupy while c is there; return how many.

    ``near`` int64[C, 3] gets (candidate, first byte, byte after the last), sorted by first byte.
    """
    n = 0
    layer = p.layer[c]
    begin, until, is_plain = s.begin[c, 0], s.until[c, 0], s.until[c, 1] == 0
    k = first = last = ALL
    if s.listed.shape[0] > 1 and not is_long(s, c):
        k, first, last = LONG, list_of(s, begin), list_of(s, until - 1)
    at = list_at(s, k)
    while True:
        for i in range(at, at + s.listed[k]):
            key = s.by_offset[i]
            other = key & IDS
            span = s.span[other]
            if begin >= (span & MASK) >> 1 or span >> 32 >= until:  # else they meet
                if is_plain and span & 1 == 0:
                    continue
                if not meet(s.begin, s.until, c, other):
                    continue
            if other == c or p.layer[other] != layer:
                continue
            if k >= FIRST and k != max(first, list_of(s, span >> 32)):
                continue  # it is in an earlier list, too
            low = key >> ID_BITS
            near[n, 0], near[n, 1], near[n, 2] = other, low, low + p.size[other]
            if s.cut[other] > 0:
                one_slice(s, c, near, n)
            if n > 0 and near[n - 1, 1] > near[n, 1]:  # after a slice, or from another list
                sort_last(near, n)
            n += 1
        k = first if k == LONG else k + 1
        if k > last:
            return n
        at = list_at(s, k)


@part
def one_slice(s: Choice, c: int, near: I64, n: int) -> None:
    """Let the last of the neighbours, which is sliced, be what c meets of it."""
    other = near[n, 0]
    late, end = s.late[other], s.until[other, 0]
    is_late = s.begin[c, 0] < end and late < s.until[c, 0]
    if is_late or (s.until[c, 1] > 0 and s.begin[c, 1] < end and late < s.until[c, 1]):
        return
    if s.is_low[other] == 0:
        near[n, 2] = near[n, 1] + s.cut[other]
    else:
        near[n, 1] += s.cut[other]


@part
def sort_last(near: I64, n: int) -> None:
    """Bring the n-th neighbour to its place among those before it."""
    other, low, high = near[n, 0], near[n, 1], near[n, 2]
    j = n
    while j > 0 and near[j - 1, 1] > low:
        near[j, 0], near[j, 1], near[j, 2] = near[j - 1, 0], near[j - 1, 1], near[j - 1, 2]
        j -= 1
    near[j, 0], near[j, 1], near[j, 2] = other, low, high


@part
def fit(room: int, wanted: int, near: I64, n: int, best: bool) -> int:
    """Return the lowest (or tightest) free offset for ``wanted`` bytes among n neighbours, -1 if there is none."""
    free_from = 0
    answer = -1
    slack = room + 1
    for i in range(n + 1):
        until = near[i, 1] if i < n else room
        if until - free_from >= wanted and until - free_from < slack:
            answer = free_from
            slack = until - free_from
            if not best:
                return answer
        if i < n:
            free_from = max(free_from, near[i, 2])
    return answer


@part
def is_free(near: I64, n: int, low: int, high: int) -> bool:
    """Whether none of n neighbours has a byte in [low, high)."""
    for i in range(n):  # noqa: SIM110 (a kernel)
        if near[i, 1] < high and low < near[i, 2]:
            return False
    return True


@part
def occupies(p: Tables, s: Choice, c: int, near: I64, n: int, later: I64) -> bool:
    """Whether c, sliced or not, is where one of its n neighbours is; ``later`` int64[C, 3] is scratch."""
    low, high = s.offset[c], s.offset[c] + p.size[c]
    if s.cut[c] == 0:
        return not is_free(near, n, low, high)
    middle = low + s.cut[c]
    m = late_neighbours(s, s.late[c], near, n, later)
    if s.is_low[c] == 1:
        return not (is_free(near, n, middle, high) and is_free(later, m, low, middle))
    return not (is_free(near, n, low, middle) and is_free(later, m, middle, high))


@part
def late_neighbours(s: Choice, late: int, near: I64, n: int, later: I64) -> int:
    """List those of n neighbours that are still there at boundary ``late`` or after; return how many."""
    m = 0
    for i in range(n):
        other = near[i, 0]
        if s.until[other, 0] > late or s.until[other, 1] > late:
            later[m, 0], later[m, 1], later[m, 2] = other, near[i, 1], near[i, 2]
            m += 1
    return m


@part
def place_sliced(p: Tables, s: Choice, c: int, near: I64, n: int, later: I64) -> bool:
    """Find an offset for c in two slices, the second issued when one of its n neighbours leaves; False: none found.

    The first slice fills a gap that is free all the while, the second takes what the neighbour above or below it had.
    """
    if p.kind[c] != COPIED or n == 0:
        return False
    late = s.until[near[np.random.randint(n), 0], 0]
    while late <= p.due[c] and p.context[late] != p.context[p.due[c]]:
        late += 1
    return late <= p.due[c] and sliced_at(p, s, c, late, near, n, later)


@part
def sliced_at(p: Tables, s: Choice, c: int, late: int, near: I64, n: int, later: I64) -> bool:
    """Find an offset for c in two slices, the first in a gap of its n neighbours, the second issued at ``late``."""
    if p.sliceable[c] == 0 or p.size[c] < 2 * p.alignment[p.layer[c]] or not s.issue[c] < late <= p.due[c]:
        return False
    s.late[c] = late
    m = late_neighbours(s, late, near, n, later)
    room, unit, size = p.capacity[p.layer[c]], p.alignment[p.layer[c]], p.size[c]
    first = np.random.randint(n + 1)
    free_from = 0
    for k in range(first):
        free_from = max(free_from, near[k, 2])
    for k in range(first, min(first + MAX_GAPS, n + 1)):
        until = near[k, 1] if k < n else room
        part = min(until - free_from, size - unit) // unit * unit
        if part > 0:
            if until + size - part <= room and is_free(later, m, until, until + size - part):
                s.offset[c], s.cut[c], s.is_low[c] = until - part, part, 0
                return True
            if free_from + part >= size and is_free(later, m, free_from + part - size, free_from):
                s.offset[c], s.cut[c], s.is_low[c] = free_from + part - size, size - part, 1
                return True
        if k < n:
            free_from = max(free_from, near[k, 2])
    return False

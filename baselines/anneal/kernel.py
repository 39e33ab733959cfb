"""Annealing over sets of candidates, in one Numba loop: insert with ejection, remove, retime, move in space.

Every move is judged by the judge's own timeline. Traffic is kept in integers, so undoing a move leaves no trace.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit
from mallocgame.judge import timeline

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

BORN, COPIED, HELD_OVER = 0, 1, 2
MAX_EJECTED = 24


class Tables(NamedTuple):
    """What does not change: int64[C] per candidate, int64[U] per use, float64 and int64 per step, layer and link."""

    tensor: I64
    layer: I64
    kind: I64
    first_use: I64
    last_use: I64
    start: I64
    latest: I64
    due: I64
    end: I64
    back_issue: I64
    back_due: I64
    size: I64  # rounded up to the layer's alignment
    link: I64
    in_seconds: F64  # link seconds of one copy in, and of one write-back
    use_step: I64
    use_bytes: I64
    compute: F64  # float64[T]
    trips: I64  # int64[T]
    context: I64  # int64[T + 1]
    context_trips: I64  # int64[T + 1]
    layer_speed: F64
    capacity: I64  # int64[L], rounded down to alignment
    link_layer: I64
    max_in_flight: I64
    cumulative: F64  # float64[C], running sum of the weights with which candidates are drawn


class Choice(NamedTuple):
    """What is chosen now: ``chosen[:number[0]]``, ascending, so that ties on a link never depend on the past."""

    is_chosen: Bool  # bool[C]
    chosen: I64
    number: I64  # int64[1]
    issue: I64
    back: I64
    offset: I64
    begin: I64  # int64[C, 2], the steps that each part occupies: the residency, and a reload for the next run
    until: I64  # int64[C, 2], exclusive
    layer_bytes: I64  # int64[T, L]
    elapsed: F64
    idle: F64
    total: F64  # float64[1]


def copy_choice(s: Choice) -> Choice:
    """Return an independent copy."""
    return Choice._make(array.copy() for array in s)


@jit
def step_time(p: Tables, s: Choice, t: int) -> None:
    """Recompute one step's seconds and the link seconds it leaves free."""
    memory = 0.0
    for layer in range(p.layer_speed.shape[0]):
        memory += s.layer_bytes[t, layer] / p.layer_speed[layer]
    seconds = max(p.compute[t], memory)
    s.elapsed[t] = seconds * p.trips[t]
    for k in range(p.link_layer.shape[0]):
        layer = p.link_layer[k]
        busy = s.layer_bytes[t, layer] / p.layer_speed[layer] if layer >= 0 else 0.0
        s.idle[t, k] = max(seconds - busy, 0.0) * p.trips[t]


@jit
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
    if p.back_issue[c] >= 0:
        end = min(max(end, s.back[c], p.back_issue[c] + 1), num_steps)
    s.begin[c, 0], s.until[c, 0] = start, end


@jit
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


@jit
def put(p: Tables, s: Choice, c: int) -> None:
    """Choose candidate c; its issue, back and offset are set already."""
    n = s.number[0]
    while n > 0 and s.chosen[n - 1] > c:
        s.chosen[n] = s.chosen[n - 1]
        n -= 1
    s.chosen[n] = c
    s.number[0] += 1
    s.is_chosen[c] = True
    for u in range(p.first_use[c], p.last_use[c] + 1):
        s.layer_bytes[p.use_step[u], 0] -= p.use_bytes[u]
        s.layer_bytes[p.use_step[u], p.layer[c]] += p.use_bytes[u]
        step_time(p, s, p.use_step[u])


@jit
def take(p: Tables, s: Choice, c: int) -> None:
    """Undo ``put``."""
    n = np.searchsorted(s.chosen[: s.number[0]], c)
    s.number[0] -= 1
    s.is_chosen[c] = False
    for i in range(n, s.number[0]):
        s.chosen[i] = s.chosen[i + 1]
    for u in range(p.first_use[c], p.last_use[c] + 1):
        s.layer_bytes[p.use_step[u], 0] += p.use_bytes[u]
        s.layer_bytes[p.use_step[u], p.layer[c]] -= p.use_bytes[u]
        step_time(p, s, p.use_step[u])


@jit
def neighbours(layer: I64, chosen: I64, number: int, begin: I64, until: I64, offset: I64, c: int, found: I64) -> int:
    """List chosen candidates of c's layer that c meets in time, sorted by offset; return how many."""
    n = 0
    for i in range(number):
        other = chosen[i]
        if other != c and layer[other] == layer[c] and meet(begin, until, c, other):
            j = n
            while j > 0 and offset[found[j - 1]] > offset[other]:
                found[j] = found[j - 1]
                j -= 1
            found[j] = other
            n += 1
    return n


@jit
def fit(offset: I64, size: I64, room: int, wanted: int, found: I64, n: int, best: bool) -> int:
    """Return the lowest (or tightest) free offset for ``wanted`` bytes among n neighbours, -1 if there is none."""
    free_from = 0
    answer = -1
    slack = room + 1
    for i in range(n + 1):
        until = offset[found[i]] if i < n else room
        if until - free_from >= wanted and until - free_from < slack:
            answer = free_from
            slack = until - free_from
            if not best:
                return answer
        if i < n:
            free_from = max(free_from, offset[found[i]] + size[found[i]])
    return answer


@jit
def draw_times(p: Tables, s: Choice, c: int) -> None:
    """Choose when c's copies are issued and due: early enough for a random multiple of the work to be hidden."""
    generosity = 0.5 + 2.5 * np.random.random()
    if np.random.random() < 0.15:
        generosity = 20.0
    k = p.link[c]
    if p.kind[c] != BORN:
        boundary = p.latest[c]
        need = generosity * p.in_seconds[c] * p.context_trips[boundary]
        s.issue[c] = boundary
        while boundary > p.start[c] and need > 0.0:
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


@jit
def judge(p: Tables, s: Choice, limit: float) -> float:
    """Return the total seconds of what is chosen, by the judge's timeline.

    Infinity if that exceeds ``limit`` or a link holds too many copies.
    """
    patience = limit - s.elapsed.sum()
    if patience < 0.0:
        return np.inf
    num_steps, num_links = s.idle.shape
    most = 2 * s.number[0]
    issue = np.empty(most, dtype=np.int64)
    due = np.empty(most, dtype=np.int64)
    queue = np.empty(most, dtype=np.int64)
    work = np.empty(most, dtype=np.float64)
    n = 0
    for i in range(s.number[0]):
        c = s.chosen[i]
        if p.kind[c] != BORN:
            issue[n], due[n], queue[n] = s.issue[c], p.due[c], 2 * p.link[c]
            work[n] = p.in_seconds[c] * p.context_trips[due[n]]
            n += 1
        if p.back_issue[c] >= 0:
            issue[n], due[n], queue[n] = p.back_issue[c], s.back[c], 2 * p.link[c] + 1
            work[n] = p.in_seconds[c] * p.context_trips[issue[n]]
            n += 1
    flying = np.zeros((2 * num_links, num_steps + 2), dtype=np.int64)
    starts = np.zeros(num_steps + 2, dtype=np.int64)
    ends = np.zeros(num_steps + 2, dtype=np.int64)
    for x in range(n):
        flying[queue[x], issue[x]] += 1
        flying[queue[x], due[x]] -= 1
        starts[issue[x] + 1] += 1
        ends[due[x] + 1] += 1
    for q in range(2 * num_links):
        running = 0
        for t in range(num_steps + 1):
            running += flying[q, t]
            if running > p.max_in_flight[q // 2]:
                return np.inf
    for t in range(num_steps + 1):
        starts[t + 1] += starts[t]
        ends[t + 1] += ends[t]
    by_issue = np.empty(n, dtype=np.int64)
    by_due = np.empty(n, dtype=np.int64)
    for x in range(n):
        by_issue[starts[issue[x]]] = x
        starts[issue[x]] += 1
    for late in range(2):  # due at once come last at their boundary
        for x in range(n):
            if (issue[x] == due[x]) == (late == 1):
                by_due[ends[due[x]]] = x
                ends[due[x]] += 1
    order = np.zeros((2 * num_links, max(n, 1)), dtype=np.int64)
    position = np.empty(n, dtype=np.int64)
    filled = np.zeros(2 * num_links, dtype=np.int64)
    for i in range(n):
        x = by_issue[i]
        q = queue[x]
        order[q, filled[q]] = x
        position[x] = filled[q]
        filled[q] += 1
    stall = np.empty(num_steps + 1)
    busy = np.empty(num_links)
    finish = np.empty(n)
    return timeline.run(
        s.elapsed,
        s.idle,
        queue[:n],
        position,
        issue[:n],
        due[:n],
        by_issue,
        by_due,
        order,
        work[:n],
        stall,
        busy,
        finish,
        patience,
    )


@jit
def insert(p: Tables, s: Choice, c: int, ejected: I64, moved_from: I64, found: I64) -> int:  # noqa: C901 (a kernel: one loop)
    """Choose c with fresh times, ejecting what is in its way; what finds other space stays. Return how many moved.

    ``ejected[i]`` is a candidate that was taken out, or moved from offset ``moved_from[i]`` if that is >= 0.
    Returns -1, with nothing changed, if too many would have to move.
    """
    draw_times(p, s, c)
    n = 0
    for i in range(s.number[0]):
        other = s.chosen[i]
        if p.tensor[other] == p.tensor[c] and meet(s.begin, s.until, c, other):
            if n == MAX_EJECTED:
                return -1
            ejected[n], moved_from[n] = other, -1
            n += 1
    own = n
    for i in range(own):
        take(p, s, ejected[i])
    m = neighbours(p.layer, s.chosen, s.number[0], s.begin, s.until, s.offset, c, found)
    offset = fit(s.offset, p.size, p.capacity[p.layer[c]], p.size[c], found, m, np.random.random() < 0.5)
    if offset < 0:
        fewest = np.int64(1) << 62
        room = p.capacity[p.layer[c]] - p.size[c]
        for _ in range(4):
            at = 0
            if m > 0:
                other = found[np.random.randint(m)]
                at = s.offset[other] + p.size[other] if np.random.random() < 0.5 else s.offset[other] - p.size[c]
                if np.random.random() < 0.34:
                    at = s.offset[other]
            at = min(max(at, 0), room)
            cost = np.int64(0)
            for i in range(m):
                other = found[i]
                if s.offset[other] < at + p.size[c] and at < s.offset[other] + p.size[other]:
                    cost += p.size[other]
            if cost < fewest:
                fewest, offset = cost, at
        for i in range(m):
            other = found[i]
            if s.offset[other] < offset + p.size[c] and offset < s.offset[other] + p.size[other]:
                if n == MAX_EJECTED:
                    for j in range(n - 1, -1, -1):
                        put(p, s, ejected[j])
                    return -1
                ejected[n], moved_from[n] = other, -1
                n += 1
                take(p, s, other)
    s.offset[c] = offset
    put(p, s, c)
    for i in range(own, n):
        other = ejected[i]
        m = neighbours(p.layer, s.chosen, s.number[0], s.begin, s.until, s.offset, other, found)
        offset = fit(s.offset, p.size, p.capacity[p.layer[other]], p.size[other], found, m, True)
        if offset >= 0:
            moved_from[i] = s.offset[other]
            s.offset[other] = offset
            put(p, s, other)
    return n


@jit
def restore(p: Tables, s: Choice, c: int, ejected: I64, moved_from: I64, n: int) -> None:
    """Undo ``insert``."""
    take(p, s, c)
    for i in range(n):
        if moved_from[i] >= 0:
            s.offset[ejected[i]] = moved_from[i]
        else:
            put(p, s, ejected[i])


@jit
def retime(p: Tables, s: Choice, c: int, found: I64) -> bool:
    """Give c fresh times and, if it must or by chance, another offset; False if it then fits nowhere."""
    draw_times(p, s, c)
    for i in range(s.number[0]):
        other = s.chosen[i]
        if other != c and p.tensor[other] == p.tensor[c] and meet(s.begin, s.until, c, other):
            return False
    m = neighbours(p.layer, s.chosen, s.number[0], s.begin, s.until, s.offset, c, found)
    blocked = np.random.random() < 0.2
    for i in range(m):
        other = found[i]
        if s.offset[other] < s.offset[c] + p.size[c] and s.offset[c] < s.offset[other] + p.size[other]:
            blocked = True
    if blocked:
        offset = fit(s.offset, p.size, p.capacity[p.layer[c]], p.size[c], found, m, np.random.random() < 0.5)
        if offset < 0:
            return False
        s.offset[c] = offset
    return True


@jit
def anneal(
    p: Tables, s: Choice, best: I64, best_total: float, iterations: int, hot: float, cold: float, seed: int
) -> float:
    """Run ``iterations`` moves with the temperature (seconds) falling from ``hot`` to ``cold``; return the best total.

    ``best`` int64[C + 1, 4] holds the best choice: rows (candidate, issue, back, offset), how many in ``best[-1, 0]``.
    """
    np.random.seed(seed)
    num = p.tensor.shape[0]
    found = np.empty(num, dtype=np.int64)
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
            n = insert(p, s, c, ejected, moved_from, found)
            if n < 0:
                continue
            after = judge(p, s, threshold)
            if after <= threshold:
                s.total[0] = after
            else:
                restore(p, s, c, ejected, moved_from, n)
        elif draw < 0.75:
            c = s.chosen[np.random.randint(s.number[0])]
            take(p, s, c)
            after = judge(p, s, threshold)
            if after <= threshold:
                s.total[0] = after
            else:
                put(p, s, c)
        else:
            c = s.chosen[np.random.randint(s.number[0])]
            issue, back, offset = s.issue[c], s.back[c], s.offset[c]
            after = np.inf
            if retime(p, s, c, found):
                after = judge(p, s, threshold)
            if after <= threshold:
                s.total[0] = after
            else:
                s.issue[c], s.back[c], s.offset[c] = issue, back, offset
                set_span(p, s, c)
        if s.total[0] < best_total:
            best_total = s.total[0]
            save(s, best)
    return best_total


@jit
def save(s: Choice, best: I64) -> None:
    """Copy what is chosen into ``best`` (see ``anneal``)."""
    for i in range(s.number[0]):
        c = s.chosen[i]
        best[i, 0], best[i, 1], best[i, 2], best[i, 3] = c, s.issue[c], s.back[c], s.offset[c]
    best[-1, 0] = s.number[0]

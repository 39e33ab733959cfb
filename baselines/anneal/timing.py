"""What a choice costs: the traffic of each layer, and the judge's own timeline over all copies."""

import numpy as np

from mallocgame.baselines.anneal.nest import back_issue
from mallocgame.baselines.anneal.state import COPIED, F64, HELD_OVER, I64, Choice, Tables
from mallocgame.jit import jit, kernel
from mallocgame.judge import timeline


@kernel
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


@kernel
def put(p: Tables, s: Choice, c: int) -> None:
    """Choose candidate c; its issue, back, offset and slices are set already."""
    n = s.number[0]
    while n > 0 and s.chosen[n - 1] > c:
        s.chosen[n] = s.chosen[n - 1]
        n -= 1
    s.chosen[n] = c
    s.number[0] += 1
    s.is_chosen[c] = True
    for u in range(p.first_use[c], p.last_use[c] + 1):
        s.layer_bytes[p.use_step[u], p.base[c]] -= p.use_bytes[u]
        s.layer_bytes[p.use_step[u], p.layer[c]] += p.use_bytes[u]
        step_time(p, s, p.use_step[u])


@kernel
def take(p: Tables, s: Choice, c: int) -> None:
    """Undo ``put``."""
    n = np.searchsorted(s.chosen[: s.number[0]], c)
    s.number[0] -= 1
    s.is_chosen[c] = False
    for i in range(n, s.number[0]):
        s.chosen[i] = s.chosen[i + 1]
    for u in range(p.first_use[c], p.last_use[c] + 1):
        s.layer_bytes[p.use_step[u], p.base[c]] += p.use_bytes[u]
        s.layer_bytes[p.use_step[u], p.layer[c]] -= p.use_bytes[u]
        step_time(p, s, p.use_step[u])


@kernel
def list_copies(p: Tables, s: Choice, issue: I64, due: I64, queue: I64, work: F64) -> int:
    """Write the copies of what is chosen, in the order of the mapping's transfers; return how many."""
    is_nested = p.layer_speed.shape[0] > 2
    n = 0
    for i in range(s.number[0]):
        c = s.chosen[i]
        if p.kind[c] == COPIED or p.kind[c] == HELD_OVER:
            issue[n], due[n], queue[n] = s.issue[c], p.due[c], 2 * p.link[c]
            work[n] = p.in_seconds[c] * p.context_trips[due[n]]
            if s.cut[c] > 0:
                last = s.cut[c] if s.is_low[c] == 1 else p.bytes[c] - s.cut[c]
                work[n] = (p.in_seconds[c] - last * p.byte_seconds[c]) * p.context_trips[due[n]]
                n += 1
                issue[n], due[n], queue[n] = s.late[c], p.due[c], 2 * p.link[c]
                work[n] = (last * p.byte_seconds[c] + p.latency[c]) * p.context_trips[due[n]]
            n += 1
        if p.back_issue[c] >= 0:
            issue[n] = back_issue(p, s, i) if is_nested else p.back_issue[c]
            due[n], queue[n] = s.back[c], 2 * p.link[c] + 1
            work[n] = p.in_seconds[c] * p.context_trips[issue[n]]
            n += 1
    return n


@jit
def judge(p: Tables, s: Choice, limit: float) -> float:
    """Return the total seconds of what is chosen, by the judge's timeline.

    Infinity if that exceeds ``limit`` or a link holds too many copies.
    """
    patience = limit - s.elapsed.sum()
    if patience < 0.0:
        return np.inf
    num_steps, num_links = s.idle.shape
    most = 3 * s.number[0]
    issue = np.empty(most, dtype=np.int64)
    due = np.empty(most, dtype=np.int64)
    queue = np.empty(most, dtype=np.int64)
    work = np.empty(most, dtype=np.float64)
    n = list_copies(p, s, issue, due, queue, work)
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

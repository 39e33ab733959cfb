"""What a choice costs: the traffic of each layer, and the judge's own timeline over all copies.

The timeline is kept with its state at each boundary. A move is judged by walking from the first boundary that it
changes to the first, after the last one, at which the queues are again as they were.
"""

import numpy as np

from mallocgame.baselines.anneal.copies import (
    FIRST,
    ISSUE,
    LAST,
    MASK,
    follow,
    order_key,
    schedule,
    touch,
    unschedule,
)
from mallocgame.baselines.anneal.keys import insert_key, remove_key, where
from mallocgame.baselines.anneal.space import enter, leave
from mallocgame.baselines.anneal.state import Choice, Tables
from mallocgame.jit import kernel, part


@part
def step_time(p: Tables, s: Choice, t: int) -> None:
    """Recompute one step's seconds and the link seconds it leaves free."""
    memory = 0.0
    for layer in range(p.layer_speed.shape[0]):
        memory += s.layer_bytes[t, layer] / p.layer_speed[layer]
    seconds = max(p.compute[t], memory)
    s.running[0] += seconds * p.trips[t] - s.elapsed[t]
    s.elapsed[t] = seconds * p.trips[t]
    for k in range(p.link_layer.shape[0]):
        layer = p.link_layer[k]
        busy = s.layer_bytes[t, layer] / p.layer_speed[layer] if layer >= 0 else 0.0
        s.idle[t, k] = max(seconds - busy, 0.0) * p.trips[t]


@kernel
def all_times(p: Tables, s: Choice) -> None:
    """Work out every step's seconds."""
    for t in range(p.compute.shape[0]):
        step_time(p, s, t)


@part
def lay(p: Tables, s: Choice, c: int) -> None:
    """Count c among what is in memory."""
    insert_key(s.chosen, s.number[0], c)
    s.number[0] += 1
    s.is_chosen[c] = True
    enter(s, c)


@part
def lift(p: Tables, s: Choice, c: int) -> None:
    """Undo ``lay``: c makes room, and serves all the same until ``unserve``."""
    remove_key(s.chosen, s.number[0], c)
    s.number[0] -= 1
    s.is_chosen[c] = False
    leave(s, c)


@part
def move_traffic(p: Tables, s: Choice, c: int, source: int, target: int) -> None:
    """Move the traffic of the uses that c serves from one layer to another."""
    for u in range(p.first_use[c], p.last_use[c] + 1):
        t = p.use_step[u]
        s.layer_bytes[t, source] -= p.use_bytes[u]
        s.layer_bytes[t, target] += p.use_bytes[u]
        step_time(p, s, t)
    touch(s, p.use_step[p.first_use[c]], p.use_step[p.last_use[c]])


@part
def unserve(p: Tables, s: Choice, c: int) -> None:
    """Take away the copies of c, which is lifted, and leave its uses to the layer that it leans on."""
    move_traffic(p, s, c, p.layer[c], p.base[c])
    unschedule(p, s, c)
    follow(p, s, c)


@part
def put(p: Tables, s: Choice, c: int) -> None:
    """Choose candidate c; its issue, back, offset and slices are set already."""
    lay(p, s, c)
    move_traffic(p, s, c, p.base[c], p.layer[c])
    schedule(p, s, c)
    follow(p, s, c)


@part
def take(p: Tables, s: Choice, c: int) -> None:
    """Undo ``put``."""
    lift(p, s, c)
    unserve(p, s, c)


@part
def head_of(s: Choice, q: int) -> int:
    """Return the copy at the head of queue q, -1: none."""
    return int(s.order[q, s.head[q]] & MASK) if s.head[q] < s.tail[q] else -1


@part
def pop(s: Choice, q: int) -> None:
    """Let the next copy of queue q begin."""
    s.head[q] += 1
    s.left[q] = s.copy_work[s.order[q, s.head[q]] & MASK] if s.head[q] < s.tail[q] else 0.0


@part
def drain(s: Choice, link: int, seconds: float) -> None:
    """Let a link work for ``seconds`` on its two queues, as ``timeline.drain`` does."""
    a = 2 * link
    b = a + 1
    left = seconds
    while left > 0.0:
        has_a = s.head[a] < s.tail[a]
        has_b = s.head[b] < s.tail[b]
        if has_a and has_b:
            mine, theirs = s.left[a], s.left[b]
            share = min(mine, theirs)
            if 2.0 * share > left:
                s.left[a] -= 0.5 * left
                s.left[b] -= 0.5 * left
                return
            left -= 2.0 * share
            s.left[a] -= share
            s.left[b] -= share
            if mine <= share:
                pop(s, a)
            if theirs <= share:
                pop(s, b)
        elif has_a or has_b:
            q = a if has_a else b
            if s.left[q] > left:
                s.left[q] -= left
                return
            left -= s.left[q]
            pop(s, q)
        else:
            return


@part
def wait_for(s: Choice, x: int, queue: int) -> float:
    """Let all links work until copy x of ``queue`` is complete; return the seconds."""
    key = order_key(s, x)
    if s.head[queue] == s.tail[queue] or s.order[queue, s.head[queue]] > key:
        return 0.0
    mine = s.left[queue]
    i = s.head[queue]
    while s.order[queue, i] != key:
        i += 1
        mine += s.copy_work[s.order[queue, i] & MASK]
    other = queue ^ 1
    theirs = s.left[other] if s.head[other] < s.tail[other] else 0.0
    j = s.head[other] + 1
    while j < s.tail[other] and theirs < mine:
        theirs += s.copy_work[s.order[other, j] & MASK]
        j += 1
    seconds = mine + min(mine, theirs)
    for k in range(s.head.shape[0] // 2):
        drain(s, k, seconds)
    while s.head[queue] <= i:  # what rounding may have left
        pop(s, queue)
    return float(seconds)


@part
def begin_walk(s: Choice, first: int) -> None:
    """Set the queues as they are before boundary ``first``."""
    for q in range(s.head.shape[0]):
        s.tail[q] = where(s.order[q], s.queued[q], first << ISSUE)
        s.due[q] = where(s.by_due[q], s.queued[q], (2 * first) << 32)
        x = s.heads[first, q]
        s.head[q] = s.tail[q] if x < 0 else where(s.order[q], s.queued[q], order_key(s, x))
        s.left[q] = s.lefts[first, q]


@part
def has_rejoined(s: Choice, boundary: int) -> bool:
    """Whether the queues are as they were before this boundary."""
    for q in range(s.head.shape[0]):
        if s.left[q] != s.lefts[boundary, q] or head_of(s, q) != s.heads[boundary, q]:
            return False
    return True


@part
def wait_at(s: Choice, boundary: int, phase: int) -> float:
    """Wait for what is due at a boundary and was issued before it (phase 0) or at it (1); return the seconds."""
    waited = 0.0
    for q in range(s.head.shape[0]):
        while s.due[q] < s.queued[q] and s.by_due[q, s.due[q]] >> 32 == 2 * boundary + phase:
            waited += wait_for(s, s.by_due[q, s.due[q]] & MASK, q)
            s.due[q] += 1
    return waited


@part
def cross(p: Tables, s: Choice, boundary: int) -> float:
    """Wait for what is due at a boundary and issue what is issued there.

    Returns the seconds waited; infinity if then too many copies are under way.
    """
    waited = wait_at(s, boundary, 0)
    for q in range(s.head.shape[0]):
        was_empty = s.head[q] == s.tail[q]
        while s.tail[q] < s.queued[q] and s.order[q, s.tail[q]] >> ISSUE == boundary:
            s.tail[q] += 1
        if was_empty and s.head[q] < s.tail[q]:
            s.left[q] = s.copy_work[s.order[q, s.head[q]] & MASK]
    waited += wait_at(s, boundary, 1)
    for q in range(s.head.shape[0]):
        if s.tail[q] - s.due[q] > p.max_in_flight[q // 2]:
            return np.inf
    return waited


@part
def next_event(s: Choice, until: int) -> int:
    """Return the first boundary at which a copy is issued or due, at most ``until``."""
    for q in range(s.head.shape[0]):
        if s.tail[q] < s.queued[q]:
            until = min(until, s.order[q, s.tail[q]] >> ISSUE)
        if s.due[q] < s.queued[q]:
            until = min(until, s.by_due[q, s.due[q]] >> 33)
    return until


@part
def run_steps(s: Choice, first: int, until: int) -> None:
    """Let the links work while steps [first, until) run, and note the queues after each."""
    for k in range(s.idle.shape[1]):
        t = first
        while t < until:
            q = 2 * k if s.head[2 * k] < s.tail[2 * k] else 2 * k + 1
            other = q ^ 1
            if s.head[q] == s.tail[q]:
                for boundary in range(t + 1, until + 1):
                    s.new_heads[boundary, q] = s.new_heads[boundary, other] = -1
                    s.new_lefts[boundary, q] = s.new_lefts[boundary, other] = 0.0
                break
            if s.head[other] == s.tail[other]:  # the common case, without a call
                x, left = head_of(s, q), s.left[q]
                while t < until and left > s.idle[t, k]:
                    left -= s.idle[t, k]
                    t += 1
                    s.new_heads[t, q], s.new_heads[t, other] = x, -1
                    s.new_lefts[t, q], s.new_lefts[t, other] = left, 0.0
                s.left[q] = left
                if t == until:
                    break
            drain(s, k, s.idle[t, k])
            t += 1
            s.new_heads[t, q], s.new_heads[t, other] = head_of(s, q), head_of(s, other)
            s.new_lefts[t, q], s.new_lefts[t, other] = s.left[q], s.left[other]


@part
def judge(p: Tables, s: Choice, limit: float) -> float:
    """Return the total seconds of what is chosen, by the judge's timeline; ``keep`` makes it what moves start from.

    Infinity if that exceeds ``limit`` or a link holds too many copies.
    """
    num_steps = p.compute.shape[0]
    patience = limit - s.running[0]
    boundary = min(s.window[FIRST], num_steps + 1)
    s.stretch[0] = s.stretch[1] = boundary
    waited = s.waited[boundary]
    if waited > patience:
        return np.inf
    if boundary <= num_steps:
        begin_walk(s, boundary)
    while boundary <= num_steps and (boundary <= s.window[LAST] or not has_rejoined(s, boundary)):
        waited += cross(p, s, boundary)
        if waited > patience:
            return np.inf
        begun = boundary
        boundary = num_steps + 1
        if begun < num_steps:
            boundary = next_event(s, num_steps if begun > s.window[LAST] else min(s.window[LAST] + 1, num_steps))
            run_steps(s, begun, boundary)
        for t in range(begun + 1, boundary + 1):
            s.new_waited[t] = waited
    s.stretch[1] = boundary
    if boundary <= num_steps:
        waited += s.waited[num_steps + 1] - s.waited[boundary]
    return s.running[0] + waited if waited <= patience else np.inf


@part
def keep(p: Tables, s: Choice) -> None:
    """Make the schedule that was judged last the one that moves start from."""
    num_steps = p.compute.shape[0]
    first, until = s.stretch[0], s.stretch[1]
    for t in range(first + 1, min(until, num_steps) + 1):
        for q in range(s.head.shape[0]):
            s.heads[t, q], s.lefts[t, q] = s.new_heads[t, q], s.new_lefts[t, q]
    if until > first:
        more = s.new_waited[until] - s.waited[until]
        for t in range(first + 1, until + 1):
            s.waited[t] = s.new_waited[t]
        if more != 0.0:
            for t in range(until + 1, num_steps + 2):
                s.waited[t] += more
    forget(p, s)


@part
def forget(p: Tables, s: Choice) -> None:
    """Begin a move: nothing is changed yet."""
    s.window[FIRST], s.window[LAST] = p.compute.shape[0] + 1, -1


@kernel
def judge_all(p: Tables, s: Choice) -> float:
    """Judge the whole schedule anew and keep it; return its seconds (infinity: a link holds too many copies)."""
    s.running[0] = s.elapsed.sum()
    s.window[FIRST], s.window[LAST] = 0, p.compute.shape[0]
    total = judge(p, s, np.inf)
    if total < np.inf:
        keep(p, s)
    return total

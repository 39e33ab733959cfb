"""The one model of time and link arbitration, as Numba kernels that the judge and the rules both call.

Instruction: ``max(compute, sum over layers of bytes there / that layer's bandwidth)`` seconds. Link: two first-in
first-out queues (toward faster, toward slower layers), ordered by issue step, then transfer id; they move bytes while
the shared layer is idle and while the program waits, each with half the bandwidth when both have work. Loops are
aggregated: what happens ``n`` times in a run weighs ``n`` times (docs/judge.md says what that leaves out).

Work is measured in *link seconds*: bytes / bandwidth + latency, times the transfer's trip count.
"""

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit, kernel

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@kernel
def instruction_times(
    compute: F64, trips: I64, layer_bytes: I64, layer_speed: F64, link_layer: I64, elapsed: F64, idle: F64
) -> None:
    """Fill ``elapsed`` float64[T] and ``idle`` float64[T, K] (link seconds free), both times the trip count.

    Args:
        compute: float64[T], seconds of one execution.
        trips: int64[T].
        layer_bytes: int64[T, L], bytes of one execution in each layer.
        layer_speed: float64[L], bytes per second.
        link_layer: int64[K], the layer whose traffic slows link k, -1 for none.
        elapsed: float64[T], written.
        idle: float64[T, K], written.
    """
    for t in range(compute.shape[0]):
        memory = 0.0
        for layer in range(layer_speed.shape[0]):
            memory += layer_bytes[t, layer] / layer_speed[layer]
        seconds = max(compute[t], memory)
        elapsed[t] = seconds * trips[t]
        for k in range(link_layer.shape[0]):
            layer = link_layer[k]
            busy = layer_bytes[t, layer] / layer_speed[layer] if layer >= 0 else 0.0
            idle[t, k] = max(seconds - busy, 0.0) * trips[t]


@kernel
def drain(link: int, seconds: float, order: I64, head: I64, tail: I64, work: F64) -> float:
    """Let ``link`` work for ``seconds`` on what its two queues hold; return the seconds it was busy.

    Queue q of link k is ``order[q, head[q]:tail[q]]`` with q = 2k (toward faster) or 2k + 1 (toward slower);
    ``work[x]`` is what is left of transfer x in link seconds. Both are updated.
    """
    a = 2 * link
    b = a + 1
    left = seconds
    while left > 0.0:
        has_a = head[a] < tail[a]
        has_b = head[b] < tail[b]
        if has_a and has_b:
            x = order[a, head[a]]
            y = order[b, head[b]]
            share = min(work[x], work[y])
            if 2.0 * share > left:
                work[x] -= 0.5 * left
                work[y] -= 0.5 * left
                return seconds
            left -= 2.0 * share
            first_done = work[x] <= share
            second_done = work[y] <= share
            work[x] -= share
            work[y] -= share
            if first_done:
                work[x] = 0.0
                head[a] += 1
            if second_done:
                work[y] = 0.0
                head[b] += 1
        elif has_a or has_b:
            q = a if has_a else b
            x = order[q, head[q]]
            if work[x] > left:
                work[x] -= left
                return seconds
            left -= work[x]
            work[x] = 0.0
            head[q] += 1
        else:
            break
    return seconds - left


@kernel
def seconds_until_done(queue: int, position: int, order: I64, head: I64, tail: I64, work: F64) -> float:
    """Return how long the link, left alone, needs until the transfer at ``position`` of ``queue`` is complete."""
    other = queue ^ 1
    mine = 0.0
    for i in range(head[queue], position + 1):
        mine += work[order[queue, i]]
    theirs = 0.0
    for i in range(head[other], tail[other]):
        theirs += work[order[other, i]]
        if theirs >= mine:
            return 2.0 * mine
    return mine + theirs


@jit
def run(  # noqa: C901, PLR0913 (a kernel: arrays one by one, one loop)
    elapsed: F64,
    idle: F64,
    queue: I64,
    position: I64,
    issue: I64,
    due: I64,
    by_issue: I64,
    by_due: I64,
    order: I64,
    work: F64,
    stall: F64,
    link_busy: F64,
    finish: F64,
    patience: float,
) -> float:
    """Walk the schedule once; return the total seconds, or infinity once the waits exceed ``patience``.

    Args:
        elapsed: float64[T] and
        idle: float64[T, K] as ``instruction_times`` fills them.
        queue: int64[X], the queue of each transfer (2 link + direction).
        position: int64[X], its place in that queue.
        issue: int64[X], boundary (``start_after`` + 1) at which it is issued.
        due: int64[X], boundary (``done_before``) at which the program waits for it.
        by_issue: int64[X], transfer ids by issue boundary, then id.
        by_due: int64[X], transfer ids by due boundary, then issue boundary, then id.
        order: int64[2K, X], each queue's transfer ids in issue order.
        work: float64[X], link seconds of each transfer; consumed.
        stall: float64[T + 1], written: the wait before step t (T: at the end).
        link_busy: float64[K], written: seconds each link was at work.
        finish: float64[X], written: when each transfer is complete, as the program sees it (rounded up to the end of
            the instruction or wait during which it ends).
        patience: seconds of waiting beyond which the walk is given up (infinity: never).
    """
    num_steps, num_links = idle.shape
    num_transfers = queue.shape[0]
    head = np.zeros(2 * num_links, dtype=np.int64)
    tail = np.zeros(2 * num_links, dtype=np.int64)
    link_busy[:] = 0.0
    stall[:] = 0.0
    clock = 0.0
    next_issue = 0
    next_due = 0
    for boundary in range(num_steps + 1):
        waited = 0.0
        for phase in range(2):  # wait for what was issued before, then issue, then wait for copies due at once
            while next_due < num_transfers and due[by_due[next_due]] == boundary:
                x = by_due[next_due]
                if phase == 0 and issue[x] == boundary:
                    break
                next_due += 1
                q = queue[x]
                if position[x] < head[q]:
                    continue
                seconds = seconds_until_done(q, position[x], order, head, tail, work)
                waited += seconds
                for k in range(num_links):
                    seen_a = head[2 * k]
                    seen_b = head[2 * k + 1]
                    link_busy[k] += drain(k, seconds, order, head, tail, work)
                    for i in range(seen_a, head[2 * k]):
                        finish[order[2 * k, i]] = clock + waited
                    for i in range(seen_b, head[2 * k + 1]):
                        finish[order[2 * k + 1, i]] = clock + waited
                while head[q] <= position[x]:  # what rounding may have left
                    work[order[q, head[q]]] = 0.0
                    finish[order[q, head[q]]] = clock + waited
                    head[q] += 1
            while phase == 0 and next_issue < num_transfers and issue[by_issue[next_issue]] == boundary:
                tail[queue[by_issue[next_issue]]] += 1
                next_issue += 1
        if waited > 0.0:
            stall[boundary] = waited
            clock += waited
            patience -= waited
            if patience < 0.0:
                return np.inf
        if boundary == num_steps:
            break
        clock += elapsed[boundary]
        for k in range(num_links):
            a = 2 * k
            b = a + 1
            has_a = head[a] < tail[a]
            has_b = head[b] < tail[b]
            if not has_a and not has_b:
                continue
            seconds = idle[boundary, k]
            if has_a != has_b:  # the common case, without a call
                x = order[a, head[a]] if has_a else order[b, head[b]]
                if work[x] > seconds:
                    work[x] -= seconds
                    link_busy[k] += seconds
                    continue
            seen_a = head[a]
            seen_b = head[b]
            link_busy[k] += drain(k, seconds, order, head, tail, work)
            for i in range(seen_a, head[a]):
                finish[order[a, i]] = clock
            for i in range(seen_b, head[b]):
                finish[order[b, i]] = clock
    return clock

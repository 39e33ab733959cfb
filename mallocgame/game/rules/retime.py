"""The timeline, re-run only where it changed. Numba kernels; the model of time is ``mallocgame.judge.timeline``."""

import numpy as np

from mallocgame.game.rules.state import Groups, Links, Moves, Places, Rules, State, Steps
from mallocgame.game.rules.transfers import first_position, touch
from mallocgame.jit import part
from mallocgame.judge.timeline import drain, seconds_until_done


@part
def serve(r: Rules, s: State, group: int, place: int) -> None:
    """Let ``place`` (-1: layer 0) serve ``group``, and recompute its step's time."""
    t = r.groups[group, Groups.STEP]
    old = s.served[group]
    size = r.groups[group, Groups.BYTES]
    s.layer_bytes[t, s.places[old, Places.LAYER] if old >= 0 else 0] -= size
    s.layer_bytes[t, s.places[place, Places.LAYER] if place >= 0 else 0] += size
    s.served[group] = place
    memory = 0.0
    for layer in range(r.layer_speed.shape[0]):
        memory += s.layer_bytes[t, layer] / r.layer_speed[layer]
    seconds = max(r.compute[t], memory)
    trips = r.steps[t, Steps.TRIPS]
    s.total[0] += seconds * trips - s.elapsed[t]
    s.elapsed[t] = seconds * trips
    for k in range(r.num_links):
        layer = r.links[k, Links.SHARED]
        taken = s.layer_bytes[t, layer] / r.layer_speed[layer] if layer >= 0 else 0.0
        s.idle[t, k] = max(seconds - taken, 0.0) * trips
    touch(s, t)


@part
def retime(r: Rules, s: State) -> None:  # noqa: C901 (a kernel: one loop)
    """Walk the timeline from the first boundary that changed until the queues agree with what they were.

    ``last_touched`` then says where that is.
    """
    num_steps, num_links = r.num_steps, r.num_links
    begin, stop = s.first_touched[0], s.last_touched[0]
    if stop < 0:
        return
    queues = 2 * num_links
    head, tail = s.queue_head, s.queue_tail
    for q in range(queues):
        tail[q] = first_position(s, q, -1, begin, -1)
        head[q] = tail[q]
        x = s.heads[begin, q]
        if x >= 0:
            head[q] = s.copies[x, Moves.POSITION]
            for i in range(head[q] + 1, tail[q]):
                s.remaining[s.order[q, i]] = s.work[s.order[q, i]]
            s.remaining[x] = s.left[begin, q]
    for b in range(begin, num_steps + 1):
        if b > begin:
            same = b > stop
            for q in range(queues):
                x = s.order[q, head[q]] if head[q] < tail[q] else np.int64(-1)
                left = s.remaining[x] if x >= 0 else 0.0
                if s.heads[b, q] != x or s.left[b, q] != left:
                    same = False
                    s.heads[b, q] = x
                    s.left[b, q] = left
            if same:
                s.last_touched[0] = b
                return
        waited = 0.0
        for phase in range(2):  # as in timeline.run: wait for what was issued before, issue, wait for what is due
            x = s.due_first[b]
            while x >= 0:
                q = s.copies[x, Moves.QUEUE]
                if (s.copies[x, Moves.ISSUE] == b) == (phase == 1) and s.copies[x, Moves.POSITION] >= head[q]:
                    seconds = seconds_until_done(q, s.copies[x, Moves.POSITION], s.order, head, tail, s.remaining)
                    for k in range(num_links):
                        drain(k, seconds, s.order, head, tail, s.remaining)
                    head[q] = max(head[q], s.copies[x, Moves.POSITION] + 1)
                    waited += seconds
                x = s.copies[x, Moves.NEXT]
            if phase == 0:
                for q in range(queues):
                    while tail[q] < s.counts[q] and s.copies[s.order[q, tail[q]], Moves.ISSUE] == b:
                        s.remaining[s.order[q, tail[q]]] = s.work[s.order[q, tail[q]]]
                        tail[q] += 1
        s.total[0] += waited - s.stall[b]
        s.stall[b] = waited
        if b < num_steps:
            for k in range(num_links):
                if head[2 * k] < tail[2 * k] or head[2 * k + 1] < tail[2 * k + 1]:
                    s.busy[b, k] = drain(k, s.idle[b, k], s.order, head, tail, s.remaining)
                else:
                    s.busy[b, k] = 0.0
    s.last_touched[0] = num_steps

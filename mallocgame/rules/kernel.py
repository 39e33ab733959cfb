"""What an action does, as Numba kernels: plan it (is it legal, and where and when would things go), then carry it out.

Every state is a valid mapping in which undecided groups are served from layer 0. So a group that is written in fast
memory gets its write-back at once; a later choice that makes it unnecessary takes it back. A residency that spans a
later group *commits* it (around a loop, or while a write-back still needs the space): Drop there takes the whole
residency back. docs/rules.md gives the reasons. Boundaries, steps and layers are as in docs/judge.md.
"""

from typing import NamedTuple

import numpy as np

from mallocgame.jit import jit
from mallocgame.rules.tables import (
    ALIGNMENT,
    BEGIN,
    BORN,
    BYTES,
    CAPACITY,
    CLIPPED,
    CONTEXT,
    CONTEXT_TRIPS,
    COPIED,
    DECISIONS,
    DUE,
    END,
    ENTRY,
    FINISH,
    FIRST,
    GROUPS,
    HELD_OVER,
    HOISTABLE,
    HOLDABLE,
    HOME_ONLY,
    I64,
    IS_OUTPUT,
    ISSUE,
    LAST,
    LAYER,
    LAYERS,
    LIMIT,
    LINKS,
    LOOP,
    NEXT,
    OFFSET,
    PARENT,
    POSITION,
    PREVIOUS,
    QUEUE,
    READS,
    SHARED,
    SINCE,
    SIZE,
    SOURCE,
    START,
    STEP,
    STEPS,
    STOP,
    TENSOR,
    TRIPS,
    WRITES,
    Bool,
    Rules,
    State,
)
from mallocgame.timeline import drain, seconds_until_done

ILLEGAL, NOTHING, NEW, LONGER = 0, 1, 2, 3  # Plan.kind


class Plan(NamedTuple):
    """What one action would do: nothing, begin residency ``place``, or make it longer. Boundaries; -1: none."""

    kind: int
    place: int
    layer: int
    entry: int
    offset: int
    begin: int
    finish: int
    since: int
    source: int  # residency that is copied from, -1: layer 0
    last: int  # last group served
    issue: int  # of the copy in, or of the reload
    due: int
    undo_back: int  # group whose write-back is taken back
    back: int  # group whose write-back is placed
    back_issue: int
    back_due: int
    clipped: int  # 1: the write-back was cut short by space, not by need


class Reach(NamedTuple):
    """How long a residency must last, which groups it then serves, and what must be written back."""

    ok: bool
    end: int  # it lasts at least until here
    last: int  # last group served
    writer: int  # last group that writes in it, -1: none
    needed: bool  # its contents must reach layer 0
    back_from: int  # earliest boundary of issue
    back_by: int  # latest boundary of completion
    back_exit: int  # boundary after the loops that need no write-back in every iteration


@jit
def no_plan() -> Plan:
    """Return the plan of an illegal action."""
    return Plan(ILLEGAL, -1, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1, 0)


# -- which groups a residency must serve ------------------------------------------------------------------------------


@jit
def entered_loop(r: Rules, step: int, since: int) -> int:
    """Return the outermost loop around ``step`` that contents complete at boundary ``since`` enter; -1: none."""
    found = -1
    loop = r.steps[step, LOOP]
    while loop >= 0 and since <= r.loops[loop, START]:
        found = loop
        loop = r.loops[loop, PARENT]
    return found


@jit
def first_in_loop(r: Rules, tensor: int, group: int, loop: int) -> int:
    """Return the first group of ``tensor`` in ``loop``, which ``group`` is in."""
    while group > r.tensors[tensor, FIRST] and r.groups[group - 1, STEP] >= r.loops[loop, START]:
        group -= 1
    return group


@jit
def cover(r: Rules, group: int, since: int) -> tuple[bool, int, int]:
    """Return (possible, end, last group) of serving ``group`` from contents that are complete at ``since``.

    Contents that enter a loop must be in the same place at its end: they serve every group of the loop.
    """
    loop = entered_loop(r, r.groups[group, STEP], since)
    if loop < 0:
        return True, r.groups[group, STEP] + 1, group
    tensor = r.groups[group, TENSOR]
    first = first_in_loop(r, tensor, group, loop)
    writes = False
    at_home = False
    last = group
    k = first
    while k < r.tensors[tensor, END] and r.groups[k, STEP] < r.loops[loop, STOP]:
        writes = writes or r.groups[k, WRITES] == 1
        at_home = at_home or r.groups[k, HOME_ONLY] == 1
        if r.groups[k, HOME_ONLY] == 2:
            return False, 0, 0
        if r.groups[k, HOME_ONLY] == 0 and k > last:
            last = k
        k += 1
    if writes and (at_home or first != group):
        return False, 0, 0
    return True, r.loops[loop, STOP], last


@jit
def exposure(r: Rules, writer: int, last: int, since: int) -> tuple[bool, int, int, int]:
    """Return (needed, from, by, exit): what layer 0 must get of what ``writer`` writes, if all after ``last`` is there.

    The residency is complete at ``since`` and serves the groups up to ``last``. Follows the schedule and back edges.
    """
    tensor = r.groups[writer, TENSOR]
    step = r.groups[writer, STEP]
    end = r.tensors[tensor, END]
    loop = entered_loop(r, step, since)
    begin = step + 1
    outer = r.steps[step, LOOP]
    if loop >= 0:
        begin = r.loops[loop, STOP]
        outer = r.loops[loop, PARENT]
    by = r.dims[STEPS]
    exit_at = begin
    inside = False
    h = writer + 1
    while h <= last and r.groups[h, HOME_ONLY] == 0:
        h += 1
    while outer >= 0:
        if h < end and r.groups[h, STEP] < r.loops[outer, STOP]:
            break
        if r.groups[first_in_loop(r, tensor, writer, outer), READS] == 1:
            inside = True
            by = min(by, r.loops[outer, STOP] - 1)
        elif not inside:
            exit_at = r.loops[outer, STOP]
        outer = r.loops[outer, PARENT]
    needed = inside
    if h < end:
        if r.groups[h, READS] == 1:
            needed = True
            by = min(by, r.groups[h, STEP])
    elif outer < 0 and r.tensors[tensor, IS_OUTPUT] == 1:
        needed = True
    return needed, begin, by, exit_at


@jit
def read_again(r: Rules, writer: int, next_writer: int, since: int) -> bool:
    """Whether a loop that ends between two writers reads what the first wrote, in its next iteration, in layer 0."""
    tensor = r.groups[writer, TENSOR]
    step = r.groups[writer, STEP]
    entered = entered_loop(r, step, since)
    loop = r.steps[step, LOOP] if entered < 0 else r.loops[entered, PARENT]
    while loop >= 0 and r.loops[loop, STOP] <= r.groups[next_writer, STEP]:
        first = first_in_loop(r, tensor, writer, loop)
        if r.groups[first, READS] == 1:
            return True
        loop = r.loops[loop, PARENT]
    return False


@jit
def reach(r: Rules, group: int, since: int, writer: int) -> Reach:
    """Return how a residency that serves ``group`` goes on; ``writer`` is the last group that wrote in it before."""
    bad = Reach(False, 0, 0, -1, False, 0, 0, 0)
    num_steps = r.dims[STEPS]
    stop = r.tensors[r.groups[group, TENSOR], END]
    h = group
    last = group - 1
    end = 0
    while True:
        ok, e, new_last = cover(r, h, since)
        if not ok:
            return bad
        for k in range(last + 1, new_last + 1):
            if r.groups[k, WRITES] == 1:
                if r.groups[k, HOME_ONLY] != 0:
                    return bad
                writer = k
        end = max(end, e)
        last = new_last
        needed, begin, by, exit_at = False, 0, 0, 0
        least = end
        if writer >= 0:
            needed, begin, by, exit_at = exposure(r, writer, last, since)
            if needed:
                if by < begin:
                    return bad
                least = max(end, min(begin + 1, num_steps))
        h = last + 1
        while h < stop and r.groups[h, HOME_ONLY] == 1:
            h += 1
        if h >= stop or r.groups[h, STEP] >= least:
            return Reach(True, least, last, writer, needed, begin, by, exit_at)
        if r.groups[h, HOME_ONLY] == 2:
            return bad


@jit
def may_hoist(r: Rules, group: int, since: int, finish: int) -> bool:
    """Whether a copy complete at ``since`` stays out of loops that it may not be copied in before."""
    tensor = r.groups[group, TENSOR]
    if r.tensors[tensor, HOISTABLE] == 1:
        return True
    k = group
    while k > r.tensors[tensor, FIRST] and r.groups[k - 1, STEP] >= since:
        k -= 1
    while k < r.tensors[tensor, END] and r.groups[k, STEP] < finish:
        if r.groups[k, STEP] >= since and entered_loop(r, r.groups[k, STEP], since) >= 0:
            return False
        k += 1
    return True


# -- space ------------------------------------------------------------------------------------------------------------


@jit
def rect_begin(s: State, rect: int) -> int:
    """Return the first step of a rectangle: residency ``rect // 2``, or its reload if odd."""
    if rect % 2:
        return int(s.copies[rect - 1, ISSUE])
    return int(max(s.places[rect // 2, BEGIN], 0))


@jit
def put_sorted(offsets: I64, tops: I64, count: int, offset: int, top: int) -> None:
    """Insert [offset, top) into ``count`` intervals that are sorted by offset."""
    j = count
    while j > 0 and offsets[j - 1] > offset:
        offsets[j] = offsets[j - 1]
        tops[j] = tops[j - 1]
        j -= 1
    offsets[j] = offset
    tops[j] = top


@jit
def tightest(offsets: I64, tops: I64, count: int, size: int, unit: int, capacity: int) -> int:
    """Return the aligned offset in the tightest gap between ``count`` intervals that holds ``size``, -1: none."""
    free = np.int64(0)
    answer = np.int64(-1)
    slack = np.int64(1) << 62
    for i in range(count + 1):
        until = offsets[i] if i < count else capacity
        if until - free - size >= 0 and until - free - size < slack:
            slack = until - free - size
            answer = free
        if i < count:
            free = max(free, (tops[i] + unit - 1) // unit * unit)
    return int(answer)


@jit
def best_fit(r: Rules, s: State, layer: int, size: int, begin: int, end: int, again: int) -> int:
    """Return the aligned offset in the tightest gap that is free over [begin, end) and from ``again`` on (if >= 0).

    Space that a residency would need to go on to its tensor's next use is taken only if nothing else fits.
    """
    limit = 3 * r.dims[GROUPS]
    offsets = s.scratch[:limit]
    tops = s.scratch[limit : 2 * limit]
    unit, capacity = r.layers[layer, ALIGNMENT], r.layers[layer, CAPACITY]
    earliest = begin if again < 0 else min(begin, again)
    for politely in range(2):
        n = 0
        for i in range(s.rect_counts[layer] - 1, -1, -1):
            finish = s.rect_ends[layer, i]
            if finish <= earliest:
                break
            rect = s.rects[layer, i]
            if (finish > begin and rect_begin(s, rect) < end) or (again >= 0 and finish > again):
                offset = s.places[rect // 2, OFFSET]
                put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[rect // 2, TENSOR], SIZE])
                n += 1
        hard = n
        if politely == 0:
            for i in range(s.wish_counts[layer] - 1, -1, -1):
                if s.wish_ends[layer, i] <= begin:
                    break
                place = s.wishes[layer, i]
                if begin <= s.places[place, FINISH] < end:
                    offset = s.places[place, OFFSET]
                    put_sorted(offsets, tops, n, offset, offset + r.tensors[r.groups[place, TENSOR], SIZE])
                    n += 1
        answer = tightest(offsets, tops, n, size, unit, capacity)
        if answer >= 0 or n == hard:
            return answer
    return -1


@jit
def drop_wish(s: State, layer: int, place: int) -> None:
    """Forget that ``place`` may go on."""
    n = s.wish_counts[layer]
    i = n - 1
    while i >= 0 and s.wishes[layer, i] != place:
        i -= 1
    if i >= 0:
        for j in range(i, n - 1):
            s.wishes[layer, j] = s.wishes[layer, j + 1]
            s.wish_ends[layer, j] = s.wish_ends[layer, j + 1]
        s.wish_counts[layer] = n - 1


@jit
def add_wish(r: Rules, s: State, layer: int, place: int) -> None:
    """Note that ``place`` may go on to the next group that reads."""
    h = s.places[place, LAST] + 1
    end = r.tensors[r.groups[place, TENSOR], END]
    while h < end and r.groups[h, HOME_ONLY] == 1:
        h += 1
    if h >= end or r.groups[h, READS] == 0 or r.groups[h, STEP] < s.places[place, FINISH]:
        return
    n = s.wish_counts[layer]
    while n > 0 and s.wish_ends[layer, n - 1] > r.groups[h, STEP] + 1:
        s.wishes[layer, n] = s.wishes[layer, n - 1]
        s.wish_ends[layer, n] = s.wish_ends[layer, n - 1]
        n -= 1
    s.wishes[layer, n] = place
    s.wish_ends[layer, n] = r.groups[h, STEP] + 1
    s.wish_counts[layer] += 1


@jit
def set_current(s: State, tensor: int, layer: int, place: int) -> None:
    """Let ``place`` (-1: none) be the residency in ``layer`` that may go on."""
    if s.current[tensor, layer] >= 0:
        drop_wish(s, layer, s.current[tensor, layer])
    s.current[tensor, layer] = place


@jit
def free_until(r: Rules, s: State, layer: int, size: int, offset: int, begin: int, own: int) -> int:
    """Return the first step from ``begin`` on at which another residency than ``own`` takes part of the space."""
    until = r.dims[STEPS]
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        if s.rect_ends[layer, i] <= begin:
            break
        rect = s.rects[layer, i]
        place = rect // 2
        if place == own:
            continue
        other = s.places[place, OFFSET]
        if other < offset + size and offset < other + r.tensors[r.groups[place, TENSOR], SIZE]:
            until = min(until, rect_begin(s, rect))
    return int(max(until, begin))


@jit
def add_rect(s: State, layer: int, rect: int, begin: int, end: int, size: int) -> None:
    """Take space over [begin, end)."""
    n = s.rect_counts[layer]
    while n > 0 and s.rect_ends[layer, n - 1] > end:
        s.rects[layer, n] = s.rects[layer, n - 1]
        s.rect_ends[layer, n] = s.rect_ends[layer, n - 1]
        n -= 1
    s.rects[layer, n] = rect
    s.rect_ends[layer, n] = end
    s.rect_counts[layer] += 1
    for t in range(begin, end):
        s.occupied[t, layer] += size


@jit
def drop_rect(s: State, layer: int, rect: int, begin: int, end: int, size: int) -> None:
    """Undo ``add_rect``."""
    n = s.rect_counts[layer] - 1
    carried = s.rects[layer, n]
    carried_end = s.rect_ends[layer, n]
    while carried != rect:
        n -= 1
        carried, s.rects[layer, n] = s.rects[layer, n], carried
        carried_end, s.rect_ends[layer, n] = s.rect_ends[layer, n], carried_end
    s.rect_counts[layer] -= 1
    for t in range(begin, end):
        s.occupied[t, layer] -= size


# -- copies and their supply ------------------------------------------------------------------------------------------


@jit
def link_seconds(r: Rules, link: int, size: int, boundary: int) -> float:
    """Return the work of a copy whose ends lie in the loops around ``boundary``."""
    once = size / r.link_speed[link] + r.latency[link]
    return float(once * r.boundaries[boundary, CONTEXT_TRIPS])


@jit
def latest_issue(r: Rules, s: State, queue: int, layer: int, size: int, due: int, earliest: int) -> int:
    """Return the latest boundary from which free supply covers a copy due at ``due``, else the earliest possible."""
    link = queue // 2
    need = link_seconds(r, link, size, due)
    best = due
    b = due
    while b > earliest and need > 0.0:
        b -= 1
        if s.flights[queue, b] >= r.links[link, LIMIT] or s.occupied[b, layer] + size > r.layers[layer, CAPACITY]:
            break
        need -= s.idle[b, link] - s.busy[b, link]
        if r.boundaries[b, CONTEXT] == r.boundaries[due, CONTEXT]:
            best = b
    return best


@jit
def earliest_done(r: Rules, s: State, queue: int, size: int, issue: int, latest: int) -> int:
    """Return the first boundary up to which free supply covers a copy issued at ``issue``, else the latest possible."""
    link = queue // 2
    need = link_seconds(r, link, size, issue)
    best = issue
    b = issue
    while b < latest and need > 0.0:
        if s.flights[queue, b] >= r.links[link, LIMIT]:
            break
        need -= s.idle[b, link] - s.busy[b, link]
        b += 1
        if r.boundaries[b, CONTEXT] == r.boundaries[issue, CONTEXT]:
            best = b
    return best


@jit
def touch(s: State, boundary: int) -> None:
    """Note that the timeline changes at ``boundary``."""
    s.scratch[-2] = min(s.scratch[-2], boundary)
    s.scratch[-1] = max(s.scratch[-1], boundary)


@jit
def first_position(s: State, queue: int, copy: int, issue: int) -> int:
    """Return the place in ``queue`` of a copy that is issued at ``issue`` and has number ``copy``."""
    low = np.int64(0)
    high = s.counts[queue]
    while low < high:
        middle = (low + high) // 2
        x = s.order[queue, middle]
        if s.copies[x, ISSUE] < issue or (s.copies[x, ISSUE] == issue and x < copy):
            low = middle + 1
        else:
            high = middle
    return int(low)


@jit
def add_copy(r: Rules, s: State, copy: int, queue: int, issue: int, due: int) -> None:
    """Put a copy into its queue."""
    size = r.tensors[r.groups[copy // 2, TENSOR], SIZE]
    s.work[copy] = link_seconds(r, queue // 2, size, issue)
    at = first_position(s, queue, copy, issue)
    for i in range(s.counts[queue], at, -1):
        x = s.order[queue, i - 1]
        s.order[queue, i] = x
        s.copies[x, POSITION] = i
    s.order[queue, at] = copy
    s.counts[queue] += 1
    s.copies[copy, QUEUE] = queue
    s.copies[copy, ISSUE] = issue
    s.copies[copy, DUE] = due
    s.copies[copy, POSITION] = at
    after = s.due_first[due]
    s.copies[copy, NEXT] = after
    s.copies[copy, PREVIOUS] = -1
    if after >= 0:
        s.copies[after, PREVIOUS] = copy
    s.due_first[due] = copy
    for b in range(issue, due):
        s.flights[queue, b] += 1
    touch(s, issue)
    touch(s, due)


@jit
def drop_copy(s: State, copy: int) -> None:
    """Undo ``add_copy``; nothing happens if there is no such copy."""
    queue = s.copies[copy, QUEUE]
    if queue < 0:
        return
    for i in range(s.copies[copy, POSITION], s.counts[queue] - 1):
        x = s.order[queue, i + 1]
        s.order[queue, i] = x
        s.copies[x, POSITION] = i
    s.counts[queue] -= 1
    before = s.copies[copy, PREVIOUS]
    after = s.copies[copy, NEXT]
    if before >= 0:
        s.copies[before, NEXT] = after
    else:
        s.due_first[s.copies[copy, DUE]] = after
    if after >= 0:
        s.copies[after, PREVIOUS] = before
    for b in range(s.copies[copy, ISSUE], s.copies[copy, DUE]):
        s.flights[queue, b] -= 1
    s.copies[copy, QUEUE] = -1
    touch(s, s.copies[copy, ISSUE])
    touch(s, s.copies[copy, DUE])


# -- the timeline, re-run where it changed ----------------------------------------------------------------------------


@jit
def serve(r: Rules, s: State, group: int, place: int) -> None:
    """Let ``place`` (-1: layer 0) serve ``group``, and recompute its step's time."""
    t = r.groups[group, STEP]
    old = s.served[group]
    size = r.groups[group, BYTES]
    s.layer_bytes[t, s.places[old, LAYER] if old >= 0 else 0] -= size
    s.layer_bytes[t, s.places[place, LAYER] if place >= 0 else 0] += size
    s.served[group] = place
    memory = 0.0
    for layer in range(r.layer_speed.shape[0]):
        memory += s.layer_bytes[t, layer] / r.layer_speed[layer]
    seconds = max(r.compute[t], memory)
    trips = r.steps[t, TRIPS]
    s.total[0] += seconds * trips - s.elapsed[t]
    s.elapsed[t] = seconds * trips
    for k in range(r.dims[LINKS]):
        layer = r.links[k, SHARED]
        taken = s.layer_bytes[t, layer] / r.layer_speed[layer] if layer >= 0 else 0.0
        s.idle[t, k] = max(seconds - taken, 0.0) * trips
    touch(s, t)


@jit
def rerun(r: Rules, s: State) -> None:
    """Walk the timeline from the first boundary that changed until the queues agree with what they were."""
    num_steps, num_links, num_groups = r.dims[STEPS], r.dims[LINKS], r.dims[GROUPS]
    begin = s.scratch[-2]
    stop = s.scratch[-1]
    if stop < 0:
        return
    queues = 2 * num_links
    head = s.scratch[6 * num_groups : 6 * num_groups + queues]
    tail = s.scratch[6 * num_groups + queues : 6 * num_groups + 2 * queues]
    for q in range(queues):
        tail[q] = first_position(s, q, -1, begin)
        head[q] = tail[q]
        x = s.heads[begin, q]
        if x >= 0:
            head[q] = s.copies[x, POSITION]
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
                break
        waited = 0.0
        for phase in range(
            2
        ):  # as in timeline.run: wait for what was issued before, issue, wait for what is due at once
            x = s.due_first[b]
            while x >= 0:
                q = s.copies[x, QUEUE]
                if (s.copies[x, ISSUE] == b) == (phase == 1) and s.copies[x, POSITION] >= head[q]:
                    seconds = seconds_until_done(q, s.copies[x, POSITION], s.order, head, tail, s.remaining)
                    for k in range(num_links):
                        drain(k, seconds, s.order, head, tail, s.remaining)
                    head[q] = max(head[q], s.copies[x, POSITION] + 1)
                    waited += seconds
                x = s.copies[x, NEXT]
            if phase == 0:
                for q in range(queues):
                    while tail[q] < s.counts[q] and s.copies[s.order[q, tail[q]], ISSUE] == b:
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


# -- plans ------------------------------------------------------------------------------------------------------------


@jit
def back_queue(r: Rules, layer: int) -> int:
    """Return the queue of write-backs from ``layer``."""
    return int(2 * r.link_of[layer, 0] + 1)


@jit
def place_back(r: Rules, s: State, span: Reach, layer: int, size: int, until: int) -> tuple[int, int, int, int]:
    """Return (issue, due, finish, clipped) of a write-back whose source may keep its space until ``until``."""
    num_steps = r.dims[STEPS]
    group = span.writer
    stop = r.tensors[r.groups[group, TENSOR], END]
    issue = span.back_from
    h = span.last + 1
    while h < stop and r.groups[h, HOME_ONLY] == 1:
        h += 1
    later = min(span.back_exit + 1, num_steps)
    spans_nothing = h >= stop or r.groups[h, STEP] >= later
    if spans_nothing and issue < span.back_exit <= span.back_by and later <= until:
        issue = span.back_exit
    due = earliest_done(r, s, back_queue(r, layer), size, issue, min(span.back_by, max(until, issue)))
    clipped = 1 if until < span.back_by and due >= until - 1 else 0
    return issue, due, max(span.end, due, min(issue + 1, num_steps)), clipped


@jit
def finish_new(
    r: Rules,
    s: State,
    group: int,
    layer: int,
    entry: int,
    offset: int,
    begin: int,
    since: int,
    source: int,
    issue: int,
    due: int,
    span: Reach,
) -> Plan:
    """Complete the plan of a new residency by its write-back."""
    size = r.tensors[r.groups[group, TENSOR], SIZE]
    finish = span.end
    back, back_issue, back_due, clipped = -1, -1, -1, 0
    if span.needed:
        until = free_until(r, s, layer, size, offset, span.end, group)
        back = span.writer
        back_issue, back_due, finish, clipped = place_back(r, s, span, layer, size, until)
    if entry == COPIED and not may_hoist(r, group, since, finish):
        return no_plan()
    return Plan(
        NEW, group, layer, entry, offset, begin, finish, since, source, span.last, issue, due, -1, back, back_issue,
        back_due, clipped,
    )  # fmt: skip


@jit
def plan_born(r: Rules, s: State, group: int, layer: int) -> Plan:
    """Plan a definition that writes straight into ``layer``."""
    tensor = r.groups[group, TENSOR]
    t = r.groups[group, STEP]
    size = r.tensors[tensor, SIZE]
    old = s.latest[tensor, layer]
    if old >= 0 and s.places[old, FINISH] > t:
        return no_plan()
    span = reach(r, group, t + 1, -1)
    if not span.ok:
        return no_plan()
    offset = best_fit(r, s, layer, size, t, span.end, -1)
    if offset < 0:
        return no_plan()
    return finish_new(r, s, group, layer, BORN, offset, t, t + 1, -1, -1, -1, span)


@jit
def last_outside(r: Rules) -> int:
    """Return the last boundary before the end of the program at which no loop is under way, -1: none."""
    num_steps = r.dims[STEPS]
    b = num_steps - 1
    while b >= 0 and r.boundaries[b, CONTEXT] != r.boundaries[num_steps, CONTEXT]:
        b -= 1
    return int(b)


@jit
def plan_held(r: Rules, s: State, group: int, layer: int) -> Plan:
    """Plan a parameter that is in ``layer`` from the run before; it is loaded into the same place at the end."""
    num_steps = r.dims[STEPS]
    tensor = r.groups[group, TENSOR]
    size = r.tensors[tensor, SIZE]
    for k in range(r.tensors[tensor, FIRST], group):
        if r.groups[k, HOME_ONLY] != 1:
            return no_plan()
    span = reach(r, group, 0, -1)
    latest = last_outside(r)
    queue = 2 * r.link_of[0, layer]
    if not span.ok or latest < span.end:
        return no_plan()
    issue = min(latest_issue(r, s, queue, layer, size, num_steps, span.end), latest)
    while True:
        if fits_flights(r, s, queue, issue, num_steps):
            offset = best_fit(r, s, layer, size, 0, span.end, issue)
            if offset >= 0:
                return Plan(
                    NEW, group, layer, HELD_OVER, offset, -1, span.end, 0, -1, span.last, issue, num_steps, -1, -1, -1,
                    -1, 0,
                )  # fmt: skip
        if issue == latest:
            return no_plan()
        issue = later_in_context(r, (issue + latest + 1) // 2, latest)


@jit
def fits_flights(r: Rules, s: State, queue: int, issue: int, due: int) -> bool:
    """Whether a further copy under way over [issue, due) stays within the link's limit."""
    most = np.int64(0)
    for b in range(issue, due):
        most = max(most, s.flights[queue, b])
    return bool(most < r.links[queue // 2, LIMIT])


@jit
def later_in_context(r: Rules, boundary: int, due: int) -> int:
    """Return the first boundary from ``boundary`` on that lies in the same loops as ``due``."""
    while r.boundaries[boundary, CONTEXT] != r.boundaries[due, CONTEXT]:
        boundary += 1
    return boundary


@jit
def copy_source(r: Rules, s: State, group: int, layer: int, due: int) -> tuple[int, int]:
    """Return (residency, earliest issue) of the fastest other fast layer that can be copied from; (-1, 0): none.

    The source must outlive the moment of issue, so that such a copy is issued before ``due``.
    """
    tensor = r.groups[group, TENSOR]
    size = r.tensors[tensor, SIZE]
    for other in range(r.dims[LAYERS] - 1, 0, -1):
        place = s.current[tensor, other]
        if other == layer or place < 0:
            continue
        since = s.places[place, SINCE]
        ok = since < due and r.boundaries[due - 1, CONTEXT] == r.boundaries[due, CONTEXT]
        queue = 2 * r.link_of[other, layer] + (1 if layer < other else 0)
        ok = ok and s.flights[queue, due - 1] < r.links[queue // 2, LIMIT]
        for k in range(s.places[place, LAST] + 1, group):
            if r.groups[k, WRITES] == 1 or r.groups[k, HOME_ONLY] == 2:
                ok = False
        if not ok:
            continue
        loop = r.steps[due - 1, LOOP]
        while loop >= 0:
            if due < r.loops[loop, STOP] and since <= r.loops[loop, START]:
                ok = False
            loop = r.loops[loop, PARENT]
        finish = max(s.places[place, FINISH], due)
        if s.places[place, ENTRY] == COPIED and not may_hoist(r, place, since, finish):
            ok = False
        if s.places[place, ENTRY] == HELD_OVER and finish > s.copies[2 * place, ISSUE]:
            ok = False
        if not ok:
            continue
        if free_until(r, s, other, size, s.places[place, OFFSET], s.places[place, FINISH], place) < due:
            continue
        earliest = max(since, s.places[place, BEGIN] + 1)
        for k in range(place, group):
            if r.groups[k, WRITES] == 1 and s.served[k] == place:
                inner = entered_loop(r, r.groups[k, STEP], since)
                earliest = max(earliest, r.groups[k, STEP] + 1 if inner < 0 else r.loops[inner, STOP])
        if earliest < due:
            return int(place), int(earliest)
    return -1, 0


@jit
def plan_copy_at(r: Rules, s: State, group: int, layer: int, due: int) -> Plan:
    """Plan a copy into ``layer`` that is complete at boundary ``due``."""
    tensor = r.groups[group, TENSOR]
    size = r.tensors[tensor, SIZE]
    old = s.latest[tensor, layer]
    if old >= 0 and s.places[old, FINISH] > due:
        return no_plan()
    span = reach(r, group, due, -1)
    if not span.ok:
        return no_plan()
    source, earliest = copy_source(r, s, group, layer, due)
    if source < 0:
        writer = group - 1
        while writer >= r.tensors[tensor, FIRST] and r.groups[writer, WRITES] == 0:
            writer -= 1
        if writer >= r.tensors[tensor, FIRST]:
            earliest = r.groups[writer, STEP] + 1
            if s.copies[2 * writer + 1, QUEUE] >= 0:
                earliest = max(earliest, s.copies[2 * writer + 1, DUE])
    if earliest > due:
        return no_plan()
    slower = s.places[source, LAYER] if source >= 0 else np.int64(0)
    queue = 2 * r.link_of[slower, layer] + (1 if layer < slower else 0)
    final = due - 1 if source >= 0 else due
    issue = min(latest_issue(r, s, queue, layer, size, due, earliest), final)
    while True:
        offset = best_fit(r, s, layer, size, issue, span.end, -1)
        if offset >= 0:
            return finish_new(r, s, group, layer, COPIED, offset, issue, due, source, issue, due, span)
        if issue == final:
            return no_plan()
        issue = later_in_context(r, (issue + final + 1) // 2, due)


@jit
def plan_copy(r: Rules, s: State, group: int, layer: int) -> Plan:
    """Plan a copy: before the outermost loop that the tensor is first used in here, if it may be; else just before."""
    t = r.groups[group, STEP]
    tensor = r.groups[group, TENSOR]
    if r.tensors[tensor, HOISTABLE] == 1:
        outside = np.int64(-1)
        while True:
            loop = r.steps[t, LOOP]
            while loop >= 0 and r.loops[loop, PARENT] != outside:
                loop = r.loops[loop, PARENT]
            if loop < 0 or r.loops[loop, START] == t:
                break
            if group == r.tensors[tensor, FIRST] or r.groups[group - 1, STEP] < r.loops[loop, START]:
                plan = plan_copy_at(r, s, group, layer, r.loops[loop, START])
                if plan.kind != ILLEGAL:
                    return plan
            outside = loop
    return plan_copy_at(r, s, group, layer, t)


@jit
def plan_longer(r: Rules, s: State, group: int, place: int) -> Plan:
    """Plan that residency ``place`` stays and serves ``group`` too."""
    tensor = r.groups[group, TENSOR]
    size = r.tensors[tensor, SIZE]
    layer, offset = s.places[place, LAYER], s.places[place, OFFSET]
    since, entry = s.places[place, SINCE], s.places[place, ENTRY]
    for k in range(s.places[place, LAST] + 1, group):
        if r.groups[k, WRITES] == 1 or r.groups[k, HOME_ONLY] == 2:
            return no_plan()
    before = group - 1
    elsewhere = False  # a group since the last write was served by another place
    while before >= place and r.groups[before, WRITES] == 0:
        elsewhere = elsewhere or (s.served[before] != place and r.groups[before, HOME_ONLY] == 0)
        before -= 1
    if before < place:
        before = -1
    span = reach(r, group, since, before)
    if not span.ok:
        return no_plan()
    until = free_until(r, s, layer, size, offset, s.places[place, FINISH], place)
    if until < span.end:
        return no_plan()
    undo, back, back_issue, back_due, clipped = -1, -1, -1, -1, 0
    finish = span.end
    has_back = before >= 0 and s.copies[2 * before + 1, QUEUE] >= 0
    keep = has_back and elsewhere
    if has_back and span.writer != before:
        keep = keep or read_again(r, before, span.writer, since)
        for k in range(before + 1, span.writer):
            keep = keep or r.groups[k, HOME_ONLY] != 0
    elif has_back and span.needed and s.copies[2 * before + 1, CLIPPED] == 0:
        keep = True
    if keep:
        finish = max(finish, s.copies[2 * before + 1, DUE], min(s.copies[2 * before + 1, ISSUE] + 1, r.dims[STEPS]))
    elif has_back:
        undo = before
    if span.needed and not (keep and span.writer == before):
        back = span.writer
        back_issue, back_due, needed_until, clipped = place_back(r, s, span, layer, size, until)
        finish = max(finish, needed_until)
    if entry == COPIED and not may_hoist(r, place, since, finish):
        return no_plan()
    issue = -1
    if entry == HELD_OVER and finish > s.copies[2 * place, ISSUE]:
        latest = last_outside(r)
        if latest < finish:
            return no_plan()
        issue = later_in_context(r, finish, latest)
    return Plan(
        LONGER, place, layer, entry, offset, s.places[place, BEGIN], finish, since, -1, span.last, issue, -1, undo,
        back, back_issue, back_due, clipped,
    )  # fmt: skip


@jit
def plan(r: Rules, s: State, group: int, action: int) -> Plan:
    """Plan an action other than Drop at ``group``."""
    layer = (action + 1) // 2
    tensor = r.groups[group, TENSOR]
    reads = r.groups[group, READS] == 1
    if s.served[group] >= 0:
        if action % 2 == 0 and s.places[s.served[group], LAYER] == layer:
            return Plan(NOTHING, s.served[group], layer, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1, 0)
        return no_plan()
    if r.tensors[tensor, SIZE] > r.layers[layer, CAPACITY]:
        return no_plan()
    if action % 2 == 1:
        return plan_copy(r, s, group, layer) if reads else no_plan()
    if not reads:
        return plan_born(r, s, group, layer)
    if s.current[tensor, layer] >= 0:
        return plan_longer(r, s, group, s.current[tensor, layer])
    if r.tensors[tensor, HOLDABLE] == 1:
        return plan_held(r, s, group, layer)
    return no_plan()


# -- carrying out -----------------------------------------------------------------------------------------------------


@jit
def stretch(r: Rules, s: State, place: int, finish: int) -> None:
    """Let a residency end at ``finish``."""
    size = r.tensors[r.groups[place, TENSOR], SIZE]
    if s.places[place, FINISH] != finish:
        begin = max(s.places[place, BEGIN], 0)
        drop_rect(s, s.places[place, LAYER], 2 * place, begin, s.places[place, FINISH], size)
        s.places[place, FINISH] = finish
        add_rect(s, s.places[place, LAYER], 2 * place, begin, finish, size)


@jit
def carry_out(r: Rules, s: State, group: int, p: Plan) -> None:
    """Do what a legal plan says."""
    tensor = r.groups[group, TENSOR]
    size = r.tensors[tensor, SIZE]
    num_steps = r.dims[STEPS]
    if p.undo_back >= 0:
        drop_copy(s, 2 * p.undo_back + 1)
    if p.kind == NEW:
        row = s.places[group]
        row[LAYER], row[OFFSET], row[BEGIN], row[FINISH] = p.layer, p.offset, p.begin, p.finish
        row[SINCE], row[SOURCE], row[ENTRY] = p.since, p.source, p.entry
        add_rect(s, p.layer, 2 * group, max(p.begin, 0), p.finish, size)
        s.latest[tensor, p.layer] = group
        if p.entry != BORN:
            slower = s.places[p.source, LAYER] if p.source >= 0 else np.int64(0)
            queue = 2 * r.link_of[slower, p.layer] + (1 if p.layer < slower else 0)
            add_copy(r, s, 2 * group, queue, p.issue, p.due)
        if p.entry == HELD_OVER:
            add_rect(s, p.layer, 2 * group + 1, p.issue, num_steps, size)
        if p.source >= 0:
            stretch(r, s, p.source, max(s.places[p.source, FINISH], p.due))
    else:
        if p.entry == HELD_OVER and p.issue >= 0:
            drop_rect(s, p.layer, 2 * p.place + 1, s.copies[2 * p.place, ISSUE], num_steps, size)
            queue = s.copies[2 * p.place, QUEUE]
            drop_copy(s, 2 * p.place)
            add_copy(r, s, 2 * p.place, queue, p.issue, num_steps)
            add_rect(s, p.layer, 2 * p.place + 1, p.issue, num_steps, size)
        stretch(r, s, p.place, p.finish)
    s.places[p.place, LAST] = p.last
    if p.back >= 0:
        add_copy(r, s, 2 * p.back + 1, back_queue(r, p.layer), p.back_issue, p.back_due)
        s.copies[2 * p.back + 1, CLIPPED] = p.clipped
    writes = False
    for k in range(group, p.last + 1):
        if r.groups[k, HOME_ONLY] == 0:
            serve(r, s, k, p.place)
            writes = writes or r.groups[k, WRITES] == 1
    for layer in range(1, r.dims[LAYERS]):
        if layer > p.layer or (writes and layer != p.layer):
            set_current(s, tensor, layer, -1)
    set_current(s, tensor, p.layer, p.place)
    add_wish(r, s, p.layer, p.place)


@jit
def take_back(r: Rules, s: State, place: int) -> None:
    """Undo a residency and those that were copied from it; layer 0 serves their groups."""
    tensor = r.groups[place, TENSOR]
    size = r.tensors[tensor, SIZE]
    end = r.tensors[tensor, END]
    for p in range(place, end):
        layer = s.places[p, LAYER]
        source = s.places[p, SOURCE]
        if layer == 0 or (p != place and (source < 0 or s.places[source, LAYER] != 0)):
            continue
        drop_rect(s, layer, 2 * p, max(s.places[p, BEGIN], 0), s.places[p, FINISH], size)
        if s.places[p, ENTRY] == HELD_OVER:
            drop_rect(s, layer, 2 * p + 1, s.copies[2 * p, ISSUE], r.dims[STEPS], size)
        drop_copy(s, 2 * p)
        for k in range(p, end):
            if s.served[k] == p:
                drop_copy(s, 2 * k + 1)
                serve(r, s, k, -1)
        s.places[p, LAYER] = 0
        s.latest[tensor, layer] = -1
    for p in range(r.tensors[tensor, FIRST], end):
        if s.places[p, LAYER] > 0:
            s.latest[tensor, s.places[p, LAYER]] = p


@jit
def do_step(r: Rules, s: State, action: int) -> float:
    """Take ``action`` in place; return the reward, or NaN (and change nothing) if it is illegal."""
    turn = s.turn[0]
    if turn >= r.dims[DECISIONS] or action < 0 or action > 2 * (r.dims[LAYERS] - 1):
        return np.nan
    group = r.decisions[turn]
    before = s.total[0]
    s.scratch[-2], s.scratch[-1] = r.dims[STEPS] + 1, -1
    if action == 0:
        if s.served[group] >= 0:
            take_back(r, s, s.served[group])
        for layer in range(1, r.dims[LAYERS]):
            set_current(s, r.groups[group, TENSOR], layer, -1)
    else:
        p = plan(r, s, group, action)
        if p.kind == ILLEGAL:
            return np.nan
        if p.kind != NOTHING:
            carry_out(r, s, group, p)
    rerun(r, s)
    s.turn[0] = turn + 1
    return float((before - s.total[0]) / r.home_seconds[0])


@jit
def is_legal(r: Rules, s: State, action: int) -> bool:
    """Whether ``action`` may be taken now."""
    turn = s.turn[0]
    if turn >= r.dims[DECISIONS]:
        return False
    return action == 0 or plan(r, s, r.decisions[turn], action).kind != ILLEGAL


@jit
def play(r: Rules, s: State, wanted: I64, taken: I64) -> float:
    """Take each wanted action, else the other one of its layer, else Drop; return the seconds at the end."""
    for i in range(s.turn[0], r.dims[DECISIONS]):
        action = wanted[i]
        if np.isnan(do_step(r, s, action)):
            action = action + 1 if action % 2 == 1 else action - 1
            if action <= 0 or np.isnan(do_step(r, s, action)):
                action = 0
                do_step(r, s, 0)
        taken[i] = action
    return float(s.total[0])


@jit
def write_mask(r: Rules, s: State, mask: Bool) -> None:
    """Fill ``mask`` bool[A] with the actions that are legal now."""
    for action in range(mask.shape[0]):
        mask[action] = is_legal(r, s, action)

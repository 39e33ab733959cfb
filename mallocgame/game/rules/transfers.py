"""Transfers on the links: queues, and from which boundary free supply covers a copy. Numba kernels."""

import numpy as np

from mallocgame.game.rules.state import Boundaries, Groups, Layers, Links, Movables, Moves, Rules, State
from mallocgame.jit import part


@part
def back_queue(r: Rules, layer: int) -> int:
    """Return the queue of write-backs from ``layer``."""
    return int(2 * r.link_of[layer, 0] + 1)


@part
def within_limit(r: Rules, s: State, queue: int, issue: int, due: int) -> bool:
    """Whether a further copy under way over [issue, due) stays within the link's limit."""
    most = np.int64(0)
    for b in range(issue, due):
        most = max(most, s.in_flight[queue, b])
    return bool(most < r.links[queue // 2, Links.LIMIT])


@part
def last_outside(r: Rules) -> int:
    """Return the last boundary before the end of the program at which no loop is under way, -1: none."""
    num_steps = r.num_steps
    b = num_steps - 1
    while b >= 0 and r.boundaries[b, Boundaries.CONTEXT] != r.boundaries[num_steps, Boundaries.CONTEXT]:
        b -= 1
    return int(b)


@part
def later_in_context(r: Rules, boundary: int, due: int) -> int:
    """Return the first boundary from ``boundary`` on that lies in the same loops as ``due``."""
    while r.boundaries[boundary, Boundaries.CONTEXT] != r.boundaries[due, Boundaries.CONTEXT]:
        boundary += 1
    return boundary


@part
def link_seconds(r: Rules, link: int, size: int, boundary: int) -> float:
    """Return the work of a copy whose ends lie in the loops around ``boundary``."""
    once = size / r.link_speed[link] + r.latency[link]
    return float(once * r.boundaries[boundary, Boundaries.CONTEXT_TRIPS])


@part
def earliest_done(r: Rules, s: State, queue: int, size: int, issue: int, latest: int) -> tuple[int, bool]:
    """Return the first boundary up to which free supply covers a copy issued at ``issue``, else the latest possible.

    The second value says whether it is covered.
    """
    link = queue // 2
    need = link_seconds(r, link, size, issue)
    best = issue
    b = issue
    while b < latest and need > 0.0:
        if s.in_flight[queue, b] >= r.links[link, Links.LIMIT]:
            break
        need -= s.idle[b, link] - s.busy[b, link]
        b += 1
        if r.boundaries[b, Boundaries.CONTEXT] == r.boundaries[issue, Boundaries.CONTEXT]:
            best = b
    return best, need <= 0.0 and best == b


@part
def touch(s: State, boundary: int) -> None:
    """Note that the timeline changes at ``boundary``."""
    s.first_touched[0] = min(s.first_touched[0], boundary)
    s.last_touched[0] = max(s.last_touched[0], boundary)


@part
def goes_before(s: State, queue: int, other: int, copy: int, due: int) -> bool:
    """Whether ``other`` goes before ``copy``, both issued at one boundary: first due first, write-backs by number."""
    if queue % 2 == 1 or s.copies[other, Moves.DUE] == due:
        return bool(other < copy)
    return bool(s.copies[other, Moves.DUE] < due)


@part
def first_position(s: State, queue: int, copy: int, issue: int, due: int) -> int:
    """Return the place in ``queue`` of a copy that is issued at ``issue``, due at ``due`` and has number ``copy``."""
    low = np.int64(0)
    high = s.counts[queue]
    while low < high:
        middle = (low + high) // 2
        x = s.order[queue, middle]
        if s.copies[x, Moves.ISSUE] < issue or (
            s.copies[x, Moves.ISSUE] == issue and goes_before(s, queue, x, copy, due)
        ):
            low = middle + 1
        else:
            high = middle
    return int(low)


@part
def head_position(s: State, queue: int, boundary: int) -> int:
    """Return the place in ``queue`` of the first copy that is unfinished, or not issued, on arrival at ``boundary``."""
    x = s.heads[boundary, queue]
    return int(s.copies[x, Moves.POSITION]) if x >= 0 else first_position(s, queue, -1, boundary, -1)


@part
def spare_seconds(s: State, copy: int, enough: float) -> float:
    """Return the link's supply between the end of ``copy`` and its due boundary; it stops counting at ``enough``."""
    queue, due = s.copies[copy, Moves.QUEUE], s.copies[copy, Moves.DUE]
    b, late = s.copies[copy, Moves.ISSUE] + 1, due + 1
    while b < late:  # bisection: it is done on arrival at b
        middle = (b + late) // 2
        head = s.heads[middle, queue]
        if head >= 0 and s.copies[head, Moves.POSITION] <= s.copies[copy, Moves.POSITION]:
            b = middle + 1
        else:
            late = middle
    spare = 0.0
    while b < due and spare < enough:
        spare += s.idle[b, queue // 2]
        b += 1
    return spare


@part
def latest_issue(r: Rules, s: State, copy: int, queue: int, layer: int, size: int, due: int, earliest: int) -> int:
    """Return the latest boundary at which ``copy``, due at ``due``, is issued without a wait, else that of least wait.

    A copy that goes before others in the queue delays them by what free supply has not done of it when they are issued,
    and they can bear their spare seconds: at boundary b, free supply over [b, due) must be the copy's own work and, for
    each of them, at least what is free from its issue on less what it can spare.
    """
    link = queue // 2
    need = link_seconds(r, link, size, due)
    best, least = due, np.inf
    supply, extra = 0.0, 0.0
    i = first_position(s, queue, -1, due + 1, -1) - 1
    b = due
    while True:
        while i >= 0:
            x = s.order[queue, i]
            if s.copies[x, Moves.ISSUE] < b or (s.copies[x, Moves.ISSUE] == b and goes_before(s, queue, x, copy, due)):
                break
            if supply > extra:
                extra = max(extra, supply - spare_seconds(s, x, supply))
            i -= 1
        if (
            r.boundaries[b, Boundaries.CONTEXT] == r.boundaries[due, Boundaries.CONTEXT]
            and need + extra - supply < least
        ):
            least = need + extra - supply
            best = b
        if b <= earliest or least <= 0.0:
            return best
        b -= 1
        if (
            s.in_flight[queue, b] >= r.links[link, Links.LIMIT]
            or s.occupied[b, layer] + size > r.layers[layer, Layers.CAPACITY]
        ):
            return best
        supply += s.idle[b, link] - s.busy[b, link]


@part
def link_due(s: State, copy: int, due: int) -> None:
    """Put a copy into the list of those due at ``due``."""
    after = s.due_first[due]
    s.copies[copy, Moves.DUE] = due
    s.copies[copy, Moves.NEXT] = after
    s.copies[copy, Moves.PREVIOUS] = -1
    if after >= 0:
        s.copies[after, Moves.PREVIOUS] = copy
    s.due_first[due] = copy


@part
def add_copy(r: Rules, s: State, copy: int, queue: int, issue: int, due: int) -> None:
    """Put a copy into its queue."""
    size = r.tensors[r.groups[copy // 2, Groups.TENSOR], Movables.SIZE]
    s.work[copy] = link_seconds(r, queue // 2, size, issue)
    at = first_position(s, queue, copy, issue, due)
    for i in range(s.counts[queue], at, -1):
        x = s.order[queue, i - 1]
        s.order[queue, i] = x
        s.copies[x, Moves.POSITION] = i
    s.order[queue, at] = copy
    s.counts[queue] += 1
    s.copies[copy, Moves.QUEUE] = queue
    s.copies[copy, Moves.ISSUE] = issue
    s.copies[copy, Moves.POSITION] = at
    link_due(s, copy, due)
    for b in range(issue, due):
        s.in_flight[queue, b] += 1
    touch(s, issue)
    touch(s, due)


@part
def drop_copy(s: State, copy: int) -> None:
    """Undo ``add_copy``; nothing happens if there is no such copy."""
    queue = s.copies[copy, Moves.QUEUE]
    if queue < 0:
        return
    for i in range(s.copies[copy, Moves.POSITION], s.counts[queue] - 1):
        x = s.order[queue, i + 1]
        s.order[queue, i] = x
        s.copies[x, Moves.POSITION] = i
    s.counts[queue] -= 1
    before = s.copies[copy, Moves.PREVIOUS]
    after = s.copies[copy, Moves.NEXT]
    if before >= 0:
        s.copies[before, Moves.NEXT] = after
    else:
        s.due_first[s.copies[copy, Moves.DUE]] = after
    if after >= 0:
        s.copies[after, Moves.PREVIOUS] = before
    for b in range(s.copies[copy, Moves.ISSUE], s.copies[copy, Moves.DUE]):
        s.in_flight[queue, b] -= 1
    s.copies[copy, Moves.QUEUE] = -1
    touch(s, s.copies[copy, Moves.ISSUE])
    touch(s, s.copies[copy, Moves.DUE])


@part
def set_due(s: State, copy: int, due: int) -> None:
    """Let a write-back that is complete by ``due`` be due then, earlier than before; no time changes."""
    before, after, old = (
        s.copies[copy, Moves.PREVIOUS],
        s.copies[copy, Moves.NEXT],
        s.copies[copy, Moves.DUE],
    )
    if before >= 0:
        s.copies[before, Moves.NEXT] = after
    else:
        s.due_first[old] = after
    if after >= 0:
        s.copies[after, Moves.PREVIOUS] = before
    for b in range(due, old):
        s.in_flight[s.copies[copy, Moves.QUEUE], b] -= 1
    link_due(s, copy, due)

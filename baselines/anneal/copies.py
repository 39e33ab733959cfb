"""The copies of what is chosen, kept in the order in which links take them and the program waits for them.

Copy ``3 * c + part`` is candidate c's: IN, SECOND (the later slice, or the copy for a loop's next iteration), BACK. A
queue's copies stand by (issue, due, copy) in ``order`` and by (due, issued at that boundary, copy) in ``by_due``, as
packed keys whose last bits are the copy's: of copies issued at one boundary the first due goes first.
"""

from mallocgame.baselines.anneal.keys import insert_key, remove_key, where
from mallocgame.baselines.anneal.nest import back_issue, kin
from mallocgame.baselines.anneal.state import COPIED, HELD_OVER, Choice, Tables
from mallocgame.jit import part

IN, SECOND, BACK = 0, 1, 2
FIRST, LAST = 0, 1  # columns of ``Choice.window``
MASK = (1 << 28) - 1  # of a key: the copy
ISSUE = 39  # bits below the issue in a key of ``order``
LONGEST = (1 << 11) - 1  # boundaries from issue to due: those that are further apart count alike


@part
def touch(s: Choice, first: int, last: int) -> None:
    """Note that something changes at boundaries [first, last], or in the steps that follow them."""
    s.window[FIRST] = min(s.window[FIRST], first)
    s.window[LAST] = max(s.window[LAST], last)


@part
def queue_of(p: Tables, x: int) -> int:
    """Return the queue of copy x: 2 link, or 2 link + 1 toward the slower layer."""
    return int(2 * p.link[x // 3] + (1 if x % 3 == BACK else 0))


@part
def order_key(s: Choice, x: int) -> int:
    """Return the key of copy x in ``order``."""
    issue = s.copy_issue[x]
    return int(issue << ISSUE | min(s.copy_due[x] - issue, LONGEST) << 28 | x)


@part
def due_key(s: Choice, x: int) -> int:
    """Return the key of copy x in ``by_due``."""
    return int((2 * s.copy_due[x] + (1 if s.copy_issue[x] == s.copy_due[x] else 0)) << 32 | x)


@part
def add_copy(p: Tables, s: Choice, x: int, issue: int, due: int, work: float) -> None:
    """Add copy x, of so many link seconds, to its queue."""
    queue = queue_of(p, x)
    s.copy_issue[x], s.copy_due[x], s.copy_work[x] = issue, due, work
    insert_key(s.order[queue], s.queued[queue], order_key(s, x))
    insert_key(s.by_due[queue], s.queued[queue], due_key(s, x))
    s.queued[queue] += 1
    touch(s, issue, due)


@part
def remove_copy(p: Tables, s: Choice, x: int) -> None:
    """Undo ``add_copy``."""
    queue = queue_of(p, x)
    remove_key(s.order[queue], s.queued[queue], order_key(s, x))
    remove_key(s.by_due[queue], s.queued[queue], due_key(s, x))
    s.queued[queue] -= 1
    touch(s, s.copy_issue[x], s.copy_due[x])
    s.copy_issue[x] = -1


@part
def schedule(p: Tables, s: Choice, c: int) -> None:
    """Add the copies of c, which is chosen, with the times and slices that it has now."""
    if p.kind[c] == COPIED or p.kind[c] == HELD_OVER:
        trips = p.context_trips[p.due[c]]
        seconds = p.in_seconds[c]
        if s.cut[c] > 0:
            last = s.cut[c] if s.is_low[c] == 1 else p.bytes[c] - s.cut[c]
            seconds -= last * p.byte_seconds[c]
            work = (last * p.byte_seconds[c] + p.latency[c]) * trips
            add_copy(p, s, 3 * c + SECOND, s.late[c], p.due[c], work)
        add_copy(p, s, 3 * c + IN, s.issue[c], p.due[c], seconds * trips)
    if p.again_due[c] >= 0:
        add_copy(p, s, 3 * c + SECOND, s.late[c], p.again_due[c], p.in_seconds[c] * p.context_trips[p.again_due[c]])
    if p.back_issue[c] >= 0:
        issue = p.back_issue[c]
        if p.layer_speed.shape[0] > 2:
            issue = back_issue(p, s, where(s.chosen, s.number[0], c))
        add_copy(p, s, 3 * c + BACK, issue, s.back[c], p.in_seconds[c] * p.context_trips[issue])


@part
def unschedule(p: Tables, s: Choice, c: int) -> None:
    """Undo ``schedule``."""
    for x in range(3 * c, 3 * c + 3):
        if s.copy_issue[x] >= 0:
            remove_copy(p, s, x)


@part
def follow(p: Tables, s: Choice, c: int) -> None:
    """Issue what follows the write-backs of c's tensor when they are done: with more than two layers, one may lean."""
    if p.layer_speed.shape[0] == 2:
        return
    i = kin(p, s, c)
    while i < s.number[0] and s.chosen[i] < p.kin_end[c]:
        other = s.chosen[i]
        x = 3 * other + BACK
        if s.copy_issue[x] >= 0:
            issue = back_issue(p, s, i)
            if issue != s.copy_issue[x]:
                remove_copy(p, s, x)
                add_copy(p, s, x, issue, s.back[other], p.in_seconds[other] * p.context_trips[issue])
        i += 1

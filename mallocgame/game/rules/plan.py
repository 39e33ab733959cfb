"""What one action would do: the record, and the write-back that completes it. Numba kernels, changing nothing."""

from typing import NamedTuple

from mallocgame.game.rules.live_range import LiveRange, may_hoist
from mallocgame.game.rules.occupancy import free_until
from mallocgame.game.rules.state import AT_HOME, COPIED, Groups, Movables, Rules, State
from mallocgame.game.rules.transfers import back_queue, earliest_done
from mallocgame.jit import part

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
    clipped: int  # 1: free supply does not cover the write-back by then, as far as is known


@part
def no_plan() -> Plan:
    """Return the plan of an illegal action."""
    return unchanged(ILLEGAL, -1, 0)


@part
def unchanged(kind: int, place: int, layer: int) -> Plan:
    """Return a plan that does nothing."""
    return Plan(
        kind=kind,
        place=place,
        layer=layer,
        entry=0,
        offset=0,
        begin=0,
        finish=0,
        since=0,
        source=-1,
        last=-1,
        issue=-1,
        due=-1,
        undo_back=-1,
        back=-1,
        back_issue=-1,
        back_due=-1,
        clipped=0,
    )


@part
def place_back(r: Rules, s: State, span: LiveRange, layer: int, size: int, until: int) -> tuple[int, int, int, int]:
    """Return (issue, due, finish, clipped) of a write-back whose source may keep its space until ``until``."""
    num_steps = r.num_steps
    group = span.writer
    stop = r.tensors[r.groups[group, Groups.TENSOR], Movables.END]
    issue = span.back_from
    h = span.last + 1
    while h < stop and r.groups[h, Groups.HOME_ONLY] == AT_HOME:
        h += 1
    later = min(span.back_exit + 1, num_steps)
    spans_nothing = h >= stop or r.groups[h, Groups.STEP] >= later
    if spans_nothing and issue < span.back_exit <= span.back_by and later <= until:
        issue = span.back_exit
    due, covered = earliest_done(r, s, back_queue(r, layer), size, issue, min(span.back_by, max(until, issue)))
    return issue, due, max(span.end, due, min(issue + 1, num_steps)), 0 if covered else 1


@part
def finish_new(  # noqa: PLR0913 (a kernel takes arrays one by one)
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
    span: LiveRange,
) -> Plan:
    """Complete the plan of a new residency by its write-back."""
    size = r.tensors[r.groups[group, Groups.TENSOR], Movables.SIZE]
    finish = span.end
    back, back_issue, back_due, clipped = -1, -1, -1, 0
    if span.needed:
        until = free_until(r, s, layer, size, offset, span.end, group)
        back = span.writer
        back_issue, back_due, finish, clipped = place_back(r, s, span, layer, size, until)
    if entry == COPIED and not may_hoist(r, group, since, finish):
        return no_plan()
    return Plan(
        kind=NEW,
        place=group,
        layer=layer,
        entry=entry,
        offset=offset,
        begin=begin,
        finish=finish,
        since=since,
        source=source,
        last=span.last,
        issue=issue,
        due=due,
        undo_back=-1,
        back=back,
        back_issue=back_issue,
        back_due=back_due,
        clipped=clipped,
    )

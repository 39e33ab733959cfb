"""Plan any action: is it legal, and where and when would things go. Numba kernels, changing nothing."""

from mallocgame.game.rules.addresses import best_fit, repack
from mallocgame.game.rules.live_range import live_range, may_hoist, read_again
from mallocgame.game.rules.occupancy import free_until, has_room, settle
from mallocgame.game.rules.plan import LONGER, NEW, NOTHING, Plan, finish_new, no_plan, place_back, unchanged
from mallocgame.game.rules.plan_copy import plan_copy
from mallocgame.game.rules.state import (
    ANYWHERE,
    AT_HOME,
    BORN,
    COPIED,
    HELD_OVER,
    MIXED,
    Groups,
    Layers,
    Movables,
    Moves,
    Places,
    Rules,
    State,
)
from mallocgame.game.rules.transfers import last_outside, later_in_context, latest_issue, within_limit
from mallocgame.jit import part


@part
def plan_born(r: Rules, s: State, group: int, layer: int) -> Plan:
    """Plan a definition that writes straight into ``layer``."""
    tensor = r.groups[group, Groups.TENSOR]
    t = r.groups[group, Groups.STEP]
    old = s.latest[tensor, layer]
    if old >= 0 and s.places[old, Places.FINISH] > t:
        return no_plan()
    span = live_range(r, group, t + 1, -1)
    if not span.ok:
        return no_plan()
    offset = best_fit(r, s, layer, group, span.last, t, span.end, -1)
    if offset < 0:
        return no_plan()
    return finish_new(r, s, group, layer, BORN, offset, t, t + 1, -1, -1, -1, span)


@part
def held_plan(group: int, layer: int, offset: int, end: int, last: int, issue: int, num_steps: int) -> Plan:
    """Return the plan of a residency that is there from the run before up to ``end``, and again from ``issue`` on."""
    return Plan(
        kind=NEW,
        place=group,
        layer=layer,
        entry=HELD_OVER,
        offset=offset,
        begin=-1,
        finish=end,
        since=0,
        source=-1,
        last=last,
        issue=issue,
        due=num_steps,
        undo_back=-1,
        back=-1,
        back_issue=-1,
        back_due=-1,
        clipped=0,
    )


@part
def plan_held(r: Rules, s: State, group: int, layer: int) -> Plan:
    """Plan a parameter that is in ``layer`` from the run before; it is loaded into the same place at the end."""
    num_steps = r.num_steps
    tensor = r.groups[group, Groups.TENSOR]
    size = r.tensors[tensor, Movables.SIZE]
    for k in range(r.tensors[tensor, Movables.FIRST], group):
        if r.groups[k, Groups.HOME_ONLY] != AT_HOME:
            return no_plan()
    span = live_range(r, group, 0, -1)
    latest = last_outside(r)
    queue = 2 * r.link_of[0, layer]
    if not span.ok or latest < span.end:
        return no_plan()
    issue = min(latest_issue(r, s, 2 * group, queue, layer, size, num_steps, span.end), latest)
    while True:
        if within_limit(r, s, queue, issue, num_steps):
            offset = best_fit(r, s, layer, group, span.last, 0, span.end, issue)
            if offset >= 0:
                return held_plan(group, layer, offset, span.end, span.last, issue, num_steps)
        if issue == latest:
            return no_plan()
        issue = later_in_context(r, (issue + latest + 1) // 2, latest)


@part
def plan_longer(r: Rules, s: State, group: int, place: int) -> Plan:  # noqa: C901 (a kernel: one loop)
    """Plan that residency ``place`` stays and serves ``group`` too."""
    tensor = r.groups[group, Groups.TENSOR]
    size = r.tensors[tensor, Movables.SIZE]
    layer, offset = s.places[place, Places.LAYER], s.planned[place]
    since, entry = s.places[place, Places.SINCE], s.places[place, Places.ENTRY]
    for k in range(s.places[place, Places.LAST] + 1, group):
        if r.groups[k, Groups.WRITES] == 1 or r.groups[k, Groups.HOME_ONLY] == MIXED:
            return no_plan()
    before = group - 1
    elsewhere = False  # a group since the last write was served by another place
    while before >= place and r.groups[before, Groups.WRITES] == 0:
        elsewhere = elsewhere or (s.served[before] != place and r.groups[before, Groups.HOME_ONLY] == ANYWHERE)
        before -= 1
    if before < place:
        before = -1
    span = live_range(r, group, since, before)
    if not span.ok:
        return no_plan()
    until = free_until(r, s, layer, size, offset, s.places[place, Places.FINISH], place)
    if until < span.end:
        reload_step = int(s.copies[2 * place, Moves.ISSUE]) if entry == HELD_OVER else -1
        if not has_room(r, s, layer, size, s.places[place, Places.FINISH], span.end):
            return no_plan()
        offset = repack(r, s, layer, place, (int(max(s.places[place, Places.BEGIN], 0)), span.end, reload_step))
        if offset < 0:
            return no_plan()
        until = free_until(r, s, layer, size, offset, span.end, place)
    undo, back, back_issue, back_due, clipped = -1, -1, -1, -1, 0
    finish = span.end
    has_back = before >= 0 and s.copies[2 * before + 1, Moves.QUEUE] >= 0
    keep = has_back and elsewhere
    if has_back and span.writer != before:
        keep = keep or read_again(r, before, span.writer, since)
        for k in range(before + 1, span.writer):
            keep = keep or r.groups[k, Groups.HOME_ONLY] != ANYWHERE
    elif has_back and span.needed:
        in_time = s.copies[2 * before + 1, Moves.CLIPPED] == 0 and s.stall[s.copies[2 * before + 1, Moves.DUE]] == 0.0
        keep = keep or in_time
    if keep:
        finish = max(
            finish,
            s.copies[2 * before + 1, Moves.DUE],
            min(s.copies[2 * before + 1, Moves.ISSUE] + 1, r.num_steps),
        )
    elif has_back:
        undo = before
    if span.needed and not (keep and span.writer == before):
        back = span.writer
        back_issue, back_due, needed_until, clipped = place_back(r, s, span, layer, size, until)
        finish = max(finish, needed_until)
    if entry == COPIED and not may_hoist(r, place, since, finish):
        return no_plan()
    issue = -1
    if entry == HELD_OVER and finish > s.copies[2 * place, Moves.ISSUE]:
        latest = last_outside(r)
        if latest < finish:
            return no_plan()
        issue = later_in_context(r, finish, latest)
    return Plan(
        kind=LONGER,
        place=place,
        layer=layer,
        entry=entry,
        offset=offset,
        begin=s.places[place, Places.BEGIN],
        finish=finish,
        since=since,
        source=-1,
        last=span.last,
        issue=issue,
        due=-1,
        undo_back=undo,
        back=back,
        back_issue=back_issue,
        back_due=back_due,
        clipped=clipped,
    )


@part
def plan(r: Rules, s: State, group: int, action: int) -> Plan:
    """Plan an action other than Drop at ``group``."""
    settle(s, False)
    layer = (action + 1) // 2
    tensor = r.groups[group, Groups.TENSOR]
    reads = r.groups[group, Groups.READS] == 1
    if s.served[group] >= 0:
        if action % 2 == 0 and s.places[s.served[group], Places.LAYER] == layer:
            return unchanged(NOTHING, s.served[group], layer)
        return no_plan()
    if r.tensors[tensor, Movables.SIZE] > r.layers[layer, Layers.CAPACITY]:
        return no_plan()
    if action % 2 == 1:
        return plan_copy(r, s, group, layer) if reads else no_plan()
    if not reads:
        return plan_born(r, s, group, layer)
    if s.current[tensor, layer] >= 0:
        return plan_longer(r, s, group, s.current[tensor, layer])
    if r.tensors[tensor, Movables.HOLDABLE] == 1:
        return plan_held(r, s, group, layer)
    return no_plan()

"""Plan any action: is it legal, and where and when would things go. Numba kernels, changing nothing."""

from mallocgame.game.rules.addresses import best_fit, repack
from mallocgame.game.rules.live_range import may_hoist, reach, read_again
from mallocgame.game.rules.occupancy import free_until, has_room, settle
from mallocgame.game.rules.plan import LONGER, NEW, NOTHING, Plan, finish_new, no_plan, place_back
from mallocgame.game.rules.plan_copy import plan_copy
from mallocgame.game.rules.state import (
    BEGIN,
    BORN,
    CAPACITY,
    CLIPPED,
    COPIED,
    DUE,
    ENTRY,
    FINISH,
    FIRST,
    HELD_OVER,
    HOLDABLE,
    HOME_ONLY,
    ISSUE,
    LAST,
    LAYER,
    QUEUE,
    READS,
    SINCE,
    SIZE,
    STEP,
    STEPS,
    TENSOR,
    WRITES,
    Rules,
    State,
)
from mallocgame.game.rules.transfers import fits_flights, last_outside, later_in_context, latest_issue
from mallocgame.jit import kernel


@kernel
def plan_born(r: Rules, s: State, group: int, layer: int) -> Plan:
    """Plan a definition that writes straight into ``layer``."""
    tensor = r.groups[group, TENSOR]
    t = r.groups[group, STEP]
    old = s.latest[tensor, layer]
    if old >= 0 and s.places[old, FINISH] > t:
        return no_plan()
    span = reach(r, group, t + 1, -1)
    if not span.ok:
        return no_plan()
    offset = best_fit(r, s, layer, group, span.last, t, span.end, -1)
    if offset < 0:
        return no_plan()
    return finish_new(r, s, group, layer, BORN, offset, t, t + 1, -1, -1, -1, span)


@kernel
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
    issue = min(latest_issue(r, s, 2 * group, queue, layer, size, num_steps, span.end), latest)
    while True:
        if fits_flights(r, s, queue, issue, num_steps):
            offset = best_fit(r, s, layer, group, span.last, 0, span.end, issue)
            if offset >= 0:
                return Plan(
                    NEW, group, layer, HELD_OVER, offset, -1, span.end, 0, -1, span.last, issue, num_steps, -1, -1, -1,
                    -1, 0,
                )  # fmt: skip
        if issue == latest:
            return no_plan()
        issue = later_in_context(r, (issue + latest + 1) // 2, latest)


@kernel
def plan_longer(r: Rules, s: State, group: int, place: int) -> Plan:
    """Plan that residency ``place`` stays and serves ``group`` too."""
    tensor = r.groups[group, TENSOR]
    size = r.tensors[tensor, SIZE]
    layer, offset = s.places[place, LAYER], s.planned[place]
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
        again = int(s.copies[2 * place, ISSUE]) if entry == HELD_OVER else -1
        if not has_room(r, s, layer, size, s.places[place, FINISH], span.end):
            return no_plan()
        offset = repack(r, s, layer, place, (int(max(s.places[place, BEGIN], 0)), span.end, again))
        if offset < 0:
            return no_plan()
        until = free_until(r, s, layer, size, offset, span.end, place)
    undo, back, back_issue, back_due, clipped = -1, -1, -1, -1, 0
    finish = span.end
    has_back = before >= 0 and s.copies[2 * before + 1, QUEUE] >= 0
    keep = has_back and elsewhere
    if has_back and span.writer != before:
        keep = keep or read_again(r, before, span.writer, since)
        for k in range(before + 1, span.writer):
            keep = keep or r.groups[k, HOME_ONLY] != 0
    elif has_back and span.needed:
        in_time = s.copies[2 * before + 1, CLIPPED] == 0 and s.stall[s.copies[2 * before + 1, DUE]] == 0.0
        keep = keep or in_time
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


@kernel
def plan(r: Rules, s: State, group: int, action: int) -> Plan:
    """Plan an action other than Drop at ``group``."""
    settle(s, False)
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

"""Plan a copy into a layer: from where, when, and before which loop. Numba kernels, changing nothing."""

import numpy as np

from mallocgame.game.rules.addresses import best_fit
from mallocgame.game.rules.live_range import entered_loop, live_range, may_hoist
from mallocgame.game.rules.occupancy import free_until
from mallocgame.game.rules.plan import ILLEGAL, Plan, finish_new, no_plan
from mallocgame.game.rules.state import (
    COPIED,
    HELD_OVER,
    MIXED,
    Boundaries,
    Groups,
    Links,
    Loops,
    Movables,
    Moves,
    Places,
    Rules,
    State,
    Steps,
)
from mallocgame.game.rules.transfers import later_in_context, latest_issue
from mallocgame.jit import part


@part
def copy_source(r: Rules, s: State, group: int, layer: int, due: int) -> tuple[int, int]:
    """Return (residency, earliest issue) of the fastest other fast layer that can be copied from; (-1, 0): none.

    The source must outlive the moment of issue, so that such a copy is issued before ``due``.
    """
    tensor = r.groups[group, Groups.TENSOR]
    size = r.tensors[tensor, Movables.SIZE]
    for other in range(r.num_layers - 1, 0, -1):
        place = s.current[tensor, other]
        if other == layer or place < 0:
            continue
        since = s.places[place, Places.SINCE]
        ok = since < due and r.boundaries[due - 1, Boundaries.CONTEXT] == r.boundaries[due, Boundaries.CONTEXT]
        queue = 2 * r.link_of[other, layer] + (1 if layer < other else 0)
        ok = ok and s.in_flight[queue, due - 1] < r.links[queue // 2, Links.LIMIT]
        for k in range(s.places[place, Places.LAST] + 1, group):
            if r.groups[k, Groups.WRITES] == 1 or r.groups[k, Groups.HOME_ONLY] == MIXED:
                ok = False
        if not ok:
            continue
        loop = r.steps[due - 1, Steps.LOOP]
        while loop >= 0:
            if due < r.loops[loop, Loops.STOP] and since <= r.loops[loop, Loops.START]:
                ok = False
            loop = r.loops[loop, Loops.PARENT]
        finish = max(s.places[place, Places.FINISH], due)
        if s.places[place, Places.ENTRY] == COPIED and not may_hoist(r, place, since, finish):
            ok = False
        if s.places[place, Places.ENTRY] == HELD_OVER and finish > s.copies[2 * place, Moves.ISSUE]:
            ok = False
        if not ok:
            continue
        if free_until(r, s, other, size, s.planned[place], s.places[place, Places.FINISH], place) < due:
            continue
        earliest = max(since, s.places[place, Places.BEGIN] + 1)
        for k in range(place, group):
            if r.groups[k, Groups.WRITES] == 1 and s.served[k] == place:
                inner = entered_loop(r, r.groups[k, Groups.STEP], since)
                earliest = max(earliest, r.groups[k, Groups.STEP] + 1 if inner < 0 else r.loops[inner, Loops.STOP])
        if earliest < due:
            return int(place), int(earliest)
    return -1, 0


@part
def plan_copy_at(r: Rules, s: State, group: int, layer: int, due: int) -> Plan:
    """Plan a copy into ``layer`` that is complete at boundary ``due``."""
    tensor = r.groups[group, Groups.TENSOR]
    size = r.tensors[tensor, Movables.SIZE]
    old = s.latest[tensor, layer]
    if old >= 0 and s.places[old, Places.FINISH] > due:
        return no_plan()
    span = live_range(r, group, due, -1)
    if not span.ok:
        return no_plan()
    source, earliest = copy_source(r, s, group, layer, due)
    if source < 0:
        writer = group - 1
        while writer >= r.tensors[tensor, Movables.FIRST] and r.groups[writer, Groups.WRITES] == 0:
            writer -= 1
        if writer >= r.tensors[tensor, Movables.FIRST]:
            earliest = r.groups[writer, Groups.STEP] + 1
            if s.copies[2 * writer + 1, Moves.QUEUE] >= 0:
                written = s.copies[2 * writer + 1, Moves.DUE]
                if s.copies[2 * writer + 1, Moves.ISSUE] == written:
                    written += 1  # it is waited for there: no copy issued with it sees what it brings
                earliest = max(earliest, written)
    if earliest > due:
        return no_plan()
    slower = s.places[source, Places.LAYER] if source >= 0 else np.int64(0)
    queue = 2 * r.link_of[slower, layer] + (1 if layer < slower else 0)
    final = due - 1 if source >= 0 else due
    issue = min(latest_issue(r, s, 2 * group, queue, layer, size, due, earliest), final)
    while True:
        offset = best_fit(r, s, layer, group, span.last, issue, span.end, -1)
        if offset >= 0:
            return finish_new(r, s, group, layer, COPIED, offset, issue, due, source, issue, due, span)
        if issue == final:
            return no_plan()
        issue = later_in_context(r, (issue + final + 1) // 2, due)


@part
def plan_copy(r: Rules, s: State, group: int, layer: int) -> Plan:
    """Plan a copy: before the outermost loop that the tensor is first used in here, if it may be; else just before."""
    t = r.groups[group, Groups.STEP]
    tensor = r.groups[group, Groups.TENSOR]
    if r.tensors[tensor, Movables.HOISTABLE] == 1:
        outside = np.int64(-1)
        while True:
            loop = r.steps[t, Steps.LOOP]
            while loop >= 0 and r.loops[loop, Loops.PARENT] != outside:
                loop = r.loops[loop, Loops.PARENT]
            if loop < 0 or r.loops[loop, Loops.START] == t:
                break
            if (
                group == r.tensors[tensor, Movables.FIRST]
                or r.groups[group - 1, Groups.STEP] < r.loops[loop, Loops.START]
            ):
                plan = plan_copy_at(r, s, group, layer, r.loops[loop, Loops.START])
                if plan.kind != ILLEGAL:
                    return plan
            outside = loop
    return plan_copy_at(r, s, group, layer, t)

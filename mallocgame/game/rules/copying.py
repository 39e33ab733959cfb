"""Copy a state in a kernel, or undo an action in a copy: what play reads later, and nothing else. Numba kernels.

Most of a state is room: for copies and residencies that are not there, and scratch.
"""

import numpy as np

from mallocgame.game.rules.state import Groups, Movables, Moves, Places, Rules, State
from mallocgame.game.rules.views import F64, I64
from mallocgame.jit import part


def _place(name: str) -> int:
    slot = State.fields[name].slot
    assert slot is not None
    return slot


ORDER, COUNTS, RECTS, RECT_ENDS = _place("order"), _place("counts"), _place("rects"), _place("rect_ends")
RECT_COUNTS, HELD, HELD_ENDS = _place("rect_counts"), _place("reservations"), _place("reservation_ends")
HELD_COUNTS, MOVED, MOVED_COUNT = _place("reservation_counts"), _place("moved"), _place("moved_count")
PLACE_COLUMNS, MOVE_COLUMNS = len(Places), len(Moves)
SCRATCH, SCRATCH_FLOATS = _place("first_touched"), _place("remaining")


@part
def copy_range(target: I64 | F64, source: I64 | F64, begin: int, end: int) -> None:
    """Copy the entries of [begin, end). (An unsigned index cannot be negative: the machine copies several at once.)"""
    for i in range(np.uint64(begin), np.uint64(end)):
        target[i] = source[i]


@part
def copy_live(r: Rules, target: State, source: State) -> None:
    """Make ``target`` go on as ``source`` does; it may have been a state of another game."""
    at, t, s = r.layout, target.ints, source.ints
    copy_range(t, s, 0, at[ORDER])
    for queue in range(2 * r.num_links):
        begin = at[ORDER] + queue * r.num_copies
        copy_range(t, s, begin, begin + source.counts[queue])
    copy_range(t, s, at[COUNTS], at[RECTS])
    for layer in range(1, r.num_layers):
        count = source.rect_counts[layer]
        begin = at[RECTS] + layer * r.num_copies
        copy_range(t, s, begin, begin + count)
        begin = at[RECT_ENDS] + layer * r.num_copies
        copy_range(t, s, begin, begin + count)
        count = source.reservation_counts[layer]
        begin = at[HELD] + layer * r.num_groups
        copy_range(t, s, begin, begin + count)
        begin = at[HELD_ENDS] + layer * r.num_groups
        copy_range(t, s, begin, begin + count)
    copy_range(t, s, at[RECT_COUNTS], at[HELD])
    copy_range(t, s, at[HELD_COUNTS], at[MOVED])
    copy_range(t, s, at[MOVED], at[MOVED] + source.moved_count[0])
    copy_range(t, s, at[MOVED_COUNT], at[SCRATCH])
    copy_range(target.floats, source.floats, 0, at[SCRATCH_FLOATS])


@part
def undo(r: Rules, trial: State, state: State, group: int) -> None:
    """Make ``trial``, in which ``step.act`` has taken an action at ``group``, go on as ``state`` does again."""
    tensor = r.groups[group, Groups.TENSOR]
    first, end = r.tensors[tensor, Movables.FIRST], r.tensors[tensor, Movables.END]
    low, high = min(trial.first_touched[0], r.num_steps), max(trial.last_touched[0], 0)
    for k in range(first, end):
        low, high = _span(trial, k, low, high)
        low, high = _span(state, k, low, high)
    low, high = max(low - 1, 0), min(high + 1, r.num_steps)
    _undo_queues(r, trial, state, first, end)
    for k in range(first, end):
        trial.served[k] = state.served[k]
        copy_range(trial.places[k], state.places[k], 0, PLACE_COLUMNS)
        for x in range(2 * k, 2 * k + 2):
            copy_range(trial.copies[x], state.copies[x], 0, MOVE_COLUMNS)
            trial.work[x] = state.work[x]
    copy_range(trial.current[tensor], state.current[tensor], 0, r.num_layers)
    copy_range(trial.latest[tensor], state.latest[tensor], 0, r.num_layers)
    for layer in range(1, r.num_layers):
        _undo_layer(trial, state, layer)
    _undo_steps(r, trial, state, low, high)
    trial.turn[0], trial.total[0] = state.turn[0], state.total[0]


@part
def _span(s: State, group: int, low: int, high: int) -> tuple[int, int]:
    """Return [low, high] widened by the residency and the copies of a group."""
    if s.places[group, Places.LAYER] > 0:
        low, high = min(low, max(s.places[group, Places.BEGIN], 0)), max(high, s.places[group, Places.FINISH])
    for x in range(2 * group, 2 * group + 2):
        if s.copies[x, Moves.QUEUE] >= 0:
            low, high = min(low, s.copies[x, Moves.ISSUE]), max(high, s.copies[x, Moves.DUE])
    return low, high


@part
def _undo_queues(r: Rules, trial: State, state: State, first: int, end: int) -> None:
    """Undo what the copies of groups [first, end) changed of others: their places in queues and lists of due copies."""
    for queue in range(2 * r.num_links):
        begin = state.counts[queue]
        for x in range(2 * first, 2 * end):
            if trial.copies[x, Moves.QUEUE] == queue:
                begin = min(begin, trial.copies[x, Moves.POSITION])
            if state.copies[x, Moves.QUEUE] == queue:
                begin = min(begin, state.copies[x, Moves.POSITION])
        for i in range(begin, state.counts[queue]):
            x = state.order[queue, i]
            trial.order[queue, i] = x
            trial.copies[x, Moves.POSITION] = i
        trial.counts[queue] = state.counts[queue]
    for x in range(2 * first, 2 * end):
        if trial.copies[x, Moves.QUEUE] >= 0:
            _undo_due(trial, state, trial.copies[x, Moves.DUE])
        if state.copies[x, Moves.QUEUE] >= 0:
            _undo_due(trial, state, state.copies[x, Moves.DUE])


@part
def _undo_due(trial: State, state: State, boundary: int) -> None:
    trial.due_first[boundary] = state.due_first[boundary]
    x = state.due_first[boundary]
    while x >= 0:
        trial.copies[x, Moves.NEXT] = state.copies[x, Moves.NEXT]
        trial.copies[x, Moves.PREVIOUS] = state.copies[x, Moves.PREVIOUS]
        x = state.copies[x, Moves.NEXT]


@part
def _undo_layer(trial: State, state: State, layer: int) -> None:
    """Undo what changed of a layer's rectangles, offsets and reservations."""
    for i in range(state.rect_counts[layer]):
        trial.rects[layer, i] = state.rects[layer, i]
        trial.rect_ends[layer, i] = state.rect_ends[layer, i]
        place = state.rects[layer, i] // 2
        trial.places[place, Places.OFFSET] = state.places[place, Places.OFFSET]
        trial.planned[place] = state.places[place, Places.OFFSET]
    trial.rect_counts[layer] = state.rect_counts[layer]
    count = state.reservation_counts[layer]
    copy_range(trial.reservations[layer], state.reservations[layer], 0, count)
    copy_range(trial.reservation_ends[layer], state.reservation_ends[layer], 0, count)
    trial.reservation_counts[layer] = count


@part
def _undo_steps(r: Rules, trial: State, state: State, low: int, high: int) -> None:
    """Undo what changed of the boundaries of [low, high] and the steps between them."""
    for queue in range(2 * r.num_links):
        copy_range(trial.in_flight[queue], state.in_flight[queue], low, high + 1)
    copy_range(trial.stall, state.stall, low, high + 1)
    for b in range(low, high + 1):
        copy_range(trial.heads[b], state.heads[b], 0, 2 * r.num_links)
        copy_range(trial.left[b], state.left[b], 0, 2 * r.num_links)
    high = min(high + 1, r.num_steps)
    copy_range(trial.elapsed, state.elapsed, low, high)
    for t in range(low, high):
        copy_range(trial.occupied[t], state.occupied[t], 0, r.num_layers)
        copy_range(trial.layer_bytes[t], state.layer_bytes[t], 0, r.num_layers)
        copy_range(trial.idle[t], state.idle[t], 0, r.num_links)
        copy_range(trial.busy[t], state.busy[t], 0, r.num_links)

"""Carry out an action: what ``plan_action`` says, or Drop. Numba kernels, the ones that the public functions call.

Every state is a valid mapping in which undecided groups are served from layer 0. So a group that is written in fast
memory gets its write-back at once; a later choice that makes it unnecessary takes it back. A residency that spans a
later group *commits* it (around a loop, or while a write-back still needs the space): Drop there takes the whole
residency back. docs/rules.md gives the reasons. Boundaries, steps and layers are as in docs/judge.md.
"""

import numpy as np

from mallocgame.game.rules.occupancy import add_rect, drop_rect, settle, stretch
from mallocgame.game.rules.plan import ILLEGAL, NEW, NOTHING, Plan
from mallocgame.game.rules.plan_action import plan
from mallocgame.game.rules.release import release
from mallocgame.game.rules.reservations import add_reservation, set_current
from mallocgame.game.rules.retime import retime, serve
from mallocgame.game.rules.state import (
    ANYWHERE,
    BORN,
    HELD_OVER,
    Bool,
    Groups,
    Movables,
    Moves,
    Places,
    Rules,
    State,
)
from mallocgame.game.rules.transfers import add_copy, back_queue, drop_copy
from mallocgame.game.rules.views import F64, I64
from mallocgame.jit import part


@part
def carry_out(r: Rules, s: State, group: int, p: Plan) -> None:
    """Do what a legal plan says."""
    tensor = r.groups[group, Groups.TENSOR]
    size = r.tensors[tensor, Movables.SIZE]
    num_steps = r.num_steps
    s.planned[p.place] = p.offset
    settle(s, True)
    if p.undo_back >= 0:
        drop_copy(s, 2 * p.undo_back + 1)
    if p.kind == NEW:
        row = s.places[group]
        row[Places.LAYER], row[Places.OFFSET] = p.layer, p.offset
        row[Places.BEGIN], row[Places.FINISH], row[Places.SINCE] = p.begin, p.finish, p.since
        row[Places.SOURCE], row[Places.ENTRY] = p.source, p.entry
        add_rect(s, p.layer, 2 * group, max(p.begin, 0), p.finish, size)
        s.latest[tensor, p.layer] = group
        if p.entry != BORN:
            slower = s.places[p.source, Places.LAYER] if p.source >= 0 else np.int64(0)
            queue = 2 * r.link_of[slower, p.layer] + (1 if p.layer < slower else 0)
            add_copy(r, s, 2 * group, queue, p.issue, p.due)
        if p.entry == HELD_OVER:
            add_rect(s, p.layer, 2 * group + 1, p.issue, num_steps, size)
        if p.source >= 0:
            stretch(r, s, p.source, max(s.places[p.source, Places.FINISH], p.due))
    else:
        if p.entry == HELD_OVER and p.issue >= 0:
            drop_rect(s, p.layer, 2 * p.place + 1, s.copies[2 * p.place, Moves.ISSUE], num_steps, size)
            queue = s.copies[2 * p.place, Moves.QUEUE]
            drop_copy(s, 2 * p.place)
            add_copy(r, s, 2 * p.place, queue, p.issue, num_steps)
            add_rect(s, p.layer, 2 * p.place + 1, p.issue, num_steps, size)
        stretch(r, s, p.place, p.finish)
    s.places[p.place, Places.LAST] = p.last
    if p.back >= 0:
        add_copy(r, s, 2 * p.back + 1, back_queue(r, p.layer), p.back_issue, p.back_due)
        s.copies[2 * p.back + 1, Moves.CLIPPED] = p.clipped
    writes = False
    for k in range(group, p.last + 1):
        if r.groups[k, Groups.HOME_ONLY] == ANYWHERE:
            serve(r, s, k, p.place)
            writes = writes or r.groups[k, Groups.WRITES] == 1
    for layer in range(1, r.num_layers):
        if layer > p.layer or (writes and layer != p.layer):
            set_current(s, tensor, layer, -1)
    set_current(s, tensor, p.layer, p.place)
    add_reservation(r, s, p.layer, p.place)


@part
def take_back(r: Rules, s: State, place: int) -> None:
    """Undo a residency and those that were copied from it; layer 0 serves their groups."""
    tensor = r.groups[place, Groups.TENSOR]
    size = r.tensors[tensor, Movables.SIZE]
    end = r.tensors[tensor, Movables.END]
    for p in range(place, end):
        layer = s.places[p, Places.LAYER]
        source = s.places[p, Places.SOURCE]
        if layer == 0 or (p != place and (source < 0 or s.places[source, Places.LAYER] != 0)):
            continue
        drop_rect(s, layer, 2 * p, max(s.places[p, Places.BEGIN], 0), s.places[p, Places.FINISH], size)
        if s.places[p, Places.ENTRY] == HELD_OVER:
            drop_rect(s, layer, 2 * p + 1, s.copies[2 * p, Moves.ISSUE], r.num_steps, size)
        drop_copy(s, 2 * p)
        for k in range(p, end):
            if s.served[k] == p:
                drop_copy(s, 2 * k + 1)
                serve(r, s, k, -1)
        s.places[p, Places.LAYER] = 0
        s.latest[tensor, layer] = -1
    for p in range(r.tensors[tensor, Movables.FIRST], end):
        if s.places[p, Places.LAYER] > 0:
            s.latest[tensor, s.places[p, Places.LAYER]] = p


@part
def act(r: Rules, s: State, action: int) -> float:
    """Do what ``do_step`` does but for giving back space, which changes no time."""
    turn = s.turn[0]
    if turn >= r.num_decisions or action < 0 or action > 2 * (r.num_layers - 1):
        return np.nan
    group = r.decisions[turn]
    before = s.total[0]
    s.first_touched[0], s.last_touched[0] = r.num_steps + 1, -1
    if action == 0:
        if s.served[group] >= 0:
            take_back(r, s, s.served[group])
        for layer in range(1, r.num_layers):
            set_current(s, r.groups[group, Groups.TENSOR], layer, -1)
    else:
        p = plan(r, s, group, action)
        if p.kind == ILLEGAL:
            return np.nan
        if p.kind != NOTHING:
            carry_out(r, s, group, p)
    retime(r, s)
    s.turn[0] = turn + 1
    return float((before - s.total[0]) / r.home_seconds[0])


@part
def do_step(r: Rules, s: State, action: int) -> float:
    """Take ``action`` in place; return the reward, or NaN (and change nothing) if it is illegal."""
    turn = s.turn[0]
    reward = act(r, s, action)
    if not np.isnan(reward) and turn + 1 < r.num_decisions:
        release(r, s, r.groups[r.decisions[turn], Groups.STEP], r.groups[r.decisions[turn + 1], Groups.STEP])
    return float(reward)


@part
def is_legal(r: Rules, s: State, action: int) -> bool:
    """Whether ``action`` may be taken now."""
    turn = s.turn[0]
    if turn >= r.num_decisions:
        return False
    return action == 0 or plan(r, s, r.decisions[turn], action).kind != ILLEGAL


@part
def take(r: Rules, s: State, action: int) -> int:
    """Take an action, else the other one of its layer, else Drop; return which."""
    if np.isnan(do_step(r, s, action)):
        action = action + 1 if action % 2 == 1 else action - 1
        if action <= 0 or np.isnan(do_step(r, s, action)):
            action = 0
            do_step(r, s, 0)
    return action


@part
def play(r: Rules, s: State, wanted: I64, taken: I64, totals: F64, limits: F64) -> float:
    """Take each wanted action, else the other one of its layer, else Drop; return the seconds at the end.

    ``totals`` float64[D] gets the seconds after each decision; infinity is returned as soon as they exceed ``limits``.
    """
    for i in range(s.turn[0], r.num_decisions):
        taken[i] = take(r, s, wanted[i])
        totals[i] = s.total[0]
        if totals[i] > limits[i]:
            return np.inf
    return float(s.total[0])


@part
def write_mask(r: Rules, s: State, mask: Bool) -> None:
    """Fill ``mask`` bool[A] with the actions that are legal now."""
    for action in range(mask.shape[0]):
        mask[action] = is_legal(r, s, action)

"""Orders in which a greedy pass looks at candidates: by the seconds that each may save for the room that it takes.

No one order is best on all programs, and a pass takes milliseconds: several are tried, and the best one counts.
"""

from typing import NamedTuple

import numpy as np

from mallocgame.baselines.anneal.state import COPIED, F64, FOREVER, HELD_OVER, I64, Tables
from mallocgame.solver import Problem

HIDDEN = 0.01  # weight of traffic that instructions hide, beside traffic that they wait for, in a clipped order


class Order(NamedTuple):
    """Seconds saved, less a share of the copies' link time, over powers of bytes and of steps held."""

    is_clipped: bool  # a use counts no more than its step waits for memory with everything in layer 0
    steps_power: float
    copy_price: float  # of a copy's link time: what it is taken to cost before the judge has seen it
    bytes_power: float = 1.0


FIRST = Order(is_clipped=False, steps_power=0.5, copy_price=0.5)  # where there is time for one
ORDERS = (
    FIRST,
    Order(is_clipped=True, steps_power=0.25, copy_price=0.5),
    Order(is_clipped=False, steps_power=0.25, copy_price=0.5, bytes_power=0.5),
    Order(is_clipped=True, steps_power=0.75, copy_price=0.5),
    Order(is_clipped=False, steps_power=0.25, copy_price=1.0, bytes_power=0.5),
    Order(is_clipped=False, steps_power=0.0, copy_price=0.1),
    Order(is_clipped=True, steps_power=0.0, copy_price=0.1),
    Order(is_clipped=False, steps_power=1.0, copy_price=0.5, bytes_power=0.5),
)


def density(problem: Problem, tables: Tables, order: Order) -> F64:
    """Return float64[C], what each candidate may save for the room that it takes; not above 0: nothing."""
    moved = (tables.use_bytes * tables.trips[tables.use_step]).astype(np.float64)
    if order.is_clipped:
        moved = moved * _waited(problem, tables)
    until = np.concatenate([[0.0], np.cumsum(moved)])
    saved = until[tables.last_use + 1] - until[tables.first_use]
    saved *= 1.0 / tables.layer_speed[tables.base] - 1.0 / tables.layer_speed[tables.layer]
    is_copied = (tables.kind == COPIED) | (tables.kind == HELD_OVER)
    copies = is_copied * tables.context_trips[tables.due]
    copies += np.where(tables.back_issue >= 0, tables.context_trips[tables.back_issue], 0)
    used = tables.use_step[tables.last_use] - tables.use_step[tables.first_use] + 1
    steps = np.maximum(tables.end - np.where(tables.kind == COPIED, tables.latest, tables.start), 1)
    steps = np.where(tables.kind == FOREVER, used, steps)  # what is loaded again takes its place all the same
    room = tables.size.astype(np.float64) ** order.bytes_power * steps**order.steps_power
    found: F64 = (saved - order.copy_price * copies * tables.in_seconds) / room
    return found


def _waited(problem: Problem, tables: Tables) -> F64:
    """Return float64[U], the share of a use's traffic that its step waits for with everything in layer 0."""
    program, speed = problem.program, tables.layer_speed
    memory = (program.fixed_bytes(len(speed)) / speed).sum(axis=1)
    np.add.at(memory, tables.use_step, tables.use_bytes / speed[0])
    waited = np.maximum(memory - tables.compute, 0.0)[tables.use_step]
    gain = np.maximum(tables.use_bytes * (1.0 / speed[0] - 1.0 / speed.max()), 1e-300)
    share: F64 = np.minimum(waited / gain, 1.0) + HIDDEN
    return share


def passes(tables: Tables, scores: F64, least_layer: int) -> list[I64]:
    """Return candidates by score, the best first: an array for each pair of layers, from the slowest on."""
    found = []
    for layer in range(least_layer, len(tables.layer_speed)):
        for base in range(layer - 1, -1, -1):
            own = np.flatnonzero((tables.layer == layer) & (tables.base == base) & (scores > 0.0))
            found.append(own[np.argsort(-scores[own], kind="stable")])
    return found

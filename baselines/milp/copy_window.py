"""When a copy on a leg of a route can happen: it lasts only from one boundary to another of the same loop body."""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.route import Leg
from mallocgame.program import Program

I64 = npt.NDArray[np.int64]


def copy_window(program: Program, leg: Leg) -> tuple[int, int]:
    """Return the first boundary at which a copy that arrives on ``leg`` can be issued, and the last it can be due at.

    A leg knows its tensor's own loops. The last write may lie in one that has ended since, and the leg's ends in loops
    that do not use the tensor; one end at least lies in no such loop.
    """
    bodies: I64 = program.loop_context
    body = bodies[min((leg.last_due, leg.first_due), key=lambda b: program.boundary_trip_count(b, b))]
    issue, due = leg.first_issue, leg.last_due
    while bodies[due] != body:
        due -= 1
    while bodies[issue] != body:
        issue += 1
    return issue, due

"""Which loop body a boundary lies in: a copy may last only from one boundary to another of the same body."""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.route import Leg
from mallocgame.program import Program

I64 = npt.NDArray[np.int64]


def loop_bodies(program: Program) -> I64:
    """Return int64[T + 1]: each boundary's innermost repeated loop, -1 outside all of them.

    Loops nest, so two boundaries lie inside the same loops exactly where these are equal.
    """
    bodies = np.full(program.num_steps + 1, -1, dtype=np.int64)
    repeated = [(index, loop) for index, loop in enumerate(program.loops) if loop.trip_count > 1]
    for index, loop in sorted(repeated, key=lambda pair: pair[1].start_step - pair[1].end_step):
        bodies[loop.start_step + 1 : loop.end_step] = index  # inner loops come later
    return bodies


def copy_window(program: Program, bodies: I64, leg: Leg) -> tuple[int, int]:
    """Return the first boundary at which a copy that arrives on ``leg`` can be issued, and the last it can be due at.

    A leg knows its tensor's own loops. The last write may lie in one that has ended since, and the leg's ends in loops
    that do not use the tensor; one end at least lies in no such loop.
    """
    body = bodies[min((leg.last_due, leg.first_due), key=lambda b: program.boundary_trip_count(b, b))]
    issue, due = leg.first_issue, leg.last_due
    while bodies[due] != body:
        due -= 1
    while bodies[issue] != body:
        issue += 1
    return issue, due

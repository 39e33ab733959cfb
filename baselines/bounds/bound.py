"""One call for the best bound in a given time."""

import time
from dataclasses import dataclass

from mallocgame.baselines.bounds.integer import solve_integer
from mallocgame.baselines.bounds.linear import solve
from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import lower_bound
from mallocgame.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Seconds that no valid mapping can beat, and what each method gave; ``seconds`` is the best of them.

    ``linear_seconds`` comes from a dual solution evaluated with its rounding error taken off, so it holds whatever the
    solver's tolerances. ``integer_seconds`` (0.0: not tried) rests on HiGHS's branch and bound, less a margin.
    """

    seconds: float
    simple_seconds: float
    linear_seconds: float
    integer_seconds: float
    solve_seconds: float


def capacity_bound(
    program: Program, hierarchy: Hierarchy, *, seconds: float = 20.0, integer: bool = True, num_slots: int = 64
) -> Bound:
    """Return the best proved bound within about ``seconds`` (0: the simple bound alone).

    Args:
        program: the program, with its loops and flags.
        hierarchy: any number of layers.
        seconds: time limit; the linear relaxation alone may take twice as long.
        integer: keep 0-1 decisions whole in the time that is left.
        num_slots: into how many slots of time the schedule is cut to see when copies can happen.
    """
    began = time.perf_counter()
    simple = lower_bound(program, hierarchy)
    linear = whole = 0.0
    if seconds > 0:
        relaxation = relax(program, hierarchy, num_slots=num_slots)
        unit = relaxation.unit_seconds
        # The linear relaxation may take as long again: an unfinished one gives no bound at all.
        linear = max(solve(relaxation.linear, seconds=2.0 * seconds).bound * unit, 0.0)
        left = seconds - (time.perf_counter() - began)
        if integer and left > 0.1:
            whole = solve_integer(relaxation, seconds=left).bound_seconds
    speeds = [layer.bytes_per_second for layer in hierarchy.layers]
    trusted = simple if max(speeds[1:]) >= speeds[0] or seconds == 0 else 0.0  # else it counts some traffic twice
    return Bound(
        seconds=max(trusted, linear, whole),
        simple_seconds=simple,
        linear_seconds=linear,
        integer_seconds=whole,
        solve_seconds=time.perf_counter() - began,
    )

"""One call for the best bound in a given time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mallocgame.baselines import native
from mallocgame.baselines.bounds.integer import solve_integer
from mallocgame.baselines.bounds.linear import solve
from mallocgame.baselines.bounds.relaxation import OutOfTime, Relaxation, relax
from mallocgame.collapse import is_straight
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.replaced import with_free_copies
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
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 20.0,
    integer: bool = True,
    num_slots: int = 64,
    relaxation: Relaxation | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Bound:
    """Return the best bound proved within ``seconds`` (0: the simple bound alone).

    Args:
        program: the program, with its loops and flags.
        hierarchy: any number of layers.
        seconds: time limit, of building the relaxation too.
        integer: keep 0-1 decisions whole in the time that is left.
        num_slots: into how many slots of time the schedule is cut to see when copies can happen.
        relaxation: of this problem, if it is built already.
        stop: ends it early, with what is proved by then.
    """
    if seconds > 0:
        native.start()
    began = time.perf_counter()
    program = with_free_copies(program)
    simple = lower_bound(program, hierarchy)
    if not is_straight(program):  # the relaxation knows no branches
        seconds = 0.0

    def left() -> float:
        return seconds - (time.perf_counter() - began)

    linear = whole = 0.0
    try:
        if relaxation is None:
            relaxation = relax(program, hierarchy, num_slots=num_slots, stop=lambda: left() <= 0.0 or stop())
        unit = relaxation.unit_seconds
        if left() > 0.0:
            linear = max(solve(relaxation.linear, seconds=left(), stop=stop).bound * unit, 0.0)
        if integer and left() > 0.1:
            whole = solve_integer(relaxation, seconds=left(), stop=stop).bound_seconds
    except OutOfTime:
        pass  # nothing is proved but the simple bound
    speeds = [layer.bytes_per_second for layer in hierarchy.layers]
    trusted = simple if max(speeds[1:]) >= speeds[0] or seconds == 0 else 0.0  # else it counts some traffic twice
    return Bound(
        seconds=max(trusted, linear, whole),
        simple_seconds=simple,
        linear_seconds=linear,
        integer_seconds=whole,
        solve_seconds=time.perf_counter() - began,
    )

"""Remedies of an explanation in the real compiler: one after the other, each on top of those that it took."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mallocgame.explanation import Remedy
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Problem
from mallocgame.workloads.compiler_loop.overrides import Override, overrides_of
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.verify import Target, carry_over, tensors_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What the compiler made of remedies. ``judged_seconds`` is by the remedy's number, with those before it."""

    judged_seconds: dict[int, float]
    error: str  # of the last remedy that it refused, empty if it took all
    together_seconds: float | None = None  # judged: the whole better mapping, suggested as ``tune`` does; None: no time


def try_remedies(
    target: Target, made_for: Program, better: Mapping, remedies: Sequence[Remedy], seconds: float
) -> Tried:
    """Give the compiler what each remedy changes toward ``better``, as far as there are overrides for it.

    A remedy that is refused, or makes the program slower, is left out of those after it. First the whole mapping is
    suggested, which also brings what no single override orders.
    """
    until = time.monotonic() + seconds
    program = target.trace.program
    goal = carry_over(better, made_for, program)
    wanted, together = overrides_of(program, goal, target.loop_operands), _together(target, goal, until - seconds / 2)
    given: tuple[Override, ...] = ()
    best, judged, error = target.default_seconds, dict[int, float](), ""
    for number, remedy in enumerate(remedies):
        if not remedy.ordered_by or time.monotonic() >= until:
            continue
        changed = set(tensors_now(remedy.tensors, made_for, program).values())
        more = tuple(o for o in wanted if o.tensor in changed)
        if not more:
            continue
        found = target.evaluate((*given, *more), deadline=until)
        if found.mapping is None:
            error = error if found.inconclusive else found.error
            continue
        judged[number] = found.judged_seconds
        if found.judged_seconds <= best:
            best, given = found.judged_seconds, (*given, *more)
    return Tried(judged_seconds=judged, error=error, together_seconds=together)


def _together(target: Target, goal: Mapping, until: float) -> float | None:
    """Return the judged time of the best way to suggest ``goal``, None if none was tried."""
    problem = Problem(target.trace.program, target.trace.hierarchy)
    found: list[float] = []
    for flags, overrides in Reaction(problem=problem, operands=target.loop_operands).ways(goal):
        if time.monotonic() >= until:
            break
        done = target.evaluate(overrides, flags, deadline=until)
        if done.mapping is not None:
            found.append(done.judged_seconds)
    return min(found, default=None)

"""Whole mappings in turn: plan near what the compiler does, suggest it, learn from what it makes of it, plan again.

One evaluation tries hundreds of changes that fit together; moves one by one (``realise.improve``) come after it. The
model of the compiler is its own last mapping: what it did it does again when asked, what it would not do is planned
round (``reaction``).
"""

from collections.abc import Callable, Sequence

from mallocgame.explanation.reachable import Reach
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.realise import OverrideSearch

MAX_STALE = 5  # evaluations without improvement
LEAST_GAIN = 2e-3  # of the time, for a plan to be worth a compilation

Plan = Callable[[Mapping, Reach], Mapping]  # from a start, within what the compiler reaches


def replan(search: OverrideSearch, reaction: Reaction, plan: Plan, goals: Sequence[Mapping] = ()) -> None:
    """Suggest ``goals``, then plans round what came out, until they help no more or the time is over.

    Where nothing is left to plan within what was learned, all of that is forgotten: much of it was true of other
    mappings only.
    """
    waiting, stale = list(goals), 0
    while stale < MAX_STALE and not search.is_over():
        best = search.best
        assert best.mapping is not None
        while len(waiting) < search.workers:
            waiting.append(plan(best.mapping, reaction.reach(search.flags)))
        now, waiting = waiting[: search.workers], waiting[search.workers :]
        worth = best.judged_seconds * (1 - LEAST_GAIN)
        now = [goal for goal in now if simulate(*reaction.problem, goal).total_seconds < worth]
        if not now:
            if not reaction.forget():
                return
            stale += 1
            continue
        found = search.try_all([reaction.suggestion(goal) for goal in now])
        for goal, done in zip(now, found, strict=False):
            if done.mapping is not None:
                reaction.learn(goal, done.mapping)
        stale = 0 if search.best.judged_seconds < best.judged_seconds else stale + 1

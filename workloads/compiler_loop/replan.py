"""Whole mappings in turn: plan near what the compiler does, suggest it, learn from what it makes of it, plan again.

One evaluation tries hundreds of changes that fit together; moves one by one (``realise.improve``) come after it. The
model of the compiler is its own last mapping: what it did it does again when asked, what it would not do is planned
round (``reaction``).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from mallocgame.explanation.reachable import Reach
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.workloads.compiler_loop.overrides import Override
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.realise import OverrideSearch
from mallocgame.workloads.compiler_loop.reorder import reorder
from mallocgame.workloads.compiler_loop.verify import Evaluation

MAX_STALE = 5  # evaluations without improvement
LEAST_GAIN = 2e-3  # of the time, for a plan to be worth a compilation

Plan = Callable[[Mapping, Reach], Mapping]  # from a start, within what the compiler reaches


def replan(
    search: OverrideSearch, reaction: Reaction, plan: Plan, goals: Sequence[Mapping] = (), lanes: int = 1
) -> None:
    """Suggest ``goals``, then plans round what came out, until they help no more or the time is over.

    Each of ``lanes`` plans and then compiles, so that one plans while another compiles; a plan begins at the best that
    was known when it began. Where nothing is left to plan within what was learned, all of that is forgotten: much of
    it was true of other mappings only.
    """
    _Replanning(search, reaction, plan, list(goals)).run(lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What a lane has done. ``evaluation``: None if no plan was worth a compilation, or there was no time for one."""

    goal: Mapping | None = None
    overrides: tuple[Override, ...] = ()
    evaluation: Evaluation | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Replanning:
    """Lanes read what they are given when they begin, and the order that is best by then.

    What they bring is taken in the thread that runs this.
    """

    search: OverrideSearch
    reaction: Reaction
    plan: Plan
    waiting: list[Mapping]
    stale: int = 0
    running: int = 0
    done: "SimpleQueue[_Turn]" = field(default_factory=SimpleQueue)

    def run(self, lanes: int) -> None:
        most = MAX_STALE + lanes - 1  # as many begin before it is known what one has brought
        while True:
            while self.running < lanes and self.stale < most and not self.search.is_over():
                self._begin(in_this_thread=lanes == 1)
            if not self.running:
                return
            turn = self.done.get()
            self.running -= 1
            if turn.error is not None:
                raise turn.error
            self._take(turn, most)

    def _begin(self, *, in_this_thread: bool) -> None:
        goal = self.waiting.pop(0) if self.waiting else None
        self.running += 1
        arguments = (goal, self.search.best, self.reaction.reach(self.search.flags))
        if in_this_thread:
            self.done.put(self._turn(*arguments))
        else:  # ends with the process: Ctrl-C waits for no plan
            threading.Thread(target=self._guarded, args=arguments, daemon=True).start()

    def _guarded(self, goal: Mapping | None, best: Evaluation, reach: Reach) -> None:
        try:
            self.done.put(self._turn(goal, best, reach))
        except BaseException as error:  # for the thread that waits
            self.done.put(_Turn(error=error))

    def _turn(self, goal: Mapping | None, best: Evaluation, reach: Reach) -> _Turn:
        assert best.mapping is not None
        goal = self.plan(best.mapping, reach) if goal is None else goal
        worth = best.judged_seconds * (1 - LEAST_GAIN)
        if simulate(*self.reaction.problem, goal).total_seconds >= worth:
            return _Turn()
        overrides = self.reaction.suggestion(goal)
        return _Turn(goal=goal, overrides=overrides, evaluation=self.search.evaluate(overrides))

    def _take(self, turn: _Turn, most: int) -> None:
        if turn.evaluation is None or turn.goal is None:
            self.stale = self.stale + 1 if self.reaction.forget() else most
            return
        before = self.search.best.judged_seconds
        found = self.search.take(turn.overrides, turn.evaluation)
        if self.search.best.judged_seconds < before:
            found = reorder(self.search, self.reaction, turn.goal, found)
        if found.mapping is not None:
            self.reaction.learn(turn.goal, found.mapping)
        self.stale = 0 if self.search.best.judged_seconds < before else self.stale + 1

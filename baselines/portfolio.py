"""The portfolio: solvers race on two threads, the best mapping is refined, and the best proved bound goes with it.

One thread plans by integer programming and proves the bound (``cpsat`` where that is exact, else ``hybrid``); the other
plays, evolves and anneals from the best start. After ``RACE`` of the time both threads anneal near the winner. Kernels
and integer programs release the GIL, so threads run in parallel.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial

from mallocgame.baselines import native
from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.hybrid import hybrid
from mallocgame.baselines.milp.cpsat import cpsat
from mallocgame.baselines.play.evolution import evolution
from mallocgame.solver import Incumbent, Problem, solver

RACE = 0.75  # of the time; the rest refines the winner
PATIENCE = 0.05  # of the time: how long refining waits for the planning thread
FEW_DECISIONS = 150  # up to which the exact model is small and evolution is worth a try


def _prepare(problem: Problem) -> None:
    hybrid.prepare(problem)
    if problem.program.num_decisions <= FEW_DECISIONS:
        evolution.prepare(problem)


@solver(warm_up=_prepare, get_ready=partial(native.start, 2))
def best(search: Incumbent) -> None:
    """Race all solvers, refine the winner; the best bound that any of them proves counts."""
    race = search.part(RACE)
    planning = PlanningLane(race)
    planning.start()
    try:
        for solve in _other_lane(race):
            if search.out_of_time():
                break
            solve()
        while planning.is_alive() and search.spent_share < RACE + PATIENCE and not search.out_of_time():
            planning.join(0.02)
    finally:
        race.stop()
    planning.raise_what_went_wrong()
    if not search.out_of_time():
        anneal.improve(search.part(seed=search.seed + 2), workers=1 if planning.is_alive() else 2, refine=True)


class PlanningLane(threading.Thread):
    """The thread that plans; it never keeps the process alive after Ctrl-C."""

    def __init__(self, race: Incumbent) -> None:
        super().__init__(daemon=True)
        self.part = race.part()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Plan and prove."""
        few = self.part.program.num_decisions <= FEW_DECISIONS
        try:
            (cpsat if few else hybrid).improve(self.part)
        except BaseException as error:  # told to the thread that waits
            self.error = error

    def raise_what_went_wrong(self) -> None:
        """Raise the exception that ended the thread, if one did."""
        if self.error is not None:
            raise self.error


def _other_lane(race: Incumbent) -> Iterator[Callable[[], None]]:
    start = race.mapping
    if race.program.num_decisions <= FEW_DECISIONS:
        yield lambda: anneal.improve(race.part(0.3, start=start))
        yield lambda: evolution.improve(race.part(0.2, start=start), workers=1)
    elif start is not None and start.residencies:  # large: a good start first, hot chains if time is left
        yield lambda: anneal.improve(race.part(0.5), refine=True)
    yield lambda: anneal.improve(race.part(seed=race.seed + 1, start=start))

"""The portfolio: solvers race in threads, the best mapping is refined, and the best proved bound goes with it.

One lane plans by integer programming (``cpsat`` where that is exact, else ``hybrid``), one proves the bound, the others
begin at the best of the start, ``greedy``, ``xla-heuristic`` and ``play``, and anneal. Large programs are not planned:
what that takes is better spent on annealing. After ``RACE`` of the time all lanes anneal near the winner, which takes
stretches over from what other lanes found. Kernels release the GIL, integer programs run in processes of their own, so
lanes run in parallel.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial

from mallocgame.baselines import native
from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds import capacity_bound
from mallocgame.baselines.hybrid import hybrid, plan_and_anneal
from mallocgame.baselines.milp.cpsat import cpsat
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.placement.xla_heuristic import xla_heuristic
from mallocgame.baselines.play.evolution import evolution
from mallocgame.baselines.play.play import play
from mallocgame.solver import Incumbent, Problem, Solver, solver
from mallocgame.system import num_cores

RACE = 0.75  # of the time; the rest refines the winner
PATIENCE = 0.05  # of the time: how long refining waits for the other lanes
FEW_DECISIONS = 150  # up to which the exact model is small and evolution is worth a try
PLANNED = 250  # decisions a second of the limit: above, there is no time to plan and learn from the plan
ANNEALED = 1000  # decisions a second of the limit: above, nothing but annealing has the time to begin
LARGE = 6000  # decisions: above, other lanes than annealing take too long from one look at the clock to the next
GREEDY_SHARE = 0.4  # of the time, at most: the candidates that it makes are those of annealing, if it makes all
PROOF_SHARE = 0.3  # of the time, for the bound on one core; with several it is proved to the end, beside refining
START_SHARE, PLAY_SHARE = 0.04, 0.1  # of the race, at most: the compiler's heuristic, and play


def _prepare(problem: Problem, **_options: int) -> None:
    hybrid.prepare(problem)
    greedy.prepare(problem)
    if problem.program.num_decisions <= FEW_DECISIONS:
        evolution.prepare(problem)
    else:
        play.prepare(problem)


@solver(warm_up=_prepare, get_ready=partial(native.start, 2))
def best(search: Incumbent, *, workers: int = 2) -> None:
    """Race all solvers, refine the winner; the best bound that any of them proves counts.

    Args:
        workers: lanes beside the one that proves the bound (threads; 1: one after the other, and the bound is proved
            in ``PROOF_SHARE`` of the time).
    """
    if search.program.num_decisions > min(ANNEALED * search.limits.seconds, LARGE):
        _anneal_alone(search, workers)
        return
    race = search.part(RACE)
    proof = Lane(partial(_prove, search, 1.0 if workers > 1 else PROOF_SHARE))
    lanes = [Lane(work) for work in _lanes(race, workers)]
    for lane in (proof, *lanes):
        lane.start()
    try:
        for solve in _other_lane(race, workers):
            if search.out_of_time():
                break
            solve()
        while any(lane.is_alive() for lane in lanes) and search.spent_share < RACE + PATIENCE:
            if search.out_of_time():
                break
            lanes[0].join(0.02)
    finally:
        race.stop()
    for lane in (proof, *lanes):
        lane.raise_what_went_wrong()
    if not search.out_of_time():
        busy = sum(lane.is_alive() for lane in lanes)
        others = [part.mapping for part in race.parts if part.mapping is not None and part.seconds > search.seconds]
        refined = search.part(seed=search.seed + 2)
        anneal.improve(refined, workers=max(workers - busy, 1), refine=True, others=others)


def _anneal_alone(search: Incumbent, workers: int) -> None:
    """Anneal, beside the proof of a bound if there is a core for it.

    Of a program so large, taking it over twice leaves no time for moves.
    """
    cores = num_cores()
    if search.mapping is None or not search.mapping.residencies:
        greedy.improve(search.part(GREEDY_SHARE))
    proof = Lane(partial(_prove, search, 1.0))
    if cores > 1:
        proof.start()
    anneal.improve(search.part(), workers=max(min(workers, cores - 1), 1))
    proof.raise_what_went_wrong()


class Lane(threading.Thread):
    """A thread that solves; it never keeps the process alive after Ctrl-C."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the work."""
        try:
            self.work()
        except BaseException as error:  # told to the thread that waits
            self.error = error

    def raise_what_went_wrong(self) -> None:
        """Raise the exception that ended the thread, if one did."""
        if self.error is not None:
            raise self.error


def _lanes(race: Incumbent, workers: int) -> Iterator[Callable[[], None]]:
    """Yield what runs beside the main lane."""
    few = race.program.num_decisions <= FEW_DECISIONS
    if workers > 1:
        part = race.part()
        if few:
            yield partial(cpsat.improve, part)
        elif race.program.num_decisions <= PLANNED * race.limits.seconds:
            yield partial(plan_and_anneal, part, bound_share=0.0)


def _construct(construct: Solver, race: Incumbent, share: float) -> None:
    construct.improve(race.part(share))


def _prove(search: Incumbent, share: float) -> None:
    if search.program.num_decisions > FEW_DECISIONS:  # else cpsat proves
        seconds = min(search.left_seconds, share * search.limits.seconds)
        capacity_bound(*search.problem, seconds=seconds, search=search)


def _other_lane(race: Incumbent, workers: int) -> Iterator[Callable[[], None]]:
    start, few = race.mapping, race.program.num_decisions <= FEW_DECISIONS
    others = max(workers - 1, 1)
    if workers == 1 and few:
        yield lambda: cpsat.improve(race.part(0.3))
    for construct, share in ((greedy, GREEDY_SHARE), (xla_heuristic, START_SHARE)):
        yield partial(_construct, construct, race, share)
    if few:
        yield lambda: anneal.improve(race.part(0.3, start=start), workers=others)
        yield lambda: evolution.improve(race.part(0.2, start=start), workers=1)
        yield lambda: anneal.improve(race.part(seed=race.seed + 1, start=start), workers=others)
        return
    yield lambda: play.improve(race.part(PLAY_SHARE), annealing=False)
    is_planned = workers > 1 and race.program.num_decisions <= PLANNED * race.limits.seconds
    if not is_planned:  # hot or not: what has a start that is far from good needs the whole of the time
        yield lambda: anneal.improve(race.part(), workers=workers)
        return
    if start is not None and start.residencies:  # a good start first, hot chains if time is left
        yield lambda: anneal.improve(race.part(0.5), workers=others, refine=True)
    yield lambda: anneal.improve(race.part(seed=race.seed + 1, start=start), workers=others)

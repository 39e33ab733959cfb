"""Method ``learned``: the network chooses the plans, without a mixed-integer program; exact prices decide at the end.

A round takes the network's worst scenarios of the best plans (Frank-Wolfe steps along its gradient, samples and the
scenarios priced so far), ranks a batch of plans and their flips and swaps by the largest prediction over them, and
gives the most promising ones exact worst cases, whose scenarios join the pool of the next round. Where second stages
are slow, the network is followed downhill before anything is priced, and only a few plans are. Without a network (an
ablation) neighbours are taken at random. The plan for the average scenario is always a candidate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import OutOfTimeError
from mallocgame.baselines.neur2ro.neighbours import feasible_rows, perturbed
from mallocgame.baselines.neur2ro.network import Network
from mallocgame.baselines.neur2ro.plan_search import PlanSearch, open_search
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, nominal_scenario
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import warm_up
from mallocgame.baselines.neur2ro.walk import around, feared, guessed, walk
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
PRICE_SECONDS = 0.3  # of slow second stages that screen the plans of a round


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedConfig:
    """Limits of the method."""

    seconds: float = 2.0
    pool: int = 24  # scenarios kept for screening
    samples: int = 64  # scenarios and plans drawn at the start
    shortlist: int = 24  # plans of a round that may be priced exactly
    swaps: int = 400  # exchanges looked at in a round
    quiet_rounds: int = 40  # without improvement before stopping
    tolerance: float = 1e-6
    seed: int = 0
    device: str | None = None  # PyTorch device of the predictions; None: NumPy


def solve_learned(
    problem: TwoStageProblem,
    network: Network | None,
    config: LearnedConfig | None = None,
    *,
    on_iteration: Callable[[Iteration], None] = lambda row: None,
) -> RobustResult:
    """Return the best plan found within the limits.

    Args:
        problem: with a binary first stage.
        network: trained on the family; None leaves it out (an ablation).
        config: limits.
        on_iteration: called at every improvement.

    Raises:
        InputError: a first stage that is not binary, or an infeasible or unbounded problem.
    """
    config = config or LearnedConfig()
    if not problem.first_stage().is_binary:
        raise InputError("method learned needs a binary first stage; use search or exact")
    warm_up(problem)
    bound = network.bind(problem, config.device) if network is not None else None
    search = open_search(problem, bound, config, on_iteration)
    try:
        stopped = _rounds(search, config)
    except OutOfTimeError:
        stopped = f"time limit of {config.seconds:g} s"
    return search.result("learned", stopped)


def _rounds(search: PlanSearch, config: LearnedConfig) -> str:
    rng = np.random.default_rng(config.seed)
    average = search.stages.answer(search.problem.mean_scenario(), seconds=0.3 * search.clock.left).x
    plans = _first_plans(search, average, config, rng)
    quiet = 0
    while quiet <= config.quiet_rounds:
        search.clock.check()
        improved = _price(search, config, plans, rng)
        improved |= search.try_plan(average)  # False at once where it was priced
        quiet = 0 if improved else quiet + 1
        plans = _next_plans(search, config, rng, quiet)
    return f"no improvement in {config.quiet_rounds} rounds"


def _next_plans(search: PlanSearch, config: LearnedConfig, rng: np.random.Generator, quiet: int) -> F64:
    """Return the plans of the next round: around the incumbent, or from a plan near it after rounds without success.

    Where the network is followed, every second round walks.
    """
    assert search.best_x is not None
    stage, follows = search.problem.first_stage(), _follows_network(search)
    stay = quiet <= 1 or (follows and quiet % 2 == 1)
    centre = search.best_x if stay else perturbed(search.best_x, stage, rng)
    if search.network is not None:
        search.hints = list(feared(search, centre, rng))
    return walk(search, centre, rng) if follows and quiet % 2 == 0 else around(centre, stage, rng, config.swaps)


def _follows_network(search: PlanSearch) -> bool:
    return search.network is not None and not search.stages.is_fast


def _first_plans(search: PlanSearch, average: F64, config: LearnedConfig, rng: np.random.Generator) -> F64:
    """Return the average plan, samples, and (where they cost microseconds) answers to scenarios.

    The average plan is priced first, unless pricing is slow: then the plan that the network prices least is.
    """
    problem, stages = search.problem, search.stages
    if not _follows_network(search):
        search.try_plan(average)
    plans = [average[None], problem.sample_first_stage(rng, config.samples)]
    search.add_scenario(nominal_scenario(problem))
    if _follows_network(search):
        search.hints = list(feared(search, average, rng))
        plans.append(walk(search, average, rng))
    if stages.is_fast:
        scenarios = problem.sample_scenarios(rng, config.samples)
        if search.network is not None:
            scenarios = np.vstack([scenarios, feared(search, average, rng)])
        plans.append(search.mixed_answers(scenarios, rng, share=0.3))
    return np.unique(feasible_rows(np.vstack(plans), problem.first_stage()), axis=0)


def _price(search: PlanSearch, config: LearnedConfig, plans: F64, rng: np.random.Generator) -> bool:
    """Give exact worst cases to the plans that the network ranks best; return whether the incumbent improved."""
    count = config.shortlist
    if not search.stages.is_fast:
        plans = plans[[not search.is_seen(plan) for plan in plans]]
        each = search.stages.pair_seconds or PRICE_SECONDS  # nothing is priced yet
        count = int(np.clip(PRICE_SECONDS / max(1e-9, each), 2, count))
    if search.network is None:
        chosen = plans[rng.permutation(len(plans))[:count]]
    else:
        chosen = plans[np.argsort(guessed(search, plans), kind="stable")[:count]]
    if not len(chosen):
        return False
    improved = False
    while search.try_best(chosen):
        improved = True
    return improved

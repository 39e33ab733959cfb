"""Method ``learned``: the network chooses the plans, without a mixed-integer program; exact prices decide at the end.

A round takes the network's worst scenarios of the best plans (Frank-Wolfe steps along its gradient, samples and the
scenarios priced so far), ranks a batch of plans and their flips and swaps by the largest prediction over them, and
gives the most promising ones exact worst cases, whose scenarios join the pool of the next round. Without a network
(an ablation) neighbours are taken at random. The plan for the average scenario is always a candidate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import OutOfTimeError
from mallocgame.baselines.neur2ro.neighbours import feasible_rows, neighbours, perturbed
from mallocgame.baselines.neur2ro.network import Network
from mallocgame.baselines.neur2ro.plan_search import PlanSearch, open_search
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, corners_of, nominal_scenario
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import warm_up
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedConfig:
    """Limits of the method."""

    seconds: float = 2.0
    pool: int = 24  # scenarios kept for screening
    samples: int = 64  # scenarios and plans drawn at the start
    ascent_steps: int = 12  # Frank-Wolfe steps
    shortlist: int = 24  # plans of a round that may be priced exactly
    swaps: int = 400  # exchanges looked at in a round
    quiet_rounds: int = 40  # without improvement before stopping
    tolerance: float = 1e-6
    seed: int = 0


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
    bound = network.bind(problem) if network is not None else None
    search = open_search(problem, bound, config, on_iteration)
    try:
        stopped = _rounds(search, config)
    except OutOfTimeError:
        stopped = f"time limit of {config.seconds:g} s"
    return search.result("learned", stopped)


def _rounds(search: PlanSearch, config: LearnedConfig) -> str:
    rng = np.random.default_rng(config.seed)
    stage = search.problem.first_stage()
    plans = _first_plans(search, config, rng)
    quiet = 0
    while quiet <= config.quiet_rounds:
        search.clock.check()
        improved = _price(search, config, plans, rng)
        quiet = 0 if improved else quiet + 1
        assert search.best_x is not None
        centre = search.best_x if improved or quiet == 1 else perturbed(search.best_x, stage, rng)
        if search.network is not None:
            search.hints = list(ascend(search, centre, config, rng))
        swaps = neighbours(centre, stage, "swap")
        swaps = swaps[rng.permutation(len(swaps))[: config.swaps]]
        plans = np.vstack([neighbours(centre, stage, "flip"), swaps])
    return f"no improvement in {config.quiet_rounds} rounds"


def _first_plans(search: PlanSearch, config: LearnedConfig, rng: np.random.Generator) -> F64:
    """Return the average and nominal plans, samples, and (where they cost microseconds) answers to scenarios."""
    problem, stages = search.problem, search.stages
    average = stages.answer(problem.mean_scenario(), seconds=0.3 * search.clock.left).x
    search.try_plan(average)
    plans = [average[None], problem.sample_first_stage(rng, config.samples)]
    search.add_scenario(nominal_scenario(problem))
    if stages.is_fast:
        scenarios = problem.sample_scenarios(rng, config.samples)
        if search.network is not None:
            scenarios = np.vstack([scenarios, ascend(search, average, config, rng)])
        mean = problem.mean_scenario()
        shares = rng.uniform(0.0, 1.0, (len(scenarios), 1))
        plans.append(np.array([stages.answer(xi).x for xi in shares * scenarios + (1 - shares) * mean]))
    return np.unique(feasible_rows(np.vstack(plans), problem.first_stage()), axis=0)


def ascend(search: PlanSearch, x: F64, config: LearnedConfig, rng: np.random.Generator) -> F64:
    """Return scenarios that the network finds bad for ``x``, worst first, float64[A, nxi]: Frank-Wolfe over Xi."""
    assert search.network is not None
    problem = search.problem
    box, listed = problem.uncertainty(), problem.scenarios()
    if listed is not None:
        found = listed[rng.permutation(len(listed))[:512]]
    elif box.integer.any():
        found = problem.sample_scenarios(rng, 64)
    else:
        found = np.vstack([problem.sample_scenarios(rng, 8), *[xi[None] for xi in search.pool[-4:]]])
        for step in range(config.ascent_steps):
            search.clock.check()
            corners = corners_of(box, -search.network.gradient(x, found))
            found = found + (corners - found) * 2.0 / (step + 3.0)
    predicted = search.network.predict(x[None], found)[0]
    return np.asarray(found[np.argsort(-predicted)[:4]])


def _price(search: PlanSearch, config: LearnedConfig, plans: F64, rng: np.random.Generator) -> bool:
    """Give exact worst cases to the plans that the network ranks best; return whether the incumbent improved."""
    if not len(plans):
        return False
    if search.network is None:
        chosen = plans[rng.permutation(len(plans))[: config.shortlist]]
    else:
        scenarios = np.array([*search.hints, *search.pool[-6:]])
        cost = plans @ search.problem.first_stage().cost
        guess = cost + search.network.predict(plans, scenarios).max(axis=1)
        chosen = plans[np.argsort(guess, kind="stable")[: config.shortlist]]
    improved = False
    while search.try_best(chosen):
        improved = True
    return improved

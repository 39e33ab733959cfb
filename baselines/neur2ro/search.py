"""Method ``search``: exact second stages decide, a network (if there is one) proposes.

1. Starts: the plans for the average and the nominal scenario; where second stages are slow the plan that a network
   ranks best on a walk from there, and the static plan.
2. Scenarios: with a network, adversarial MILPs over it; where only costs are uncertain the concave maximisation of
   D(xi) = min over (x, y) of the cost, by cutting planes. Every xi gives the lower bound D(xi), every cut a plan.
   Where they come in milliseconds, also the best plans for mixtures of a sampled and the mean scenario.
3. Candidates are ranked by their worst exact cost over the scenario pool, and the best get their exact worst case; its
   scenario joins the pool. While none is feasible, main programs over the pool exclude what has been seen to fail.
4. Local search over flips and swaps of binary plans: neighbours are ranked by the network where exact values are slow,
   screened by exact values over the pool (a lower bound on their worst case), and only then given an exact worst case.
   Repeated from perturbed incumbents until the gap closes, the time ends or nothing has improved for a while. First
   stages that are not binary get main programs over the pool instead (column-and-constraint generation).
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.arg_max import CcgConfig
from mallocgame.baselines.neur2ro.ccg import adversary
from mallocgame.baselines.neur2ro.clock import OutOfTimeError
from mallocgame.baselines.neur2ro.exact import main_program
from mallocgame.baselines.neur2ro.neighbours import neighbours, perturbed, refilled
from mallocgame.baselines.neur2ro.network import Network
from mallocgame.baselines.neur2ro.plan_search import PlanSearch, open_search
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, nominal_scenario
from mallocgame.baselines.neur2ro.references import static_plan
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import warm_up
from mallocgame.baselines.neur2ro.walk import feared, guessed, walk
from mallocgame.baselines.neur2ro.worst_case import CutProgram
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
REFILLS = 120  # plans of a round
MIXED = 64  # plans for mixtures of sampled scenarios with the mean one ...
CHEAP_SECONDS = 0.02  # ... where one takes less
WALKED = 3  # plans kept of a walk along the network
SLOW_SECONDS = 2e-3  # a second stage that takes longer is worth a static plan first


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Limits of the search."""

    seconds: float = 20.0
    network_scenarios: int = 5  # adversarial MILPs at the start
    program_seconds: float = 5.0  # per MILP
    bound_cuts: int = 400  # cutting planes of the lower bound
    candidates: int = 12  # plans that get an exact worst case before the local search
    pool: int = 24  # scenarios kept for screening
    quiet_restarts: int = 25  # perturbed restarts without improvement before stopping
    tolerance: float = 1e-6  # relative gap at which to stop
    seed: int = 0


def solve_search(
    problem: TwoStageProblem,
    network: Network | None,
    config: SearchConfig | None = None,
    *,
    start: F64 | None = None,
    on_iteration: Callable[[Iteration], None] = lambda row: None,
) -> RobustResult:
    """Return the best plan found within the limits.

    Args:
        problem: the instance; the local search needs a binary first stage.
        network: a trained network of the family, or None to do without it.
        config: limits.
        start: a plan to begin from (float64[nx]), or None.
        on_iteration: called at every improvement.

    Raises:
        InputError: the problem is infeasible or unbounded, or its uncertainty is not what it says.
    """
    config = config or SearchConfig()
    warm_up(problem)
    bound = network.bind(problem) if network is not None else None
    search = open_search(problem, bound, config, on_iteration)
    try:
        stopped = _phases(search, config, start)
    except OutOfTimeError:
        stopped = f"time limit of {config.seconds:g} s"
    return search.result("search", stopped)


def _phases(search: PlanSearch, config: SearchConfig, start: F64 | None) -> str:
    """Run the phases in order; return why the search stopped."""
    problem, stages = search.problem, search.stages
    plans = [] if start is None else [start]
    began = time.perf_counter()
    plans.append(stages.answer(problem.mean_scenario(), seconds=0.2 * search.clock.left).x)
    answers_are_cheap = time.perf_counter() - began < CHEAP_SECONDS
    with contextlib.suppress(InputError):  # the nominal scenario need not be among listed ones, nor feasible
        plans.append(stages.answer(nominal_scenario(problem), seconds=0.2 * search.clock.left).x)
    slow = _second_stage_seconds(search, plans[0]) > SLOW_SECONDS
    rows = len(problem.first_stage().rows) > 0
    if slow and search.network is not None and problem.first_stage().is_binary:
        _by_network(search, plans, np.random.default_rng(config.seed))
    search.try_plan(plans[0])
    if slow or rows or problem.uncertainty_kind == "general":
        plans += _static_plan(search, 0.15 if rows and not slow else 0.3)
    _network_scenarios(search, config, plans)
    if problem.uncertainty_kind == "objective":
        _bound_by_cuts(search, config, plans)
    if answers_are_cheap and not problem.uncertainty().integer.any() and problem.scenarios() is None:
        rng = np.random.default_rng(config.seed)
        plans += list(search.mixed_answers(problem.sample_scenarios(rng, MIXED), rng, share=0.1))
    evaluate_candidates(search, plans, config.candidates)
    binary = problem.first_stage().is_binary
    if not binary or not np.isfinite(search.best):
        stopped = _generate(search, until_feasible=binary)
        if not binary or not np.isfinite(search.best):
            return stopped
    return _local_search(search, config)


def _second_stage_seconds(search: PlanSearch, x: F64) -> float:
    """Return what one exact second stage takes."""
    xi = nominal_scenario(search.problem)[None]
    began = time.perf_counter()
    search.stages.values(x[None], xi)
    return time.perf_counter() - began


def _static_plan(search: PlanSearch, share: float) -> list[F64]:
    """Return the static robust plan, if there is one: a start where pricing is dear or rows bind."""
    try:
        return [static_plan(search.problem, seconds=share * search.clock.left).x]
    except InputError:
        return []  # no recourse decision suits every scenario


def _by_network(search: PlanSearch, plans: list[F64], rng: np.random.Generator) -> None:
    """Price what the network ranks best on a walk from the first plan: cheaper than any other start."""
    search.hints = list(feared(search, plans[0], rng))
    seen = walk(search, plans[0], rng)
    best = seen[np.argsort(guessed(search, seen), kind="stable")[:WALKED]]
    plans += list(best)
    search.try_plan(best[0])


def _network_scenarios(search: PlanSearch, config: SearchConfig, plans: list[F64]) -> None:
    """Alternate adversary (network) and answer (exact), as the paper's method does with its last scenario alone."""
    if search.network is None:
        return
    limits = CcgConfig(gap=1e-2)
    part = search.clock.part(0.15)
    for _ in range(config.network_scenarios):
        if part.left <= 0:
            return
        seconds = min(part.left, config.program_seconds)
        _, xi = adversary(search.network, search.problem, plans[-1], seconds=seconds, config=limits)
        known = len(search.pool)
        search.add_scenario(xi)
        if len(search.pool) == known:  # a repetition
            return
        plans.append(search.stages.answer(xi, seconds=part.left).x)


def _bound_by_cuts(search: PlanSearch, config: SearchConfig, plans: list[F64]) -> None:
    """Maximise D(xi) by cutting planes: a proved lower bound, and the plans of its cuts."""
    problem, affine = search.problem, search.oracle.costs
    assert affine is not None
    cost = problem.first_stage().cost
    program = CutProgram(problem)
    nominal = nominal_scenario(problem)
    queue = [nominal, *search.pool]
    best_xi = queue[0]
    part = search.clock.part(0.15)
    for _ in range(config.bound_cuts):
        if queue:
            xi = queue.pop()
        else:
            theta, xi = program.solve()
            if theta - search.lower <= config.tolerance * abs(theta):
                break
        if part.left <= 0:
            break
        answer = search.stages.answer(xi, seconds=part.left)
        if answer.bound > search.lower:
            search.lower, best_xi = answer.bound, xi
        cut = affine.cost_cut(answer.x, answer.y)
        cut[0] += float(cost @ answer.x)
        program.add(cut)
        plans.append(answer.x)
    search.add_scenario(best_xi)
    if search.stages.is_fast:
        plans += [search.stages.answer(nominal + share * (best_xi - nominal)).x for share in (0.2, 0.4, 0.6, 0.8)]


def evaluate_candidates(search: PlanSearch, plans: list[F64], limit: int) -> None:
    """Exact worst cases of the plans that look best over the pool, re-ranked as the pool grows."""
    distinct = {np.round(x, 6).tobytes(): x for x in plans}
    xs = np.array(list(distinct.values()))
    part = search.clock.part(0.25)
    search.try_plan(xs[0])
    bounds = search.screened(xs)
    for k, index in enumerate(np.argsort(bounds, kind="stable")):
        if part.left <= 0 or search.closed or k >= limit:
            break
        if bounds[index] < search.best:
            search.try_plan(xs[index])


def _generate(search: PlanSearch, *, until_feasible: bool) -> str:
    """Column-and-constraint generation over the pool; returns why it stopped."""
    scenarios = list(search.pool)
    while True:
        bound, x = main_program(search.problem, scenarios, search.stages, search.clock, 1e-5)
        search.lower = max(search.lower, bound)
        search.try_plan(x)
        if search.closed:
            return "gap closed"
        if until_feasible and np.isfinite(search.best):
            return "feasible"
        worst = search.pool[-1]
        if any(np.abs(worst - old).sum() <= 1e-9 for old in scenarios):
            return "the worst scenario repeats"
        scenarios.append(worst)


def _local_search(search: PlanSearch, config: SearchConfig) -> str:
    """Descend, then perturb and descend again, until a limit is met; returns the reason."""
    rng = np.random.default_rng(config.seed)
    assert search.best_x is not None
    breadth = int(np.clip(0.25 / max(1e-7, _second_stage_seconds(search, search.best_x)), 8, 20_000))
    quiet = 0
    current = search.best_x
    while True:
        improved = _descend(search, current, breadth, rng)
        if search.closed:
            return "gap closed"
        search.clock.check()
        quiet = 0 if improved else quiet + 1
        if quiet > config.quiet_restarts:
            return f"no improvement in {quiet} restarts"
        current = perturbed(search.best_x, search.problem.first_stage(), rng)


def _descend(search: PlanSearch, x: F64, breadth: int, rng: np.random.Generator) -> bool:
    """First improvement over flips, swaps and (where there are rows) refills; return whether the incumbent improved."""
    improved = False
    every = ["flip", "swap", "refill"] if len(search.problem.first_stage().rows) else ["flip", "swap"]
    kinds = every
    while kinds and not search.closed:
        search.clock.check()
        stage = search.problem.first_stage()
        near = refilled(x, stage, rng, REFILLS) if kinds[0] == "refill" else neighbours(x, stage, kinds[0])
        around = _shortlist(search, near, breadth, rng)
        moved = search.try_best(around)
        if moved and search.best_x is not None:
            x, improved = search.best_x, True
        kinds = every if moved else kinds[1:]
    return improved


def _shortlist(search: PlanSearch, plans: F64, breadth: int, rng: np.random.Generator) -> F64:
    """Return at most ``breadth`` of the plans: the best as the network sees them, or any without a network."""
    if len(plans) <= breadth:
        return plans
    if search.network is None:
        return plans[rng.permutation(len(plans))[:breadth]]
    cost = plans @ search.problem.first_stage().cost
    guess = cost + search.network.predict(plans, np.array(search.pool[-4:])).max(axis=1)
    return plans[np.argsort(guess, kind="stable")[:breadth]]

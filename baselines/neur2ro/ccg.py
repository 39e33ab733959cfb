"""The paper's mode: column-and-constraint generation where the network finds and ranks scenarios.

Each round: the main program picks x, with one exact copy of the second stage under the stored scenario that the network
ranks worst (arg-max selector); the adversary, a MILP over the network, proposes the next scenario. The network never
prices the main objective. Source: Dumouchelle et al., Neur2RO, ICLR 2024, arXiv:2310.04345. With one stored scenario,
the network has no say in the main program, which is then ``problem.deterministic``. One deviation: the plan returned is
the one of least adversary value, as the network sees it, not the last (main programs cut short are optimistic).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.embedding import Affine, adversary_model, embed_plan_values
from mallocgame.baselines.neur2ro.linear import Model
from mallocgame.baselines.neur2ro.network import BoundNetwork, Network
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem, add_recourse
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.solvers import Backend, require, solve
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle, nominal_scenario

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CcgConfig:
    """Caps and tolerances; the defaults are the paper's, with shorter limits per program."""

    max_scenarios: int = 20
    seconds: float = 600.0
    program_seconds: float = 60.0  # per MILP
    tolerance: float = 1e-4  # relative difference of adversary and main at which to stop
    same_scenario: float = 1e-3  # L1 distance below which a scenario counts as stored already
    gap: float = 1e-3  # relative, of main and adversary programs
    backend: Backend = "highs"
    threads: int = 1


def solve_paper(
    problem: TwoStageProblem,
    network: Network,
    config: CcgConfig | None = None,
    *,
    on_iteration: Callable[[Iteration], None] = lambda row: None,
) -> RobustResult:
    """Return the paper's plan; its worst case is then evaluated with the exact second stage.

    Raises:
        InputError: a program is infeasible or unbounded; the message names it.
    """
    config = config or CcgConfig()
    began = time.perf_counter()
    bound = network.bind(problem)
    cost = problem.first_stage().cost
    scenarios: list[F64] = []
    history: list[Iteration] = []
    x = problem.deterministic(nominal_scenario(problem)).x
    main_value, best_claim, best_x = -np.inf, np.inf, x
    stopped = f"{config.max_scenarios} scenarios"
    while True:
        left = config.seconds - (time.perf_counter() - began)
        if left <= 0:
            stopped = f"time limit of {config.seconds:g} s"
            break
        claim, xi = adversary(bound, problem, x, seconds=min(left, config.program_seconds), config=config)
        claim += float(cost @ x)
        if claim < best_claim:
            best_claim, best_x = claim, x
        row = Iteration(seconds=time.perf_counter() - began, main=main_value, adversary=claim, scenarios=len(scenarios))
        history.append(row)
        on_iteration(row)
        if abs(claim - main_value) <= config.tolerance * abs(claim):
            stopped = "main and adversary agree"
            break
        if any(np.abs(xi - old).sum() <= config.same_scenario for old in scenarios):
            stopped = "the adversary repeats a scenario"
            break
        if len(scenarios) >= config.max_scenarios:
            break
        scenarios.append(xi)
        left = config.seconds - (time.perf_counter() - began)
        main_value, x = main_program(
            bound, problem, scenarios, x, seconds=min(left, config.program_seconds), config=config
        )
    x = best_x
    seconds = time.perf_counter() - began
    worst = WorstCaseOracle(problem).worst_case(x, hints=np.array(scenarios) if scenarios else None)
    return RobustResult(
        method="neur2ro",
        x=x,
        worst_case=worst.value,
        worst_case_exact=problem.uncertainty_kind != "general",
        worst_scenario=worst.xi,
        lower_bound=-np.inf,
        seconds=seconds,
        evaluation_seconds=time.perf_counter() - began - seconds,
        stopped=stopped,
        scenarios=np.array(scenarios),
        history=tuple(history),
    )


def adversary(
    network: BoundNetwork, problem: TwoStageProblem, x: F64, *, seconds: float, config: CcgConfig
) -> tuple[float, F64]:
    """Return the largest predicted second-stage value at plan ``x`` and its scenario, by MILP."""
    box = problem.uncertainty()
    model, columns, _ = adversary_model(network, x, box)
    result = solve(model, backend=config.backend, seconds=seconds, gap=config.gap, threads=config.threads)
    if result.status == "unknown":  # nothing within the time limit: the best of a sample, as the network sees it
        drawn = problem.sample_scenarios(np.random.default_rng(0), 200)
        xi = drawn[np.argmax(network.predict(x[None], drawn)[0])]
    else:
        xi = require(result, "the adversary's program").values[columns]
    xi = np.where(box.integer, np.round(xi), np.clip(xi, box.lower, box.upper))
    return float(network.predict(x[None], xi[None])[0, 0]), xi


def main_program(
    network: BoundNetwork,
    problem: TwoStageProblem,
    scenarios: list[F64],
    previous: F64,
    *,
    seconds: float,
    config: CcgConfig,
) -> tuple[float, F64]:
    """Return (objective, x) of the arg-max main program over the stored scenarios."""
    if len(scenarios) == 1:
        best = problem.deterministic(scenarios[0])
        return best.value, best.x
    stage = problem.first_stage()
    model = Model()
    x = model.add_set(stage, with_cost=True)
    model.set_cost(x, stage.cost / network.scale)
    selectors = model.add_columns(len(scenarios), upper=1.0, integer=True)
    model.add_row(selectors, np.ones(len(scenarios)), lower=1.0, upper=1.0)
    ranks = embed_plan_values(model, network, x, np.array(scenarios))
    _select_largest(model, ranks, selectors)
    recourses = [problem.recourse(xi) for xi in scenarios]
    y = add_recourse(model, recourses, x, selectors)
    z = model.add_columns(1, lower=-np.inf, cost=1.0)
    y_low, y_high = np.array(model.lower)[y], np.array(model.upper)[y]
    tops, bottoms = _extremes(recourses, stage.lower, stage.upper, y_low, y_high, network.scale)
    for k, recourse in enumerate(recourses):
        q_x, q_y = recourse.x_cost / network.scale, recourse.y_cost / network.scale
        constant = recourse.constant / network.scale
        big = max(0.0, tops[k] - min(bottoms))
        terms = [(z, np.ones(1)), (x, -q_x), (y, -q_y), (selectors[k : k + 1], np.array([-big]))]
        model.add_terms(terms, lower=constant - big)
    result = solve(model, backend=config.backend, seconds=seconds, gap=config.gap, threads=config.threads)
    if not result.has_solution and result.status == "unknown":
        return float("nan"), previous
    found = require(result, "the main program").values[x]
    plan = np.where(stage.integer, np.round(found), found)
    return result.objective * network.scale, plan


def _extremes(
    recourses: list[Recourse], x_low: F64, x_high: F64, y_low: F64, y_high: F64, scale: float
) -> tuple[list[float], list[float]]:
    """Return the largest and smallest scaled cost that each recourse can have over its boxes."""
    tops, bottoms = [], []
    for r in recourses:
        ends = [(r.x_cost * x_low, r.x_cost * x_high), (r.y_cost * y_low, r.y_cost * y_high)]
        tops.append((sum(float(np.maximum(a, b).sum()) for a, b in ends) + r.constant) / scale)
        bottoms.append((sum(float(np.minimum(a, b).sum()) for a, b in ends) + r.constant) / scale)
    return tops, bottoms


def _select_largest(model: Model, ranks: list[Affine], selectors: npt.NDArray[np.int64]) -> None:
    """selectors[k] = 1 only if ranks[k] is the largest; ranks share the columns of the encoded plan."""
    lower, upper = np.array(model.lower), np.array(model.upper)
    for k, mine in enumerate(ranks):
        for j, other in enumerate(ranks):
            if j == k:
                continue
            columns = np.union1d(mine.columns, other.columns)
            weights = np.zeros(len(columns))
            np.add.at(weights, np.searchsorted(columns, other.columns), other.weights[0])
            np.add.at(weights, np.searchsorted(columns, mine.columns), -mine.weights[0])
            constant = float(other.constant[0] - mine.constant[0])
            top = float(np.maximum(weights * lower[columns], weights * upper[columns]).sum()) + constant
            if top > 0:
                terms = [(columns, weights), (selectors[k : k + 1], np.array([top]))]
                model.add_terms(terms, upper=top - constant)

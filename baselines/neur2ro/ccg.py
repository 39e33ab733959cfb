"""The paper's mode: column-and-constraint generation where the network finds and ranks scenarios.

Each round: the main program picks x, with one exact copy of the second stage under the stored scenario that the network
ranks worst (arg-max selector); the adversary, a MILP over the network, proposes the next scenario. The network never
prices the main objective. Source: Dumouchelle et al., Neur2RO, ICLR 2024, arXiv:2310.04345. With one stored scenario,
the network has no say in the main program, which is then ``problem.deterministic``. One deviation: the plan returned is
the one of least adversary value, as the network sees it, not the last (main programs cut short are optimistic).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.embedding import Affine, adversary_model, embed_plan_values
from mallocgame.baselines.neur2ro.linear import LinearModel
from mallocgame.baselines.neur2ro.network import BoundNetwork, Network
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem, add_recourse, nominal_scenario
from mallocgame.baselines.neur2ro.references import judged, judging_share
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import SecondStages, warm_up
from mallocgame.baselines.neur2ro.solvers import Backend, require, solve
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


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
    warm_up(problem)
    bound = network.bind(problem)
    oracle = WorstCaseOracle(problem)
    clock = Clock(config.seconds)
    part = clock.part(1 - judging_share(oracle))
    run = _Loop(problem, bound, config, part, SecondStages(problem, part), on_iteration)
    try:
        stopped = run.loop()
    except OutOfTimeError:
        stopped = f"time limit of {config.seconds:g} s"
    if not run.x.size:
        raise InputError(f"no plan for one known scenario within {config.seconds:g} s; raise --seconds")
    return judged(
        "paper",
        oracle,
        run.best_x if run.best_x.size else run.x,
        clock,
        stopped=stopped,
        scenarios=np.array(run.scenarios).reshape(len(run.scenarios), problem.uncertainty().size),
        history=tuple(run.history),
        used_network=True,
    )


@dataclass(slots=True)
class _Loop:
    """The state of the published loop."""

    problem: TwoStageProblem
    network: BoundNetwork
    config: CcgConfig
    clock: Clock
    stages: SecondStages
    on_iteration: Callable[[Iteration], None]
    x: F64 = field(default_factory=lambda: np.zeros(0))
    best_x: F64 = field(default_factory=lambda: np.zeros(0))
    best_claim: float = np.inf
    scenarios: list[F64] = field(default_factory=list)
    history: list[Iteration] = field(default_factory=list)

    def loop(self) -> str:
        """Alternate adversary and main program by the published stopping rules; return why it stopped."""
        config, main_value = self.config, -np.inf
        cost = self.problem.first_stage().cost
        self.x = self.stages.answer(nominal_scenario(self.problem)).x
        while True:
            seconds = min(self.clock.left, config.program_seconds)
            claim, xi = adversary(self.network, self.problem, self.x, seconds=seconds, config=config)
            claim += float(cost @ self.x)
            if claim < self.best_claim:
                self.best_claim, self.best_x = claim, self.x
            stored = len(self.scenarios)
            row = Iteration(seconds=self.clock.elapsed, main=main_value, adversary=claim, scenarios=stored)
            self.history.append(row)
            self.on_iteration(row)
            if abs(claim - main_value) <= config.tolerance * abs(claim):
                return "main and adversary agree"
            if any(np.abs(xi - old).sum() <= config.same_scenario for old in self.scenarios):
                return "the adversary repeats a scenario"
            if stored >= config.max_scenarios:
                return f"{config.max_scenarios} scenarios"
            self.clock.check()
            self.scenarios.append(xi)
            seconds = min(self.clock.left, config.program_seconds)
            main_value, self.x = main_program(
                self.network, self.problem, self.scenarios, self.x, seconds=seconds, config=config
            )
            self.clock.check()


def adversary(
    network: BoundNetwork, problem: TwoStageProblem, x: F64, *, seconds: float, config: CcgConfig
) -> tuple[float, F64]:
    """Return the largest predicted second-stage value at plan ``x`` and its scenario, by MILP."""
    box = problem.uncertainty()
    clock = Clock(seconds)
    model, columns, _ = adversary_model(network, x, box, clock=clock.part(0.5))
    result = solve(model, backend=config.backend, seconds=max(0.05, clock.left), gap=config.gap, threads=config.threads)
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
    """Return (objective, x) of the arg-max main program over the stored scenarios, started from plan ``previous``.

    Raises:
        OutOfTimeError: no plan was found in time.
    """
    clock = Clock(seconds)
    if len(scenarios) == 1:
        best = SecondStages(problem, clock).answer(scenarios[0], seconds=seconds)
        return best.value, best.x
    stage = problem.first_stage()
    model = LinearModel()
    x = model.add_set(stage, with_cost=True)
    model.set_cost(x, stage.cost / network.scale)
    selectors = model.add_columns(len(scenarios), upper=1.0, integer=True)
    model.add_row(selectors, np.ones(len(scenarios)), lower=1.0, upper=1.0)
    ranks = embed_plan_values(model, network, x, np.array(scenarios), tighten=True, clock=clock.part(0.25))
    _select_largest(model, ranks, selectors)
    recourses = [problem.recourse(xi) for xi in scenarios]
    y = add_recourse(model, recourses, x, selectors)
    z = model.add_columns(1, lower=-np.inf, cost=1.0)
    ends = (stage.lower, stage.upper, np.array(model.lower)[y], np.array(model.upper)[y])
    for k, recourse in enumerate(recourses):
        q_x, q_y = recourse.x_cost / network.scale, recourse.y_cost / network.scale
        constant = recourse.constant / network.scale
        big = max(0.0, *(_largest_difference(recourse, other, *ends) for other in recourses)) / network.scale
        terms = [(z, np.ones(1)), (x, -q_x), (y, -q_y), (selectors[k : k + 1], np.array([-big]))]
        model.add_terms(terms, lower=constant - big)
    result = solve(
        model,
        backend=config.backend,
        seconds=max(0.05, clock.left),
        gap=config.gap,
        start=_start(model, network, problem, scenarios, previous, (x, selectors, y)),
        threads=config.threads,
    )
    if not result.has_solution and result.status == "unknown":
        return float("nan"), previous
    found = require(result, "the main program").values[x]
    plan = np.where(stage.integer, np.round(found), found)
    return result.objective * network.scale, plan


def _start(
    model: LinearModel,
    network: BoundNetwork,
    problem: TwoStageProblem,
    scenarios: list[F64],
    plan: F64,
    columns: tuple[I64, I64, I64],
) -> F64 | None:
    """Return the point of a plan: itself, the scenario that the network ranks worst, and the answer to it.

    NaN where the solver must complete it; None where the plan has no second stage there.
    """
    x, selectors, y = columns
    worst = int(np.argmax(network.predict(plan[None], np.array(scenarios))[0]))
    answer = problem.second_stage(plan, scenarios[worst])
    if not np.isfinite(answer.value):
        return None
    point = np.full(model.num_columns, np.nan)
    point[x], point[y] = plan, answer.y
    point[selectors] = np.arange(len(scenarios)) == worst
    return point


def _largest_difference(r: Recourse, other: Recourse, x_low: F64, x_high: F64, y_low: F64, y_high: F64) -> float:
    """Return the most by which the cost of ``r`` exceeds that of ``other`` at the same (x, y) of the boxes.

    The variable z bounds the cost under the selected scenario, so this is all that the row of another must give way.
    """
    total = r.constant - other.constant
    for mine, others, low, high in ((r.x_cost, other.x_cost, x_low, x_high), (r.y_cost, other.y_cost, y_low, y_high)):
        change = mine - others
        moved = change != 0
        total += float(np.maximum(change[moved] * low[moved], change[moved] * high[moved]).sum())
    return total


def _select_largest(model: LinearModel, ranks: list[Affine], selectors: npt.NDArray[np.int64]) -> None:
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

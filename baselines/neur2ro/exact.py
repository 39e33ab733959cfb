"""References without a network: column-and-constraint generation with an exact adversary, static and nominal plans."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import Model
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem, add_recourse
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.solvers import Backend, optimise_over, require, solve
from mallocgame.baselines.neur2ro.worst_case import WorstCase, WorstCaseOracle, nominal_scenario
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
Watch = Callable[[Iteration], None]


def _ignore(row: Iteration) -> None:
    """Take no notice."""


def _result(
    method: str, problem: TwoStageProblem, x: F64, worst: WorstCase, began: float, solved: float, **rest: object
) -> RobustResult:
    facts: dict[str, object] = {"lower_bound": -np.inf, "stopped": "done", "scenarios": worst.xi[None], "history": ()}
    return RobustResult(
        method=method,
        x=x,
        worst_case=worst.value,
        worst_case_exact=problem.uncertainty_kind != "general",
        worst_scenario=worst.xi,
        seconds=solved - began,
        evaluation_seconds=time.perf_counter() - solved,
        **{**facts, **rest},  # type: ignore[arg-type]
    )


def solve_nominal(problem: TwoStageProblem) -> RobustResult:
    """Return the best plan for the nominal scenario, with its worst case."""
    began = time.perf_counter()
    x = problem.deterministic(nominal_scenario(problem)).x
    solved = time.perf_counter()
    return _result("nominal", problem, x, WorstCaseOracle(problem).worst_case(x), began, solved)


def solve_exact(
    problem: TwoStageProblem,
    *,
    seconds: float = 600.0,
    gap: float = 1e-4,
    backend: Backend = "highs",
    threads: int = 1,
    on_iteration: Watch = _ignore,
) -> RobustResult:
    """Column-and-constraint generation: one exact copy of the second stage per scenario, exact worst cases.

    Args:
        problem: with "objective" or "finite" uncertainty.
        seconds: limit; the incumbent and its gap are returned when it is met.
        gap: relative gap at which to stop.
        backend: MILP solver of the main program.
        threads: of the MILP solver.
        on_iteration: called each round.

    Raises:
        InputError: general uncertainty (no exact adversary), or an infeasible or unbounded main program.

    Source: Zeng and Zhao, Operations Research Letters 41 (2013), doi:10.1016/j.orl.2013.05.003.
    """
    oracle = WorstCaseOracle(problem)
    if not oracle.exact:
        raise InputError("exact CCG needs uncertainty in the costs only or a finite list of scenarios")
    began = time.perf_counter()
    scenarios: list[F64] = []
    history: list[Iteration] = []
    lower, best, best_x = -np.inf, np.inf, np.zeros(0)
    best_worst = None
    x = problem.deterministic(nominal_scenario(problem)).x
    stopped = f"time limit of {seconds:g} s"
    while True:
        worst = oracle.worst_case(x, hints=np.array(scenarios) if scenarios else None)
        if worst.value < best:
            best, best_x, best_worst = worst.value, x, worst
        row = Iteration(seconds=time.perf_counter() - began, main=best, adversary=lower, scenarios=len(scenarios))
        history.append(row)
        on_iteration(row)
        if best - lower <= gap * max(1e-9, abs(best)):
            stopped = "optimal"
            break
        if any(np.abs(worst.xi - old).sum() <= 1e-9 for old in scenarios):
            stopped = "the worst scenario repeats: what is left is the main program's own gap"
            if gap <= 1e-9:
                break
            gap_left = (best - lower) / max(1e-9, abs(best))
            if gap_left <= 2 * gap:
                break
        scenarios.append(worst.xi)
        left = seconds - (time.perf_counter() - began)
        if left <= 0:
            stopped = f"time limit of {seconds:g} s"
            break
        found = _main(problem, scenarios, left, gap / 2, backend, threads)
        if found is None:
            break
        bound, x = found
        lower = max(lower, bound)
    assert best_worst is not None
    return _result(
        "exact-ccg",
        problem,
        best_x,
        best_worst,
        began,
        time.perf_counter(),
        lower_bound=lower,
        stopped=stopped,
        scenarios=np.array(scenarios),
        history=tuple(history),
    )


def _main(
    problem: TwoStageProblem, scenarios: list[F64], seconds: float, gap: float, backend: Backend, threads: int
) -> tuple[float, F64] | None:
    """Return (proved bound, x) of the main program with one y per scenario, or None if time ends without a plan."""
    stage = problem.first_stage()
    model = Model()
    x = model.add_set(stage, with_cost=True)
    theta = model.add_columns(1, lower=-np.inf, cost=1.0)
    for xi in scenarios:
        recourse = problem.recourse(xi)
        y = add_recourse(model, [recourse], x)
        _price(model, theta, x, y, recourse)
    result = solve(model, backend=backend, seconds=seconds, gap=gap, threads=threads)
    if result.status == "unknown":
        return None
    values = require(result, "the main program").values[x]
    return result.bound, np.where(stage.integer, np.round(values), values)


def _price(
    model: Model, theta: npt.NDArray[np.int64], x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], r: Recourse
) -> None:
    """Add theta >= the second-stage cost of (x, y)."""
    model.add_terms([(theta, np.ones(1)), (x, -r.x_cost), (y, -r.y_cost)], lower=r.constant)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """A plan whose recourse decision is fixed in advance, and how its search ended."""

    x: F64
    stopped: str
    scenarios: tuple[F64, ...]


def solve_static(problem: TwoStageProblem, *, seconds: float = 120.0, gap: float = 1e-4) -> RobustResult:
    """Return the static robust plan (see ``static_plan``), judged with full recourse.

    Raises:
        InputError: no y is feasible for all scenarios.
    """
    began = time.perf_counter()
    plan = static_plan(problem, seconds=seconds, gap=gap)
    solved = time.perf_counter()
    worst = WorstCaseOracle(problem).worst_case(plan.x)
    rest = {"stopped": plan.stopped, "scenarios": np.array(plan.scenarios)}
    return _result("static", problem, plan.x, worst, began, solved, **rest)


def static_plan(problem: TwoStageProblem, *, seconds: float = 120.0, gap: float = 1e-4) -> StaticPlan:
    """Choose x together with one y that must be feasible and good for every scenario.

    Scenarios are generated by separating the cost and each constraint over the uncertainty set (linear programs; the
    recourse must be affine in xi) or over the list of scenarios.

    Raises:
        InputError: no y is feasible for all scenarios.
    """
    began = time.perf_counter()
    stage, listed = problem.first_stage(), problem.scenarios()
    separate = AffineRecourse(problem) if listed is None else None
    scenarios = [nominal_scenario(problem) if listed is None else listed[0]]
    stopped = f"time limit of {seconds:g} s"
    plan = problem.deterministic(scenarios[0]).x
    while (left := seconds - (time.perf_counter() - began)) > 0:
        model = Model()
        x = model.add_set(stage, with_cost=True)
        theta = model.add_columns(1, lower=-1e12, cost=1.0)
        recourses = [problem.recourse(xi) for xi in scenarios]
        y = add_recourse(model, recourses, x)
        for recourse in recourses:
            _price(model, theta, x, y, recourse)
        result = solve(model, seconds=left, gap=gap)
        if result.status == "unknown":
            break
        values = require(result, "the static robust program").values
        plan, answer, bound = values[x], values[y], float(values[theta[0]])
        plan = np.where(stage.integer, np.round(plan), plan)
        fresh = (
            separate.worst_scenarios(plan, answer, bound)
            if separate is not None
            else _listed_violations(problem, listed, plan, answer, bound)
        )
        if not fresh:
            stopped = "optimal"
            break
        scenarios += fresh
    return StaticPlan(x=plan, stopped=stopped, scenarios=tuple(scenarios))


def _listed_violations(problem: TwoStageProblem, listed: F64 | None, x: F64, y: F64, bound: float) -> list[F64]:
    """Return the listed scenario that (x, y) violates most, if any."""
    assert listed is not None
    worst, worst_xi = 1e-6 * max(1.0, abs(bound)), None
    for xi in listed:
        r = problem.recourse(xi)
        excess = float((r.x_rows @ x + r.y_rows @ y - r.row_upper).max(initial=0.0))
        violation = max(excess, r.value(x, y) - bound)
        if violation > worst:
            worst, worst_xi = violation, xi
    return [] if worst_xi is None else [worst_xi]


class AffineRecourse:
    """A recourse whose numbers are affine in xi, from its values at 0 and at unit vectors: linear separation."""

    def __init__(self, problem: TwoStageProblem) -> None:
        self.problem = problem
        self.box = problem.uncertainty()
        self.base = problem.recourse(np.zeros(self.box.size))
        self.units = [problem.recourse(unit) for unit in np.eye(self.box.size)]
        self.uncertain_rows = np.flatnonzero(
            np.any(
                [
                    np.any(r.x_rows != self.base.x_rows, axis=1)
                    | np.any(r.y_rows != self.base.y_rows, axis=1)
                    | (r.row_upper != self.base.row_upper)
                    for r in self.units
                ],
                axis=0,
            )
        )

    def constraints(self, x: F64, y: F64) -> F64:
        """Return (a_0, a) of the cost, then of each uncertain row's excess, at (x, y): float64[1 + rows, 1 + nxi]."""
        columns = []
        for r in (self.base, *self.units):
            rows = self.uncertain_rows
            excess = r.x_rows[rows] @ x + r.y_rows[rows] @ y - r.row_upper[rows]
            columns.append(np.append(r.value(x, y), excess))
        table = np.array(columns).T
        table[:, 1:] -= table[:, :1]
        return table

    def worst_scenarios(self, x: F64, y: F64, bound: float) -> list[F64]:
        """Return scenarios where (x, y) costs more than ``bound`` or breaks a row, the worst of each."""
        fresh = []
        for k, (constant, *slope) in enumerate(self.constraints(x, y)):
            xi = optimise_over(self.box, -np.array(slope), "the uncertainty set")
            value = constant + float(np.array(slope) @ xi) - (bound if k == 0 else 0.0)
            if value > 1e-6 * max(1.0, abs(bound)):
                fresh.append(xi)
        return fresh

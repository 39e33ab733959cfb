"""The simplest plans, which every other method must beat: nominal, average and static, judged with full recourse."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.affine import AffineRecourse
from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.linear import LinearModel
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem, add_recourse, nominal_scenario
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import SecondStages, warm_up
from mallocgame.baselines.neur2ro.solvers import require, solve
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
Watch = Callable[[Iteration], None]
JUDGING = 0.4  # share of the time limit kept for the exact worst case of the plan ...
FAST_JUDGING = 0.1  # ... and where second stages take microseconds


def judging_share(oracle: WorstCaseOracle) -> float:
    """Return the share of the time limit that the exact worst case of one plan may need."""
    return FAST_JUDGING if oracle.stages.is_fast else JUDGING


def no_watch(row: Iteration) -> None:
    """Take no notice."""


def judged(
    method: str, oracle: WorstCaseOracle, x: F64, clock: Clock, solved: float | None = None, **rest: object
) -> RobustResult:
    """Return the result of plan ``x``: its worst case within what is left of ``clock``.

    Args:
        method: name for tables.
        oracle: of the problem; its clock is replaced.
        x: float64[nx].
        clock: of the whole solve.
        solved: seconds at which the plan was ready; None is now.
        rest: other fields of the result.
    """
    solved = clock.elapsed if solved is None else solved
    oracle.stages.clock = Clock(max(clock.left, min(1.0, 0.2 * clock.seconds)))
    worst = oracle.worst_case(x)
    facts: dict[str, object] = {"lower_bound": -np.inf, "stopped": "done", "scenarios": worst.xi[None], "history": ()}
    return RobustResult(
        method=method,
        x=x,
        worst_case=worst.value,
        worst_case_exact=worst.exact,
        worst_scenario=worst.xi,
        seconds=solved,
        evaluation_seconds=clock.elapsed - solved,
        **{**facts, **rest},  # type: ignore[arg-type]
    )


def known_scenario_plan(problem: TwoStageProblem, xi: F64, clock: Clock, share: float = 1 - JUDGING) -> F64:
    """Return the plan that is best if xi is known.

    Raises:
        InputError: the time did not suffice for any plan, or none is feasible at xi.
    """
    stages = SecondStages(problem, clock)
    try:
        return stages.answer(xi, seconds=share * clock.left).x
    except OutOfTimeError:
        raise InputError(f"no plan for one known scenario within {clock.seconds:g} s; raise --seconds") from None


def solve_nominal(problem: TwoStageProblem, *, seconds: float = 120.0) -> RobustResult:
    """Return the best plan for the nominal scenario, with its worst case (inf where it has no second stage).

    Raises:
        InputError: no plan is feasible at the nominal scenario, or the problem is unbounded there.
    """
    warm_up(problem)
    clock = Clock(seconds)
    oracle = WorstCaseOracle(problem)
    return judged("nominal", oracle, known_scenario_plan(problem, nominal_scenario(problem), clock), clock)


def solve_average(problem: TwoStageProblem, *, seconds: float = 120.0) -> RobustResult:
    """Return the best plan for the mean scenario, with its worst case: one deterministic solve.

    Raises:
        InputError: no plan is feasible at the mean scenario, or the problem is unbounded there.
    """
    warm_up(problem)
    clock = Clock(seconds)
    oracle = WorstCaseOracle(problem)
    return judged("average", oracle, known_scenario_plan(problem, problem.mean_scenario(), clock), clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """A plan whose recourse decision is fixed in advance, and how its search ended."""

    x: F64
    stopped: str
    scenarios: tuple[F64, ...]
    proved_feasible: bool  # whether its recourse decision suits every scenario


def solve_static(problem: TwoStageProblem, *, seconds: float = 120.0, gap: float = 1e-4) -> RobustResult:
    """Return the static robust plan (see ``static_plan``), judged with full recourse.

    Raises:
        InputError: no y is feasible for all scenarios, or the recourse is not affine in xi.
    """
    warm_up(problem)
    clock = Clock(seconds)
    oracle = WorstCaseOracle(problem)
    plan = static_plan(problem, seconds=(1 - judging_share(oracle)) * seconds, gap=gap)
    return judged("static", oracle, plan.x, clock, stopped=plan.stopped, scenarios=np.array(plan.scenarios))


def price(
    model: LinearModel, theta: npt.NDArray[np.int64], x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], r: Recourse
) -> None:
    """Add theta >= the second-stage cost of (x, y)."""
    model.add_terms([(theta, np.ones(1)), (x, -r.x_cost), (y, -r.y_cost)], lower=r.constant)


def static_plan(problem: TwoStageProblem, *, seconds: float = 120.0, gap: float = 1e-4) -> StaticPlan:
    """Choose x together with one y that must be feasible and good for every scenario.

    Scenarios are generated by separating the cost and each constraint over the uncertainty set (linear programs; the
    recourse must be affine in xi) or over the list of scenarios.

    Raises:
        InputError: no y is feasible for all scenarios, the recourse is not affine, or no plan was found in time.
    """
    clock = Clock(seconds)
    stage, listed = problem.first_stage(), problem.scenarios()
    separate = AffineRecourse(problem) if listed is None else None
    scenarios = [nominal_scenario(problem) if listed is None else listed[0]]
    stopped = f"time limit of {seconds:g} s"
    plan: F64 | None = None
    while clock.left > 0:
        model = LinearModel()
        x = model.add_set(stage, with_cost=True)
        theta = model.add_columns(1, lower=-1e12, cost=1.0)
        recourses = [problem.recourse(xi) for xi in scenarios]
        y = add_recourse(model, recourses, x)
        for recourse in recourses:
            price(model, theta, x, y, recourse)
        result = solve(model, seconds=clock.left, gap=gap)
        if result.status == "unknown":
            break
        values = require(result, "the static robust program").values
        answer, bound = values[y], float(values[theta[0]])
        plan = np.where(stage.integer, np.round(values[x]), values[x])
        fresh = (
            separate.worst_scenarios(plan, answer, bound)
            if separate is not None
            else _listed_violations(problem, listed, plan, answer, bound)
        )
        if not fresh:
            return StaticPlan(x=plan, stopped="optimal", scenarios=tuple(scenarios), proved_feasible=True)
        scenarios += fresh
    if plan is None:
        raise InputError(f"the static robust program gave no plan within {seconds:g} s; raise --seconds")
    return StaticPlan(x=plan, stopped=stopped, scenarios=tuple(scenarios), proved_feasible=False)


def _listed_violations(problem: TwoStageProblem, listed: F64 | None, x: F64, y: F64, bound: float) -> list[F64]:
    """Return the listed scenario that (x, y) violates most, if any."""
    assert listed is not None
    worst, worst_xi = 1e-6 * max(1.0, abs(bound)), None
    for xi in listed:
        r = problem.recourse(xi)
        violation = max(r.excess(x, y), r.value(x, y) - bound)
        if violation > worst:
            worst, worst_xi = violation, xi
    return [] if worst_xi is None else [worst_xi]

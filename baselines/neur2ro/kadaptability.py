"""k-adaptability: choose x and k recourse policies now, and the best policy once the scenario is known.

Scenario-based branch and bound (Subramanyam, Gounaris and Wiesemann, Math. Prog. Comp. 12 (2020), arXiv:1706.07097): a
node assigns the scenarios found so far to policies; its program finds (x, y_1 ... y_k) good for the scenarios of each;
a scenario that breaks every policy (one linear program per choice of what breaks in each) is branched k ways.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.affine import AffineRecourse
from mallocgame.baselines.neur2ro.clock import Clock
from mallocgame.baselines.neur2ro.linear import LinearModel
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, add_recourse, nominal_scenario
from mallocgame.baselines.neur2ro.references import judged, judging_share, known_scenario_plan
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import warm_up
from mallocgame.baselines.neur2ro.solvers import solve
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class _Node:
    bound: float
    scenarios: tuple[tuple[F64, ...], ...]  # per policy


def solve_k_adaptability(
    problem: TwoStageProblem, *, policies: int = 2, seconds: float = 60.0, program_seconds: float = 20.0
) -> RobustResult:
    """Return the plan of the best k-adaptable solution found, judged with full recourse.

    Args:
        problem: with a recourse affine in xi and a continuous uncertainty set.
        policies: k.
        seconds: limit of the branch and bound.
        program_seconds: limit of one node's MILP.

    The result's lower bound is that of the two-stage problem only when k-adaptability is exact, so it is left at -inf;
    ``stopped`` says whether the k-adaptable optimum was proved. Without a solution in time the nominal plan is judged.
    """
    if not 1 <= policies <= 10:
        raise InputError(f"k is {policies}; expected 1 to 10 policies")
    warm_up(problem)
    affine = AffineRecourse(problem)
    oracle = WorstCaseOracle(problem)
    whole = Clock(seconds)
    clock = whole.part(1 - judging_share(oracle))
    start: list[tuple[F64, ...]] = [()] * policies
    start[0] = (nominal_scenario(problem),)
    stack = [_Node(-np.inf, tuple(start))]
    best, best_x = np.inf, known_scenario_plan(problem, nominal_scenario(problem), clock)
    history: list[Iteration] = []
    nodes, complete = 0, True
    while stack and (left := clock.left) > 0:
        node = stack.pop()
        if node.bound >= best - 1e-4 * abs(best):
            continue
        nodes += 1
        solved = _node_program(problem, node.scenarios, min(left, program_seconds))
        if solved is None:
            continue
        if isinstance(solved, str):  # no solution in the node's time: what is below it stays unknown
            complete = False
            continue
        bound, value, x, ys = solved
        if bound >= best - 1e-4 * abs(best):
            continue
        xi = _separate(affine, x, ys, value - float(problem.first_stage().cost @ x), clock)
        if xi is None:
            best, best_x = value, x
            history.append(Iteration(seconds=clock.elapsed, main=best, adversary=bound, scenarios=nodes))
            continue
        children = []
        used = [k for k in range(policies) if node.scenarios[k]]
        for k in range(min(policies, len(used) + 1)):  # empty policies are alike: open one at a time
            groups = list(node.scenarios)
            groups[k] = (*groups[k], xi)
            children.append(_Node(bound, tuple(groups)))
        stack += children  # depth first, the last policy first: differing policies early
    ended = "proved" if not stack and complete else f"time limit of {seconds:g} s"
    return judged(
        f"k-adaptability-{policies}",
        oracle,
        best_x,
        whole,
        stopped=f"{ended} after {nodes} nodes" + ("" if history else "; no k-adaptable solution found: nominal plan"),
        history=tuple(history),
    )


def _node_program(
    problem: TwoStageProblem, groups: tuple[tuple[F64, ...], ...], seconds: float
) -> tuple[float, float, F64, list[F64]] | Literal["unknown"] | None:
    """Return (bound, value, x, policies) of a node, None if it is infeasible, "unknown" if time ended first."""
    stage = problem.first_stage()
    model = LinearModel()
    x = model.add_set(stage, with_cost=True)
    theta = model.add_columns(1, lower=-1e9, cost=1.0)
    policies = []
    for group in groups:
        recourses = [problem.recourse(xi) for xi in group or groups[0][:1]]
        y = add_recourse(model, recourses, x)
        if group:
            for r in recourses:
                model.add_terms([(theta, np.ones(1)), (x, -r.x_cost), (y, -r.y_cost)], lower=r.constant)
        policies.append(y)
    result = solve(model, seconds=seconds, gap=1e-4)
    if not result.has_solution:
        return None if result.status == "infeasible" else "unknown"
    plan = np.where(stage.integer, np.round(result.values[x]), result.values[x])
    whole = problem.recourse(groups[0][0]).y_integer
    ys = [np.where(whole, np.round(result.values[y]), result.values[y]) for y in policies]
    return result.bound, result.objective, plan, ys


def _separate(affine: AffineRecourse, x: F64, ys: list[F64], theta: float, clock: Clock) -> F64 | None:
    """Return a scenario in which every policy costs more than theta or breaks a row, the most so, or None."""
    tables = []
    for y in ys:
        table = affine.constraints(x, y)
        table[0, 0] -= theta
        scale = np.maximum(1e-9, np.abs(table).max(axis=1, keepdims=True))
        tables.append(table / scale)
    worst, worst_xi = TOLERANCE, None
    for broken in itertools.product(*(range(len(table)) for table in tables)):
        if clock.left <= 0:
            return affine.box.lower if worst_xi is None else worst_xi  # not shown to be feasible: go on with a branch
        model = LinearModel()
        xi = model.add_set(affine.box)
        depth = model.add_columns(1, lower=-10.0, upper=10.0, cost=-1.0)
        for table, row in zip(tables, broken, strict=True):
            model.add_terms([(depth, np.ones(1)), (xi, -table[row, 1:])], upper=float(table[row, 0]))
        result = solve(model)
        if result.has_solution and -result.objective > worst:
            worst, worst_xi = -result.objective, result.values[xi]
    return worst_xi

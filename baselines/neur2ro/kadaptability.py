"""k-adaptability: choose x and k recourse policies now, and the best policy once the scenario is known.

Scenario-based branch and bound (Subramanyam, Gounaris and Wiesemann, Math. Prog. Comp. 12 (2020), arXiv:1706.07097): a
node assigns the scenarios found so far to policies; its program finds (x, y_1 ... y_k) good for the scenarios of each;
a scenario that breaks every policy (one linear program per choice of what breaks in each) is branched k ways.
"""

import itertools
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.exact import AffineRecourse
from mallocgame.baselines.neur2ro.linear import Model
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, add_recourse
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.solvers import solve
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle, nominal_scenario

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
    began = time.perf_counter()
    affine = AffineRecourse(problem)
    start: list[tuple[F64, ...]] = [()] * policies
    start[0] = (nominal_scenario(problem),)
    stack = [_Node(-np.inf, tuple(start))]
    best, best_x = np.inf, problem.deterministic(nominal_scenario(problem)).x
    history: list[Iteration] = []
    nodes = 0
    while stack and (left := seconds - (time.perf_counter() - began)) > 0:
        node = stack.pop()
        if node.bound >= best - 1e-4 * abs(best):
            continue
        nodes += 1
        solved = _node_program(problem, node.scenarios, min(left, program_seconds))
        if solved is None:
            continue
        bound, value, x, ys = solved
        if bound >= best - 1e-4 * abs(best):
            continue
        xi = _separate(affine, x, ys, value - float(problem.first_stage().cost @ x))
        if xi is None:
            best, best_x = value, x
            elapsed = time.perf_counter() - began
            history.append(Iteration(seconds=elapsed, main=best, adversary=bound, scenarios=nodes))
            continue
        children = []
        used = [k for k in range(policies) if node.scenarios[k]]
        for k in range(min(policies, len(used) + 1)):  # empty policies are alike: open one at a time
            groups = list(node.scenarios)
            groups[k] = (*groups[k], xi)
            children.append(_Node(bound, tuple(groups)))
        stack += children  # depth first, the last policy first: differing policies early
    proved = not stack
    solved_at = time.perf_counter()
    worst = WorstCaseOracle(problem).worst_case(best_x)
    return RobustResult(
        method=f"k-adaptability-{policies}",
        x=best_x,
        worst_case=worst.value,
        worst_case_exact=problem.uncertainty_kind != "general",
        worst_scenario=worst.xi,
        lower_bound=-np.inf,
        seconds=solved_at - began,
        evaluation_seconds=time.perf_counter() - solved_at,
        stopped=f"{'proved' if proved else f'time limit of {seconds:g} s'} after {nodes} nodes",
        scenarios=worst.xi[None],
        history=tuple(history),
    )


def _node_program(
    problem: TwoStageProblem, groups: tuple[tuple[F64, ...], ...], seconds: float
) -> tuple[float, float, F64, list[F64]] | None:
    """Return (bound, value, x, policies) of a node, or None if it has no solution."""
    stage = problem.first_stage()
    model = Model()
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
        return None
    plan = np.where(stage.integer, np.round(result.values[x]), result.values[x])
    return result.bound, result.objective, plan, [np.round(result.values[y]) for y in policies]


def _separate(affine: AffineRecourse, x: F64, ys: list[F64], theta: float) -> F64 | None:
    """Return a scenario in which every policy costs more than theta or breaks a row, the most so, or None."""
    tables = []
    for y in ys:
        table = affine.constraints(x, y)
        table[0, 0] -= theta
        scale = np.maximum(1e-9, np.abs(table).max(axis=1, keepdims=True))
        tables.append(table / scale)
    worst, worst_xi = TOLERANCE, None
    for broken in itertools.product(*(range(len(table)) for table in tables)):
        model = Model()
        xi = model.add_set(affine.box)
        depth = model.add_columns(1, lower=-10.0, upper=10.0, cost=-1.0)
        for table, row in zip(tables, broken, strict=True):
            model.add_terms([(depth, np.ones(1)), (xi, -table[row, 1:])], upper=float(table[row, 0]))
        result = solve(model)
        if result.has_solution and -result.objective > worst:
            worst, worst_xi = -result.objective, result.values[xi]
    return worst_xi

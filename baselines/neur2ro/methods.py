"""Every robust solver behind one name, and the judging of a plan by exact second stages."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.ccg import CcgConfig, solve_paper
from mallocgame.baselines.neur2ro.exact import solve_exact, solve_nominal, solve_static
from mallocgame.baselines.neur2ro.improved import ImprovedConfig, solve_improved
from mallocgame.baselines.neur2ro.kadaptability import solve_k_adaptability
from mallocgame.baselines.neur2ro.network import Network
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.solvers import Backend
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle, nominal_scenario
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
METHODS = ("improved", "paper", "exact", "static", "nominal", "k-adaptability")


def run(
    method: str,
    problem: TwoStageProblem,
    network: Network | None,
    *,
    seconds: float,
    backend: Backend = "highs",
    on_iteration: Callable[[Iteration], None] = lambda row: None,
) -> RobustResult:
    """Solve with one of METHODS.

    Args:
        method: a name; "paper" needs a network, "improved" uses one if given.
        problem: the instance.
        network: trained on the problem's family, or None.
        seconds: time limit.
        backend: MILP solver where the method lets one choose.
        on_iteration: progress.

    Raises:
        InputError: an unknown method, "paper" without a network, or a method that the problem does not admit.
    """
    if method == "improved":
        return solve_improved(problem, network, ImprovedConfig(seconds=seconds), on_iteration=on_iteration)
    if method == "paper":
        if network is None:
            raise InputError("method 'paper' needs a trained network; train one with: mallocgame robust train")
        limits = CcgConfig(seconds=seconds, program_seconds=max(1.0, seconds / 4), backend=backend)
        return solve_paper(problem, network, limits, on_iteration=on_iteration)
    if method == "exact":
        return solve_exact(problem, seconds=seconds, backend=backend, on_iteration=on_iteration)
    if method == "static":
        return solve_static(problem, seconds=seconds)
    if method == "nominal":
        return solve_nominal(problem)
    if method == "k-adaptability":
        return solve_k_adaptability(problem, seconds=seconds)
    raise InputError(f"method {method!r} is unknown; expected one of {', '.join(METHODS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Total costs of a plan (first stage included)."""

    worst_case: float
    exact: bool  # whether worst_case is the true one, not only the worst found
    sampled_mean: float
    sampled_worst: float
    nominal: float  # at the nominal scenario


def judge(problem: TwoStageProblem, x: F64, *, samples: int = 200, seed: int = 10_000) -> Judgement:
    """Return a plan's exact costs under its worst case and under sampled scenarios.

    Raises:
        InputError: the plan breaks a first-stage constraint.
    """
    stage = problem.first_stage()
    if len(x) != stage.size:
        raise InputError(f"the plan has {len(x)} numbers; expected {stage.size}")
    if stage.violation(x) > 1e-6:
        raise InputError(f"the plan breaks a first-stage constraint by {stage.violation(x):.3g}")
    oracle = WorstCaseOracle(problem)
    first = float(stage.cost @ x)
    drawn = problem.sample_scenarios(np.random.default_rng(seed), samples)
    sampled = first + problem.values(x[None], drawn)[0]
    nominal = first + float(problem.values(x[None], nominal_scenario(problem)[None])[0, 0])
    worst = oracle.worst_case(x).value
    return Judgement(
        worst_case=max(worst, float(sampled.max())) if not oracle.exact else worst,
        exact=oracle.exact,
        sampled_mean=float(sampled.mean()),
        sampled_worst=float(sampled.max()),
        nominal=nominal,
    )

"""Fast second stages against the generic MILP, worst cases against vertices, published anchors."""

import itertools

import numpy as np
import pytest

from mallocgame.baselines.neur2ro.affine import costs_only
from mallocgame.baselines.neur2ro.exact import solve_exact
from mallocgame.baselines.neur2ro.kadaptability import solve_k_adaptability
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, deterministic_by_milp
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting, scoring_scenarios
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem, read_knapsack, spread
from mallocgame.baselines.neur2ro.problems.loans import LoansProblem, read_loans
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
from mallocgame.baselines.neur2ro.references import solve_nominal, solve_static, static_plan
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle
from mallocgame.errors import InputError
from tests.baselines.neur2ro.user_problem import Reservation
from tests.paths import SHARED_DATA


def small_knapsack(rng: np.random.Generator, n: int = 8) -> KnapsackProblem:
    return KnapsackProblem.generate(rng, n=n, kind="WC", deviation=0.25, delta=0.5, fill=0.4)


def instances(rng: np.random.Generator) -> list[TwoStageProblem]:
    return [
        small_knapsack(rng),
        CapitalBudgeting.generate(rng, n=7),
        CapitalBudgeting.generate(rng, n=7, loans=True),
        LoansProblem.sample(rng),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_fast_second_stage_equals_the_recourse_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for problem in instances(rng):
        xs, xis = problem.sample_first_stage(rng, 3), problem.sample_scenarios(rng, 2)
        values = problem.values(xs, xis)
        for a, x in enumerate(xs):
            assert problem.first_stage().violation(x) <= 1e-9
            for b, xi in enumerate(xis):
                generic = TwoStageProblem.second_stage(problem, x, xi)
                fast = problem.second_stage(x, xi)
                recourse = problem.recourse(xi)
                assert values[a, b] == pytest.approx(generic.value, rel=1e-5, abs=1e-4)
                assert recourse.value(x, fast.y) == pytest.approx(values[a, b], rel=1e-5, abs=1e-4)
                assert np.all(recourse.x_rows @ x + recourse.y_rows @ fast.y <= recourse.row_upper + 1e-6)


def test_samples_lie_in_the_uncertainty_set() -> None:
    rng = np.random.default_rng(0)
    for problem in [*instances(rng), MemoryProblem.sample(rng), Reservation.sample(rng)]:
        box = problem.uncertainty()
        assert max(box.violation(xi) for xi in problem.sample_scenarios(rng, 20)) <= 1e-6


def test_spread_caps_and_keeps_the_total() -> None:
    rng = np.random.default_rng(1)
    out = spread(rng.random((50, 9)) ** 4 + 1e-6, np.full(50, 4.0))
    assert out.max() <= 1.0
    assert out.sum(axis=1) == pytest.approx(4.0, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_deterministic_equals_the_milp(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = small_knapsack(rng, 12)
    xi = problem.sample_scenarios(rng, 1)[0]
    assert problem.deterministic(xi).value == pytest.approx(deterministic_by_milp(problem, xi, gap=1e-9).value)


@pytest.mark.parametrize("seed", range(4))
def test_worst_case_by_cuts_bounds_every_scenario_and_is_attained(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = small_knapsack(rng, 14)
    oracle, stage = WorstCaseOracle(problem), problem.first_stage()
    for x in problem.sample_first_stage(rng, 4):  # the later plans reuse recourse decisions of the earlier ones
        worst = oracle.worst_case(x)
        sampled = stage.cost @ x + problem.values(x[None], problem.sample_scenarios(rng, 300))[0]
        assert sampled.max() <= worst.value + 1e-6 * abs(worst.value)
        assert stage.cost @ x + problem.second_stage(x, worst.xi).value == pytest.approx(worst.value)
        assert worst.upper == pytest.approx(worst.value, rel=2e-6)
        assert problem.uncertainty().violation(worst.xi) <= 1e-6


def test_search_and_exact_agree_with_enumeration() -> None:
    rng = np.random.default_rng(5)
    problem = small_knapsack(rng, 7)
    oracle = WorstCaseOracle(problem)
    plans = np.array([[bit >> i & 1 for i in range(7)] for bit in range(128)], float)
    best = min(oracle.worst_case(x).value for x in plans)
    assert solve_exact(problem, seconds=60).worst_case == pytest.approx(best, rel=2e-4)
    found = solve_search(problem, None, SearchConfig(seconds=20))
    assert found.worst_case == pytest.approx(best, rel=1e-6)
    assert found.lower_bound <= best + 1e-6 * abs(best)
    for weaker in (solve_static(problem), solve_nominal(problem)):
        assert weaker.worst_case >= best - 1e-6 * abs(best)


def static_cost(problem: KnapsackProblem, x: np.ndarray) -> float:
    """Return the least worst-case cost of x with a fixed recourse decision, by enumeration (whole budgets)."""
    chosen = np.flatnonzero(x > 0.5)
    best = np.inf
    for options in itertools.product(range(3), repeat=len(chosen)):
        made, repaired = np.zeros(len(x)), np.zeros(len(x))
        made[chosen], repaired[chosen] = np.array(options) >= 1, np.array(options) == 2
        if problem.weight @ made + problem.repair_weight @ repaired <= problem.capacity:
            losses = np.sort(problem.degradation * (made - repaired))[::-1]
            best = min(best, losses[: int(problem.budget)].sum() - problem.outsourcing_cost @ made)
    return float(best + problem.first_stage().cost @ x)


@pytest.mark.parametrize("seed", range(3))
def test_static_plan_equals_enumeration(seed: int) -> None:
    problem = small_knapsack(np.random.default_rng(seed), 5)
    plans = np.array([[bit >> i & 1 for i in range(5)] for bit in range(32)], float)
    best = min(static_cost(problem, x) for x in plans)
    found = static_plan(problem, gap=1e-7)
    assert found.stopped == "optimal"
    assert static_cost(problem, found.x) == pytest.approx(best, rel=1e-5)


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="no shared data")
def test_published_optima() -> None:
    knapsack = read_knapsack(SHARED_DATA / "robust_knapsack" / "RKP_UN_n20_R1000_H100_h40_dev0.1_d0.5")
    assert solve_exact(knapsack, seconds=60).worst_case == pytest.approx(-7804.67, abs=0.01)
    folder = SHARED_DATA / "robust_capital_budgeting_loans"
    for h, profit in ((20, 16.0987), (40, 49.5806)):
        problem = read_loans(folder / f"RC_N10_R100_H100_h{h}_C1_0.2_C2_0.2_M4_F0.8_Lambda0.12_Mu1.2_Ro5_no1")
        found = solve_search(problem, None, SearchConfig(seconds=30))
        assert -found.worst_case == pytest.approx(profit, abs=1e-3)


def test_capital_budgeting_first_stage_is_feasible_in_every_scenario() -> None:
    rng = np.random.default_rng(2)
    problem = CapitalBudgeting.generate(rng, n=10)
    xs = problem.sample_first_stage(rng, 20)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    assert np.isfinite(problem.values(xs, corners)).all()
    assert scoring_scenarios(count=5).shape == (5, 4)


def test_k_adaptability_lies_between_static_and_full_recourse() -> None:
    problem = CapitalBudgeting.generate(np.random.default_rng(4), n=5)
    two = solve_k_adaptability(problem, seconds=20)
    one = solve_k_adaptability(problem, policies=1, seconds=20)
    assert two.history[-1].main <= one.history[-1].main + 1e-4
    assert two.worst_case <= two.history[-1].main + 1e-3  # judged with full recourse
    assert min(two.worst_case, 0) >= solve_search(problem, None, SearchConfig(seconds=5)).worst_case - 2e-3


def test_memory_variants() -> None:
    for variant, tensors in (("bandwidth", 6), ("size", 5), ("bucket", 6)):
        problem = MemoryProblem.random(np.random.default_rng(3), tensors=tensors, steps=8, variant=variant, budget=2)  # type: ignore[arg-type]
        exact = solve_exact(problem, seconds=60)
        assert exact.gap <= 2e-4
        assert solve_nominal(problem).worst_case >= exact.worst_case - 1e-6
        free = problem.with_budget(0) if variant == "bandwidth" else problem
        if variant == "bandwidth":
            assert solve_exact(free, seconds=60).worst_case <= exact.worst_case + 1e-6


def test_size_worst_cases_are_monotone() -> None:
    problem = MemoryProblem.random(np.random.default_rng(8), tensors=5, steps=8, variant="size", budget=2)
    rng = np.random.default_rng(0)
    listed = problem.scenarios()
    assert listed is not None
    x = problem.sample_first_stage(rng, 1)
    fewer = listed[:3].copy()
    fewer[:, np.flatnonzero(fewer[0])[0]] = 0.0
    assert problem.values(x, fewer).max() <= problem.values(x, listed).max() + 1e-6


def test_objective_uncertainty_that_is_not_is_named() -> None:
    with pytest.raises(InputError, match="constraints change with xi"):
        costs_only(CapitalBudgeting.generate(np.random.default_rng(0), n=5))


def test_exact_refuses_general_uncertainty() -> None:
    with pytest.raises(InputError, match="exact CCG needs"):
        solve_exact(CapitalBudgeting.generate(np.random.default_rng(0), n=5))

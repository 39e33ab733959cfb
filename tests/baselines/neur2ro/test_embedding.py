"""The embedded network against the network itself, and the arg-max main program against enumeration."""

import numpy as np
import pytest

from mallocgame.baselines.neur2ro.ccg import CcgConfig, adversary, main_program, solve_paper
from mallocgame.baselines.neur2ro.embedding import adversary_model, embed_plan_values
from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet
from mallocgame.baselines.neur2ro.network import BoundNetwork
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
from mallocgame.baselines.neur2ro.solvers import solve
from tests.baselines.neur2ro.conftest import random_network


def pairs(seed: int) -> list[tuple[TwoStageProblem, BoundNetwork]]:
    """Problems with per-item binary x and: a budgeted scalar, two affine inputs of a shared xi, one shared scalar."""
    rng = np.random.default_rng(seed)
    knapsack = KnapsackProblem.generate(rng, n=6, kind="WC", deviation=0.3, delta=0.5, fill=0.4)
    budgeting = CapitalBudgeting.generate(rng, n=4)
    memory = MemoryProblem.random(rng, tensors=4, steps=6, variant="bucket")
    out: list[tuple[TwoStageProblem, BoundNetwork]] = []
    for problem, widths, features in ((knapsack, (1, 1), 6), (budgeting, (1, 2), 3), (memory, (1, 1), 6)):
        out += [(problem, random_network(rng, *widths, features, coupled=c).bind(problem)) for c in (False, True)]
    return out


@pytest.mark.parametrize("tighten", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_adversary_program_has_the_networks_value_at_fixed_scenarios(seed: int, tighten: bool) -> None:
    rng = np.random.default_rng(seed + 10)
    for problem, network in pairs(seed):
        x = problem.sample_first_stage(rng, 1)[0]
        for xi in problem.sample_scenarios(rng, 4):
            model, columns, _ = adversary_model(network, x, problem.uncertainty(), tighten=tighten)
            for column, value in zip(columns, xi, strict=True):
                model.lower[column] = model.upper[column] = float(value)
            result = solve(model, gap=1e-9)
            expected = network.predict(x[None], xi[None])[0, 0]
            assert network.offset - network.scale * result.objective == pytest.approx(
                expected, abs=1e-5 * network.scale
            )


@pytest.mark.parametrize("seed", range(2))
def test_adversary_finds_the_largest_prediction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for problem, network in pairs(seed):
        x = problem.sample_first_stage(rng, 1)[0]
        value, xi = adversary(network, problem, x, seconds=60, config=CcgConfig(gap=1e-7))
        assert problem.uncertainty().violation(xi) <= 1e-6
        assert value >= network.predict(x[None], problem.sample_scenarios(rng, 500)).max() - 1e-5 * network.scale


def test_main_program_embeds_the_network_at_fixed_plans() -> None:
    rng = np.random.default_rng(3)
    for problem, network in pairs(3):
        xis = problem.sample_scenarios(rng, 3)
        for x in problem.sample_first_stage(rng, 3):
            for k in range(3):
                model = LinearModel()
                box = LinearSet(lower=np.zeros(len(x)), upper=np.ones(len(x)), integer=np.ones(len(x), bool))
                columns = model.add_set(box)
                value = embed_plan_values(model, network, columns, xis)[k]
                model.set_cost(value.columns, value.weights[0])
                for column, v in zip(columns, x, strict=True):
                    model.lower[column] = model.upper[column] = float(v)
                got = solve(model, gap=1e-9).objective + float(value.constant[0])
                expected = network.predict(x[None], xis[k : k + 1])[0, 0]
                assert network.offset + network.scale * got == pytest.approx(expected, abs=1e-5 * network.scale)


@pytest.mark.parametrize("coupled", [False, True])
def test_main_program_equals_enumeration(coupled: bool) -> None:
    rng = np.random.default_rng(7)
    problem = KnapsackProblem.generate(rng, n=5, kind="UN", deviation=0.4, delta=0.5, fill=0.5)
    network = random_network(rng, 1, 1, 6, coupled=coupled).bind(problem)
    xis = problem.sample_scenarios(rng, 3)
    plans = np.array([[bit >> i & 1 for i in range(5)] for bit in range(32)], float)
    ranked = network.predict(plans, xis).argmax(axis=1)
    costs = plans @ problem.first_stage().cost + problem.values(plans, xis)[np.arange(32), ranked]
    value, x = main_program(network, problem, list(xis), plans[0], seconds=60, config=CcgConfig(gap=1e-7))
    assert value == pytest.approx(costs.min(), rel=1e-5)
    assert costs[np.flatnonzero((plans == x).all(axis=1))[0]] == pytest.approx(value, rel=1e-5)


def test_gradient_equals_finite_differences() -> None:
    rng = np.random.default_rng(0)
    for problem, network in pairs(0):
        x, xis = problem.sample_first_stage(rng, 1)[0], problem.sample_scenarios(rng, 3)
        gradient = network.gradient(x, xis)
        step = 1e-6 * rng.normal(size=xis.shape)
        change = (network.predict(x[None], xis + step) - network.predict(x[None], xis - step))[0] / 2
        assert change == pytest.approx((gradient * step).sum(axis=1), rel=1e-3, abs=1e-9 * network.scale)


def test_paper_mode_stops_and_judges_exactly() -> None:
    rng = np.random.default_rng(1)
    problem = KnapsackProblem.generate(rng, n=6, kind="WC", deviation=0.3, delta=0.5, fill=0.4)
    network = random_network(rng, 1, 1, 6, coupled=False)
    result = solve_paper(problem, network, CcgConfig(max_scenarios=4, seconds=60))
    assert 1 <= len(result.scenarios) <= 4
    assert result.worst_case_exact
    worst = problem.first_stage().cost @ result.x + problem.second_stage(result.x, result.worst_scenario).value
    assert worst == pytest.approx(result.worst_case)

"""The embedded network against the network itself, and the arg-max main program against enumeration."""

from dataclasses import replace

import numpy as np
import pytest

from mallocgame.baselines.neur2ro.arg_max import ArgMaxProgram, CcgConfig
from mallocgame.baselines.neur2ro.ccg import adversary, solve_paper
from mallocgame.baselines.neur2ro.embedding import adversary_model, embed_plan_values
from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet
from mallocgame.baselines.neur2ro.methods import run
from mallocgame.baselines.neur2ro.network import BoundNetwork
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
from mallocgame.baselines.neur2ro.solvers import solve
from mallocgame.errors import InputError
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
@pytest.mark.parametrize("seed", range(3))
def test_main_program_equals_enumeration(coupled: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round, without the local search: the branches alone must find the best plan and prove it."""
    monkeypatch.setattr(ArgMaxProgram, "_descend", lambda *_: None)
    rng = np.random.default_rng(seed)
    problem = KnapsackProblem.generate(rng, n=6, kind="WC", deviation=0.3, delta=1.0, fill=0.5)
    drawn = random_network(rng, 1, 1, 6, coupled=coupled)
    network = replace(drawn, value_bias=np.abs(drawn.value_bias) + 1.0).bind(problem)  # an output that is not constant
    xis = problem.sample_scenarios(rng, 4)
    plans = np.array([[bit >> i & 1 for i in range(6)] for bit in range(64)], float)
    program = ArgMaxProgram(network, problem, CcgConfig(gap=1e-7))
    for rounds in range(1, len(xis) + 1):
        ranked = network.predict(plans, xis[:rounds]).argmax(axis=1)
        costs = plans @ problem.first_stage().cost + problem.values(plans, xis)[np.arange(64), ranked]
        value, x = program.solve(xis[rounds - 1], plans[0], seconds=60)
        assert value == pytest.approx(costs.min(), rel=1e-5)
        assert costs[np.flatnonzero((plans == x).all(axis=1))[0]] == pytest.approx(value, rel=1e-5)
        assert program.bound <= value + 1e-5 * abs(value)
        top = np.sort(network.predict(plans, xis[:rounds]), axis=1)[:, -2:]
        if rounds == 1 or (top[:, 1] - top[:, 0]).min() > 1e-6 * network.scale:  # ties may be broken either way
            assert program.bound == pytest.approx(value, rel=1e-5)


def test_gradient_equals_finite_differences() -> None:
    rng = np.random.default_rng(0)
    for problem, network in pairs(0):
        x, xis = problem.sample_first_stage(rng, 1)[0], problem.sample_scenarios(rng, 3)
        gradient = network.gradient(x, xis)
        step = 1e-6 * rng.normal(size=xis.shape)
        change = (network.predict(x[None], xis + step) - network.predict(x[None], xis - step))[0] / 2
        assert change == pytest.approx((gradient * step).sum(axis=1), rel=1e-3, abs=1e-9 * network.scale)


def test_a_device_predicts_what_numpy_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from mallocgame.baselines.neur2ro import device

    monkeypatch.setattr(device, "BLOCK", 100)  # several blocks
    rng = np.random.default_rng(5)
    for problem, network in pairs(5):
        on_device = network.network.bind(problem, "cpu")
        assert on_device.device_name == "cpu"
        xs, xis = problem.sample_first_stage(rng, 5), problem.sample_scenarios(rng, 3)
        tolerance = 1e-5 * network.scale * max(1.0, np.abs(network.predict(xs, xis) / network.scale).max())
        assert on_device.predict(xs, xis) == pytest.approx(network.predict(xs, xis), abs=tolerance)
        assert on_device.gradient(xs[0], xis) == pytest.approx(network.gradient(xs[0], xis), rel=1e-3, abs=tolerance)


def test_learned_says_its_device_and_refuses_others() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    problem = KnapsackProblem.generate(rng, n=6, kind="WC", deviation=0.3, delta=0.5, fill=0.4)
    network = random_network(rng, 1, 1, 6, coupled=True)
    found = {device: run("learned", problem, network, seconds=5.0, device=device) for device in (None, "cpu")}
    assert found[None].worst_case == pytest.approx(found["cpu"].worst_case)
    assert [result.to_json()["device"] for result in found.values()] == [None, "cpu"]
    with pytest.raises(InputError, match="device 'abacus' cannot be used"):
        run("learned", problem, network, seconds=1.0, device="abacus")
    with pytest.raises(InputError, match="for method learned"):
        run("search", problem, network, seconds=1.0, device="cpu")


def test_paper_mode_stops_and_judges_exactly() -> None:
    rng = np.random.default_rng(1)
    problem = KnapsackProblem.generate(rng, n=6, kind="WC", deviation=0.3, delta=0.5, fill=0.4)
    network = random_network(rng, 1, 1, 6, coupled=False)
    result = solve_paper(problem, network, CcgConfig(max_scenarios=4, seconds=60))
    assert 1 <= len(result.scenarios) <= 4
    assert result.worst_case_exact
    worst = problem.first_stage().cost @ result.x + problem.second_stage(result.x, result.worst_scenario).value
    assert worst == pytest.approx(result.worst_case)

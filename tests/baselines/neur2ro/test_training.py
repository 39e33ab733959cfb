"""Data generation (parallel, resumed), fitting, saving; the user's own problem from sampling to a robust plan."""

from pathlib import Path

import numpy as np
import pytest

from mallocgame.baselines.neur2ro.data import DataPlan, generate, load_examples, make_example
from mallocgame.baselines.neur2ro.network import PRESETS, NetworkSize, load_network, save_network
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem
from mallocgame.baselines.neur2ro.registry import pretrained
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from mallocgame.baselines.neur2ro.train import TrainConfig, train
from mallocgame.errors import InputError, TraceError
from tests.baselines.neur2ro.user_problem import Reservation

SMALL = NetworkSize(x_item=(6, 4), x_post=(8, 4), xi_item=(6, 4), xi_post=(8, 4), value=4, coupled=True)


def test_resumed_and_parallel_data_equal_serial_data(tmp_path: Path) -> None:
    plan = DataPlan(instances=5, plans=4, scenarios=4, worst_cases=1, per_shard=2, seed=3)
    generate(KnapsackProblem.sample, plan, tmp_path / "a", processes=1)
    (tmp_path / "b").mkdir()
    for shard in ("plan.txt", "shard-00000.npz"):
        (tmp_path / "b" / shard).write_bytes((tmp_path / "a" / shard).read_bytes())
    seen: list[int] = []
    generate(KnapsackProblem.sample, plan, tmp_path / "b", processes=2, on_progress=seen.append)
    assert seen[0] == 2
    assert seen[-1] == 5
    for one, other in zip(load_examples(tmp_path / "a", plan), load_examples(tmp_path / "b", plan), strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.xi_points, other.xi_points)


def test_another_plan_in_the_folder_and_damage_are_refused(tmp_path: Path) -> None:
    plan = DataPlan(instances=2, plans=2, scenarios=2, worst_cases=0, per_shard=2)
    generate(KnapsackProblem.sample, plan, tmp_path, processes=1)
    with pytest.raises(InputError, match="another plan"):
        generate(KnapsackProblem.sample, DataPlan(instances=3, plans=2, scenarios=2, worst_cases=0), tmp_path)
    (tmp_path / "shard-00000.npz").write_bytes(b"no zip file")
    with pytest.raises(InputError, match="missing or damaged"):
        load_examples(tmp_path, plan)


@pytest.mark.parametrize("coupled", [False, True])
def test_saved_network_predicts_the_labels_that_it_was_trained_on(tmp_path: Path, coupled: bool) -> None:
    pytest.importorskip("torch")
    plan = DataPlan(instances=15, plans=6, scenarios=6, worst_cases=0)
    rng = np.random.default_rng(0)
    problems = [CapitalBudgeting.generate(rng, n=int(rng.integers(4, 8))) for _ in range(plan.instances)]
    examples = [make_example(problem, np.random.default_rng(k), plan) for k, problem in enumerate(problems)]
    size = NetworkSize(**{**{f: getattr(SMALL, f) for f in SMALL.__slots__}, "coupled": coupled})
    config = TrainConfig(size=size, epochs=60, batch_plans=6, batch_scenarios=6, learning_rate=1e-2)
    network, history = train(examples, config, {"problem": "capital-budgeting"})
    assert min(row.train_mse for row in history) < 0.5 * history[0].train_mse
    save_network(network, tmp_path)
    loaded = load_network(tmp_path)
    held_out = np.random.default_rng(config.seed).permutation(plan.instances)[:3]
    errors = []
    for problem, example, k in zip(problems, examples, range(plan.instances), strict=True):
        again = np.random.default_rng(k)
        xs, xis = problem.sample_first_stage(again, 6), problem.sample_scenarios(again, 6)
        bound = loaded.bind(problem)
        predicted = np.vstack([bound.predict(x[None], xis) for x in xs])
        errors.append(np.abs((predicted - bound.offset) / bound.scale - example.labels).mean())
    assert np.mean([errors[k] for k in held_out]) == pytest.approx(network.about["validation_mae_scaled"], rel=1e-3)
    assert network.about["validation_mae_scaled"] == min(row.validation_mae for row in history)


def test_users_problem_from_sampling_to_plan() -> None:
    pytest.importorskip("torch")
    plan = DataPlan(instances=6, plans=4, scenarios=4, worst_cases=0)
    examples = [
        make_example(Reservation.sample(rng), rng, plan) for rng in (np.random.default_rng(k) for k in range(6))
    ]
    network, _ = train(examples, TrainConfig(size=SMALL, epochs=4, batch_plans=4, batch_scenarios=4), {})
    problem = Reservation.sample(np.random.default_rng(100))
    result = solve_search(problem, network, SearchConfig(seconds=4, quiet_restarts=1, network_scenarios=2))
    assert problem.first_stage().violation(result.x) <= 1e-9
    value = problem.first_stage().cost @ result.x + problem.second_stage(result.x, result.worst_scenario).value
    assert value == pytest.approx(result.worst_case)


def test_damaged_networks_are_refused(tmp_path: Path) -> None:
    source = pretrained("knapsack")
    for name in ("network.json", "network.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    network = load_network(tmp_path)
    with pytest.raises(InputError, match="trained on another problem"):
        network.bind(CapitalBudgeting.generate(np.random.default_rng(0), n=4))
    (tmp_path / "network.safetensors").write_bytes(b"\x80\x04pickle?")
    with pytest.raises(TraceError, match="not a network"):
        load_network(tmp_path)
    (tmp_path / "network.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TraceError, match="expected format"):
        load_network(tmp_path)


def test_presets_have_the_published_sizes() -> None:
    published = PRESETS["knapsack"]
    assert (published.x_item, published.x_post, published.value) == ((32, 16), (64, 8), 8)
    assert PRESETS["capital-budgeting"].xi_item == (16, 4)


def test_plans_near_the_average_plan_are_feasible_and_near() -> None:
    plan = DataPlan(instances=1, plans=8, scenarios=2, worst_cases=0, near_average=6)
    problem = CapitalBudgeting.generate(np.random.default_rng(3), n=12)
    example = make_example(problem, np.random.default_rng(0), plan)
    centre = problem.deterministic(problem.mean_scenario()).x
    plans = example.x_points[..., 0].astype(float)
    assert all(problem.first_stage().violation(x) <= 1e-9 for x in plans)
    flips = np.abs(plans - centre).sum(axis=1)
    assert np.sort(flips)[0] <= 2
    assert np.median(flips[-3:]) < np.median(
        np.abs(problem.sample_first_stage(np.random.default_rng(1), 50) - centre).sum(axis=1)
    )
    assert "near_average" not in DataPlan().stamp  # folders of before are still read


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="near_average"):
        DataPlan(plans=4, near_average=5, worst_cases=0)
    with pytest.raises(InputError, match="worst_cases"):
        DataPlan(plans=4, scenarios=4, worst_cases=3)
    with pytest.raises(InputError, match="at least two instances"):
        train([], TrainConfig(size=SMALL), {})

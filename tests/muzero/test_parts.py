"""Categorical values, targets, replay, configuration: against slow references."""

from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.muzero.categorical import decode, encode
from agents.muzero.config import Config
from agents.muzero.learner import learning_rate, make_optimizer
from agents.muzero.replay import Episode, Replay
from agents.muzero.targets import n_step_returns, window
from mallocgame.errors import InputError, TraceError


@settings(deadline=None, max_examples=50)
@given(st.floats(-0.5, 0.9))
def test_a_value_survives_its_encoding(x: float) -> None:
    weights = encode(jnp.array([x]), 20, 100.0)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(decode(jnp.log(weights + 1e-20), 20, 100.0)[0]) == pytest.approx(x, abs=2e-3)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.integers(1, 15), st.integers(0, 2**31))
def test_returns_equal_the_slow_reference(rewards: list[float], n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=len(rewards)).astype(np.float32)
    found = n_step_returns(np.array(rewards, np.float32), values, n)
    for t in range(len(rewards)):
        total = sum(rewards[t : t + n])
        if t + n < len(rewards):
            total += float(values[t + n])
        assert found[t] == pytest.approx(total, abs=1e-4)


def test_a_window_is_zero_past_the_end() -> None:
    assert window(np.array([1, 2, 3], np.float32), np.array([1, 2]), 3).tolist() == [[2, 3, 0], [3, 0, 0]]


def _episode(length: int, program: str = "p") -> Episode:
    ones = np.ones(length, dtype=np.float32)
    return Episode(
        observations={"x": np.arange(length, dtype=np.float16)[:, None]},
        legal=np.ones((length, 3), dtype=np.bool_),
        actions=np.arange(length, dtype=np.int32) % 3,
        rewards=ones.copy(),
        policies=np.full((length, 3), 1 / 3, dtype=np.float32),
        root_values=ones.copy(),
        priorities=ones.copy(),
        program=program,
    )


def test_replay_forgets_the_oldest_and_prefers_priority() -> None:
    replay = Replay(25, priority_exponent=1.0, seed=0)
    for length in (10, 10, 10):
        replay.add(_episode(length))
    assert replay.num_steps == 20
    replay.episodes[1].priorities[:] = 0.0
    replay.episodes[1].priorities[4] = 1000.0
    batch = replay.sample(200, 3, 5)
    hits = sum(episode is replay.episodes[1] and at == 4 for episode, at in batch.where)
    assert hits > 190
    row = next(i for i, (_, at) in enumerate(batch.where) if at == 4)
    assert batch.values[row, 0] == pytest.approx(5.0 + 1.0)
    assert batch.actions[row].tolist() == [1, 2, 0]


def test_past_the_end_nothing_counts_but_the_value() -> None:
    replay = Replay(100, priority_exponent=1.0, seed=0)
    replay.add(_episode(2))
    batch = replay.sample(64, 4, 5)
    last = next(i for i, (_, at) in enumerate(batch.where) if at == 1)
    assert batch.mask[last].tolist() == [1, 0, 0, 0, 0]
    assert batch.values[last].tolist() == [1, 0, 0, 0, 0]


def test_configuration_is_strict(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("num_simulations = 8\nlearning_rate = 1\n")
    assert Config.from_toml(file).num_simulations == 8
    for text in ("num_simulation = 8", "num_simulations = 'x'", "batch_size = 0", "policy = 'ppo'", "= 3"):
        file.write_text(text)
        with pytest.raises(TraceError, match=r"agent\.toml"):
            Config.from_toml(file)


@pytest.mark.parametrize("name", ["adamw", "lion", "adan", "adabelief", "sgd"])
def test_any_optimiser_of_optax_works_by_name(name: str) -> None:
    optimizer = make_optimizer(Config(optimizer=name))
    parameters = {"w": jnp.ones(3)}
    change, _ = optimizer.update({"w": jnp.ones(3)}, optimizer.init(parameters), parameters)
    assert float(change["w"].sum()) < 0


def test_an_unknown_optimiser_is_named() -> None:
    with pytest.raises(InputError, match="sgdd"):
        make_optimizer(Config(optimizer="sgdd"))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "rex", "constant"])
def test_schedules_start_at_the_peak_and_never_rise(schedule: str) -> None:
    rates = [learning_rate(Config(schedule=schedule), x / 10) for x in range(12)]
    assert rates[0] == pytest.approx(1e-3)
    assert all(a >= b for a, b in pairwise(rates))

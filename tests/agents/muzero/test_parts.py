"""Categorical values, histories, configuration, parts of networks: against slow references."""

from itertools import pairwise
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.agents.muzero.categorical import decode, encode
from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.history import History
from mallocgame.agents.muzero.learner import learning_rate, make_optimizer
from mallocgame.agents.muzero.networks import _Convolution
from mallocgame.errors import InputError, TraceError


@settings(deadline=None, max_examples=50)
@given(st.floats(-0.5, 0.9))
def test_a_value_survives_its_encoding(x: float) -> None:
    weights = encode(jnp.array([x]), 20, 100.0)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(decode(jnp.log(weights + 1e-20), 20, 100.0)[0]) == pytest.approx(x, abs=2e-3)


def test_a_history_gives_back_each_games_moves() -> None:
    seen = {"x": np.zeros((2, 1), dtype=np.float32)}
    history = History(seen, 3, 5)
    legal = np.ones((2, 3), dtype=np.bool_)
    for move in range(3):
        history.see({"x": np.array([[move], [10 + move]], dtype=np.float32)}, legal)
        numbers = np.array([move, 10 + move])
        history.move(numbers % 3, numbers, np.ones((2, 3)) * numbers[:, None], numbers)
        if move == 0:
            history.take(1, "short")
    first, second = history.take(0, "p"), history.take(1, "q")
    assert (first.program, second.program) == ("p", "q")
    assert first.observations["x"][:, 0].tolist() == [0, 1, 2]
    assert second.rewards.tolist() == second.root_values.tolist() == [11, 12]
    assert second.policies.tolist() == [[11] * 3, [12] * 3]
    assert history.length.tolist() == [0, 0]


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


@pytest.mark.parametrize(("window", "strides"), [((2, 4), (2, 4)), ((3, 3), (1, 1)), ((3, 2), (2, 3))])
def test_a_convolution_as_a_product_is_that_of_flax(window: tuple[int, int], strides: tuple[int, int]) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 10, 3)), dtype=jnp.float32)
    theirs = nn.Conv(5, window, strides=strides)
    weights = theirs.init(jax.random.key(0), x)
    expected = theirs.apply(weights, x)
    found = _Convolution(5, window, strides).apply(weights, x)
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)

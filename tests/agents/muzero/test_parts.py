"""Categorical values, targets, replay, configuration: against slow references."""

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
from mallocgame.agents.muzero.replay import Batch, Episode, Records, Replay, join
from mallocgame.agents.muzero.targets import n_step_returns
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


def _episode(length: int, program: str = "p", reward: float = 1.0) -> Episode:
    ones = np.ones(length, dtype=np.float32)
    return Episode(
        observations={"x": np.arange(length, dtype=np.float16)[:, None]},
        legal=np.ones((length, 3), dtype=np.bool_),
        actions=np.arange(length, dtype=np.int32) % 3,
        rewards=ones * reward,
        policies=np.full((length, 3), 1 / 3, dtype=np.float32),
        root_values=ones.copy(),
        program=program,
    )


def _replay(capacity_steps: int) -> Replay:
    return Replay(capacity_steps, priority_exponent=1.0, bootstrap_steps=5)


def _at(batch: Batch) -> list[int]:
    return [int(x) for x in batch.observations["x"][:, 0]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(12, 40))
def test_replay_holds_the_newest_episodes_that_fit(lengths: list[int], capacity: int) -> None:
    replay = _replay(capacity)
    for number, length in enumerate(lengths):
        replay.add(_episode(length, str(number)), number)
        numbers = [kept.number for kept in replay.kept]
        assert numbers == list(range(number + 1 - len(numbers), number + 1))  # none but the oldest are missing
        assert replay.num_steps == sum(lengths[n] for n in numbers) <= capacity
        assert replay.num_steps + max(lengths) * 2 > min(capacity, sum(lengths[: number + 1]))  # little is wasted
        for kept in replay.kept:  # and none has been written over
            episode = replay.episode(kept.start, kept.program)
            assert episode.observations["x"][:, 0].tolist() == list(range(lengths[kept.number]))


def test_replay_draws_by_priority_and_bootstraps() -> None:
    replay = _replay(25)
    for number in range(3):
        replay.add(_episode(10), number)
    assert replay.num_steps == 20
    start = replay.kept[1].start
    everything = np.concatenate([np.arange(kept.start, kept.start + 10) for kept in replay.kept])
    replay.prioritise(everything, np.zeros(20))
    replay.prioritise(np.array([start + 4]), np.array([1000.0]))
    positions, chances = replay.draw(np.random.default_rng(0), 200)
    assert (positions == start + 4).sum() > 190
    assert chances[positions == start + 4][0] == pytest.approx(20.0, rel=1e-3)  # nearly sure, times 20 positions
    batch = replay.gather(np.array([start + 4]), 3, np.ones(1, np.float32))
    assert batch.values[0].tolist() == [6.0, 5.0, 4.0, 3.0]  # five rewards and the value of the next, or to the end
    assert batch.actions[0].tolist() == [1, 2, 0]
    assert _at(batch) == [4]


def test_past_the_end_nothing_counts_but_the_value() -> None:
    replay = _replay(100)
    replay.add(_episode(2), 0)
    replay.add(_episode(2), 1)
    batch = replay.gather(np.array([1]), 4, np.ones(1, np.float32))
    assert batch.mask.tolist() == [[1, 0, 0, 0, 0]]
    assert batch.values.tolist() == [[1, 0, 0, 0, 0]]
    assert batch.policies[0, 1:].sum() == 0
    assert batch.next_observations["x"].tolist() == batch.observations["x"].tolist()


def test_reanalysis_changes_what_is_wanted_and_expected() -> None:
    replay = _replay(100)
    replay.add(_episode(10), 0)
    policy = np.array([[1.0, 0.0, 0.0]], dtype=np.float32)
    replay.reanalyse(np.array([7]), policy, np.array([100.0], dtype=np.float32))
    batch = replay.gather(np.array([2, 7]), 1, np.ones(2, np.float32))
    assert batch.values[0, 0] == pytest.approx(5.0 + 100.0)
    assert batch.policies[1, 0].tolist() == policy[0].tolist()


def test_records_keep_the_best_of_each_program_and_imitate_it() -> None:
    records = Records({"a": 4, "b": 6}, priority_exponent=1.0)
    assert records.offer(_episode(4, "a"), 0.9)
    assert not records.offer(_episode(4, "a", 0.5), 0.9)
    assert records.offer(_episode(6, "b", 0.1), 0.9)
    assert records.offer(_episode(4, "a", 2.0), 0.9)
    assert records.num_steps == 10
    assert records.returns == {"a": 8.0, "b": pytest.approx(0.6)}
    batch = records.gather(np.array([1]), 2, np.ones(1, np.float32))
    assert batch.policies[0, 0].tolist() == pytest.approx([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    assert batch.values[0].tolist() == [6.0, 4.0, 2.0]  # all that was still won, whatever the search expected


def test_joined_batches_keep_their_rows() -> None:
    replay = _replay(30)
    replay.add(_episode(10), 0)
    parts = [replay.gather(np.array([at]), 2, np.full(1, at, np.float32)) for at in (3, 8)]
    both = join(parts)
    assert _at(both) == [3, 8]
    assert both.weights.tolist() == [3.0, 8.0]
    assert both.mask.tolist() == [[1, 1, 1], [1, 1, 0]]


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

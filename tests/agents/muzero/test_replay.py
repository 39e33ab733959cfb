"""The replay and the records of the best games, against slow references. (No test here computes with JAX.)"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.agents.muzero.replay import SMALLEST_PRIORITY, Batch, Episode, Records, Replay, join
from mallocgame.agents.muzero.targets import n_step_returns


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


def test_what_the_search_expected_wrongly_is_drawn_first() -> None:
    replay = _replay(10)
    replay.add(_episode(2), 0)  # returns 2 and 1, the search expected 1 both times
    _, chances = replay.draw(np.random.default_rng(0), 50)
    assert max(chances) == pytest.approx(2.0 * (1.0 + SMALLEST_PRIORITY) / (1.0 + 2.0 * SMALLEST_PRIORITY))


def test_past_the_end_nothing_counts_but_the_value() -> None:
    replay = _replay(100)
    replay.add(_episode(2), 0)
    replay.add(_episode(2), 1)
    batch = replay.gather(np.array([1]), 4, np.ones(1, np.float32))
    assert batch.mask.tolist() == [[1, 0, 0, 0, 0]]
    assert batch.values.tolist() == [[1, 0, 0, 0, 0]]
    assert batch.policies[0, 1:].sum() == 0
    assert batch.actions.tolist() == [[1, 0, 0, 0]]
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


def test_a_tie_keeps_the_older_record_and_episodes_are_given_back() -> None:
    records = Records({"a": 4, "b": 6}, priority_exponent=1.0)
    assert records.episodes() == []
    assert records.of("a") is None
    assert records.offer(_episode(4, "a"), 0.9)
    records.changed.clear()
    assert not records.offer(_episode(4, "a"), 0.9)  # as good is not better
    assert records.changed == set()
    records.keep(_episode(6, "b"))
    assert [(e.program, e.length, e.observations["x"][-1, 0]) for e in records.episodes()] == [("a", 4, 3), ("b", 6, 5)]
    assert records.changed == {"b"}


def test_windows_end_with_their_episodes() -> None:
    replay = _replay(12)
    for number in range(3):
        replay.add(_episode(4, str(number)), number)  # the last fills the replay to the brim
    assert replay.num_steps == replay.cursor == 12
    assert replay.window(np.array([1, 2, 7]), 2).tolist() == [1, 2, 3, 7]
    assert replay.window(np.array([4]), 1).tolist() == [4, 5]
    before, moves = replay.before(np.array([1, 6]))
    assert before.tolist() == [1, 2]
    assert [part.tolist() for part in moves] == [[0, 1, 2, 0]] * 2
    seen, legal = replay.look(np.array([2, 7]))
    assert seen["x"][:, 0].tolist() == [2, 3]
    assert legal.shape == (2, 3)
    assert replay.programs_of(np.array([0, 3, 4, 11])) == ["0", "0", "1", "2"]
    far = replay.gather(np.array([10]), 3, np.ones(1, np.float32), np.random.default_rng(0))
    assert far.mask.tolist() == [[1, 1, 0, 0]]
    assert far.rewards.tolist() == [[1, 1, 0]]
    assert far.actions[0, :2].tolist() == [2, 0]
    replay.prioritise(np.arange(12), np.zeros(12))
    positions, chances = replay.draw(np.random.default_rng(0), 500)
    assert set(positions.tolist()) == set(range(12))
    assert chances == pytest.approx(np.ones(500))
    drawn = [replay.gather(np.array([11]), 40, np.ones(1, np.float32), np.random.default_rng(k)) for k in range(3)]
    assert {int(a) for batch in drawn for a in batch.actions[0, 1:]} == {0, 1, 2}  # any action leads nowhere


def test_a_replay_comes_back_as_it_was() -> None:
    replay, random = _replay(25), np.random.default_rng(0)
    for number, length in enumerate((9, 7, 8, 5)):  # the last makes room for itself at the start
        replay.add(_episode(length, str(number)), number)
    positions = replay.window(np.array([kept.start for kept in replay.kept]), 3)
    replay.prioritise(positions, random.random(len(positions)))
    policies = random.dirichlet(np.ones(3), len(positions)).astype(np.float32)
    replay.reanalyse(positions, policies, random.random(len(positions)).astype(np.float32))
    state = {name: array.copy() for name, array in replay.state().items()}
    episodes = [(kept, replay.episode(kept.start, kept.program)) for kept in replay.kept]
    again = _replay(25)
    again.put_back(
        [(kept, replace(e, policies=e.policies * 0, root_values=e.root_values * 0)) for kept, e in episodes], 5
    )
    again.restore(state)
    assert (list(again.kept), again.cursor, again.num_steps) == (list(replay.kept), 5, replay.num_steps)
    one, two = (r.draw(np.random.default_rng(1), 50) for r in (replay, again))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    for name in ("values", "policies", "rewards", "actions"):
        first, second = (getattr(r.gather(one[0], 4, np.ones(50, np.float32)), name) for r in (replay, again))
        assert np.array_equal(first, second), name
    for wrong in ({"mass": state["mass"]}, {**state, "mass": np.zeros(24)}):
        with pytest.raises(ValueError, match="of 25 positions expected"):
            again.restore(wrong)


def test_joined_batches_keep_their_rows() -> None:
    replay = _replay(30)
    replay.add(_episode(10), 0)
    parts = [replay.gather(np.array([at]), 2, np.full(1, at, np.float32)) for at in (3, 8)]
    both = join(parts)
    assert _at(both) == [3, 8]
    assert both.weights.tolist() == [3.0, 8.0]
    assert both.mask.tolist() == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_chances_follow_the_exponent(exponent: float) -> None:
    length = 4
    replay = Replay(10, priority_exponent=exponent, bootstrap_steps=5)
    replay.add(_episode(length), 0)
    errors = np.array([0.1, 0.4, -1.6, 6.4])
    replay.prioritise(np.arange(length), errors)
    expected = (np.abs(errors) + SMALLEST_PRIORITY) ** exponent
    expected = expected / expected.sum() * length
    positions, chances = replay.draw(np.random.default_rng(1), 20_000)
    assert chances == pytest.approx(expected[positions])
    share = np.bincount(positions, minlength=length) / 20_000 * length
    assert share == pytest.approx(expected, abs=0.06)

"""B games in one call are B single games; the vector environment keeps Gymnasium's promises."""

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.game import rules
from mallocgame.game.batch import ILLEGAL_REWARD, MallocGameBatch
from mallocgame.game.env import MallocEnv
from mallocgame.game.observation import Observations
from mallocgame.judge.validation import validate
from mallocgame.workloads.make import find_programs

SEEDS = st.integers(0, 10_000)
KEYS = ("memory", "supply", "uses", "same_as", "outcomes", "outlook", "overview", "globals")


def random_actions(batch: MallocGameBatch, random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A legal action per row, 0 where the game is over."""
    return np.array([random.choice(np.flatnonzero(mask)) if mask.any() else 0 for mask in batch.action_masks])


def same(one: Observations, other: Observations, row: int) -> bool:
    """Whether single observation ``one`` is row ``row`` of ``other``."""
    return all((one[key] == other[key][row]).all() for key in KEYS)  # type: ignore[literal-required]


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, layers=st.sampled_from(["v5e", "host-v5e"]))
def test_a_batch_plays_like_single_games(seed: int, layers: str) -> None:
    """Rewards, masks, ends, times and mappings are those of the rules; observations those of the environment."""
    programs = [*find_programs(family=["chain", "loop"], decisions=20, seed=seed, hierarchy=layers)]
    programs += find_programs(family="training", decisions=40, seed=seed, hierarchy=layers)
    batch = MallocGameBatch(programs, 5)
    assert batch.which.tolist() == [0, 1, 2, 0, 1]
    arrays = [batch.observations[key] for key in KEYS]  # type: ignore[literal-required]
    states = [rules.initial_state(batch.games[g]) for g in batch.which]
    envs = [MallocEnv([programs[g]]) for g in batch.which]
    for env in envs:
        env.reset(seed=0)
    random = np.random.default_rng(seed)
    totals = np.zeros(5)
    while not batch.done.all():
        over, actions = batch.done.copy(), random_actions(batch, random)
        _, rewards, done = batch.step(actions)
        for b, state in enumerate(states):
            game = batch.games[batch.which[b]]
            if over[b]:
                assert rewards[b] == 0.0
                continue
            assert rewards[b] == rules.step(game, state, int(actions[b]))
            totals[b] += rewards[b]
            assert done[b] == rules.is_terminal(game, state)
            assert (batch.action_masks[b, 1:] == rules.legal_actions(game, state)[1:]).all()
            assert batch.action_masks[b, 0]  # Drop, when the game is over too
            assert batch.seconds(b) == rules.total_seconds(state)
            assert same(envs[b].step(actions[b])[0], batch.observations, b)
    assert (batch.returns == totals).all()
    for b, state in enumerate(states):
        game = batch.games[batch.which[b]]
        assert batch.to_mapping(b) == rules.to_mapping(game, state)
        assert validate(game.program, game.hierarchy, batch.to_mapping(b)) == []
    assert all(a is batch.observations[k] for a, k in zip(arrays, KEYS, strict=True))  # type: ignore[literal-required]


def test_done_rows_show_nothing_and_stay() -> None:
    batch = MallocGameBatch(find_programs(family="chain", decisions=10), 2)
    while not batch.done.all():
        batch.step([0, 0])
    assert not any(batch.observations[key].any() for key in KEYS if key != "same_as")  # type: ignore[literal-required]
    assert (batch.observations["same_as"] == -1).all()
    mapping = batch.to_mapping(0)
    _, rewards, done = batch.step([1, 2])
    assert (rewards.tolist(), done.tolist(), batch.to_mapping(0)) == ([0.0, 0.0], [True, True], mapping)
    assert not batch.illegal.any()


@pytest.mark.parametrize("wrong", [-1, 3, 10**12])
def test_illegal_actions_end_their_own_game_only(wrong: int) -> None:
    batch = MallocGameBatch(find_programs(family="chain", decisions=20), 3)
    _, rewards, done = batch.step([0, wrong, 0])
    assert rewards.tolist() == [0.0, ILLEGAL_REWARD, 0.0]
    assert done.tolist() == batch.illegal.tolist() == [False, True, False]
    assert batch.action_masks[1].tolist() == [True, False, False]  # Drop, which does nothing
    assert batch.action_masks[[0, 2]].any(axis=1).all()
    assert batch.returns[1] == ILLEGAL_REWARD
    batch.reset(batch.done)
    assert not batch.illegal.any()
    assert batch.returns.tolist() == [0.0, 0.0, 0.0]


def test_masked_actions_are_illegal() -> None:
    batch = MallocGameBatch(find_programs(family="chain", decisions=20), 1)
    while batch.action_masks[0].all():
        batch.step([0])
    _, rewards, done = batch.step([int(np.flatnonzero(~batch.action_masks[0])[0])])
    assert (rewards[0], done[0], batch.illegal[0]) == (ILLEGAL_REWARD, True, True)


def test_reset_of_some_rows_leaves_the_others_alone() -> None:
    batch = MallocGameBatch(find_programs(family=["chain", "training"], decisions=20), 4)
    random = np.random.default_rng(0)
    for _ in range(8):
        batch.step(random_actions(batch, random))
    before, kept = batch.all_seconds(), {k: batch.observations[k][[0, 2]].copy() for k in KEYS}  # type: ignore[literal-required]
    batch.reset(np.array([False, True, False, True]), which=[0, 1])
    assert batch.which.tolist() == [0, 0, 0, 1]
    assert (batch.all_seconds()[[0, 2]] == before[[0, 2]]).all()
    assert all((batch.observations[k][[0, 2]] == kept[k]).all() for k in KEYS)  # type: ignore[literal-required]
    assert batch.seconds(1) == batch.games[0].home_seconds
    assert batch.seconds(3) == batch.games[1].home_seconds


def test_copies_go_on_independently() -> None:
    programs = find_programs(family="residual", decisions=30)
    root, many = MallocGameBatch(programs, 2), MallocGameBatch(programs, 3)
    random = np.random.default_rng(1)
    for _ in range(12):
        root.step(random_actions(root, random))
    many.copy_from(root, 1)
    assert (many.all_seconds() == root.seconds(1)).all()
    assert (many.returns == root.returns[1]).all()
    assert (many.observations["memory"] == root.observations["memory"][1]).all()
    before = root.to_mapping(1)
    while not many.done.all():
        many.step(random_actions(many, random))
    assert root.to_mapping(1) == before
    assert len(set(many.all_seconds().tolist())) > 1


def test_bad_batches_are_refused() -> None:
    two, three = (find_programs(family="chain", decisions=10, hierarchy=name) for name in ("v5e", "host-v5e"))
    for arguments, message in (
        (([], 1), "need a program"),
        ((two, 0), "batch_size >= 1"),
        (((*two, *three), 2), "the same number of layers"),
    ):
        with pytest.raises(InputError, match=message):
            MallocGameBatch(*arguments)
    with pytest.raises(InputError, match="indices of 1 programs"):
        MallocGameBatch(two, 2, which=[0, 1])
    with pytest.raises(InputError, match="need 2 actions"):
        MallocGameBatch(two, 2).step([0])
    with pytest.raises(InputError, match="whole numbers"):
        MallocGameBatch(two, 2).step([0.5, 1.0])


def test_positions_go_on_as_the_game_did() -> None:
    programs = find_programs(family="residual", decisions=30, count=2)
    root, many = MallocGameBatch(programs, 2, reward="log"), MallocGameBatch(programs, 3, reward="log")
    random = np.random.default_rng(1)
    for _ in range(12):
        root.step(random_actions(root, random))
    position = pickle.loads(pickle.dumps(root.clone(1)))
    many.restore(position, np.array([False, True, True]))
    assert many.which.tolist() == [0, 1, 1]
    assert many.seconds(0) == many.games[0].home_seconds
    actions = random_actions(root, random)
    root.step(actions)
    many.step([0, actions[1], actions[1]])
    assert (many.rewards[1:] == root.rewards[1]).all()
    assert (many.returns[1:] == root.returns[1]).all()
    assert many.to_mapping(2) == root.to_mapping(1)
    for key in KEYS:
        assert (many.observations[key][2] == root.observations[key][1]).all()  # type: ignore[literal-required]
    with pytest.raises(InputError, match="a position of residual-30-1 among other programs"):
        MallocGameBatch(find_programs(family="chain", decisions=10), 1).restore(position)
    smaller = find_programs(family="residual", decisions=30, count=2, capacity_pressure=4.0)
    with pytest.raises(InputError, match="or on other memory"):  # the program's name and sizes are the same
        MallocGameBatch(smaller, 1).restore(position)
    with pytest.raises(InputError, match="expected a position that clone made, got None"):
        many.restore(None)  # type: ignore[arg-type]


def test_logs_of_ratios_sum_to_the_speedup() -> None:
    batch = MallocGameBatch(find_programs(family="training", decisions=30), 2, reward="log")
    random = np.random.default_rng(3)
    while not batch.done.all():
        batch.step(random_actions(batch, random))
        assert batch.returns == pytest.approx(np.log(batch.games[0].home_seconds / batch.all_seconds()), abs=1e-9)
    assert len(set(batch.returns.tolist())) == 2
    with pytest.raises(InputError, match="unknown reward 'logs', expected one of saved, log"):
        MallocGameBatch(find_programs(family="chain", decisions=10), 1, reward="logs")


def test_make_vec_of_single_environments() -> None:
    """Gymnasium's own vector environments work on the single one, too."""
    envs = gymnasium.make_vec("MallocGame-v0", num_envs=2, vectorization_mode="sync", family="chain", decisions=12)
    observations, info = envs.reset(seed=0)
    assert observations["memory"].shape[0] == 2
    assert info["action_mask"].shape == (2, 3)
    envs.step(envs.action_space.sample())
    envs.close()

"""The vector environment does what Gymnasium's own does with single environments, and faster."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.game.vector import MallocVectorEnv

SOURCE: dict[str, Any] = {"family": ["chain", "loop"], "decisions": 8, "count": 2}
SIZE = 3


def both(mode: AutoresetMode, reward: str = "saved") -> tuple[VectorEnv[Any, Any, Any], MallocVectorEnv]:
    """Return Gymnasium's vector of single environments and ours."""
    theirs = gymnasium.make_vec(
        "MallocGame-v0",
        num_envs=SIZE,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        reward=reward,
        **SOURCE,
    )
    ours = gymnasium.make_vec("MallocGame-v0", num_envs=SIZE, autoreset_mode=mode, reward=reward, **SOURCE)
    assert isinstance(ours, MallocVectorEnv)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == mode
    return theirs, ours


def assert_same(theirs: Any, ours: Any) -> None:
    """Compare nested dicts and arrays, types included."""
    if isinstance(theirs, dict):
        assert theirs.keys() == ours.keys()
        for key in theirs:
            assert_same(theirs[key], ours[key])
    elif isinstance(theirs, tuple | list) or (isinstance(theirs, np.ndarray) and theirs.dtype == object):
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, np.ndarray):
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(theirs, ours)
    else:
        assert theirs == ours


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(AutoresetMode),
    st.sampled_from(("saved", "log")),
    st.one_of(st.integers(0, 99), st.lists(st.integers(0, 99), min_size=SIZE, max_size=SIZE)),
    st.floats(0.0, 0.3),
    st.randoms(use_true_random=False),
)
def test_it_is_gymnasiums_own(mode: AutoresetMode, reward: str, seed: Any, wrong: float, random: Any) -> None:
    theirs, ours = both(mode, reward)
    found = ours.reset(seed=seed)
    assert_same(theirs.reset(seed=seed), found)
    assert ours.np_random_seed == theirs.np_random_seed
    for _ in range(25):
        masks = found[-1]["action_mask"]
        assert masks.any(axis=1).all()  # else a masked softmax is NaN
        legal = [np.flatnonzero(row).tolist() for row in masks]
        actions = np.array([random.randrange(3) if random.random() < wrong else random.choice(row) for row in legal])
        found = ours.step(actions)
        assert_same(theirs.step(actions), found)
        if mode == AutoresetMode.DISABLED and found[2].any():
            with pytest.raises(InputError, match="are over: reset them"):
                ours.step(actions)
            found = ours.reset(options={"reset_mask": found[2]})
            assert_same(theirs.reset(options={"reset_mask": found[1]["_seconds"]}), found)
            masks = ours.action_masks()
            found = (found[0], {"action_mask": masks})
    again = ours.reset(seed=seed, options={"program": 2})
    assert_same(theirs.reset(seed=seed, options={"program": 2}), again)
    assert again[1]["program"].tolist() == ["loop-8-0"] * SIZE
    assert_same(ours.reset(seed=np.arange(3, 6))[1], ours.reset(seed=3)[1])
    for name in ("action_masks", "to_mapping"):
        theirs.reset(seed=3)
        assert_same(theirs.call(name), ours.call(name))


def test_programs_can_be_listed_and_positions_restored() -> None:
    _, ours = both(AutoresetMode.NEXT_STEP)
    _, info = ours.reset(seed=0, options={"program": [3, 0, 1]})
    assert info["program"].tolist() == ["loop-8-1", "chain-8-0", "chain-8-1"]
    _, info = ours.reset(seed=0, options={"program": info["program"].tolist()})
    assert info["program"].tolist() == ["loop-8-1", "chain-8-0", "chain-8-1"]
    ours.step([0, 0, 0])
    position = ours.clone_state(2)
    expected = ours.step([0, 0, 1])
    ours.restore_state(position, np.array([True, False, False]))
    found = ours.step([1, 0, 0])
    assert (found[0]["memory"][0] == expected[0]["memory"][2]).all()
    assert found[4]["seconds"][0] == expected[4]["seconds"][2]
    assert found[4]["program"][0] == "chain-8-1"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda envs: envs.reset(seed=[1, 2]), "need 3 seeds, got 2"),
        (lambda envs: envs.reset(seed="one"), "expected a whole number or a list of 3, got 'one'"),
        (lambda envs: envs.reset(seed=np.array(5.5)), "expected a whole number or a list of 3, got "),
        (lambda envs: envs.step([0.0, 1.0, 1.7]), "actions must be whole numbers"),
        (lambda envs: envs.call("render"), "expected one of action_masks, to_mapping, clone_state"),
        (lambda envs: envs.reset(options={"reset_mask": np.zeros(3, dtype=bool)}), "with a True"),
        (lambda envs: envs.reset(options={"reset_mask": [True]}), r"need bool\[3\]"),
        (lambda envs: envs.reset(options={"program": [1, 2]}), "an index, a name or a list of 3"),
        (lambda envs: envs.reset(options={"program": "chain"}), "an index below 4 or one of chain-8-0"),
        (lambda envs: envs.reset(options={"program": 4}), "indices of 4 programs"),
        (lambda envs: envs.step([0]), "need 3 actions"),
    ],
)
def test_bad_arguments_are_one_line(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(both(AutoresetMode.NEXT_STEP)[1])


def test_unknown_modes_are_refused() -> None:
    for arguments, message in (
        ({"autoreset_mode": "Sometimes"}, "unknown autoreset mode 'Sometimes', expected one of NextStep"),
        ({"render_mode": "rgb_array"}, "only gymnasium.make draws"),
    ):
        with pytest.raises(InputError, match=message):
            gymnasium.make_vec("MallocGame-v0", num_envs=2, **SOURCE, **arguments)  # type: ignore[arg-type]

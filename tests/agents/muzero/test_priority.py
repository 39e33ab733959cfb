"""The replay draws in proportion to priority ** exponent: the exponent itself is seen."""

import numpy as np
import pytest

from mallocgame.agents.muzero.replay import SMALLEST_PRIORITY, Episode, Replay


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_chances_follow_the_exponent(exponent: float) -> None:
    length = 4
    replay = Replay(10, priority_exponent=exponent, bootstrap_steps=5)
    ones = np.ones(length, np.float32)
    replay.add(
        Episode(
            observations={"x": ones[:, None]},
            legal=np.ones((length, 2), np.bool_),
            actions=np.zeros(length, np.int32),
            rewards=ones,
            policies=np.full((length, 2), 0.5, np.float32),
            root_values=ones,
        ),
        0,
    )
    errors = np.array([0.1, 0.4, -1.6, 6.4])
    replay.prioritise(np.arange(length), errors)
    expected = (np.abs(errors) + SMALLEST_PRIORITY) ** exponent
    expected = expected / expected.sum() * length
    positions, chances = replay.draw(np.random.default_rng(1), 20_000)
    assert chances == pytest.approx(expected[positions])
    share = np.bincount(positions, minlength=length) / 20_000 * length
    assert share == pytest.approx(expected, abs=0.06)

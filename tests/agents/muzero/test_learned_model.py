"""The paper's way: what is past the end is worth nothing, and old positions are searched again without noise."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mallocgame.agents.muzero.history import expand
from mallocgame.agents.muzero.networks import represent, step
from mallocgame.agents.muzero.trainer import Trainer
from mallocgame.workloads.make import find_programs
from tests.agents.muzero.test_training import TINY

LEARNED = replace(TINY, model="learned", num_simulations=4)


def test_rewards_past_the_end_are_nothing_whatever_is_done(tmp_path: Path) -> None:
    """Real rewards of this game are a hundred times as large."""
    pairs = find_programs(family="chain", decisions=12)
    trainer = Trainer(
        pairs, replace(LEARNED, variations=0, updates_per_step=0.2, schedule="constant"), tmp_path / "run"
    )
    trainer.train(steps=1600)
    replay, random = trainer.replay, np.random.default_rng(0)
    ends = np.array([kept.start + kept.length - 1 for kept in replay.kept])
    real = np.abs(replay._arrays["rewards"])
    observations, _ = replay.look(ends)
    parameters = trainer.learner.parameters
    latent = represent(trainer.model, parameters, {k: jnp.asarray(expand(v)) for k, v in observations.items()})
    beyond = []
    for depth in range(5):
        actions = jnp.asarray(random.integers(0, 3, size=len(ends)))
        latent, reward = step(trainer.model, parameters, latent, actions)
        if depth:
            beyond.append(np.abs(np.asarray(trainer.model.value_of(reward))))
    assert np.mean(beyond) < 1e-3
    assert np.max(real) > 1e-2


def test_past_an_end_any_action_may_be_taken(tmp_path: Path) -> None:
    trainer = Trainer(find_programs(family="chain", decisions=12), LEARNED, tmp_path / "run")
    trainer.train(steps=16 * 12)
    replay = trainer.replay
    ends = np.repeat([kept.start + kept.length - 1 for kept in replay.kept], 8)
    batch = replay.gather(ends, 5, np.ones(len(ends), np.float32), np.random.default_rng(0))
    assert set(batch.actions[:, 1:].ravel().tolist()) == {0, 1, 2}
    assert batch.rewards[:, 1:].any() == batch.mask[:, 1:].any() == batch.policies[:, 1:].any() == False  # noqa: E712
    assert batch.actions[:, 0].tolist() == replay._arrays["actions"][ends].tolist()


@pytest.mark.parametrize("model", ["rules", "learned"])
def test_whole_windows_are_searched_again_without_noise(tmp_path: Path, model: str) -> None:
    config = replace(LEARNED, model=model, variations=0)
    trainer = Trainer(find_programs(family="residual", decisions=14), config, tmp_path / "run")
    trainer.train(steps=16 * 30)
    replay, kept = trainer.replay, trainer.replay.kept[-1]
    positions = np.array([kept.start + 2, kept.start + kept.length - 2])
    window = replay.window(positions, config.unroll_steps)
    assert window.tolist() == [
        *range(kept.start + 2, kept.start + 8),
        *range(kept.start + kept.length - 2, kept.start + kept.length),
    ]
    policies, values = replay._arrays["policies"], replay._arrays["root_values"]
    before = policies.copy(), values.copy()
    trainer._renew(positions)
    first = policies.copy(), values.copy()
    changed = (first[0] != before[0]).any(axis=1) | (first[1] != before[1])
    assert set(np.flatnonzero(changed)) <= set(window)
    assert changed.sum() > len(window) // 2
    if model == "learned":  # whatever the key: no noise
        trainer.random = np.random.default_rng(77)
        trainer._renew(positions)
        assert policies == pytest.approx(first[0], abs=1e-5)
    legal = replay._arrays["legal"]
    assert policies[window][~legal[window]].max() < 1e-6

"""The agent varies its best games, guided by what it would rather play."""

from pathlib import Path

import numpy as np
import pytest

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.search import key_of, make_search
from mallocgame.agents.muzero.selfplay import demonstrate, play, reconsider, replayed
from mallocgame.agents.muzero.trainer import VARIATIONS_AT_ONCE, Trainer
from mallocgame.game.batch import MallocGameBatch
from mallocgame.mapping import Mapping
from mallocgame.workloads.make import find_programs
from tests.agents.muzero.test_training import TINY


def test_a_game_played_again_is_the_same_and_reconsidered_as_it_was_played() -> None:
    pair = find_programs(family="residual", decisions=30)[0]
    probe = MallocGameBatch([pair], 1)
    model = Model(Config(), probe.num_actions)
    learner, _ = make_learner(model, probe.observations, 0)
    search = make_search(model, num_simulations=0, explore=False)
    ((actions, mapping, seconds),) = play(pair, search, learner.target, key_of(0), 1)
    episode, again, again_seconds = replayed(pair, actions)
    assert episode.actions.tolist() == actions.tolist()
    assert (again, again_seconds) == (mapping, seconds)
    copied, _, copied_seconds = demonstrate(pair, mapping)
    assert copied_seconds == pytest.approx(seconds, rel=1e-12)
    assert copied.length == episode.length
    policies = reconsider(episode, search, learner.target, key_of(0), 8)
    assert policies.shape == episode.policies.shape
    assert policies.argmax(axis=1).tolist() == actions.tolist()
    assert policies[~episode.legal].max() < 1e-6


def test_training_varies_its_records(tmp_path: Path) -> None:
    pairs = find_programs(family="training", decisions=30)
    name = pairs[0][0].name
    start = Mapping()
    returns = {}
    for count in (0, 64):
        config = Config(**(TINY.to_dict() | {"variations": count, "learning_rate": 1e-6, "num_simulations": 0}))
        trainer = Trainer(pairs, config, tmp_path / str(count), seed=1, starts=[start])
        trainer.train(steps=600)
        returns[count] = trainer.records.returns[name]
        assert returns[count] == pytest.approx(
            np.log(trainer.best[name].home_seconds / trainer.best[name].seconds), abs=1e-3
        )
    assert returns[64] > returns[0] + 0.01
    resumed = Trainer(pairs, TINY, tmp_path / "64", resume=True)
    assert resumed._variations_due == trainer._variations_due < VARIATIONS_AT_ONCE
    assert resumed.records.of(name) is not None
    assert resumed.records.of("nobody") is None

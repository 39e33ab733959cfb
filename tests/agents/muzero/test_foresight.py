"""Networks with foresight and without: what they read, and that weights of one are not taken for the other."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model, predict, represent
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.selfplay import shapes_of
from mallocgame.agents.muzero.solver import PRETRAINED
from mallocgame.errors import TraceError
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.observation import FORESIGHT, use_names
from mallocgame.workloads.make import find_programs
from tests.agents.muzero.test_training import TINY


def _policies(config: Config, batch: MallocGameBatch, observations: dict[str, np.ndarray]) -> np.ndarray:
    model = Model(config, batch.num_actions)
    learner, _ = make_learner(model, batch.observations, 0)
    # a fresh network has no opinion: shake all weights
    leaves, tree = jax.tree.flatten(learner.parameters)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    shaken = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    weights = jax.tree.unflatten(tree, shaken)
    return np.asarray(predict(model, weights, represent(model, weights, observations))[0])


@pytest.mark.parametrize("foresight", [True, False])
def test_without_foresight_it_does_not_matter(foresight: bool) -> None:
    batch = MallocGameBatch(find_programs(family="training", decisions=20, capacity_pressure=4.0), 2)
    batch.step(batch.action_masks.argmax(axis=1))
    seen = {name: np.array(array) for name, array in batch.observations.items()}
    blind = {name: np.zeros_like(array) if name in FORESIGHT else array.copy() for name, array in seen.items()}
    blind["uses"][..., use_names(2).index("stay_rent.1")] = 0.0
    config = replace(TINY, foresight=foresight)
    assert np.array_equal(_policies(config, batch, seen), _policies(config, batch, blind)) == (not foresight)


def test_weights_are_refused_where_the_features_are_others(tmp_path: Path) -> None:
    batch = MallocGameBatch(find_programs(family="chain", decisions=12), 1)
    shapes = shapes_of(batch)
    for number, foresight in enumerate((True, False)):
        folder = RunFolder(tmp_path / str(number))
        folder.create(replace(TINY, foresight=foresight), shapes, batch.num_actions)
        folder.check(shapes, batch.num_actions)
        about = json.loads((folder.path / "run.json").read_text())
        about["config"]["foresight"] = not foresight
        (folder.path / "run.json").write_text(json.dumps(about))
        with pytest.raises(TraceError, match=r"trained by another version: it lacks features .*, and wants") as refused:
            folder.check(shapes, batch.num_actions)
        assert "\n" not in str(refused.value)
    with pytest.raises(TraceError, match="foresight False, not True"):
        _plain(tmp_path / "2", shapes).check_network(TINY)


def test_what_ships_fits_the_game() -> None:
    batch = MallocGameBatch(find_programs(family="chain", decisions=12), 1)
    run = RunFolder(PRETRAINED)
    model = Model(run.check(shapes_of(batch), batch.num_actions), batch.num_actions)
    learner, _ = make_learner(model, batch.observations, 0)
    run.load_parameters(learner)


def _plain(path: Path, shapes: dict[str, list[int]]) -> RunFolder:
    folder = RunFolder(path)
    folder.create(replace(TINY, foresight=False), shapes, 3)
    return folder

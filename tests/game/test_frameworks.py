"""The examples for TorchRL and RLlib run where these are installed."""

import importlib.util
from types import ModuleType

import pytest

from tests.paths import ROOT


def example(name: str) -> ModuleType:
    script = ROOT / "examples" / f"{name}.py"
    if not script.is_file():
        pytest.skip("examples are not part of the installed package")
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torchrl_plays_a_game_to_its_end() -> None:
    pytest.importorskip("torchrl")
    moves, saved = example("torchrl_rollout").play(suite="alexnet-v5e")
    assert moves == 36  # its decisions: no move was illegal
    assert -1.0 < saved < 0.3


def test_rllib_trains() -> None:
    pytest.importorskip("ray.rllib", exc_type=ImportError)
    algorithm = example("rllib_ppo").configure(steps=72, suite="alexnet-v5e").build_algo()
    try:
        found = algorithm.train()["env_runners"]
    finally:
        algorithm.stop()
    assert found["num_env_steps_sampled"] >= 72
    assert found["episode_len_mean"] == 36.0  # no move was illegal

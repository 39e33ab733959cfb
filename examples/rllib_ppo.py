"""Train RLlib's PPO on the game with illegal actions masked out.

pip install mallocgame 'ray[rllib]' torch
python examples/rllib_ppo.py --iterations 5

RLlib's modules see one flat vector; the mask is its head. ``MaskedModule`` is RLlib's own network with the logits of
illegal actions lowered.
"""

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import mallocgame  # noqa: F401 (registers MallocGame-v0)

FORBIDDEN = -1e9


class Flat(gymnasium.ObservationWrapper):  # type: ignore[type-arg]
    """One float32 vector: the legal actions, then everything else."""

    def __init__(self, config: dict[str, Any]) -> None:
        env = gymnasium.make("MallocGame-v0", **config)
        super().__init__(env)
        self.inner = env.observation_space
        assert isinstance(env.action_space, gymnasium.spaces.Discrete)
        length = int(env.action_space.n) + gymnasium.spaces.flatdim(self.inner)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (length,), dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        """Flatten."""
        game: Any = self.unwrapped
        flat = gymnasium.spaces.flatten(self.inner, observation)
        return np.concatenate([game.action_masks(), flat]).astype(np.float32)


class MaskedModule(DefaultPPOTorchRLModule):  # type: ignore[misc]
    """RLlib's default network for PPO; illegal actions get no probability."""

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._masked(batch, super()._forward(batch, **kwargs))

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._masked(batch, super()._forward_train(batch, **kwargs))

    def _masked(self, batch: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        logits = output[Columns.ACTION_DIST_INPUTS]
        legal = batch[Columns.OBS][..., : logits.shape[-1]] > 0.5
        return {**output, Columns.ACTION_DIST_INPUTS: torch.where(legal, logits, FORBIDDEN)}


def configure(steps: int = 1024, **source: Any) -> PPOConfig:
    """Return the algorithm's settings; ``source`` is what ``gymnasium.make("MallocGame-v0", ...)`` takes."""
    return (
        PPOConfig()
        .environment(Flat, env_config={"reward": "log", **source})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1)
        .training(train_batch_size_per_learner=steps, minibatch_size=min(steps, 256), num_epochs=4, gamma=1.0)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=MaskedModule))
    )


def main() -> None:
    """Train and print the mean return, the log of the speed-up over everything in layer 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", default="alexnet-v5e")
    parser.add_argument("--iterations", type=int, default=5)
    chosen = parser.parse_args()
    algorithm = configure(suite=chosen.trace).build_algo()
    for iteration in range(chosen.iterations):
        found = algorithm.train()["env_runners"]
        print(f"{iteration}: mean return {found.get('episode_return_mean', float('nan')):.4f}")
    algorithm.stop()


if __name__ == "__main__":
    main()

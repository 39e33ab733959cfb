"""Step the game from TorchRL: masked random play of one program, as a rollout in a TensorDict.

pip install mallocgame torchrl
python examples/torchrl_rollout.py

TorchRL takes masks from the observation, so a wrapper moves it there; ``ActionMask`` then keeps every random action and
every masked policy legal. The transformed environment goes into TorchRL's collectors and losses as any other.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from torchrl.envs import ActionMask, GymWrapper, TransformedEnv

import mallocgame  # noqa: F401 (registers MallocGame-v0)


class MaskInObservation(gymnasium.ObservationWrapper):  # type: ignore[type-arg]
    """Adds ``action_mask``, bool[A], to the observation."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        assert isinstance(env.action_space, gymnasium.spaces.Discrete)
        mask = gymnasium.spaces.Box(0, 1, (int(env.action_space.n),), dtype=np.int8)
        self.observation_space = gymnasium.spaces.Dict({**env.observation_space.spaces, "action_mask": mask})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Add the mask."""
        masks: Any = self.unwrapped
        return {**observation, "action_mask": masks.action_masks().astype(np.int8)}


class BooleanMask(ActionMask):
    """TorchRL's own, for a mask of another type."""

    def _call(self, next_tensordict: Any) -> Any:
        next_tensordict["action_mask"] = next_tensordict["action_mask"].bool()
        return super()._call(next_tensordict)

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        return self._call(tensordict_reset)


def make(**source: Any) -> TransformedEnv:
    """Return the game as a TorchRL environment; ``source`` is what ``gymnasium.make("MallocGame-v0", ...)`` takes."""
    env = GymWrapper(MaskInObservation(gymnasium.make("MallocGame-v0", **source)), categorical_action_encoding=True)
    return TransformedEnv(env, BooleanMask())


def play(seed: int = 0, **source: Any) -> tuple[int, float]:
    """Play one game at random; return its length and the part of the time that it saves."""
    torch.manual_seed(seed)
    env = make(**source)
    env.set_seed(seed)
    rollout = env.rollout(100_000)
    return len(rollout), float(rollout["next", "reward"].sum())


if __name__ == "__main__":
    moves, saved = play(suite="alexnet-v5e")
    print(f"{moves} moves save {saved:.1%} of the time")

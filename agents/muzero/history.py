"""The moves of the games in flight, in arrays, until they become episodes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.replay import Episode

Array = npt.NDArray[Any]


def compact(array: Array) -> npt.DTypeLike:
    """Return the type in which an observation array is kept: half the bytes."""
    return np.float16 if array.dtype == np.float32 else np.int16


def expand(array: Array) -> Array:
    """Return a kept array as the game shows it."""
    return array.astype(np.float32 if array.dtype == np.float16 else np.int32)


class History:
    """Up to ``longest`` moves of each of B games."""

    def __init__(self, observations: Mapping[str, Array], num_actions: int, longest: int) -> None:
        """Make room for games with such a batch of observations, [B, ...] each."""
        rows = len(next(iter(observations.values())))
        self.length = np.zeros(rows, dtype=np.int64)
        self._rows = np.arange(rows)
        self._observations = {k: np.zeros((rows, longest, *a.shape[1:]), compact(a)) for k, a in observations.items()}
        self._legal = np.zeros((rows, longest, num_actions), dtype=np.bool_)
        self._policies = np.zeros((rows, longest, num_actions), dtype=np.float32)
        self._actions = np.zeros((rows, longest), dtype=np.int32)
        self._rewards, self._values = np.zeros((2, rows, longest), dtype=np.float32)

    def see(self, observations: Mapping[str, Array], legal: npt.NDArray[np.bool_]) -> None:
        """Note what every game shows before its move."""
        at = (self._rows, self.length)
        for name, array in self._observations.items():
            array[at] = observations[name]
        self._legal[at] = legal

    def move(self, actions: Array, rewards: Array, policies: Array, values: Array) -> None:
        """Note the move that every game then made."""
        at = (self._rows, self.length)
        self._actions[at], self._rewards[at] = actions, rewards
        self._policies[at], self._values[at] = policies, values
        self.length += 1

    def moves(self) -> dict[str, Array]:
        """Return the moves of all games in flight without what they showed, one game after the other."""
        parts = {"actions": self._actions, "policies": self._policies, "values": self._values}
        inside = np.arange(self._actions.shape[1]) < self.length[:, None]
        return {name: array[inside] for name, array in parts.items()} | {"lengths": self.length.copy()}

    def forget(self, rows: Array) -> None:
        """Start the histories of these rows, bool[B], anew."""
        self.length[rows] = 0

    def take(self, row: int, program: str) -> Episode:
        """Return a game's moves as an episode, and start its history anew."""
        part = (row, slice(int(self.length[row])))
        self.length[row] = 0
        return Episode(
            observations={name: array[part].copy() for name, array in self._observations.items()},
            legal=self._legal[part].copy(),
            actions=self._actions[part].copy(),
            rewards=self._rewards[part].copy(),
            policies=self._policies[part].copy(),
            root_values=self._values[part].copy(),
            program=program,
        )

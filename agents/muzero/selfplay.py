"""Playing: many games side by side, one search a move for all of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from agents.muzero.config import Config
from agents.muzero.networks import Parameters
from agents.muzero.replay import Episode
from agents.muzero.search import Search
from agents.muzero.targets import n_step_returns
from mallocgame import rules
from mallocgame.batch import MallocGameBatch
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program

F32 = npt.NDArray[np.float32]
Pair = tuple[Program, Hierarchy]
Finished = tuple[Episode, Mapping, float]  # an episode, its mapping, and its simulated seconds


class SelfPlay:
    """Games in flight and their histories; ``advance`` makes one move in each."""

    def __init__(self, pairs: Sequence[Pair], config: Config, search: Search, seed: int) -> None:
        """Start ``config.num_games`` games of the programs in turn. Programs are focused by the caller."""
        self.config, self.search, self.pairs = config, search, list(pairs)
        self.batch = MallocGameBatch(self.pairs, config.num_games)
        self.random = np.random.default_rng(seed)
        self._history: list[list[dict[str, Any]]] = [[] for _ in range(config.num_games)]

    def advance(self, parameters: Parameters, key: jax.Array) -> list[Finished]:
        """Make one move in every game; return finished episodes with their mappings and simulated seconds."""
        batch = self.batch
        seen = {name: array.copy() for name, array in observations_of(batch).items()}
        legal = batch.action_masks.copy()
        found = self.search(parameters, seen, legal, key)
        actions, policy, value = (np.asarray(part) for part in (found.action, found.policy, found.value))
        batch.step(actions)
        finished = []
        for row, history in enumerate(self._history):
            history.append(
                {
                    "observation": {name: _compact(array[row]) for name, array in seen.items()},
                    "legal": legal[row],
                    "action": actions[row],
                    "reward": batch.rewards[row],
                    "policy": policy[row],
                    "value": value[row],
                }
            )
            if batch.done[row]:
                name = self.pairs[int(batch.which[row])][0].name
                episode = make_episode(history, name, self.config.bootstrap_steps)
                finished.append((episode, batch.to_mapping(row), batch.seconds(row)))
                self._history[row] = []
        if batch.done.any():
            over = batch.done.copy()
            batch.reset(over, which=self.random.integers(0, len(self.pairs), size=int(over.sum())))
        return finished


def make_episode(history: list[dict[str, Any]], program: str, bootstrap_steps: int) -> Episode:
    """Return the episode of a finished game; priorities are the errors of the searched values."""
    rewards = np.array([move["reward"] for move in history], dtype=np.float32)
    values = np.array([move["value"] for move in history], dtype=np.float32)
    names = history[0]["observation"].keys()
    return Episode(
        observations={name: np.stack([move["observation"][name] for move in history]) for name in names},
        legal=np.stack([move["legal"] for move in history]),
        actions=np.array([move["action"] for move in history], dtype=np.int32),
        rewards=rewards,
        policies=np.stack([move["policy"] for move in history]).astype(np.float32),
        root_values=values,
        priorities=np.abs(n_step_returns(rewards, values, bootstrap_steps) - values) + np.float32(1e-3),
        program=program,
    )


def demonstrate(pair: Pair, mapping: Mapping, config: Config) -> Episode:
    """Return the episode in which the game is played as ``mapping`` does it, as far as the rules can."""
    batch = MallocGameBatch([pair], 1)
    game = batch.games[0]
    _, actions = rules.decode(game, rules.actions_of(game, mapping))
    history: list[dict[str, Any]] = []
    for action in actions:
        legal = batch.action_masks[0].copy()
        others = max(int(legal.sum()) - 1, 1)
        policy = np.where(legal, (1.0 - config.imitation_share) / others, 0.0)
        policy[action] = 0.0
        policy[action] = 1.0 - policy.sum()
        seen = {name: _compact(array[0]) for name, array in observations_of(batch).items()}
        batch.step(np.array([action]))
        history.append(
            {
                "observation": seen,
                "legal": legal,
                "action": action,
                "reward": batch.rewards[0],
                "policy": policy,
                "value": 0.0,
            }
        )
    episode = make_episode(history, pair[0].name, len(history))
    episode.root_values = n_step_returns(episode.rewards, episode.root_values, len(history))
    return episode


def play(
    pair: Pair, search: Search, parameters: Parameters, key: jax.Array, num_games: int
) -> Iterator[tuple[Mapping, float]]:
    """Play ``num_games`` games of one program to the end side by side; yield each mapping and its seconds."""
    batch = MallocGameBatch([pair], num_games)
    while not batch.done.all():
        key, now = jax.random.split(key)
        found = search(parameters, batch.observations, batch.action_masks, now)
        batch.step(np.asarray(found.action))
    for row in range(num_games):
        yield batch.to_mapping(row), batch.seconds(row)


def observations_of(batch: MallocGameBatch) -> dict[str, npt.NDArray[Any]]:
    """Return the batch's own observation arrays, [B, ...] each."""
    return {name: np.asarray(array) for name, array in batch.observations.items()}


def shapes_of(batch: MallocGameBatch) -> dict[str, list[int]]:
    """Return the shape of each array of one game's observation."""
    return {name: list(array.shape[1:]) for name, array in observations_of(batch).items()}


def _compact(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(np.float16 if array.dtype == np.float32 else np.int16)

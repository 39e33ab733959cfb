"""Finished episodes, kept within a bound of steps and sampled by priority."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.muzero.targets import n_step_returns, window

Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(slots=True, kw_only=True)
class Episode:
    """One finished game of T moves; the policy and root values may be renewed by reanalyse."""

    observations: dict[str, npt.NDArray[np.generic]]  # [T, ...] each
    legal: Bool  # bool[T, A]
    actions: I32  # int32[T]
    rewards: F32  # float32[T]
    policies: F32  # float32[T, A]
    root_values: F32  # float32[T]
    priorities: F32  # float32[T], |value prediction - target|
    program: str = ""  # which program was played

    @property
    def length(self) -> int:
        """T."""
        return len(self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B windows of K + 1 positions; past an episode's end the mask is 0 and the targets are 0."""

    observations: dict[str, npt.NDArray[np.generic]]  # [B, ...], the first position's
    next_observations: dict[str, npt.NDArray[np.generic]]  # [B, ...], the position after the first action's
    legal: Bool  # bool[B, A], the first position's
    actions: I32  # int32[B, K]
    rewards: F32  # float32[B, K]
    values: F32  # float32[B, K + 1]
    policies: F32  # float32[B, K + 1, A]
    mask: F32  # float32[B, K + 1], 1 where the position exists
    weights: F32  # float32[B], importance weights
    where: tuple[tuple[Episode, int], ...]  # episode and position of each row, for new priorities


class Replay:
    """A bounded first-in-first-out store of episodes with proportional prioritised sampling.

    Source: prioritised experience replay, arXiv 1511.05952, with beta = 1 as in MuZero.
    """

    def __init__(self, capacity_steps: int, *, priority_exponent: float, seed: int) -> None:
        self.capacity_steps = capacity_steps
        self.exponent = priority_exponent
        self.episodes: deque[Episode] = deque()
        self.num_steps = 0
        self.random = np.random.default_rng(seed)

    def add(self, episode: Episode) -> None:
        """Store an episode; the oldest leave while the bound is exceeded (the newest always stays)."""
        self.episodes.append(episode)
        self.num_steps += episode.length
        while self.num_steps > self.capacity_steps and len(self.episodes) > 1:
            self.num_steps -= self.episodes.popleft().length

    def sample(self, batch_size: int, unroll_steps: int, bootstrap_steps: int) -> Batch:
        """Draw a batch; the chance of a position is proportional to priority ** exponent."""
        episodes = list(self.episodes)
        masses = [np.maximum(e.priorities, 1e-6).astype(np.float64) ** self.exponent for e in episodes]
        totals = np.array([mass.sum() for mass in masses])
        owners = self.random.choice(len(episodes), size=batch_size, p=totals / totals.sum())
        rows, chances = [], np.empty(batch_size)
        for i, owner in enumerate(owners):
            chance = masses[owner] / totals[owner]
            at = int(self.random.choice(len(chance), p=chance))
            rows.append((episodes[owner], at))
            chances[i] = masses[owner][at] / totals.sum()
        weights = 1.0 / (chances * self.num_steps)
        return _stack(rows, unroll_steps, bootstrap_steps, (weights / weights.max()).astype(np.float32))


def _stack(rows: list[tuple[Episode, int]], unroll_steps: int, bootstrap_steps: int, weights: F32) -> Batch:
    columns: dict[str, list[npt.NDArray[np.generic]]] = {
        k: [] for k in ("actions", "rewards", "values", "policies", "mask")
    }
    returns: dict[int, F32] = {}
    for episode, at in rows:
        if id(episode) not in returns:
            returns[id(episode)] = n_step_returns(episode.rewards, episode.root_values, bootstrap_steps)
        start = np.array([at])
        ones = np.ones(episode.length, dtype=np.float32)
        columns["actions"].append(window(episode.actions.astype(np.float32), start, unroll_steps)[0].astype(np.int32))
        columns["rewards"].append(window(episode.rewards, start, unroll_steps)[0])
        columns["values"].append(window(returns[id(episode)], start, unroll_steps + 1)[0])
        columns["policies"].append(window(episode.policies, start, unroll_steps + 1)[0])
        columns["mask"].append(window(ones, start, unroll_steps + 1)[0])
    names = rows[0][0].observations.keys()
    return Batch(
        observations={k: np.stack([e.observations[k][t] for e, t in rows]) for k in names},
        next_observations={k: np.stack([e.observations[k][min(t + 1, e.length - 1)] for e, t in rows]) for k in names},
        legal=np.stack([e.legal[t] for e, t in rows]),
        actions=np.stack(columns["actions"]).astype(np.int32),
        rewards=np.stack(columns["rewards"]).astype(np.float32),
        values=np.stack(columns["values"]).astype(np.float32),
        policies=np.stack(columns["policies"]).astype(np.float32),
        mask=np.stack(columns["mask"]).astype(np.float32),
        weights=weights,
        where=tuple(rows),
    )

"""Played moves, kept in flat arrays within a bound, and sampled by priority."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.targets import n_step_returns

Array = npt.NDArray[np.generic]
Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

SMALLEST_PRIORITY = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One finished game of T moves."""

    observations: dict[str, Array]  # [T, ...] each
    legal: Bool  # bool[T, A]
    actions: I32  # int32[T]
    rewards: F32  # float32[T]
    policies: F32  # float32[T, A], what the search wanted
    root_values: F32  # float32[T], what the search expected
    program: str = ""  # which program was played

    @property
    def length(self) -> int:
        """T."""
        return len(self.actions)

    def imitated(self, share: float) -> "Episode":
        """Return the episode with policies that give ``share`` to the action taken, and with its returns as values."""
        taken = np.eye(self.policies.shape[1], dtype=np.float32)[self.actions]
        returns = n_step_returns(self.rewards, np.zeros_like(self.rewards), self.length)
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("policies", "root_values")}
        return Episode(policies=share * taken + (1.0 - share) * self.policies, root_values=returns, **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B windows of K + 1 positions; past an episode's end the mask is 0 and the targets are 0."""

    observations: dict[str, Array]  # [B, ...], the first position's
    next_observations: dict[str, Array]  # [B, ...], the position after the first action's
    legal: Bool  # bool[B, A], the first position's
    actions: I32  # int32[B, K]
    rewards: F32  # float32[B, K]
    values: F32  # float32[B, K + 1]
    policies: F32  # float32[B, K + 1, A]
    mask: F32  # float32[B, K + 1], 1 where the position exists
    weights: F32  # float32[B], importance weights


class Store:
    """N positions in flat arrays; what holds no episode has no chance to be drawn.

    Source of the sampling: prioritised experience replay, arXiv 1511.05952, with beta = 1 as in MuZero.
    """

    def __init__(self, capacity_steps: int, *, priority_exponent: float, bootstrap_steps: int) -> None:
        self.capacity_steps = capacity_steps
        self.exponent, self.bootstrap_steps = priority_exponent, bootstrap_steps
        self.num_steps = 0
        self._mass = np.zeros(capacity_steps)  # priority ** exponent
        self._first, self._end = np.zeros((2, capacity_steps), dtype=np.int64)  # of the position's episode
        self._returns = np.zeros(capacity_steps, dtype=np.float32)
        self._arrays: dict[str, Array] = {}
        self._observations: dict[str, Array] = {}

    def put(self, start: int, episode: Episode) -> None:
        """Write an episode to the positions from ``start`` on, which are free or hold one of the same length."""
        stop = start + episode.length
        if not self._arrays:
            self._observations = {k: self._room(a) for k, a in episode.observations.items()}
            names = ("legal", "actions", "rewards", "policies", "root_values")
            self._arrays = {name: self._room(getattr(episode, name)) for name in names}
        for name, array in self._observations.items():
            array[start:stop] = episode.observations[name]
        for name, array in self._arrays.items():
            array[start:stop] = getattr(episode, name)
        self.num_steps += episode.length - int((self._mass[start:stop] > 0).sum())
        self._first[start:stop], self._end[start:stop] = start, stop
        self._renew(start)
        self.prioritise(np.arange(start, stop), self._returns[start:stop] - episode.root_values)

    def clear(self, start: int) -> None:
        """Forget the episode that begins at ``start``."""
        stop = int(self._end[start])
        self.num_steps -= stop - start
        self._mass[start:stop] = 0.0

    def episode(self, start: int, program: str) -> Episode:
        """Return the episode that begins at ``start`` (views)."""
        part = slice(start, int(self._end[start]))
        arrays = {name: array[part] for name, array in self._arrays.items()}
        return Episode(observations={k: a[part] for k, a in self._observations.items()}, program=program, **arrays)  # type: ignore[arg-type]

    def prioritise(self, positions: I64, errors: npt.NDArray[np.floating]) -> None:
        """Set the priorities of positions from the errors of their value predictions."""
        self._mass[positions] = (np.abs(errors) + SMALLEST_PRIORITY) ** self.exponent

    def reanalyse(self, positions: I64, policies: F32, root_values: F32) -> None:
        """Replace what the search said of these positions, and the returns that follow from it."""
        self._arrays["policies"][positions] = policies
        self._arrays["root_values"][positions] = root_values
        for start in np.unique(self._first[positions]):
            self._renew(int(start))

    def draw(self, random: np.random.Generator, count: int) -> tuple[I64, F64]:
        """Return ``count`` positions, drawn in proportion to priority ** exponent, and their chances times N."""
        total = np.cumsum(self._mass)
        positions = np.searchsorted(total, random.random(count) * total[-1], side="right")
        positions = np.minimum(positions, np.flatnonzero(self._mass)[-1])
        return positions, self._mass[positions] / total[-1] * self.num_steps

    def window(self, positions: I64, unroll_steps: int) -> I64:
        """Return all positions of the windows that begin at these, each once, those past an episode's end left out."""
        at = positions[:, None] + np.arange(unroll_steps + 1)
        return np.unique(at[at < self._end[positions][:, None]])

    def look(self, positions: I64) -> tuple[dict[str, Array], Bool]:
        """Return what these positions showed: observations, and what was legal, bool[B, A]."""
        seen = {name: array[positions] for name, array in self._observations.items()}
        return seen, np.asarray(self._arrays["legal"][positions], dtype=np.bool_)

    def before(self, positions: I64) -> tuple[I64, list[I32]]:
        """Return how many moves came before each position in its episode, int64[B], and the episode's moves."""
        actions: Any = self._arrays["actions"]
        parts = [actions[a:b] for a, b in zip(self._first[positions], self._end[positions], strict=True)]
        return positions - self._first[positions], parts

    def gather(
        self, positions: I64, unroll_steps: int, weights: F32, random: np.random.Generator | None = None
    ) -> Batch:
        """Return the windows that begin at these positions.

        Args:
            positions: int64[B].
            unroll_steps: K.
            weights: float32[B].
            random: draws the actions past an end, where all lead nowhere; None: they are 0.
        """
        at = positions[:, None] + np.arange(unroll_steps + 1)
        inside = at < self._end[positions][:, None]
        at = np.minimum(at, self.capacity_steps - 1)
        a = self._arrays
        beyond: Any = 0 if random is None else random.integers(0, a["legal"].shape[1], size=at.shape)
        following = np.minimum(positions + 1, self._end[positions] - 1)
        return Batch(
            observations={k: array[positions] for k, array in self._observations.items()},
            next_observations={k: array[following] for k, array in self._observations.items()},
            legal=np.asarray(a["legal"][positions], dtype=np.bool_),
            actions=np.where(inside, a["actions"][at], beyond)[:, :-1].astype(np.int32),
            rewards=np.where(inside, a["rewards"][at], 0.0)[:, :-1].astype(np.float32),
            values=np.where(inside, self._returns[at], 0.0).astype(np.float32),
            policies=np.where(inside[..., None], a["policies"][at], 0.0).astype(np.float32),
            mask=inside.astype(np.float32),
            weights=weights,
        )

    def state(self) -> dict[str, Array]:
        """Return what its episodes alone do not say: priorities, and what reanalysis made of the targets."""
        names = ("policies", "root_values")
        return {"mass": self._mass} | {name: self._arrays[name] for name in names if name in self._arrays}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take back ``state``, once the episodes are where they were.

        Raises:
            ValueError: it is of a store of another size.
        """
        mine = self.state()
        if mine.keys() != state.keys() or any(mine[name].shape != state[name].shape for name in mine):
            raise ValueError(f"priorities and targets of {len(self._mass)} positions expected")
        for name, array in mine.items():
            array[...] = state[name]
        for start in np.unique(self._first[self._mass > 0]):
            self._renew(int(start))

    def _room(self, like: Array) -> Array:
        return np.zeros((self.capacity_steps, *like.shape[1:]), dtype=like.dtype)

    def _renew(self, start: int) -> None:
        part = slice(start, int(self._end[start]))
        rewards, values = self._arrays["rewards"][part], self._arrays["root_values"][part]
        self._returns[part] = n_step_returns(rewards, values, self.bootstrap_steps)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Kept:
    """An episode in the replay."""

    start: int
    length: int
    number: int  # counted from the first of the run
    program: str


class Replay(Store):
    """The newest episodes, first in, first out."""

    def __init__(self, capacity_steps: int, *, priority_exponent: float, bootstrap_steps: int) -> None:
        super().__init__(capacity_steps, priority_exponent=priority_exponent, bootstrap_steps=bootstrap_steps)
        self.kept: deque[Kept] = deque()
        self._cursor = 0

    def add(self, episode: Episode, number: int) -> None:
        """Keep an episode (at most ``capacity_steps`` long); the oldest make room for it."""
        if self._cursor + episode.length > self.capacity_steps:
            self._drop_until(lambda oldest: oldest.start < self._cursor)
            self._cursor = 0
        start, stop = self._cursor, self._cursor + episode.length
        self._drop_until(lambda oldest: oldest.start >= stop or oldest.start + oldest.length <= start)
        self.put(start, episode)
        self.kept.append(Kept(start, episode.length, number, episode.program))
        self._cursor = stop

    def put_back(self, kept: Sequence[tuple[Kept, Episode]], cursor: int) -> None:
        """Put episodes where an earlier replay of this size had them, oldest first."""
        for row, episode in kept:
            self.put(row.start, episode)
            self.kept.append(row)
        self._cursor = cursor

    @property
    def cursor(self) -> int:
        """Where the next episode goes, if it fits."""
        return self._cursor

    def programs_of(self, positions: I64) -> list[str]:
        """Return the program of the episode at each position."""
        by_start = {kept.start: kept.program for kept in self.kept}
        return [by_start[start] for start in self._first[positions].tolist()]

    def _drop_until(self, clear_of: Callable[[Kept], bool]) -> None:
        while self.kept and not clear_of(self.kept[0]):
            self.clear(self.kept.popleft().start)


class Records(Store):
    """The best episode of each program, to imitate; each program has its own place."""

    def __init__(self, lengths: Mapping[str, int], *, priority_exponent: float) -> None:
        longest = max(lengths.values())
        super().__init__(sum(lengths.values()), priority_exponent=priority_exponent, bootstrap_steps=longest)
        starts = np.cumsum([0, *lengths.values()])
        self._starts = dict(zip(lengths, starts.tolist(), strict=False))
        self.returns: dict[str, float] = {}
        self.changed: set[str] = set()  # programs whose episode is newer than the one on disk

    def episodes(self) -> list[Episode]:
        """Return the episodes, one of each program that has any."""
        return [episode for name in self.returns if (episode := self.of(name)) is not None]

    def of(self, program: str) -> Episode | None:
        """Return the program's episode (views), None before there is one."""
        return self.episode(self._starts[program], program) if program in self.returns else None

    def offer(self, episode: Episode, imitation_share: float) -> bool:
        """Keep an episode that ends better than all before it of its program; return whether it does."""
        total = float(episode.rewards.sum())
        if total <= self.returns.get(episode.program, -np.inf):
            return False
        self.keep(episode.imitated(imitation_share))
        return True

    def keep(self, episode: Episode) -> None:
        """Keep an episode as it is."""
        self.changed.add(episode.program)
        self.returns[episode.program] = float(episode.rewards.sum())
        self.put(self._starts[episode.program], episode)


def join(batches: Sequence[Batch]) -> Batch:
    """Return the rows of all batches in one."""
    if len(batches) == 1:
        return batches[0]
    rest: dict[str, Any] = {}
    for name in (field.name for field in fields(Batch)):
        parts = [getattr(batch, name) for batch in batches]
        if name.endswith("observations"):
            rest[name] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        else:
            rest[name] = np.concatenate(parts)
    return Batch(**rest)

"""``gymnasium.make_vec("MallocGame-v0", ...)``: a Gymnasium vector environment on top of ``MallocGameBatch``.

It behaves as ``gymnasium.vector.SyncVectorEnv`` of single environments does, seeds, ``info`` and the three ways of
starting again included, and steps all games in one call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mallocgame.errors import InputError
from mallocgame.game.batch import GamePosition, MallocGameBatch
from mallocgame.game.observation import ObservationConfig, Observations, copied, observation_space
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]


class MallocVectorEnv(VectorEnv[Observations, Any, Any]):
    """B games in one call. Each game has its own random numbers and draws its program whenever it starts.

    ``info`` holds ``action_mask`` (int8[B, A]), ``program`` (object[B], names) and ``seconds`` (float64[B], judged time
    of the mappings so far), each with a mask of the rows that it tells of (``_action_mask`` and so on), all of them but
    for a reset of some rows. ``autoreset_mode`` says when a game that ended starts again: in the next step, which
    ignores its action; in the same step, whose ``info`` then has ``final_obs`` and ``final_info``; or when
    ``reset(options={"reset_mask": ...})`` says so.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it so)
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        programs: Sequence[tuple[Program, Hierarchy]],
        num_envs: int,
        *,
        observation: ObservationConfig | None = None,
        reward: str = "saved",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        """Make ``num_envs`` games.

        Raises:
            InputError: a render mode (only single games draw themselves), an unknown autoreset mode; see
                ``MallocGameBatch``.
        """
        if render_mode is not None:
            raise InputError(f"render mode {render_mode!r}: only gymnasium.make draws; use render_mode=None here")
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            known = ", ".join(mode.value for mode in AutoresetMode)
            raise InputError(f"unknown autoreset mode {autoreset_mode!r}, expected one of {known}") from None
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.batch = MallocGameBatch(programs, num_envs, observation=observation, reward=reward)
        self.num_envs = num_envs
        self.single_action_space = gymnasium.spaces.Discrete(self.batch.num_actions)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = observation_space(
            self.batch.config, self.batch.num_layers, self.batch.num_links
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._names = np.array([game.program.name for game in self.batch.games], dtype=object)
        self._randoms: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]  # as in SyncVectorEnv
        """The random numbers of each game."""
        return tuple(self._random(row) for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What they were seeded with."""
        for row in range(self.num_envs):
            self._random(row)
        return tuple(self._seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start games.

        Args:
            seed: of the first game, the next has the next one; or a list of one per game (None: go on as before).
            options: ``"program"``, an index or a list of one per game, which program each plays instead of a random
                one; ``"reset_mask"``, bool[B], which games start (default: all).

        Raises:
            InputError: a list or mask of another length, a mask without True, an index that is none.
        """
        options = options or {}
        rows = self._rows(options.get("reset_mask"))
        for row, own in enumerate(_seeds(seed, self.num_envs)):
            if rows[row] and own is not None:
                self._randoms[row], self._seeds[row] = np_random(own)
        self._start(rows, options.get("program"))
        return self._observations(), self._info(rows)

    def step(self, actions: Any) -> tuple[Observations, Any, Bool, Bool, dict[str, Any]]:
        """Take an action in each game.

        Raises:
            InputError: with ``AutoresetMode.DISABLED``, a game that is over was not reset.
        """
        over = self.batch.done.copy()
        if self.autoreset_mode == AutoresetMode.DISABLED and over.any():
            raise InputError(
                f"games {np.flatnonzero(over).tolist()} are over: reset them, options={{'reset_mask': ...}}"
            )
        self.batch.step(actions)
        info: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and over.any():
            self._start(over, None)
        rewards, done = self.batch.rewards.copy(), self.batch.done.copy()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and done.any():
            info = self._final(done)
            self._start(done, None)
        info |= self._info(np.ones(self.num_envs, dtype=np.bool_))
        return self._observations(), rewards, done, np.zeros_like(done), info

    def action_masks(self) -> Bool:
        """Return bool[B, A], True = legal; in games that are over Drop alone, which does nothing."""
        return self.batch.action_masks.copy()

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Return what ``action_masks``, ``to_mapping`` or ``clone_state`` of each game says, as ``SyncVectorEnv`` does.

        Raises:
            InputError: another name, or arguments.
        """
        known: dict[str, Callable[[int], Any]] = {
            "action_masks": lambda row: self.batch.action_masks[row].copy(),
            "to_mapping": self.batch.to_mapping,
            "clone_state": self.batch.clone,
        }
        if name not in known or args:
            raise InputError(f"call: expected one of {', '.join(known)} and no more, got {name!r} and {args!r:.60}")
        return tuple(known[name](row) for row in range(self.num_envs))

    def clone_state(self, row: int) -> GamePosition:
        """Return where game ``row`` is; ``restore_state`` goes on from there."""
        return self.batch.clone(row)

    def restore_state(self, position: GamePosition, rows: Bool | None = None) -> tuple[Observations, dict[str, Any]]:
        """Let the games of ``rows`` bool[B] (None: all) go on from a position; return observations and ``info``.

        Raises:
            InputError: it is a position of other programs.
        """
        self.batch.restore(position, rows)
        return self._observations(), self._info(np.ones(self.num_envs, dtype=np.bool_))

    def _random(self, row: int) -> np.random.Generator:
        found = self._randoms[row]
        if found is None:
            found, self._seeds[row] = np_random()
            self._randoms[row] = found
        return found

    def _rows(self, mask: Any) -> Bool:
        rows = np.ones(self.num_envs, dtype=np.bool_) if mask is None else np.asarray(mask)
        if rows.shape != (self.num_envs,) or rows.dtype != np.bool_ or not rows.any():
            raise InputError(f"reset_mask: need bool[{self.num_envs}] with a True, got {mask!r}")
        return rows

    def _start(self, rows: Bool, which: Any) -> None:
        """Start the games of ``rows`` with programs ``which``, or with random ones."""
        count = len(self.batch.games)
        if which is None:
            chosen = [
                int(self._random(row).integers(count)) if count > 1 else 0 for row in np.flatnonzero(rows).tolist()
            ]
        else:
            listed = np.asarray(which)
            if listed.dtype.kind == "U":
                listed = np.array([self.batch.program_index(name) for name in listed.ravel().tolist()])
            if listed.dtype.kind not in "iu" or listed.shape not in ((), (1,), (self.num_envs,)):
                raise InputError(f"program: need an index, a name or a list of {self.num_envs}, got {which!r}")
            chosen = np.broadcast_to(listed, self.num_envs)[rows].tolist()
        self.batch.reset(rows, which=chosen)

    def _observations(self) -> Observations:
        return copied(self.batch.observations)

    def _info(self, rows: Bool) -> dict[str, Any]:
        """Return what is known of ``rows``; the other rows are empty."""
        masks = self.batch.action_masks.astype(np.int8)
        programs, seconds = self._names[self.batch.which], self.batch.all_seconds()
        masks[~rows], programs[~rows], seconds[~rows] = 0, None, 0.0
        return {
            "action_mask": masks,
            "_action_mask": rows.copy(),
            "program": programs,
            "_program": rows.copy(),
            "seconds": seconds,
            "_seconds": rows.copy(),
        }

    def _final(self, rows: Bool) -> dict[str, Any]:
        """Return the last observations and ``info`` of games that start again in the same step."""
        observations, seen = self._observations(), np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(rows):
            seen[row] = {name: np.asarray(array)[row] for name, array in observations.items()}
        final = {"final_obs": seen, "_final_obs": rows.copy()}
        return {**final, "final_info": self._info(rows), "_final_info": rows.copy()}


def _seeds(seed: Any, count: int) -> list[int | None]:
    """Return a seed per game: the given ones, or consecutive ones."""
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        return [int(seed) + row for row in range(count)]
    if not isinstance(seed, Sequence | np.ndarray) or isinstance(seed, str) or np.ndim(seed) == 0:
        raise InputError(f"seed: expected a whole number or a list of {count}, got {seed!r:.60}")
    if len(seed) != count:
        raise InputError(f"need {count} seeds, got {len(seed)}")
    return [int(own) if isinstance(own, np.integer) else own for own in seed]

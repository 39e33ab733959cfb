"""``gymnasium.make_vec("MallocGame-v0", ...)``: a Gymnasium vector environment on top of ``MallocGameBatch``."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mallocgame.errors import InputError
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.observation import ObservationConfig, Observations, observation_space
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program

Bool = npt.NDArray[np.bool_]


class MallocVectorEnv(VectorEnv[Observations, Any, Any]):
    """B games in one call. A game that ended starts again in the next step, with a program drawn at random.

    ``info`` holds ``action_mask`` (int8[B, A]) and ``seconds`` (float64[B], judged time of the mappings so far).
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
        render_mode: str | None = None,
    ) -> None:
        """Make ``num_envs`` games.

        Raises:
            InputError: a render mode (only single games draw themselves); see ``MallocGameBatch``.
        """
        if render_mode is not None:
            raise InputError(f"render mode {render_mode!r}: only gymnasium.make draws; use render_mode=None here")
        self.batch = MallocGameBatch(programs, num_envs, observation=observation)
        self.num_envs = num_envs
        self.single_action_space = gymnasium.spaces.Discrete(self.batch.num_actions)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = observation_space(
            self.batch.config, self.batch.num_layers, self.batch.num_links
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start all games; ``options={"program": [i, ...]}`` says which program each plays."""
        super().reset(seed=seed)
        which = (options or {}).get("program")
        self.batch.reset(which=self._draw(self.num_envs) if which is None else np.broadcast_to(which, self.num_envs))
        return self._observations(), self._info()

    def step(self, actions: Any) -> tuple[Observations, Any, Bool, Bool, dict[str, Any]]:
        """Take an action in each game; where the last step ended a game, the action is ignored and it starts anew."""
        over = self.batch.done.copy()
        self.batch.step(actions)
        if over.any():
            self.batch.reset(over, which=self._draw(int(over.sum())))
        done = self.batch.done.copy()
        return self._observations(), self.batch.rewards.copy(), done, np.zeros_like(done), self._info()

    def action_masks(self) -> Bool:
        """Return bool[B, A], True = legal; all False in games that are over."""
        return self.batch.action_masks.copy()

    def _draw(self, count: int) -> npt.NDArray[np.int64]:
        return self.np_random.integers(len(self.batch.games), size=count)

    def _observations(self) -> Observations:
        o = self.batch.observations
        return {
            "memory": o["memory"].copy(),
            "supply": o["supply"].copy(),
            "uses": o["uses"].copy(),
            "same_as": o["same_as"].copy(),
            "globals": o["globals"].copy(),
        }

    def _info(self) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        return {
            "action_mask": self.batch.action_masks.astype(np.int8),
            "_action_mask": everyone,
            "seconds": self.batch.all_seconds(),
            "_seconds": everyone.copy(),
        }

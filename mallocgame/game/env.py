"""The game as a Gymnasium environment: ``gymnasium.make("MallocGame-v0", ...)``.

Action 0 serves the current use from layer 0 (Drop); 1 + 2 (l - 1) copies the tensor into layer l first; 2 + 2 (l - 1)
finds it there, or has its definition write it there. The reward is the judged time saved by the step / the time with
everything in layer 0, so the return of an episode is (T_layer0 - T_mapping) / T_layer0. An action whose mask is 0 is
answered with reward ``ILLEGAL_REWARD`` (-1) and termination. With ``reward="log"`` a step pays the logarithm of the
seconds before / after it. ``game/observation.py`` describes the observation.
"""

from collections.abc import Sequence
from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.game.batch import GamePosition, MallocGameBatch
from mallocgame.game.observation import ObservationConfig, Observations, copied, observation_space
from mallocgame.game.render import render_ansi, render_rgb
from mallocgame.game.rules.state import Groups, Movables
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program

RENDER_MODES = ("rgb_array", "ansi")


class MallocEnv(gymnasium.Env[Observations, np.int64]):
    """One game. With several programs, ``reset`` draws one, or plays ``options={"program": index}``.

    ``info`` holds ``action_mask`` (int8[A], as ``action_space.sample(mask)`` wants it), ``program`` (its name) and
    ``seconds`` (judged time of the mapping so far; of a program with branches an estimate, see ``rules.Game``).
    ``action_masks()`` is what sb3-contrib's MaskablePPO asks for.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it so)
        "render_modes": list(RENDER_MODES),
        "render_fps": 8,
    }

    def __init__(
        self,
        programs: Sequence[tuple[Program, Hierarchy]],
        *,
        observation: ObservationConfig | None = None,
        reward: str = "saved",
        render_mode: str | None = None,
    ) -> None:
        """Make the games of ``programs``, (program, hierarchy) pairs whose hierarchies have equally many layers.

        Raises:
            InputError: an unknown render mode; see ``MallocGameBatch``.
        """
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise InputError(f"unknown render mode {render_mode!r}, expected one of {', '.join(RENDER_MODES)}")
        self.render_mode = render_mode
        self.batch = MallocGameBatch(programs, 1, observation=observation, reward=reward)
        self.action_space = gymnasium.spaces.Discrete(self.batch.num_actions)
        space = observation_space(self.batch.config, self.batch.num_layers, self.batch.num_links)
        self.observation_space = cast(gymnasium.Space[Observations], space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start a game; ``options={"program": i}``, or a program's name, plays that one instead of a random one."""
        super().reset(seed=seed)
        count = len(self.batch.games)
        chosen = (options or {}).get("program")
        if chosen is None:
            chosen = int(self.np_random.integers(count)) if count > 1 else 0
        else:
            chosen = self.batch.program_index(chosen)
        self.batch.reset(which=[chosen])
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Take an action for the current use."""
        self.batch.step([action])
        reward, done = float(self.batch.rewards[0]), bool(self.batch.done[0])
        return self._observation(), reward, done, False, self._info()

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return bool[A], True = legal; once the game is over Drop alone, which does nothing."""
        return np.array(self.batch.action_masks[0])

    def to_mapping(self) -> Mapping:
        """Return the mapping so far; it is valid at any time."""
        return self.batch.to_mapping(0)

    def clone_state(self) -> GamePosition:
        """Return where the game is; ``restore_state`` goes on from there, in this or another such environment."""
        return self.batch.clone(0)

    def restore_state(self, position: GamePosition) -> tuple[Observations, dict[str, Any]]:
        """Go on from a position and return its observation and ``info``.

        Raises:
            InputError: it is a position of other programs.
        """
        self.batch.restore(position)
        return self._observation(), self._info()

    def render(self) -> Any:
        """Return uint8[height, width, 3] (``rgb_array``) or text (``ansi``); None without a render mode."""
        if self.render_mode is None:
            return None
        game, state = self.batch.games[self.batch.which[0]], self.batch.state(0)
        program, mapping = game.original, self.to_mapping()
        turn = int(state.turn[0])
        tensor, step = -1, program.num_steps
        if turn < game.num_decisions:
            group = game.rules.groups[game.rules.decisions[turn]]
            tensor, step = (
                int(game.rules.tensors[group[Groups.TENSOR], Movables.INDEX]),
                game.original_step(int(group[Groups.STEP])),
            )
        if self.render_mode == "rgb_array":
            return render_rgb(program, game.hierarchy, mapping, tensor, step)
        score = self.batch.returns[0]
        status = f"{program.name}: decision {turn} of {game.num_decisions}, return {score:.4f}"
        return render_ansi(program, game.hierarchy, mapping, tensor, step, status)

    def _observation(self) -> Observations:
        return copied(self.batch.observations, 0)

    def _info(self) -> dict[str, Any]:
        return {
            "action_mask": self.batch.action_masks[0].astype(np.int8),
            "program": self.batch.games[self.batch.which[0]].program.name,
            "seconds": self.batch.seconds(0),
        }

"""B games stepped in one call, with their observations in arrays that are allocated once: for self-play and search.

>>> from mallocgame.workloads.make import find_programs
>>> batch = MallocGameBatch(find_programs(family="chain", decisions=20), 4)
>>> observations = batch.reset()
>>> observations["memory"].shape, batch.action_masks.shape
((4, 2, 16, 32), (4, 3))
>>> while not batch.done.all():
...     actions = batch.action_masks.argmax(axis=1)  # the first legal action: Drop
...     observations, rewards, done = batch.step(actions)
>>> batch.seconds(0) == batch.games[0].home_seconds  # nothing left layer 0
True
"""

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.game import rules
from mallocgame.game.features import Foresight, foresee
from mallocgame.game.observation import ObservationConfig, Observations, observation_arrays
from mallocgame.game.observation_kernel import Tables, observe_batch
from mallocgame.game.rules.state import State
from mallocgame.game.threads import in_groups
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

REWARDS = (
    "saved",  # seconds saved by the step / seconds with everything in layer 0
    "log",  # logarithm of the seconds before the step / after it: a tenth of what is left counts alike, early or late
)
ILLEGAL_REWARD = -1.0  # an illegal action: this reward, and the game is over (its mapping so far stays valid)


class GamePosition(NamedTuple):
    """Where a game is, with what the batch knows of it."""

    program: str
    arrays: tuple[npt.NDArray[Any], ...]
    game: str = ""  # digest of its rules: what a position means depends on them


class MallocGameBatch:
    """B games of the same or of different programs.

    Attributes (arrays are written in place by ``reset`` and ``step``; copy what you keep):
        games: the distinct games, in the order of ``programs``.
        which: int64[B], the game that each row plays.
        observations: dict of arrays [B, ...], see ``mallocgame/game/observation.py``; zeros for rows that are done.
        action_masks: bool[B, A], True = legal. In rows that are done Drop alone is, and does nothing: a masked softmax
            stays finite.
        rewards: float64[B], of the last step (see ``REWARDS``).
        returns: float64[B], sum of rewards since the row's reset.
        done: bool[B], the row's game is over.
        illegal: bool[B], it ended by an illegal action.

    Raises:
        InputError: no program, one without decisions, hierarchies with different numbers of layers, an
            unknown reward, or a ``batch_size`` below 1.
    """

    def __init__(
        self,
        programs: Sequence[tuple[Program, Hierarchy]],
        batch_size: int,
        *,
        which: Sequence[int] | I64 | None = None,
        observation: ObservationConfig | None = None,
        observe: bool = True,
        reward: str = "saved",
    ) -> None:
        """Make the games and start them.

        Args:
            programs: (program, hierarchy) pairs.
            batch_size: B.
            which: int64[B], the program of each row; by default row b plays program b modulo their number.
            observation: sizes of the observation.
            observe: False leaves ``observations`` alone (rollouts that look at masks and rewards only).
            reward: what a step pays, one of ``REWARDS``.
        """
        if not programs or batch_size < 1:
            raise InputError(f"need a program and batch_size >= 1, got {len(programs)} and {batch_size}")
        if len({hierarchy.num_layers for _, hierarchy in programs}) > 1:
            raise InputError("all hierarchies of a batch need the same number of layers")
        if reward not in REWARDS:
            raise InputError(f"unknown reward {reward!r}, expected one of {', '.join(REWARDS)}")
        self.config = observation or ObservationConfig()
        self.reward = reward
        self.games = tuple(rules.make_game(program, hierarchy) for program, hierarchy in programs)
        for game in self.games:
            if not game.num_decisions:
                raise InputError(f"{game.program.name}: no use of a movable tensor, so nothing to decide")
        self.num_layers = self.games[0].hierarchy.num_layers
        self.num_links = max(len(game.hierarchy.links) for game in self.games)
        self.num_actions = self.games[0].num_actions
        rows = np.arange(batch_size, dtype=np.int64) % len(self.games) if which is None else np.array(which, np.int64)
        self._state = rules.make_batch(self.games, self._checked(rows, batch_size))
        self.which = self._state.which
        self._tables = _stacked([foresee(game) for game in self.games]) if observe else None
        self._trial = rules.make_trial(self._state, self.num_actions if observe else 0)
        self._edges = self.config.time_edges
        self.observations = observation_arrays(self.config, self.num_layers, self.num_links, (batch_size,))
        self.action_masks = np.zeros((batch_size, self.num_actions), dtype=np.bool_)
        self.rewards, self.returns = np.zeros(batch_size), np.zeros(batch_size)
        self.done, self.illegal, self._wrong = np.zeros((3, batch_size), dtype=np.bool_)
        state = self.state(0)
        total_column = (state.total.ctypes.data - state.floats.ctypes.data) // state.floats.itemsize
        self._totals = self._state.floats[:, total_column]  # a view: every row's ``State.total``
        self._all = np.ones(batch_size, dtype=np.bool_)
        self._digests: dict[int, str] = {}
        self.reset()

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.which)

    @property
    def batch_state(self) -> rules.BatchState:
        """The live states of all rows, for kernels; what changes them must keep the masks and observations true."""
        return self._state

    def reset(self, rows: Bool | None = None, *, which: Sequence[int] | I64 | None = None) -> Observations:
        """Start the games of ``rows`` bool[B] anew (None: all) and return ``observations``.

        ``which`` int64[number of those rows] gives them other programs.
        """
        chosen = self._all if rows is None else np.asarray(rows, dtype=np.bool_)
        if which is not None:
            self.which[chosen] = self._checked(np.array(which, dtype=np.int64), int(chosen.sum()))
        self._restart(chosen)
        self._write_observations()
        return self.observations

    def step(self, actions: npt.ArrayLike) -> tuple[Observations, F64, Bool]:
        """Take one action in each game that is not done; return ``observations``, ``rewards``, ``done``.

        An illegal action pays ``ILLEGAL_REWARD`` and ends its game; it is no exception. A game that is over stays as it
        is and pays 0.
        """
        chosen = np.asarray(actions)
        if chosen.dtype.kind not in "iub":
            raise InputError(f"actions must be whole numbers, got {actions!r:.60}")
        chosen = chosen.astype(np.int64)
        if chosen.shape != self.which.shape:
            raise InputError(f"need {self.batch_size} actions, got an array of shape {chosen.shape}")
        before = self._totals.copy() if self.reward == "log" else self._totals
        in_groups(self.batch_size, partial(self._step_part, chosen))
        if self.reward == "log":
            np.log(before / self._totals, out=self.rewards)
        if self._wrong.any():
            self._end(self._wrong)
        self.action_masks[:, 0] = True
        self.returns += self.rewards
        self._write_observations()
        return self.observations, self.rewards, self.done

    def state(self, row: int) -> rules.State:
        """Return row ``row``'s live state (views, not a copy)."""
        return State(self.games[self.which[row]].rules.layout, self._state.ints[row], self._state.floats[row])

    def to_mapping(self, row: int) -> Mapping:
        """Return the mapping that row ``row`` has made so far; it is valid at any time."""
        return rules.to_mapping(self.games[int(self.which[row])], self.state(row))

    def seconds(self, row: int) -> float:
        """Return the judged seconds of row ``row``'s mapping so far."""
        return float(self._totals[row])

    def all_seconds(self) -> F64:
        """Return float64[B], the judged seconds of each row's mapping so far."""
        return self._totals.copy()

    def copy_from(self, other: "MallocGameBatch", row: int) -> None:
        """Make all games continue from where row ``row`` of ``other``, a batch of the same programs, is."""
        self._put(tuple(array[row] for array in other._arrays()), self._all)

    def clone(self, row: int) -> "GamePosition":
        """Return where row ``row`` is, for ``restore``; it may be pickled."""
        index = int(self.which[row])
        arrays = tuple(np.array(array[row]) for array in self._arrays())
        return GamePosition(self.games[index].program.name, arrays, self._digest(index))

    def restore(self, position: "GamePosition", rows: Bool | None = None) -> Observations:
        """Let the games of ``rows`` bool[B] (None: all) go on from a position, and return ``observations``.

        Raises:
            InputError: it is none, or a position of a batch of other programs or memories.
        """
        if not isinstance(position, GamePosition):
            raise InputError(f"expected a position that clone made, got {position!r:.60}")
        which, ints, floats = position.arrays[:3]
        known = int(which) < len(self.games) and self._digest(int(which)) == position.game
        if not known or (len(ints), len(floats)) != (self._state.ints.shape[1], self._state.floats.shape[1]):
            names = ", ".join(game.program.name for game in self.games)
            raise InputError(f"a position of {position.program} among other programs than {names}, or on other memory")
        self._put(position.arrays, self._all if rows is None else np.asarray(rows, dtype=np.bool_))
        return self.observations

    def _step_part(self, actions: I64, _group: int, part: slice) -> None:
        state, trial = self._state, self._trial
        rules.batch_step(
            state._replace(which=state.which[part], ints=state.ints[part], floats=state.floats[part]),
            *(actions[part], self.rewards[part], self.done[part], self._wrong[part], self.action_masks[part]),
            rules.Trial(trial.ints[part], trial.floats[part], trial.behind[part], trial.outcomes[part]),
        )

    def _put(self, arrays: tuple[npt.NDArray[Any], ...], rows: Bool) -> None:
        for mine, theirs in zip(self._arrays(), arrays, strict=True):
            mine[rows] = theirs
        if self._tables is not None:  # what actions would do is no part of a position
            self._trial.behind[rows] = True
            rules.batch_mask(self._state, self.action_masks, self._trial)
            self.action_masks[:, 0] = True
        self._write_observations()

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        state = self._state
        return (
            *(state.which, state.ints, state.floats),
            *(self.action_masks, self.rewards, self.returns, self.done, self.illegal),
        )

    def program_index(self, program: object) -> int:
        """Return the index of a program that is given by its index or its name.

        Raises:
            InputError: there is none, or several have that name.
        """
        names = [game.program.name for game in self.games]
        if isinstance(program, str) and names.count(program) == 1:
            return names.index(program)
        if isinstance(program, int | np.integer) and not isinstance(program, bool) and 0 <= program < len(names):
            return int(program)
        known = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise InputError(f"program: expected an index below {len(names)} or one of {known}, got {program!r}")

    def _digest(self, index: int) -> str:
        """Return what tells a game's rules from others, looked at once."""
        if index not in self._digests:
            game = self.games[index].rules
            self._digests[index] = sha256(game.ints.tobytes() + game.floats.tobytes()).hexdigest()[:16]
        return self._digests[index]

    def _checked(self, which: I64, count: int) -> I64:
        if which.shape != (count,) or (count and not 0 <= which.min() <= which.max() < len(self.games)):
            raise InputError(f"which needs {count} indices of {len(self.games)} programs, got {which.tolist()}")
        return which

    def _restart(self, rows: Bool) -> None:
        rules.batch_reset(self._state, rows)
        if self._tables is not None:
            self._trial.behind[rows] = True
        rules.batch_mask(self._state, self.action_masks, self._trial)
        self.action_masks[:, 0] = True
        self.rewards[rows] = self.returns[rows] = 0.0
        self.illegal[rows] = False
        self.done[rows] = False

    def _end(self, rows: Bool) -> None:
        for row in np.flatnonzero(rows):
            self.state(int(row)).turn[0] = self.games[self.which[row]].num_decisions
        self.rewards[rows] = ILLEGAL_REWARD
        self.illegal[rows] = self.done[rows] = True
        self.action_masks[rows, 1:] = False

    def _write_observations(self) -> None:
        if self._tables is not None:
            in_groups(self.batch_size, partial(self._observe_part, self._tables))

    def _observe_part(self, tables: Tables, _group: int, part: slice) -> None:
        o, state = self.observations, self._state
        observe_batch(
            state._replace(which=state.which[part], ints=state.ints[part], floats=state.floats[part]),
            *(self.done[part], tables, self._trial.outcomes[part], self._edges),
            *(o["memory"][part], o["supply"][part], o["uses"][part], o["same_as"][part]),
            *(o["outcomes"][part], o["outlook"][part], o["overview"][part], o["globals"][part]),
        )


def _stacked(games: Sequence[Foresight]) -> Tables:
    """Return the tables of all games, padded to the longest."""
    return Tables(
        decisions=_padded([game.decisions for game in games]),
        outlook=_padded([game.outlook for game in games]),
        overview=_padded([game.overview for game in games]),
        cumulative=_padded([game.cumulative for game in games]),
        unit_seconds=np.array([game.unit_seconds for game in games]),
    )


def _padded(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    shape = np.max([array.shape for array in arrays], axis=0)
    table = np.zeros((len(arrays), *shape), dtype=arrays[0].dtype)
    for row, array in zip(table, arrays, strict=True):
        row[tuple(map(slice, array.shape))] = array
    return table

"""The public functions of the rules: a game from a program, states, choices, and the mapping that they make."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.rules.tables import Rules, State

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """A program on a hierarchy, as the rules' arrays. ``rules`` may be passed to Numba kernels."""

    program: Program
    hierarchy: Hierarchy
    rules: Rules
    start: State  # the state before the first decision; never changed

    @property
    def num_decisions(self) -> int:
        """D, the length of an episode."""
        return len(self.rules.decisions)

    @property
    def num_actions(self) -> int:
        """1 + 2 (L - 1)."""
        return 2 * self.hierarchy.num_layers - 1

    @property
    def home_seconds(self) -> float:
        """Seconds with everything in layer 0, the unit of rewards."""
        return float(self.rules.home_seconds[0])


def make_game(program: Program, hierarchy: Hierarchy) -> Game:
    """Return the game of a program. Slow (milliseconds); ``initial_state`` is fast."""
    raise NotImplementedError


def initial_state(game: Game) -> State:
    """Return a fresh state: nothing decided, everything in layer 0."""
    raise NotImplementedError


def copy_state(game: Game, state: State) -> State:
    """Return an independent copy."""
    raise NotImplementedError


def is_terminal(game: Game, state: State) -> bool:
    """Whether every group is decided."""
    raise NotImplementedError


def legal_actions(game: Game, state: State) -> Bool:
    """Return bool[A], True for a legal action; Drop (0) always is. All False in a terminal state."""
    raise NotImplementedError


def apply(game: Game, state: State, action: int) -> tuple[State, float]:
    """Return the next state and the reward; ``state`` is unchanged.

    Raises:
        InputError: the action is illegal, or the state terminal.
    """
    raise NotImplementedError


def step(game: Game, state: State, action: int) -> float:
    """Take an action in place and return the reward: -(change of simulated seconds) / ``game.home_seconds``.

    Raises:
        InputError: as ``apply``.
    """
    raise NotImplementedError


def total_seconds(state: State) -> float:
    """Return the simulated seconds of the mapping so far; what is undecided is served from layer 0."""
    raise NotImplementedError


def to_mapping(game: Game, state: State) -> Mapping:
    """Return the mapping so far; it validates in every state, and ``simulate`` gives ``total_seconds``."""
    raise NotImplementedError


def decode(game: Game, wanted: I64) -> tuple[float, I64]:
    """Play a whole episode in one call: each wanted action if it is legal, else the fallback.

    Fallback: the other action of the same layer (Copy for NoCopy and the reverse), else Drop.

    Args:
        wanted: int64[D].

    Returns:
        The simulated seconds at the end, and int64[D], the actions taken.
    """
    raise NotImplementedError


def actions_of(game: Game, mapping: Mapping) -> I64:
    """Return int64[D], wanted actions that approximate ``mapping`` (for ``decode``): exact placement is the rules'."""
    raise NotImplementedError

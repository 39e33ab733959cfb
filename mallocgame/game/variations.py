"""The best game of a program, played again and again with a few moves changed: simulated annealing in the rules.

What is found is the next game to change. A changed game that is a little slower may be the next one, too, else the
first good plan would be the last. Who knows where a game is doubtful and what to play there rather (a trained agent)
says so (``guide``); without, all decisions and actions are alike.
"""

from collections.abc import Callable
from collections.abc import Mapping as Arrays
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.game import rules
from mallocgame.game.rules import Game
from mallocgame.game.rules.state import Groups
from mallocgame.game.threads import in_background
from mallocgame.game.variation_kernel import Walk, vary

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MARKS = 32  # states kept along the current game, so that a changed one begins at its first change
CURIOSITY = 0.02  # chance of a decision that the agent is sure of, against one that it would not make


class Variations:
    """A game of one program, what was tried around it, and the best that was met.

    Attributes:
        moves: decisions played so far, in all changed games.
    """

    def __init__(
        self, game: Game, actions: npt.NDArray[np.integer], policies: npt.NDArray[np.floating] | None = None
    ) -> None:
        """Begin at a game.

        Args:
            actions: int[D], what was played.
            policies: see ``guide``; None: all actions alike.
        """
        self.game, self.moves = game, 0
        self._stride = max(1, game.num_decisions // MARKS)
        self._under_way: Future[int] | None = None
        self._before = np.inf  # seconds of the best game when it was begun, infinite: it is not
        self._kept = walk = _walk(game, self._stride)
        seconds, taken = rules.decode(game, np.asarray(actions, dtype=np.int64), totals=walk.totals)
        walk.best[:] = walk.current[:] = taken
        walk.seconds[:] = seconds
        self.guide(np.ones((game.num_decisions, game.num_actions)) if policies is None else policies)

    @property
    def _walk(self) -> Walk:
        """The walk, once nothing is under way."""
        if self._under_way is not None:
            self.moves += self._under_way.result()
            self._under_way = None
        return self._kept

    @property
    def seconds(self) -> float:
        """Seconds of the best game."""
        return float(self._walk.seconds[0])

    @property
    def actions(self) -> I64:
        """int64[D], the actions of the best game."""
        return self._walk.best.copy()

    @property
    def current(self) -> I64:
        """int64[D], the actions of the game that is changed next."""
        return self._walk.current.copy()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what ``restore`` needs to go on as if nothing had happened, but for ``guide``'s policies."""
        walk = self._walk
        parts = {"seconds": walk.seconds, "actions": walk.best, "current": walk.current, "totals": walk.totals}
        parts["before"] = np.array([self._before])
        return {name: array.copy() for name, array in parts.items()}

    def restore(self, state: Arrays[str, npt.NDArray[Any]]) -> None:
        """Go on from a ``state`` of the same game.

        Raises:
            ValueError: it is of a game of another length.
        """
        if any(len(state[name]) != self.game.num_decisions for name in ("actions", "current", "totals")):
            raise ValueError(f"variations of a game of {self.game.num_decisions} decisions expected")
        walk = self._walk
        walk.seconds[:], walk.best[:] = state["seconds"], state["actions"]
        walk.current[:], walk.totals[:] = state["current"], state["totals"]
        walk.known[0] = 1
        self._before = float(np.ravel(state.get("before", np.inf))[0])  # none: of an earlier version

    def guide(self, policies: npt.NDArray[np.floating]) -> None:
        """Say what the agent would play in the current game, floating[D, A]: where it doubts, changes are tried."""
        softer = np.sqrt(np.asarray(policies, dtype=np.float64))
        softer /= softer.sum(axis=1, keepdims=True)
        doubt = 1.0 - softer[np.arange(len(softer)), self._walk.current] + CURIOSITY
        self._walk.cumulated[:] = np.cumsum(softer, axis=1)
        self._walk.doubt[:] = np.cumsum(doubt) / doubt.sum()

    def search(self, count: int, random: np.random.Generator, temperature: float = 0.0) -> bool:
        """Play ``count`` changed games; return whether the best became faster.

        Args:
            temperature: a game that is slower by this share of its time becomes the current one with chance 1 / e.

        Source of the rule: Metropolis et al., doi:10.1063/1.1699114.
        """
        before = self.seconds
        self.moves += self._task(count, random, temperature)()
        return self.seconds < before

    def begin(self, count: int, random: np.random.Generator, temperature: float = 0.0) -> None:
        """Do what ``search`` does on another core; whoever then asks for anything waits for it."""
        self._before = self.seconds
        self._under_way = in_background(self._task(count, random, temperature))

    def end(self) -> bool:
        """Return whether the best game became faster since ``begin``; False where nothing was begun."""
        before, self._before = self._before, np.inf
        return bool(np.isfinite(before)) and self.seconds < before

    def _task(self, count: int, random: np.random.Generator, temperature: float) -> Callable[[], int]:
        walk, rules, stride = self._walk, self.game.rules, self._stride
        if not self.game.num_decisions:
            return lambda: 0
        walk.random[0] = random.integers(2**64, dtype=np.uint64)
        return lambda: int(vary(rules, walk, count, stride, temperature))


def _walk(game: Game, stride: int) -> Walk:
    """Return a walk whose first mark is the start of the game."""
    length, start = game.num_decisions, game.start
    tensors, owner = np.unique(game.rules.groups[game.rules.decisions, Groups.TENSOR], return_inverse=True)
    uses = np.argsort(owner, kind="stable")
    ints, floats = len(start.ints), len(start.floats)
    num_marks = max(length - 1, 0) // stride + 1
    walk = Walk(
        random=np.zeros(1, dtype=np.uint64),
        owner=owner.astype(np.int64),
        uses=uses.astype(np.int64),
        first=np.searchsorted(owner[uses], np.arange(len(tensors) + 1)).astype(np.int64),
        cumulated=np.zeros((length, game.num_actions)),
        doubt=np.zeros(length),
        current=np.zeros(length, dtype=np.int64),
        totals=np.zeros(length),
        best=np.zeros(length, dtype=np.int64),
        seconds=np.zeros(2),
        marks=np.zeros((num_marks, ints), dtype=np.int64),
        mark_floats=np.zeros((num_marks, floats)),
        known=np.ones(1, dtype=np.int64),
        wanted=np.zeros(length, dtype=np.int64),
        taken=np.zeros(length, dtype=np.int64),
        trial=np.zeros(length),
        limits=np.zeros(length),
        ints=np.zeros(ints, dtype=np.int64),
        floats=np.zeros(floats),
    )
    walk.marks[0], walk.mark_floats[0] = start.ints, start.floats
    return walk

"""The best game of a program, played again and again with a few moves changed.

A move of self-play costs a search, a move of a changed game only the rules, a hundredth of it. The agent says where the
game is doubtful and what it would rather do there; what is found is the next game to imitate. A changed game that is a
little slower may be the next to be changed (simulated annealing), else the first good plan would be the last.
"""

from collections.abc import Mapping as Arrays
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.game import rules
from mallocgame.game.rules import Game, State
from mallocgame.game.rules.state import TENSOR

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Generator = np.random.Generator

MARKS = 32  # states kept along the current game, so that a changed one begins at its first change
SWAP, SINGLE = 0.4, 0.3  # chances of the kinds of change; the rest are runs of uses
NEAR = 6  # decisions before and after a swap's first that take part in it
MOST_IN = 3  # tensors that a swap brings in
LAST = 0.5  # chance that a change is the last of its game
AROUND = 16  # decisions before and after a change within which the next one begins
SETTLED = 16  # decisions after the last change in which it may still make up for what it lost, but for
SLACK = 1e-3  # this share of the time, and ten times the temperature: else the game is not played to its end
CURIOSITY = 0.02  # chance of a decision that the agent is sure of, against one that it would not make


class Variations:
    """A game of one program, what was tried around it, and the best that was met.

    Attributes:
        seconds, actions: of the best game, int64[D].
        current: int64[D], actions of the game that is changed next.
    """

    def __init__(
        self, game: Game, actions: npt.NDArray[np.integer], policies: npt.NDArray[np.floating] | None = None
    ) -> None:
        """Begin at a game.

        Args:
            actions: int[D], what was played.
            policies: see ``guide``; None: all actions alike.
        """
        self.game = game
        owner = game.rules.groups[game.rules.decisions, TENSOR]
        self._uses = {tensor: np.flatnonzero(owner == tensor) for tensor in np.unique(owner).tolist()}
        self._owner = owner.tolist()
        self._stride = max(1, game.num_decisions // MARKS)
        self._marks: list[State] = [game.start]
        self._totals = np.empty(game.num_decisions)  # seconds after each decision of the current game
        self.seconds, self.actions = rules.decode(game, np.asarray(actions, dtype=np.int64), totals=self._totals)
        self._now, self.current = self.seconds, self.actions
        self.guide(np.ones((game.num_decisions, game.num_actions)) if policies is None else policies)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what ``restore`` needs to go on as if nothing had happened, but for ``guide``'s policies."""
        seconds = np.array([self.seconds, self._now])
        return {"seconds": seconds, "actions": self.actions, "current": self.current, "totals": self._totals}

    def restore(self, state: Arrays[str, npt.NDArray[Any]]) -> None:
        """Go on from a ``state`` of the same game.

        Raises:
            ValueError: it is of a game of another length.
        """
        if any(len(state[name]) != self.game.num_decisions for name in ("actions", "current", "totals")):
            raise ValueError(f"variations of a game of {self.game.num_decisions} decisions expected")
        self.seconds, self._now = (float(x) for x in state["seconds"])
        self.actions, self.current = state["actions"].copy(), state["current"].copy()
        self._totals = state["totals"].copy()
        self._marks = [self.game.start]

    def guide(self, policies: npt.NDArray[np.floating]) -> None:
        """Say what the agent would play in the current game, floating[D, A]: where it doubts, changes are tried."""
        softer = np.sqrt(np.asarray(policies, dtype=np.float64))
        softer /= softer.sum(axis=1, keepdims=True)
        self._cumulated = np.cumsum(softer, axis=1)
        doubt = 1.0 - softer[np.arange(len(softer)), self.current] + CURIOSITY
        self._doubt = np.cumsum(doubt) / doubt.sum()

    def search(self, count: int, random: Generator, temperature: float = 0.0) -> bool:
        """Play ``count`` changed games; return whether the best became faster.

        Args:
            temperature: a game that is slower by this share of its time becomes the current one with chance 1 / e.

        Source of the rule: Metropolis et al., doi:10.1063/1.1699114.
        """
        before = self.seconds
        for _ in range(count if len(self.current) else 0):
            wanted = self._changed(random)
            differs = np.flatnonzero(wanted != self.current)
            if not len(differs):
                continue
            mark = int(differs[0]) // self._stride
            totals = self._totals.copy()
            limits = totals + (SLACK + 10.0 * temperature) * self._now
            limits[: differs[-1] + SETTLED] = np.inf
            seconds, taken = rules.decode(self.game, wanted, self._state(mark), totals=totals, limits=limits)
            loss = seconds / self._now - 1.0
            if loss <= 0.0 or (temperature > 0.0 and random.random() < np.exp(-loss / temperature)):
                self._now, self.current, self._totals = seconds, taken, totals
                del self._marks[mark + 1 :]
                if seconds <= self.seconds:
                    self.seconds, self.actions = seconds, taken
        return self.seconds < before

    def _state(self, mark: int) -> State:
        """Return the state of the current game before its decision ``mark * stride``."""
        while len(self._marks) <= mark:
            state = rules.copy_state(self.game, self._marks[-1])
            begin = (len(self._marks) - 1) * self._stride
            for action in self.current[begin : begin + self._stride].tolist():
                rules.step(self.game, state, action)
            self._marks.append(state)
        return self._marks[mark]

    def _changed(self, random: Generator) -> I64:
        wanted = self.current.copy()
        num_actions = self.game.num_actions
        at = int(np.searchsorted(self._doubt, random.random()))
        while True:
            action = int(np.searchsorted(self._cumulated[at], random.random()))
            if action == wanted[at] or action >= num_actions:
                action = int(random.integers(num_actions))
            kind = random.random()
            if kind < SWAP:
                self._swap(wanted, at, random)
            elif kind < SWAP + SINGLE:
                wanted[at] = action
            else:
                uses = self._uses[self._owner[at]]
                begin, end = sorted(random.integers(0, len(uses) + 1, 2).tolist())
                wanted[uses[begin:end]] = action
            if random.random() < LAST:
                return wanted
            at = min(max(at + int(random.integers(-AROUND, AROUND + 1)), 0), len(wanted) - 1)

    def _swap(self, wanted: I64, at: int, random: Generator) -> None:
        """Leave one tensor that is used about now in layer 0, and let some others of those stay in fast memory."""
        begin = max(at - NEAR, 0)
        near = wanted[begin : at + NEAR]
        inside, outside = np.flatnonzero(near > 0) + begin, np.flatnonzero(near == 0) + begin
        if not len(inside) or not len(outside):
            return
        wanted[self._uses[self._owner[random.choice(inside)]]] = 0
        for other in random.permutation(outside)[: random.integers(1, MOST_IN + 1)].tolist():
            uses = self._uses[self._owner[other]]
            wanted[uses] = np.where(wanted[uses] == 0, self.game.num_actions - 1, wanted[uses])

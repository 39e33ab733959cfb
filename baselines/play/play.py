"""Play: the greedy mapping (or the given start) played by the rules, then played again and again with moves changed.

Nothing is learned and nothing is searched by a tree: this is what a trained agent has to beat at equal time.
"""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.placement.greedy import greedy
from mallocgame.errors import InputError
from mallocgame.game import rules
from mallocgame.game.finish import finish
from mallocgame.game.rules import Game
from mallocgame.game.variations import Variations
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds, lower_bound
from mallocgame.mapping import Mapping
from mallocgame.outcome import Search
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

I64 = npt.NDArray[np.int64]

FOCUS = 3e-3  # share of the traffic whose tensors stay in layer 0 until the end
START_SHARE, FINISH_SHARE = 0.3, 0.1  # of the limit, at most: for the greedy start, and for what focusing left out
TEMPERATURE = 3e-4  # how much slower a changed game may be, at first; falls to 0
AT_ONCE = 8  # changed games between looks at the clock
OFFER_EVERY = 0.02  # of the limit: judging a mapping takes as long as a few changed games


def play(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
    steps: int | None = None,
) -> SolveResult:
    """Change the best game until the limit is reached; see ``mallocgame.solver.Solver``.

    Args:
        steps: limit in decisions played, instead of ``seconds``: the same seed gives the same answer on every machine.

    Raises:
        InputError: a negative limit.
    """
    if seconds < 0 or (steps is not None and steps < 0):
        raise InputError(f"a limit must not be negative, got {seconds} s and {steps} steps")
    search = Search(program, hierarchy, seconds if steps is None else float("inf"), progress)
    search.offer(start)
    search.offer(Mapping())
    focused = program.focused(FOCUS)
    if (seconds > 0 if steps is None else steps > 0) and focused.num_decisions and home_seconds(program, hierarchy) > 0:
        try:
            _Player(search, focused, seed, steps).play(start)
        except KeyboardInterrupt:
            search.status = "interrupted"
    return search.result(lower_bound(program, hierarchy))


class _Player:
    """One run of ``play``."""

    def __init__(self, search: Search, focused: Program, seed: int, steps: int | None) -> None:
        self.search, self.focused, self.steps = search, focused, steps
        self.game = rules.make_game(focused, search.hierarchy)
        self.random = np.random.default_rng(seed)
        self.offered = 0.0  # share of the limit that was spent when a mapping was last offered

    def play(self, start: Mapping | None) -> None:
        """Begin, vary, finish."""
        search, game = self.search, self.game
        variations = Variations(game, self._begin(start))
        best = search.best_seconds
        try:
            while (spent := self._spent(variations)) < 1.0:
                variations.search(AT_ONCE, self.random, TEMPERATURE * (1.0 - spent))
                if variations.seconds < best and spent > self.offered + OFFER_EVERY:
                    best, self.offered = variations.seconds, spent
                    search.offer(rules.mapping_of(game, variations.actions))
        finally:
            search.offer(rules.mapping_of(game, variations.actions))
        assert search.best is not None
        left = float("inf") if self.steps is not None else search.limit_seconds - search.spent_seconds
        moves = float("inf") if self.steps is None else FINISH_SHARE * self.steps
        search.offer(finish(search.program, self.focused, search.hierarchy, search.best, left, moves=moves))

    def _spent(self, variations: Variations) -> float:
        """Return the share of the time for variations that is spent."""
        if self.steps is not None:
            return variations.moves / (self.steps * (1.0 - FINISH_SHARE))
        self.search.out_of_time()  # tells the progress
        return self.search.spent_seconds / (self.search.limit_seconds * (1.0 - FINISH_SHARE))

    def _begin(self, start: Mapping | None) -> I64:
        """Return the better of the given and the greedy start, as the rules play them, int64[D]."""
        search, limit = self.search, START_SHARE * self.search.limit_seconds
        found = greedy(search.program, search.hierarchy, seconds=limit).mapping
        search.offer(found)
        games = [_played(self.game, mapping) for mapping in (start, found) if mapping is not None]
        return min(games, key=lambda game: game[0])[1]


def _played(game: Game, mapping: Mapping) -> tuple[float, I64]:
    return rules.decode(game, rules.actions_of(game, mapping))

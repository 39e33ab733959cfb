"""Local search in the game, and annealing of what the game's rules decide alone: they begin where the other ends.

The rules choose addresses and the times of copies in one way; annealing moves them one by one, but is lost without a
good beginning on large programs. So a short annealing is one opening of the game, the game is changed for about half
of the limit, and annealing near its mapping has the rest. Going back and forth more often brought nothing: each way
loses a little of what the other one found.
"""

import numpy as np
import numpy.typing as npt

from mallocgame.game.local_search import Guide, refine
from mallocgame.game.rules import Game
from mallocgame.mapping import Mapping
from mallocgame.solver import Incumbent, Solver

I64 = npt.NDArray[np.int64]

GREEDY_SHARE = 0.3  # of the limit, at most: the greedy mapping as an opening
OPENING_SHARE = 0.1  # of the limit: annealing as an opening
GAME_UNTIL = 0.5  # of the limit, the opening included
DECISIONS = 4000  # of a game, that take about as long as one step of annealing: how limits in steps are shared


def open_by_greed(search: Incumbent, greedy: Solver) -> Mapping | None:
    """Return what the greedy solver makes of the program, as far as it comes in a share of the limit."""
    part = search.part(GREEDY_SHARE, steps=None if search.limits.steps is None else 2**31)  # then it knows no clock
    greedy.improve(part)
    return part.mapping


def open_by_annealing(search: Incumbent, annealing: Solver, share: float = OPENING_SHARE) -> Mapping | None:
    """Anneal from the incumbent for a share of the limit; return the best mapping now."""
    _anneal(search, annealing, share)
    return search.mapping


def relay(
    search: Incumbent,
    game: Game,
    actions: I64 | None,
    annealing: Solver,
    *,
    guide: Guide | None = None,
) -> None:
    """Change a game for the first part of the limit, then anneal near the best mapping until it is reached.

    Args:
        search: the whole program's. A step is a decision.
        game: of the program or of its focused part.
        actions: int64[D], the game to begin with; None: there is none, only annealing is left.
        annealing: a solver that takes ``refine``.
        guide: see ``refine``.
    """
    share = (GAME_UNTIL - search.spent_share) / max(1.0 - search.spent_share, 1e-9)
    if actions is not None and share > 0.0:
        part = search.part(share)
        refine(part, game, actions, seed=search.seed, guide=guide)
        search.count(part.steps)
    if not search.out_of_time():
        _anneal(search, annealing, 1.0, refine=True)


def _anneal(search: Incumbent, annealing: Solver, share: float, *, refine: bool = False) -> None:
    if search.limits.steps is None:
        annealing.improve(search.part(share), refine=refine)
        return
    part = search.part(steps=int(share * max(search.limits.steps - search.steps, 0)) // DECISIONS)
    annealing.improve(part, refine=refine)
    search.count(part.steps * DECISIONS)

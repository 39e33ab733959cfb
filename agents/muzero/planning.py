"""A lead for a whole game, before its first move: the walk of ``lead_walk.py`` goes through the game again and again.

The searches of the moves change what comes soon, and a move that is made stays. So a part of the simulations is spent
first, where nothing is decided yet: a window goes from the beginning to the end of the game, the lead is changed in it
and taken on although it may be a little slower, and each time through the game it may be less so (simulated annealing).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.lead_walk import Walk, advance, walk_window
from mallocgame.game import rules
from mallocgame.game.rules import Game

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

STRIDE = 8  # decisions from one window to the next
CHANGES = 16  # in a window, before it goes on
TEMPERATURE = 1e-4  # share of the time that a lead may be slower, the first time through the game; falls to 0


def plan_lead(game: Game, decision_of: I64, lead: I64, changes: int, seed: U64, stop: Callable[[], bool]) -> I64:
    """Return the best game, int64[D], that was met while a lead was changed.

    Args:
        game: of D decisions.
        decision_of: int64[groups], the decision that is about a group, -1: none.
        lead: int64[D], the game to begin with.
        changes: how many, for each decision.
        seed: uint64[1], of random numbers.
        stop: asked at each window; when it is true what was found by then is returned.
    """
    rounds = -(-changes * STRIDE // CHANGES)
    walk = _walk(game, seed)
    final, best = rules.decode(game, lead, totals=walk.reached)
    walk.current[:] = best
    ints, floats = game.start.ints.copy(), game.start.floats.copy()
    for round_ in range(rounds):
        ints[:], floats[:] = game.start.ints, game.start.floats
        share = TEMPERATURE * (1.0 - round_ / rounds)
        for _ in range(0, game.num_decisions, STRIDE):
            if stop():
                return best
            window = (game.rules, ints, floats, walk)
            final = walk_window(*window, decision_of, game.num_actions, CHANGES, share, best, final)
            advance(*window, STRIDE)
    return best


def _walk(game: Game, seed: U64) -> Walk:
    length = game.num_decisions
    return Walk(
        current=np.zeros(length, dtype=np.int64),
        reached=np.zeros(length),
        wanted=np.zeros(length, dtype=np.int64),
        taken=np.zeros(length, dtype=np.int64),
        trial=np.zeros(length),
        ints=np.zeros(len(game.start.ints), dtype=np.int64),
        floats=np.zeros(len(game.start.floats)),
        random=seed.copy(),
    )

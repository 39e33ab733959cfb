"""Local search around a game, under a solver's limits: changed games until time is nearly over, then small tensors."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mallocgame.game import rules
from mallocgame.game.finish import finish
from mallocgame.game.rules import Game
from mallocgame.game.variations import Variations
from mallocgame.mapping import Mapping
from mallocgame.solver import Incumbent

I64 = npt.NDArray[np.int64]

FINISH_SHARE = 0.1  # of the limit, at most: for what focusing left in layer 0
TEMPERATURE = 3e-4  # how much slower a changed game may be, at first; falls to 0
AT_ONCE = 8  # changed games between looks at the clock
PER_THOUGHT = 2048  # changed games between looks at the guide
OFFER_EVERY = 0.02  # of the limit: judging a mapping takes as long as several changed games

Guide = Callable[[Variations], None]  # says where the current game is doubtful, see ``Variations.guide``


def refine(search: Incumbent, game: Game, actions: I64, *, seed: int, guide: Guide | None = None) -> None:
    """Change a game until the limit is nearly reached, and decide what focusing left in layer 0. A step is a decision.

    Args:
        search: the whole program's.
        game: of the program or of its focused part.
        actions: int64[D], the game to begin with.
        seed: of the changes.
        guide: is asked now and then.
    """
    variations, random = Variations(game, actions), np.random.default_rng(seed)
    begun, best, offered, tried = search.spent_share, search.seconds, 0.0, 0
    span = 1.0 - FINISH_SHARE - begun
    try:
        while (done := (search.spent_share - begun) / span if span > 0 else 1.0) < 1.0 and not search.out_of_time():
            if guide is not None and tried % PER_THOUGHT == 0:
                guide(variations)
            moves = variations.moves
            variations.search(AT_ONCE, random, TEMPERATURE * (1.0 - done))
            search.count(variations.moves - moves)
            tried += AT_ONCE
            if variations.seconds < best and done > offered + OFFER_EVERY:
                best, offered = variations.seconds, done
                search.offer(rules.mapping_of(game, variations.actions))
    finally:  # Ctrl-C, too
        search.offer(rules.mapping_of(game, variations.actions))
    if search.mapping is not None and not search.out_of_time():
        _finish(search, game, search.mapping)


def _finish(search: Incumbent, game: Game, mapping: Mapping) -> None:
    program, hierarchy = search.problem
    if search.limits.steps is not None:
        found = finish(program, game.program, hierarchy, mapping, moves=search.limits.steps - search.steps)
    else:
        found = finish(program, game.program, hierarchy, mapping, search.left_seconds)
    search.offer(found)


def best_start(game: Game, *mappings: Mapping | None) -> I64:
    """Return int64[D], the fastest of the games that are played as the mappings are, as far as the rules can."""
    games = [rules.decode(game, rules.actions_of(game, mapping)) for mapping in mappings if mapping is not None]
    return min(games, key=lambda played: played[0])[1]

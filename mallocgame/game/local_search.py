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
AT_ONCE = 8  # changed games between looks at the clock, fewer where they take longer than
LOOK_SHARE = 0.005  # this share of the limit
FEWEST = 20  # games for which there must be time: else the program is too long to be played within the limit
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
    begun, best, offered, tried, asked = search.spent_share, search.seconds, 0.0, 0, 0
    span, count = 1.0 - FINISH_SHARE - begun, 1 if search.limits.steps is None else AT_ONCE
    try:
        while (done := (search.spent_share - begun) / span if span > 0 else 1.0) < 1.0 and not search.out_of_time():
            if guide is not None and tried >= asked:
                asked += PER_THOUGHT
                guide(variations)
            moves, before = variations.moves, search.spent_share
            variations.search(count, random, TEMPERATURE * (1.0 - done))
            search.count(variations.moves - moves)
            tried += count
            if search.limits.steps is None:
                count = _as_many(count, search.spent_share - before)
            if variations.seconds < best and done > offered + OFFER_EVERY:
                best, offered = variations.seconds, done
                search.offer(rules.mapping_of(game, variations.actions))
    finally:  # Ctrl-C, too
        search.offer(rules.mapping_of(game, variations.actions))
    if search.mapping is not None and not search.out_of_time():
        _finish(search, game, search.mapping)


def _as_many(count: int, share: float) -> int:
    """Return how many games to change before the next look at the clock, if ``count`` took this share of the limit."""
    return int(min(max(count * LOOK_SHARE / max(share, 1e-9), 1.0), AT_ONCE))


def _finish(search: Incumbent, game: Game, mapping: Mapping) -> None:
    program, hierarchy = search.problem
    if search.limits.steps is not None:
        found = finish(program, game.program, hierarchy, mapping, moves=search.limits.steps - search.steps)
    else:
        found = finish(program, game.program, hierarchy, mapping, search.left_seconds)
    search.offer(found)


def _too_long(search: Incumbent) -> Callable[[], bool]:
    """Return what says whether a game takes too long that begins now."""
    begun = search.spent_share
    until = begun + (1.0 - begun) / FEWEST if search.limits.steps is None else float("inf")
    return lambda: search.spent_share > until


def best_start(search: Incumbent, game: Game, *mappings: Mapping | None) -> I64 | None:
    """Return int64[D], the fastest of the games that are played as the mappings are, as far as the rules can.

    None: there is no mapping, or playing one game takes so long that changing it would be vain.
    """
    best, seconds = None, float("inf")
    for mapping in mappings:
        if mapping is None:
            continue
        wanted = rules.actions_of(game, mapping)
        found, taken = rules.decode(game, wanted, stop=_too_long(search))
        if found == float("inf"):
            break
        if found < seconds:
            best, seconds = taken, found
    return best

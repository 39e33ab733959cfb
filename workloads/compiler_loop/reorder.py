"""The order in which values get their places, mended: what was planned and lost its place is placed first, in turn.

The compiler places values one after the other, most useful first by its own measure. A stay of a plan that finds no
room any more was late in that order. It comes to the front; what it displaces is lost in its place and comes to the
front next time. Each order costs one evaluation (squeaky-wheel optimisation: Joslin and Clements 1999,
doi:10.1613/jair.561).
"""

from collections.abc import Sequence

from mallocgame.mapping import Mapping
from mallocgame.workloads.compiler_loop.overrides import MAX_IN_ORDER
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.realise import OverrideSearch
from mallocgame.workloads.compiler_loop.verify import Evaluation

MOST_TURNS = 10
MAX_STALE = 2  # turns in which the plan came no nearer


def reorder(search: OverrideSearch, reaction: Reaction, goal: Mapping, found: Evaluation) -> Evaluation:
    """Suggest ``goal`` again and again, what was lost before all else; return the evaluation nearest to it.

    Args:
        search: takes note of what is better.
        reaction: knows the way in which ``goal`` was suggested, and keeps the order that was best.
        goal: what was suggested.
        found: what came of it.
    """
    best, best_ahead, stale = found, reaction.ahead, 0
    for _ in range(MOST_TURNS):
        if found.mapping is None or stale >= MAX_STALE or search.is_over():
            break
        ahead = _to_the_front(reaction.lost(goal, found.mapping), reaction.ahead)
        if ahead == list(reaction.ahead):  # nothing that is lost costs anything, or all of it is in front already
            break
        reaction.ahead = ahead
        found = search.try_out(reaction.suggestion(goal))
        stale += 1
        if found.judged_seconds < best.judged_seconds:
            best, best_ahead, stale = found, ahead, 0
    reaction.ahead = best_ahead
    return best


def _to_the_front(lost: Sequence[int], ahead: Sequence[int]) -> list[int]:
    return [*lost, *(tensor for tensor in ahead if tensor not in lost)][:MAX_IN_ORDER]

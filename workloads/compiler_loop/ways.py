"""A whole mapping suggested in several ways (``flags.WAYS``): flags, and what is placed first; the best goes on."""

from collections.abc import Callable, Sequence

from mallocgame.mapping import Mapping
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.realise import OverrideSearch
from mallocgame.workloads.compiler_loop.reorder import reorder
from mallocgame.workloads.compiler_loop.verify import Evaluation
from mallocgame.workloads.xla.compiler import Options

REORDERED = 2  # ways in which what has lost its place is placed first: which is best may change by that

Way = tuple[Evaluation, OverrideSearch, float]  # what came of it, the search with its flags, its ``first_above``


def in_the_best_way(
    search: OverrideSearch,
    new_search: Callable[[Options], OverrideSearch],
    goal: Mapping,
    reaction: Reaction,
    is_time_for_more: Callable[[], bool],
) -> OverrideSearch:
    """Suggest ``goal`` in each way, and return the search that goes on; ``reaction`` then knows way and order.

    Args:
        search: with the best so far, and the flags that are kept.
        new_search: returns a search with other flags.
        goal: the mapping that is wished for.
        reaction: learns from the best.
        is_time_for_more: asked before each way but the first.
    """
    done: list[Way] = []
    for flags, overrides in reaction.ways_from(goal, search.flags):
        if done and not is_time_for_more():
            break
        way = new_search(flags)
        way.best, way.overrides = search.best, search.overrides
        done.append((way.try_out(overrides), way, reaction.first_above))
    return _reordered(sorted(done, key=lambda way: way[0].judged_seconds), goal, reaction, is_time_for_more)


def _reordered(
    ways: list[Way], goal: Mapping, reaction: Reaction, is_time_for_more: Callable[[], bool]
) -> OverrideSearch:
    """Place first what was lost in the best way, and in the next; return the search of the better of them."""
    done: list[tuple[Evaluation, OverrideSearch, float, Sequence[int]]] = []
    for found, search, first_above in ways[:REORDERED]:
        if done and not is_time_for_more():
            break
        reaction.first_above, reaction.ahead = first_above, ()
        nearest = reorder(search, reaction, goal, found)
        done.append((nearest, search, first_above, reaction.ahead))
    best, chosen, reaction.first_above, reaction.ahead = min(done, key=lambda row: row[0].judged_seconds)
    if best.mapping is not None:
        reaction.learn(goal, best.mapping)
    return chosen

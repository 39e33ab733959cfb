"""Greedy: residencies by what they save for the room they take, in several orders, each kept if the judge agrees."""

from mallocgame.baselines.anneal.construction import (
    MAX_PREPARATION,
    compile_construction,
    constructed,
    mapping_of,
    prepared,
)
from mallocgame.solver import Incumbent, solver

SMALL = 6000  # decisions, up to which passes take little of the limit, and candidates may take
MOST_PREPARATION = 0.6  # of it
ORDERS_SHARE = 0.3  # of the limit: up to which another order is tried


@solver(warm_up=compile_construction, is_constructive=True)
def greedy(search: Incumbent) -> None:
    """Add residencies by seconds saved per byte and step, those that the judge agrees to; of several orders the best.

    Whole or in two slices, from and to any layer; at last what still fits beside the rest. A part of a pass is a step.
    """
    is_small = search.program.num_decisions <= SMALL
    made = prepared(search, max_share=MOST_PREPARATION if is_small else MAX_PREPARATION)
    if made.tables is not None and not search.should_stop:
        search.offer(mapping_of(search, made, constructed(search, made, ORDERS_SHARE)))

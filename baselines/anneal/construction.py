"""Choices built from nothing: greedy passes over candidates in several orders, of which the best one counts.

A pass adds what fits beside what is chosen and what the judge agrees to, whole or in two slices. Then what still fits
is added, in other orders. With more than two layers there are also orders that hold what a linear program holds
(``gaps``). What annealing begins with, ``greedy``'s answer, and what other solvers add to theirs, come from here.
"""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mallocgame.baselines import native
from mallocgame.baselines.anneal import kernel
from mallocgame.baselines.anneal.assembly import Candidate, Placed, assemble
from mallocgame.baselines.anneal.candidates import as_compiler_does, candidates
from mallocgame.baselines.anneal.gaps import PLANS, GapOrders
from mallocgame.baselines.anneal.orders import FIRST, ORDERS
from mallocgame.baselines.anneal.start import add, adopt, construct, pace
from mallocgame.baselines.anneal.state import I64, ROW, Choice, Tables
from mallocgame.baselines.anneal.tables import empty_choice, make_tables
from mallocgame.baselines.anneal.timing import judge_all
from mallocgame.explanation.reachable import Reach
from mallocgame.hierarchy import preset
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Incumbent, Limits, Problem
from mallocgame.warm_up import tiny_problem

MAX_PREPARATION = 0.3  # of the limit: candidates that are not made by then are left out
FILLING = ORDERS[:3]  # orders in which what still fits is looked for, again while that gains
MAX_FILLINGS = 3


class Prepared(NamedTuple):
    """A problem's candidates, their arrays (None: there are no candidates), and the seconds that one took to make."""

    pieces: list[Candidate]
    tables: Tables | None
    candidate_seconds: float = 0.0


_latest: list[tuple[Problem, bool, Prepared]] = []  # of the latest problem; lanes share it
_preparing = threading.Lock()


def prepared(search: Incumbent, *, for_compiler: bool | Reach = False, max_share: float = MAX_PREPARATION) -> Prepared:
    """Return the candidates of a problem and their arrays, made once.

    Those that are not made within ``max_share`` of the limit are left out.
    """
    with _preparing:
        for (program, hierarchy), is_for_compiler, made in _latest:
            if program is search.program and hierarchy is search.hierarchy and is_for_compiler == for_compiler:
                return made
        cut: list[bool] = []

        def stop() -> bool:
            if search.spent_share > max_share:
                cut.append(True)
            return bool(cut)

        begun = search.spent_seconds
        pieces = candidates(search.program, search.hierarchy, stop=stop)
        candidate_seconds = pace(search.spent_seconds - begun, len(pieces))
        if for_compiler:
            reach = for_compiler if isinstance(for_compiler, Reach) else Reach()
            pieces = list(as_compiler_does(search.program, search.hierarchy, pieces, reach))
        if not pieces or search.should_stop:
            return Prepared(pieces, None)
        made = Prepared(pieces, make_tables(search.program, search.hierarchy, pieces), candidate_seconds)
        if not cut and isinstance(for_compiler, bool):
            _latest[:] = [(search.problem, for_compiler, made)]
        return made


def nothing_chosen(problem: Problem, tables: Tables) -> Choice:
    """Return the choice of nothing, judged."""
    choice = empty_choice(*problem, tables)
    choice.total[0] = judge_all(tables, choice)
    return choice


def constructed(
    search: Incumbent, made: Prepared, share: float, *, first_share: float = 1.0, is_patient: bool = False
) -> Choice:
    """Return the best choice that passes in several orders make of nothing, and what still fits beside it.

    The first pass goes on until ``first_share`` of the limit is spent, less what its mapping needs; others begin while
    less than ``share`` of it is. With more than two layers ``is_patient`` goes on with orders near the best one's for
    all of that share. What an interrupt ends is offered first.
    """
    assert made.tables is not None
    best = nothing_chosen(search.problem, made.tables)
    try:
        construct(search, made.tables, best, first_share, candidate_seconds=made.candidate_seconds)
        for choice in _in_other_orders(search, made, share, is_patient):
            best = min(best, choice, key=_seconds)
        if _is_time(search, share):
            fill(search, made, best, share)
    except (KeyboardInterrupt, SystemError):
        search.offer(mapping_of(search, made, best))
        raise
    return best


def _in_other_orders(search: Incumbent, made: Prepared, share: float, is_patient: bool) -> Iterator[Choice]:
    """Yield choices built from nothing, while less than a share of the limit is spent."""
    assert made.tables is not None
    for order in ORDERS[1:]:
        if _is_time(search, share):
            choice = nothing_chosen(search.problem, made.tables)
            construct(search, made.tables, choice, share, order=order)
            yield choice
    if search.hierarchy.num_layers == 2 or not _is_time(search, share):
        return
    orders = GapOrders(search, made.pieces)
    while not orders.is_over and (is_patient or orders.tried < len(PLANS)) and _is_time(search, share):
        plan, weights, order_of_all = orders.next()
        choice = nothing_chosen(search.problem, made.tables)
        add(search, made.tables, choice, order_of_all)
        is_held = choice.is_chosen.copy()
        construct(search, made.tables, choice, 1.0, candidate_seconds=made.candidate_seconds)
        search.count()
        orders.learn(plan, weights, _seconds(choice), is_held)
        yield choice


def _is_time(search: Incumbent, share: float) -> bool:
    return search.spent_share < share and not search.should_stop


def fill(search: Incumbent, made: Prepared, choice: Choice, share: float, *, least_layer: int = 1) -> None:
    """Add what still fits, in several orders, while that gains and less than a share of the limit is spent."""
    assert made.tables is not None
    for _ in range(MAX_FILLINGS):
        before = _seconds(choice)
        for order in FILLING:
            construct(search, made.tables, choice, share, least_layer=least_layer, order=order)
        if _seconds(choice) >= before:
            return


def _seconds(choice: Choice) -> float:
    return float(choice.total[0])


def rows_of(choice: Choice) -> I64:
    """Return what is chosen as ``kernel.save`` writes it."""
    rows = np.zeros((len(choice.is_chosen) + 1, ROW), dtype=np.int64)
    kernel.save(choice, rows)
    return rows


def to_mapping(program: Program, pieces: list[Candidate], rows: I64) -> Mapping:
    """Return the mapping of a saved choice."""
    return assemble(program, [Placed(pieces[c], *times) for c, *times in rows.tolist()])


def mapping_of(search: Incumbent, made: Prepared, choice: Choice) -> Mapping:
    """Return the mapping of a choice."""
    rows = rows_of(choice)
    return to_mapping(search.program, made.pieces, rows[: rows[-1, 0]])


def on_top(search: Incumbent, mapping: Mapping) -> None:
    """Offer ``mapping`` with what a greedy pass adds, in slices where that fits and the whole does not.

    Middle layers get something only where there is nothing.
    """
    program, hierarchy = search.problem
    search.offer(mapping)
    made = prepared(search)
    if made.tables is None or search.should_stop:
        return
    choice = empty_choice(program, hierarchy, made.tables)
    adopt(program, made.tables, made.pieces, choice, mapping)
    layer = 2 if mapping.residencies and hierarchy.num_layers > 2 else 1
    seconds = made.candidate_seconds
    construct(search, made.tables, choice, 1.0, candidate_seconds=seconds, least_layer=layer, order=FIRST)
    fill(search, made, choice, 0.5, least_layer=layer)
    search.offer(mapping_of(search, made, choice))


def compile_construction(problem: Problem, **_options: Any) -> None:
    """Compile what ``constructed`` calls on such a problem."""
    search = Incumbent(tiny_for(problem), Limits(seconds=60.0))
    mapping_of(search, made := prepared(search), constructed(search, made, 1.0))


def compile_on_top(problem: Problem, **_options: Any) -> None:
    """Compile what ``on_top`` calls on such a problem."""
    search = Incumbent(tiny_for(problem), Limits(seconds=60.0))
    on_top(search, Mapping())
    tables = prepared(search).tables
    if tables is not None:  # for a large mapping
        none = np.zeros(0, dtype=np.int64)
        kernel.adopt_all(tables, empty_choice(*search.problem, tables), np.zeros((0, ROW), dtype=np.int64))
        kernel.is_apart(tables, empty_choice(*search.problem, tables), none, none)


def tiny_for(problem: Problem) -> Problem:
    """Return the tiny problem with two layers or three, as kernels tell apart; with three a child is started, too."""
    tiny = tiny_problem()
    if problem.hierarchy.num_layers == 2:
        return tiny
    native.start()
    return Problem(tiny.program, preset("host-v5e"))

"""Relay: annealing opens, the game is changed, annealing goes on from the best mapping; limits and interrupts hold."""

import time

import pytest

from mallocgame.game import relay as module
from mallocgame.game import rules
from mallocgame.game.local_search import best_start
from mallocgame.game.relay import open_by_annealing, relay
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.solver import Incumbent, Limits, Problem, Solver, solver
from mallocgame.workloads.make import find_programs

Call = tuple[bool, Mapping | None, int | None]  # refine, the start, the limit in steps


def _recorder(calls: list[Call]) -> Solver:
    """Return a solver that finds nothing, and notes how it was asked."""

    @solver
    def annealing(search: Incumbent, *, refine: bool = False) -> None:
        calls.append((refine, search.mapping, search.limits.steps))
        while not search.out_of_time():
            search.count()

    return annealing


def _run(limits: Limits, calls: list[Call]) -> Incumbent:
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    search = Incumbent(Problem(program, hierarchy), limits, seed=1)
    search.offer(Mapping())
    game, annealing = rules.make_game(program, hierarchy), _recorder(calls)
    opening = open_by_annealing(search, annealing)
    relay(search, game, lambda: best_start(game, opening), annealing)
    return search


def test_each_has_its_share_of_steps_and_begins_where_the_other_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DECISIONS", 10)
    calls: list[Call] = []
    search = _run(Limits(steps=10_000), calls)
    assert [refine for refine, _, _ in calls] == [False, True]
    (_, first, opening_steps), (_, second, last_steps) = calls
    assert opening_steps == 100
    assert last_steps is not None
    assert 400 <= last_steps <= 600
    assert first == Mapping()
    assert second == search.mapping != Mapping()  # what the game found
    assert validate(search.program, search.hierarchy, second) == []
    assert search.steps <= 10_000 + 10 * 60  # a changed game is played to its end
    again: list[Call] = []
    assert _run(Limits(steps=10_000), again).mapping == search.mapping
    assert again == calls


def test_a_limit_in_seconds_is_kept() -> None:
    calls: list[Call] = []
    begun = time.process_time()
    search = _run(Limits(seconds=0.4), calls)
    assert [(refine, steps) for refine, _, steps in calls] == [(False, None), (True, None)]
    assert search.spent_seconds >= 0.4
    assert time.process_time() - begun < 0.8  # its own: others may work here


def test_nothing_is_left_after_a_target() -> None:
    calls: list[Call] = []
    search = _run(Limits(steps=10**6, target_seconds=1e9), calls)
    assert search.steps == 0
    assert calls == [(False, Mapping(), 25)]

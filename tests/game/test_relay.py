"""Relay: annealing opens, the game is changed, annealing goes on from the best mapping; limits and interrupts hold."""

import time

import numpy as np
import pytest

from mallocgame.game import local_search, rules
from mallocgame.game import relay as module
from mallocgame.game.local_search import Guide, best_start
from mallocgame.game.relay import I64, open_by_annealing, relay
from mallocgame.game.rules import Game
from mallocgame.game.variations import Variations
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
    relay(search, game, best_start(search, game, opening), annealing)
    return search


def test_each_has_its_share_of_steps_and_begins_where_the_other_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DECISIONS", 10)
    calls: list[Call] = []
    search = _run(Limits(steps=10_000), calls)
    assert [refine for refine, _, _ in calls] == [False, True]
    (_, first, opening_steps), (_, second, last_steps) = calls
    assert opening_steps == 100
    assert last_steps is not None
    assert 480 <= last_steps <= 530  # from about the half on
    assert first == Mapping()
    assert second == search.mapping != Mapping()  # what the game found
    assert validate(search.program, search.hierarchy, second) == []
    assert 10_000 - 10 < search.steps <= 10_000 + 10 * 60  # a changed game is played to its end
    again: list[Call] = []
    assert _run(Limits(steps=10_000), again).mapping == search.mapping
    assert again == calls


def test_the_game_has_the_seed_and_the_guide_until_half_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, int, object]] = []

    def noted(part: Incumbent, _game: Game, _actions: I64, *, seed: int, guide: Guide | None) -> None:
        asked.append((part.limits.steps, seed, guide))

    monkeypatch.setattr(module, "refine", noted)
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    search = Incumbent(Problem(program, hierarchy), Limits(steps=100_000), seed=5)
    game, calls = rules.make_game(program, hierarchy), list[Call]()
    actions = np.zeros(game.num_decisions, dtype=np.int64)

    def guide(which: Variations) -> None:
        raise AssertionError(which)

    relay(search, game, actions, _recorder(calls), guide=guide)
    assert asked == [(50_000, 5, guide)]
    relay(search, game, actions, _recorder(calls), guide=guide)
    assert len(asked) == 1
    assert [refine for refine, _, _ in calls] == [True]  # nothing was left for more


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


def test_a_game_that_is_played_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.game, "BETWEEN_STOPS", 7)
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    game = rules.make_game(program, hierarchy)
    wanted = np.random.default_rng(0).integers(0, game.num_actions, size=game.num_decisions)
    totals = np.zeros((2, game.num_decisions))
    seconds, taken = rules.decode(game, wanted, totals=totals[0])
    again, taken_again = rules.decode(game, wanted, totals=totals[1], stop=lambda: False)
    assert (again, taken_again.tolist(), totals[1].tolist()) == (seconds, taken.tolist(), totals[0].tolist())
    asked = iter([False, False, True])
    pieces = np.zeros(game.num_decisions)
    assert rules.decode(game, wanted, totals=pieces, stop=lambda: next(asked))[0] == float("inf")
    assert np.flatnonzero(pieces).max() == 3 * 7 - 1
    limits = np.where(np.arange(len(wanted)) == 30, 0.0, np.inf)
    pieces[:] = 0.0
    assert rules.decode(game, wanted, totals=pieces, limits=limits, stop=lambda: False)[0] == float("inf")
    assert np.flatnonzero(pieces).max() == 30


def test_a_program_that_is_too_long_for_the_limit_is_annealed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.game, "BETWEEN_STOPS", 1)
    monkeypatch.setattr(local_search, "FEWEST", 10**9)
    calls: list[Call] = []
    search = _run(Limits(seconds=0.2), calls)
    assert [refine for refine, _, _ in calls] == [False, True]
    assert search.mapping == Mapping()

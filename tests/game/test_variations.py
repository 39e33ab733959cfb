"""Changed replays of the best game: legal, never worse, and in small games as good as any game."""

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from mallocgame.game import rules, variations
from mallocgame.game.rules import Game
from mallocgame.game.variations import Variations
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.workloads.make import find_programs
from mallocgame.workloads.synthetic.generate import Recipe, generate
from tests.game.cases import games
from tests.game.cases import play as play_at_random
from tests.game.oracle import best_play


@settings(deadline=None, max_examples=60)
@given(games(), st.integers(0, 2**16), st.booleans(), st.sampled_from([0.0, 1e-3, 1.0]))
def test_the_best_game_is_legal_and_never_slower(game: Game, seed: int, guided: bool, temperature: float) -> None:
    random = np.random.default_rng(seed)
    state, actions, _ = play_at_random(game, seed, eager=0.5)
    policies = random.random((game.num_decisions, game.num_actions)) if guided else None
    best = Variations(game, np.array(actions, dtype=np.int64), policies)
    assert best.seconds == pytest.approx(rules.total_seconds(state), abs=0)
    before = best.seconds
    for _ in range(3):
        assert best.search(5, random, temperature) == (best.seconds < before)
        current, taken = rules.decode(game, best.current)
        assert taken.tolist() == best.current.tolist()  # legal as it is
        assert current >= best.seconds * (1.0 - 1e-12)
        assert temperature > 0.0 or current == pytest.approx(best.seconds, rel=1e-12)
        mapping = rules.mapping_of(game, best.actions)  # raises where an action is illegal
        assert validate(game.program, game.hierarchy, mapping) == []
        assert simulate(game.program, game.hierarchy, mapping).total_seconds == pytest.approx(best.seconds, rel=1e-9)
        before = best.seconds


@settings(deadline=None, max_examples=60)
@given(games(), st.integers(0, 2**16), st.data())
def test_playing_on_from_a_state_is_playing_the_whole_game(game: Game, seed: int, data: st.DataObject) -> None:
    _, actions, _ = play_at_random(game, seed, eager=0.5)
    wanted = np.random.default_rng(seed).integers(0, game.num_actions, game.num_decisions)
    begin = data.draw(st.integers(0, game.num_decisions))
    wanted[:begin] = actions[:begin]
    state = rules.initial_state(game)
    for action in actions[:begin]:
        rules.step(game, state, action)
    turn = int(state.turn[0])
    seconds, taken = rules.decode(game, wanted, state)
    assert int(state.turn[0]) == turn
    whole_seconds, whole = rules.decode(game, wanted)
    assert seconds == pytest.approx(whole_seconds, rel=1e-12)
    assert taken.tolist() == whole.tolist()


@pytest.mark.parametrize("family", ["chain", "residual", "training", "loop"])
def test_small_games_are_solved(family: str) -> None:
    """All episodes of each game are tried by the oracle; changing one game of it over and over finds the best, too."""
    gained = 0
    for seed in range(4):
        case = generate(Recipe(family=family, decisions=7, capacity_pressure=2.0), seed=seed)
        game = rules.make_game(case.program, case.hierarchy)
        optimum, _ = best_play(game)
        found = Variations(game, np.zeros(game.num_decisions, dtype=np.int64))
        gained += found.search(1500, np.random.default_rng(seed))
        assert found.seconds == pytest.approx(optimum, rel=1e-12)
    assert gained


def test_a_warm_search_leaves_the_best_game_and_may_come_back_with_a_better_one() -> None:
    """From a game that no single variation improves, only a way through slower games goes on."""
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    game = rules.make_game(program, hierarchy)
    found, left = {}, {}
    for temperature in (0.0, 1e-3):
        runs = []
        for seed in range(6):
            best, random = Variations(game, np.zeros(game.num_decisions, dtype=np.int64)), np.random.default_rng(seed)
            for progress in np.linspace(0.0, 1.0, 40):
                best.search(100, random, temperature * (1.0 - progress))
                left[temperature] = left.get(temperature, False) or best.current.tolist() != best.actions.tolist()
            runs.append(best.seconds)
        assert len(set(runs)) > 1  # each seed changes another way
        found[temperature] = float(np.mean(runs))
    assert left[1e-3]
    assert found[1e-3] < found[0.0]


def test_what_is_played_behind_is_what_is_played_here() -> None:
    """Also by one that takes over while it is under way."""
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    game = rules.make_game(program, hierarchy)
    here, behind, heir = (Variations(game, np.zeros(game.num_decisions, dtype=np.int64)) for _ in range(3))
    gained = []
    for seed in range(40):
        temperature = 3e-4 if seed < 20 else 0.0
        gained.append(here.search(25, np.random.default_rng(seed), temperature))
        behind.begin(25, np.random.default_rng(seed), temperature)
        heir.search(25, np.random.default_rng(seed), temperature)  # goes on from what it took over
        assert (heir.seconds, heir.current.tolist()) == (here.seconds, here.current.tolist())
        heir.search(25, np.random.default_rng(1000), 1e-2)  # and elsewhere, which is forgotten
        heir.restore(behind.state())
        assert heir.end() == behind.end() == gained[-1]
        assert not behind.end()
        assert here.current.tolist() == behind.current.tolist() == heir.current.tolist()
    assert {True, False} == set(gained)
    assert here.moves == behind.moves
    assert here.seconds == behind.seconds == heir.seconds


class _Late:
    """What runs only once somebody waits for it."""

    def __init__(self, task: Callable[[], int]) -> None:
        self.result = task


def test_who_asks_waits_for_what_is_played_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variations, "in_background", _Late)
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    game = rules.make_game(program, hierarchy)
    policies = np.random.default_rng(0).random((game.num_decisions, game.num_actions))

    def guided(which: Variations) -> list[float]:
        which.guide(policies)
        return which._kept.doubt.tolist()

    questions: list[Callable[[Variations], object]] = [
        guided,
        lambda which: which.seconds,
        lambda which: which.current.tolist(),
        lambda which: which.actions.tolist(),
        lambda which: which.state()["totals"].tolist(),
        lambda which: which.search(25, np.random.default_rng(1)),
    ]
    for question in questions:
        here, behind, unmoved = (Variations(game, np.zeros(game.num_decisions, dtype=np.int64)) for _ in range(3))
        here.search(25, np.random.default_rng(0), 1e-3)
        behind.begin(25, np.random.default_rng(0), 1e-3)
        assert question(behind) == question(here)
        assert here.seconds < unmoved.seconds
        assert here.moves == behind.moves


def test_states_kept_on_the_way_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    game = rules.make_game(program, hierarchy)
    found = []
    for marks in (1, 7, 1000):
        monkeypatch.setattr(variations, "MARKS", marks)
        best = Variations(game, np.zeros(game.num_decisions, dtype=np.int64))
        assert best.search(400, np.random.default_rng(5))
        found.append((best.seconds, best.actions.tolist()))
    assert found[1][1] == found[0][1] == found[2][1]
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)


def test_the_agents_doubts_come_first() -> None:
    """Who knows a better game finds it in fewer tries."""
    case = generate(Recipe(family="planted", decisions=40, capacity_pressure=1.0), seed=3)
    game = rules.make_game(case.program, case.hierarchy)
    nothing = np.zeros(game.num_decisions, dtype=np.int64)
    _, better = rules.decode(game, np.full(game.num_decisions, game.num_actions - 1))
    knows = 0.05 + 0.85 * np.eye(game.num_actions)[better]

    def mean(policies: np.ndarray | None) -> float:
        runs = []
        for seed in range(20):
            best = Variations(game, nothing, policies)
            best.search(15, np.random.default_rng(seed))
            runs.append(best.seconds)
        return float(np.mean(runs))

    assert mean(knows) < mean(None) < rules.decode(game, nothing)[0]

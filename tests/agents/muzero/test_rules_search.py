"""Search on the true rules: legal, exact, never worse than its lead, and near the end as good as trying everything."""

import math
from dataclasses import replace
from itertools import product

import mctx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import Followed, RulesSearch, none_followed
from mallocgame.agents.muzero.search import key_of
from mallocgame.agents.muzero.selfplay import SelfPlay, play
from mallocgame.agents.muzero.tree import considered_visits, seek
from mallocgame.game import rules, threads
from mallocgame.game.batch import MallocGameBatch
from mallocgame.workloads.make import find_programs
from mallocgame.workloads.synthetic.generate import Recipe, generate
from tests.agents.muzero.test_training import TINY

FAMILIES = ("chain", "residual", "training", "loop")
ROWS = 6


@pytest.mark.parametrize("considered", [1, 2, 3, 5])
@pytest.mark.parametrize("simulations", [1, 4, 16, 50])
def test_halving_is_what_mctx_does(considered: int, simulations: int) -> None:
    expected = mctx._src.seq_halving.get_sequence_of_considered_visits(considered, simulations)
    assert considered_visits(considered, simulations) == list(expected)


def _searches(batch: MallocGameBatch, simulations: int, *, explore: bool) -> tuple[RulesSearch, object]:
    model = Model(TINY, batch.num_actions)
    learner, _ = make_learner(model, batch.observations, 0)
    return RulesSearch(model, num_simulations=simulations, explore=explore), learner.target


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(FAMILIES), st.integers(8, 24), st.integers(0, 99), st.booleans(), st.sampled_from((8, 40)))
def test_a_search_is_legal_exact_and_never_loses_its_lead(
    family: str, size: int, seed: int, explore: bool, simulations: int
) -> None:
    case = generate(Recipe(family=family, decisions=size, capacity_pressure=2.0), seed=seed)
    batch = MallocGameBatch([(case.program, case.hierarchy)], ROWS)
    game, random = batch.games[0], np.random.default_rng(seed)
    search, weights = _searches(batch, simulations, explore=explore)
    leads = random.integers(0, batch.num_actions, size=(ROWS, game.num_decisions))
    while not batch.done.all():
        before = [rules.decode(game, leads[row], batch.state(row))[0] for row in range(ROWS)]
        states = batch.batch_state.ints.copy(), batch.batch_state.floats.copy()
        found = search(weights, batch, leads, key_of(seed))
        assert np.array_equal(states[0], batch.batch_state.ints)
        assert np.array_equal(states[1], batch.batch_state.floats)
        now = batch.all_seconds()
        for row in range(ROWS):
            after, taken = rules.decode(game, leads[row], batch.state(row))
            turn = int(batch.state(row).turn[0])
            assert taken[turn:].tolist() == leads[row, turn:].tolist()  # legal as it is
            assert after <= before[row] * (1.0 + 1e-12)
            assert found.value[row] == pytest.approx(math.log(now[row] / after), abs=1e-6)
            assert batch.action_masks[row, found.action[row]]
        assert found.action[0] == leads[0, turn]  # the first row has no noise
        assert found.policy[~batch.action_masks].sum() == 0.0
        assert found.policy.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
        batch.step(found.action)
    assert not batch.illegal.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_with_three_decisions_left_it_finds_what_trying_everything_finds(family: str) -> None:
    for seed in range(6):
        case = generate(Recipe(family=family, decisions=9, capacity_pressure=2.0), seed=seed)
        batch = MallocGameBatch([(case.program, case.hierarchy)], 1)
        game, random = batch.games[0], np.random.default_rng(seed)
        while batch.state(0).turn[0] < game.num_decisions - 3:
            batch.step([int(random.choice(np.flatnonzero(batch.action_masks[0])))])
        turn = int(batch.state(0).turn[0])
        wanted = np.zeros((batch.num_actions**3, game.num_decisions), dtype=np.int64)
        wanted[:, turn:] = list(product(range(batch.num_actions), repeat=3))
        optimum = min(rules.decode(game, row, batch.state(0))[0] for row in wanted)
        search, weights = _searches(batch, 150, explore=False)
        leads = np.zeros((1, game.num_decisions), dtype=np.int64)
        found = search(weights, batch, leads, key_of(seed))
        assert rules.decode(game, leads[0], batch.state(0))[0] == pytest.approx(optimum, rel=1e-12)
        assert found.value[0] == pytest.approx(math.log(batch.seconds(0) / optimum), abs=1e-6)


def test_a_game_is_never_worse_than_its_lead_and_more_simulations_find_more() -> None:
    pair = find_programs(family="training", decisions=60)[0]
    batch = MallocGameBatch([pair], 1)
    lead = np.zeros(batch.games[0].num_decisions, dtype=np.int64)
    seconds = [rules.decode(batch.games[0], lead)[0]]
    for simulations in (1, 4, 16, 64):
        search, weights = _searches(batch, simulations, explore=False)
        ((actions, _, found),) = play(pair, search, weights, key_of(0), 1, lead=lead)
        assert rules.decode(batch.games[0], actions.astype(np.int64))[0] == pytest.approx(found, rel=1e-12)
        seconds.append(found)
    assert seconds[4] < seconds[3] < seconds[2] < seconds[0]  # the last by changes of the lead
    assert seconds[1] <= seconds[0]


def test_a_plan_is_a_better_game_that_can_be_played_and_stopping_keeps_what_is_there() -> None:
    pair = find_programs(family="training", decisions=60)[0]
    batch = MallocGameBatch([pair], 1)
    game = batch.games[0]
    lead = np.zeros(game.num_decisions, dtype=np.int64)
    search, _ = _searches(batch, 48, explore=False)
    planned = search.plan(game, lead, key_of(1), lambda: False)
    seconds, taken = rules.decode(game, planned)
    assert taken.tolist() == planned.tolist()
    assert seconds < rules.decode(game, lead)[0]
    assert planned.tolist() == search.plan(game, lead, key_of(1), lambda: False).tolist()
    assert planned.tolist() != search.plan(game, lead, key_of(2), lambda: False).tolist()
    assert search.plan(game, lead, key_of(1), lambda: True).tolist() == lead.tolist()
    few, _ = _searches(batch, 16, explore=False)
    assert few.plan(game, lead, key_of(1), lambda: False).tolist() == lead.tolist()  # none is left for it


def test_stopping_follows_the_lead() -> None:
    pair = find_programs(family="training", decisions=60)[0]
    batch = MallocGameBatch([pair], 1)
    lead = np.zeros(batch.games[0].num_decisions, dtype=np.int64)
    search, weights = _searches(batch, 8, explore=False)
    asked = iter([False] * 20)
    ((_, _, found),) = play(pair, search, weights, key_of(0), 1, lead=lead, stop=lambda _: next(asked, True))
    ((_, _, whole),) = play(pair, search, weights, key_of(0), 1, lead=lead)
    assert whole < found < rules.decode(batch.games[0], lead)[0]


def test_a_search_from_a_position_is_that_of_the_game_that_led_there() -> None:
    pair = find_programs(family="residual", decisions=30)[0]
    live = MallocGameBatch([pair], 3)
    search, weights = _searches(live, 8, explore=False)
    actions = []
    for _ in range(11):
        actions.append(live.action_masks.argmax(axis=1))
        live.step(actions[-1])
    leads = np.zeros((3, live.games[0].num_decisions), dtype=np.int64)
    leads[:, :11] = np.stack(actions, axis=1)
    states = rules.make_batch(live.games, np.zeros(3, dtype=np.int64))
    seek(states, np.full(3, 11), leads)
    one = search(weights, live, leads.copy(), key_of(1))
    other = search.from_states(weights, live, states, live.observations, live.action_masks, leads.copy(), key_of(1))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("simulations", [8, 24])
def test_what_is_known_of_leads_that_are_followed_changes_nothing(simulations: int) -> None:
    pairs = find_programs(family=["training", "loop"], decisions=24)
    found = []
    for is_told in (False, True):
        batch = MallocGameBatch(pairs, 6)
        search, weights = _searches(batch, simulations, explore=True)
        leads = np.zeros((6, max(game.num_decisions for game in batch.games)), dtype=np.int64)
        followed, seen, skipped = none_followed(leads), [], 0
        while not batch.done.all():
            skipped += int(followed.known.sum())
            result = search(weights, batch, leads, key_of(len(seen)), followed if is_told else None)
            turns = np.array([min(int(batch.state(row).turn[0]), leads.shape[1] - 1) for row in range(6)])
            followed.note(result.action, leads, turns)
            batch.step(result.action)
            seen.append([np.array(part) for part in (*result, leads, batch.rewards)])
        assert (skipped > len(seen)) == is_told
        found.append(seen)
    for one, other in zip(*found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_lead_is_known_where_the_move_was_its_own() -> None:
    leads = np.array([[0, 1, 2], [1, 0, 2], [0, 1, 2], [2, 2, 0]])
    followed = Followed(np.zeros(leads.shape), np.array([True, True, False, True]))
    followed.note(np.array([2, 1, 1, 2]), leads, np.array([2, 1, 1, 0]))
    assert followed.known.tolist() == [True, False, False, True]


def test_groups_of_rows_on_several_cores_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = find_programs(family=["training", "chain"], decisions=16)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(threads, "num_cores", lambda cores=cores: cores)
        monkeypatch.setattr(threads, "FEWEST_ROWS", 2)
        batch = MallocGameBatch(pairs, 7)
        search, weights = _searches(batch, 8, explore=True)
        leads = np.zeros((7, max(game.num_decisions for game in batch.games)), dtype=np.int64)
        seen = []
        while not batch.done.all():
            moves = search(weights, batch, leads, key_of(len(seen)))
            batch.step(moves.action)
            parts = [*moves, leads, batch.rewards, *batch.observations.values()]
            seen.append([np.array(part) for part in parts])
        found.append(seen)
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_own_games_play_the_network_and_learn_from_the_search() -> None:
    """With own games alone, and a network that knows nothing, the moves are random and legal, the targets are not."""
    pairs = find_programs(family="training", decisions=16)
    probe = MallocGameBatch(pairs, 1)
    model = Model(TINY, probe.num_actions)
    weights = make_learner(model, probe.observations, 0)[0].target
    search = RulesSearch(model, num_simulations=8, explore=True)
    games = {}
    for share in (0.0, 1.0):
        selfplay = SelfPlay(pairs, replace(TINY, own_games=share, stray_moves=0.0), search, 0)
        finished = [row for move in range(16) for row in selfplay.advance(weights, key_of(move))]
        assert not selfplay.batch.illegal.any()
        games[share] = [episode for episode, _, _ in finished]
    best = {share: max(float(game.rewards.sum()) for game in found) for share, found in games.items()}
    mean = {share: np.mean([float(game.rewards.sum()) for game in found]) for share, found in games.items()}
    assert mean[1.0] < mean[0.0]
    assert best[0.0] >= best[1.0]
    agreed = [np.mean(game.policies.argmax(axis=1) == game.actions) for game in games[1.0]]
    assert np.mean(agreed) < 0.9

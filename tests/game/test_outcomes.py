"""What the observation says of each action is what the rules then do; prices say where memory is short."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.features import OUTLOOK, foresee
from mallocgame.game.observation import OUTCOMES
from mallocgame.game.prices import find_prices
from mallocgame.game.rules.copying import copy_live
from mallocgame.game.rules.state import Groups, State
from mallocgame.jit import kernel
from mallocgame.judge.simulation import simulate
from mallocgame.workloads.make import find_programs

SEEDS = st.integers(0, 10_000)
FAMILY = st.sampled_from(["chain", "residual", "transformer", "training", "loop", "embedding"])
WHOLE = (  # arrays that hold nothing but what play reads
    *("turn", "served", "current", "latest", "counts", "due_first", "in_flight", "rect_counts", "reservation_counts"),
    *("occupied", "layer_bytes", "heads", "total", "stall", "elapsed", "idle", "busy", "left"),
)
copy_state = kernel(copy_live.py_func)  # type: ignore[attr-defined]


def squashed(x: float) -> float:
    return x / (1.0 + abs(x))


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, family=FAMILY, chip=st.sampled_from(["v5e", "host-v5e"]), pressure=st.sampled_from([1.0, 4.0]))
def test_outcomes_are_what_the_judge_says_of_the_next_mapping(
    seed: int, family: str, chip: str, pressure: float
) -> None:
    """Gain, wait, issue and end of every legal action, from the two mappings alone; what was tried is undone."""
    options = {"decisions": 25, "seed": seed, "hierarchy": chip, "capacity_pressure": pressure}
    (pair,) = find_programs(family=family, **options)
    batch, random = MallocGameBatch([pair], 1), np.random.default_rng(seed)
    game, unit = batch.games[0], foresee(batch.games[0]).unit_seconds
    state = rules.initial_state(game)
    while not batch.done[0]:
        group = game.rules.groups[game.rules.decisions[state.turn[0]]]
        tensor, step = int(game.rules.tensors[group[Groups.TENSOR], -1]), int(group[Groups.STEP])
        before = rules.to_mapping(game, state)
        trial = State(state.layout, batch._trial.ints[0], batch._trial.floats[0])
        assert rules.to_mapping(game, trial) == before
        for name in WHOLE:
            assert (getattr(trial, name) == getattr(state, name)).all(), name
        for action, row in enumerate(batch.observations["outcomes"][0]):
            found = dict(zip(OUTCOMES, row.tolist(), strict=True))
            if not batch.action_masks[0, action]:
                assert not any(found.values())
                continue
            after = rules.to_mapping(game, rules.apply(game, state, action)[0])
            old, new = (simulate(*pair, mapping) for mapping in (before, after))
            assert found["legal"] == 1.0
            gain, wait = old.total_seconds - new.total_seconds, new.stall_seconds.sum() - old.stall_seconds.sum()
            assert found["gain"] == pytest.approx(squashed(gain / unit), abs=1e-5)
            assert found["wait"] == pytest.approx(squashed(wait / unit), abs=1e-5)
            copies = [t for t in after.transfers if t.tensor == tensor and t.target >= 0 and t not in before.transfers]
            if action % 2 == 1 and len(copies) == 1:
                ahead = step - copies[0].start_after - 1
                assert found["ahead"] == pytest.approx(np.log1p(ahead) / np.log1p(pair[0].num_steps), abs=1e-6)
            own = [r for r in after.residencies if r.tensor == tensor and r.start_step <= step < r.end_step]
            if action > 0 and len(own) == 1 and before != after:
                lasts = np.log1p(own[0].end_step - step) / np.log1p(pair[0].num_steps)
                assert found["lasts"] == pytest.approx(lasts, abs=1e-6)
        chosen = int(random.choice(np.flatnonzero(batch.action_masks[0])))
        rules.step(game, state, chosen)
        batch.step([chosen])


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, family=FAMILY, chip=st.sampled_from(["v5e", "host-v5e"]))
def test_a_copied_state_goes_on_like_its_source(seed: int, family: str, chip: str) -> None:
    """The target holds another game's leavings before."""
    (pair,) = find_programs(family=family, decisions=40, seed=seed, hierarchy=chip)
    game, random = rules.make_game(*pair), np.random.default_rng(seed)
    target, source = rules.initial_state(game), rules.initial_state(game)
    for state, count in ((target, 40), (source, int(random.integers(40)))):
        for _ in range(min(count, game.num_decisions)):
            rules.step(game, state, int(random.choice(np.flatnonzero(rules.legal_actions(game, state)))))
    copy_state(game.rules, target, source)
    assert rules.to_mapping(game, target) == rules.to_mapping(game, source)
    while not rules.is_terminal(game, source):
        legal = rules.legal_actions(game, source)
        assert (rules.legal_actions(game, target) == legal).all()
        action = int(random.choice(np.flatnonzero(legal)))
        assert rules.step(game, target, action) == rules.step(game, source, action)
    assert rules.to_mapping(game, target) == rules.to_mapping(game, source)
    assert isinstance(target, State)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, family=FAMILY, pressure=st.floats(0.3, 6.0))
def test_memory_costs_nothing_where_all_that_is_wanted_fits(seed: int, family: str, pressure: float) -> None:
    """And something where it does not; where nothing is short, everything is taken that pays."""
    (pair,) = find_programs(family=family, decisions=60, seed=seed, capacity_pressure=pressure)
    game = rules.make_game(*pair)
    count = game.rules.num_groups
    benefit = np.random.default_rng(seed).random(count)
    work, idle = np.full(count, 0.5), np.arange(game.rules.num_steps + 1.0)
    found = find_prices(game, 1, benefit, work, idle)
    price = np.diff(found.cumulative)
    assert (price >= 0.0).all()
    assert (price[found.wanted <= 1.0] == 0.0).all()
    assert (price[found.wanted > 1.0] > 0.0).all()
    if (found.wanted <= 1.0).all():  # then everything has its way, the stay where there is one
        assert (found.chosen.sum(axis=0)[benefit > found.rent.min(axis=0)] == 1.0).all()


def test_the_outlook_is_the_mean_price_of_each_span() -> None:
    (pair,) = find_programs(family="training", decisions=80, capacity_pressure=4.0)
    batch = MallocGameBatch([pair], 1)
    game, known = batch.games[0], foresee(batch.games[0])
    price = np.diff(known.cumulative[1])
    assert price.any()
    for turn in range(game.num_decisions):
        step = int(game.rules.groups[game.rules.decisions[turn], Groups.STEP])
        row = batch.observations["outlook"][0, OUTLOOK.index("price")]
        for column, (begin, end) in enumerate([(0, 1), (1, 2), (2, 4), (4, 8), (8, 16)]):
            mean = price[step + begin : step + end].sum() / (end - begin)
            assert row[column] == pytest.approx(mean / (1.0 + mean), abs=1e-5)
        batch.step([0])

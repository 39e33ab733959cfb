"""Programs with branches as games: played as ``collapse`` shows them, their mappings are the program's own."""

from collections import Counter

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.play import play as play_solver
from mallocgame.game.env import MallocEnv
from mallocgame.game.rules import (
    actions_of,
    decode,
    initial_state,
    is_terminal,
    legal_actions,
    make_game,
    step,
    to_mapping,
)
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.workloads import suite
from tests.strategies import branching_programs, small_hierarchy

MEMORY = small_hierarchy(8)


def test_every_state_is_a_valid_mapping_of_the_program_itself() -> None:
    seen: Counter[bool] = Counter()

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
    )
    @given(branching_programs(), st.integers(0, 2**20))
    def check(program: Program, seed: int) -> None:
        if not home_seconds(program, MEMORY) > 0:
            return
        game = make_game(program, MEMORY)
        state, rng, actions = initial_state(game), np.random.default_rng(seed), []
        while not is_terminal(game, state):
            legal = np.flatnonzero(legal_actions(game, state))
            actions.append(int(rng.choice(legal[1:] if len(legal) > 1 and rng.random() < 0.8 else legal)))
            step(game, state, actions[-1])
            assert validate(program, MEMORY, to_mapping(game, state)) == [], actions
        mapping = to_mapping(game, state)
        seen[bool(program.conditionals and mapping.residencies)] += 1
        assert len(actions_of(game, mapping)) == game.num_decisions

    check()
    assert seen[True] > 25, seen


@pytest.mark.parametrize("name", ["early_exit-v5e", "adaptive_ode-v5e"])
def test_a_mapping_is_played_as_it_is(name: str) -> None:
    trace = suite.load(name)
    program, hierarchy = trace.program, trace.hierarchy
    assert program.conditionals
    home = home_seconds(program, hierarchy)
    found = greedy(program, hierarchy).mapping
    game = make_game(program, hierarchy)
    _, taken = decode(game, actions_of(game, found))
    state = initial_state(game)
    for action in taken.tolist():
        step(game, state, action)
    played = to_mapping(game, state)
    assert validate(program, hierarchy, played) == []
    assert simulate(program, hierarchy, played).total_seconds < home
    better = anneal(program, hierarchy, steps=20_000)
    assert validate(program, hierarchy, better.mapping) == []
    assert better.seconds == simulate(program, hierarchy, better.mapping).total_seconds < home
    assert play_solver(program, hierarchy, steps=3000).seconds < home


def test_the_environment_takes_branches() -> None:
    trace = suite.load("early_exit-v5e")
    env = gymnasium.make("MallocGame-v0", programs=[(trace.program, trace.hierarchy)], render_mode="ansi").unwrapped
    assert isinstance(env, MallocEnv)
    _, info = env.reset(seed=0)
    done = False
    while not done:
        _, _, done, _, info = env.step(np.int64(info["action_mask"].nonzero()[0][-1]))
    mapping = env.to_mapping()
    assert mapping != Mapping()
    assert validate(trace.program, trace.hierarchy, mapping) == []
    assert trace.program.name in str(env.render())

"""Programs with branches as games: played as ``collapse`` shows them, their mappings are the program's own."""

from collections import Counter

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.game.env import MallocEnv
from mallocgame.game.rules import (
    actions_of,
    decode,
    initial_state,
    is_terminal,
    legal_actions,
    make_game,
    mapping_of,
    step,
    to_mapping,
)
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Conditional, Instruction, Program, Tensor, Use
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
def test_solvers_and_games_take_branches(name: str) -> None:
    trace = suite.load(name)
    program, hierarchy = trace.program, trace.hierarchy
    assert program.conditionals
    home = home_seconds(program, hierarchy)
    for found in (greedy(program, hierarchy), anneal(program, hierarchy, steps=500)):
        assert validate(program, hierarchy, found.mapping) == []
        assert found.seconds == simulate(program, hierarchy, found.mapping).total_seconds <= home
    game = make_game(program, hierarchy)
    _, taken = decode(game, actions_of(game, found.mapping))
    assert validate(program, hierarchy, mapping_of(game, taken)) == []


def test_a_game_saves_what_a_branch_reads() -> None:
    """A weight that both branches read, and a step beside which it can be copied."""
    steps = tuple(
        Instruction(name=f"i{t}", compute_seconds=8.0 * (t == 0), trip_count=1 - 0.5 * (t > 0)) for t in range(3)
    )
    reads = (Use(step=1, bytes=16), Use(step=2, bytes=16))
    weight = Tensor(name="w", size_bytes=4, is_parameter=True, uses=reads)
    conditional = Conditional(edges=(1, 2, 3), weights=(0.5, 0.5))
    program = Program(name="p", instructions=steps, tensors=(weight,), conditionals=(conditional,))
    game = make_game(program, MEMORY)
    assert game.num_decisions == 1
    mapping = mapping_of(game, np.array([1]))
    assert validate(program, MEMORY, mapping) == []
    assert simulate(program, MEMORY, Mapping()).total_seconds == 8.0 + 16.0
    assert simulate(program, MEMORY, mapping).total_seconds == 8.0 + 4.0


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

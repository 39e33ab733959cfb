"""Evolution: valid, exact, never worse than its start, the same for any number of workers, and optimal when tiny."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mallocgame.baselines.play import evolution as module
from mallocgame.baselines.play.evolution import (
    claimed,
    cross,
    encode,
    evolution,
    first_genomes,
    fitness,
    mapping_of,
    mutate,
)
from mallocgame.game.rules import Game, actions_of, decode
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from tests.baselines.solvers.tiny import tiny_hierarchy, tiny_program
from tests.game.cases import games
from tests.strategies import likely_mappings, programs, small_hierarchy
from tests.toy import toy_program


def test_real_sizes_gain_and_the_start_is_never_lost() -> None:
    program, memory = toy_program(num_layers=16), preset("v5e")
    result = evolution(program, memory, seconds=3.0, seed=1, workers=1)
    assert validate(program, memory, result.mapping) == []
    assert result.seconds == pytest.approx(simulate(program, memory, result.mapping).total_seconds, rel=1e-12)
    assert result.seconds < 0.9 * home_seconds(program, memory)
    assert [s for _, s in result.history] == sorted((s for _, s in result.history), reverse=True)
    again = evolution(program, memory, seconds=0.2, seed=2, start=result.mapping, workers=1)
    assert again.seconds <= result.seconds


@settings(max_examples=40, deadline=None)
@given(st.data(), programs(max_steps=8, max_tensors=4), st.integers(2, 3))
def test_every_answer_is_valid_and_no_worse_than_its_start(data: st.DataObject, program: Program, layers: int) -> None:
    memory = small_hierarchy(num_layers=layers)
    start = data.draw(likely_mappings(program, memory))
    if validate(program, memory, start):
        start = Mapping()
    result = evolution(program, memory, seconds=0.03, start=start)
    assert validate(program, memory, result.mapping) == []
    assert result.seconds <= simulate(program, memory, start).total_seconds + 1e-9


@settings(max_examples=200, deadline=None)
@given(games(), st.integers(0, 2**31))
def test_space_is_claimed_by_priority_and_never_twice(game: Game, seed: int) -> None:
    problem = encode(game.program, game.hierarchy)
    assume(problem.game.num_decisions > 0)
    rng = np.random.default_rng(seed)
    priority = rng.permutation(problem.num_tensors).astype(np.float64)
    action = rng.integers(0, problem.game.num_actions, problem.game.num_decisions)
    wanted = claimed(problem, priority, action)
    assert ((wanted == action) | (wanted == 0)).all()
    used = np.zeros((game.hierarchy.num_layers, game.program.num_steps), dtype=np.int64)
    for d, a in enumerate(wanted.tolist()):
        used[(a + 1) // 2, problem.step[d]] += problem.size_bytes[(a + 1) // 2, problem.tensor[d]]
    assert (used[1:] <= problem.capacity_bytes[1:, None]).all()
    for d in np.flatnonzero(problem.tensor == int(priority.argmax())).tolist():
        layer = (int(action[d]) + 1) // 2
        fits = layer == 0 or problem.size_bytes[layer, problem.tensor[d]] <= problem.capacity_bytes[layer]
        assert not fits or wanted[d] == action[d]


@pytest.mark.parametrize("seed", [0, 4, 12, 24, 28, 36])
def test_the_best_of_all_action_sequences_is_found(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 10)
    program, memory = tiny_program(seed, num_steps=5, num_tensors=3), tiny_hierarchy(7 * seed + 1)
    problem = encode(program, memory)
    count = problem.game.num_decisions
    assert 0 < count <= 9
    choices = product(range(problem.game.num_actions), repeat=count)
    optimum = min(decode(problem.game, np.array(actions, dtype=np.int64))[0] for actions in choices)
    result = evolution(program, memory, seconds=60.0, seed=seed, workers=1)
    assert result.seconds == pytest.approx(optimum, rel=1e-12)


def test_workers_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1)
    program, memory = toy_program(num_layers=3, seed=2), preset("v5e")
    one = evolution(program, memory, seconds=100.0, seed=5, workers=1)
    two = evolution(program, memory, seconds=100.0, seed=5, workers=2)
    assert one.mapping == two.mapping
    assert [s for _, s in one.history] == [s for _, s in two.history]
    assert len(one.history) > 1


@settings(max_examples=60, deadline=None)
@given(games(), st.integers(0, 2**31))
def test_children_are_genomes_of_their_parents(game: Game, seed: int) -> None:
    problem = encode(game.program, game.hierarchy)
    assume(problem.game.num_decisions > 0)
    rng = np.random.default_rng(seed)
    start = actions_of(problem.game, Mapping())
    rows = list(first_genomes(problem, rng, start))
    assert rows[0][1].tolist() == start.tolist()
    child = cross(problem, rng, rows[1], rows[2])
    for d, m in enumerate(problem.tensor.tolist()):
        parents = [row for row in rows[1:3] if row[0][m] == child[0][m]]
        assert any(row[1][d] == child[1][d] for row in parents)
    mutate(problem, rng, *child)
    assert (child[0] >= 0).all()
    assert ((child[1] >= 0) & (child[1] < problem.game.num_actions)).all()
    mapping = mapping_of(problem, *child)
    assert validate(game.program, game.hierarchy, mapping) == []
    judged = simulate(game.program, game.hierarchy, mapping).total_seconds
    assert fitness(problem, *child) == pytest.approx(judged, rel=1e-9)


def test_no_time_and_nothing_to_decide_return_the_start() -> None:
    program, memory = toy_program(num_layers=4), preset("v5e")
    assert evolution(program, memory, seconds=0.0).mapping == Mapping()
    fixed = program.focused(1.0)
    assert evolution(fixed, memory, seconds=1.0).mapping == Mapping()


def test_an_interrupt_returns_the_incumbent() -> None:
    calls = []

    def interrupt(_: float) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    program, memory = toy_program(num_layers=20), preset("v5e")
    result = evolution(program, memory, seconds=100.0, progress=interrupt, workers=1)
    assert result.status == "interrupted"
    assert result.seconds < home_seconds(program, memory)
    assert validate(program, memory, result.mapping) == []

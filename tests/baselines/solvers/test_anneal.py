"""Annealing: what it returns is always valid, judged exactly, never worse than its start, and optimal when tiny."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import kernel
from mallocgame.baselines.anneal.candidates import assemble, candidates
from mallocgame.baselines.anneal.solve import _adopt, _empty_choice, anneal, make_tables
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from tests.strategies import likely_mappings, programs, small_hierarchy


@settings(max_examples=400, deadline=None)
@given(st.integers(2, 3), programs(max_steps=10, max_tensors=6), st.integers(0, 2**31))
def test_every_state_is_a_valid_mapping_judged_exactly(num_layers: int, program: Program, seed: int) -> None:
    memory = small_hierarchy(num_layers=num_layers)
    pieces = candidates(program, memory)
    if not pieces:
        return
    problem, best = make_tables(program, memory, pieces), np.zeros((len(pieces) + 1, 4), dtype=np.int64)
    state = _empty_choice(program, memory, problem)
    state.total[0] = kernel.judge(problem, state, np.inf)
    assert state.total[0] == pytest.approx(home_seconds(program, memory))
    kernel.anneal(problem, state, best, float(state.total[0]), 60, 1.0, 0.1, seed)
    rows = [(c, state.issue[c], state.back[c], state.offset[c]) for c in state.chosen[: state.number[0]]]
    mapping = assemble(program, [(pieces[c], int(i), int(b), int(o)) for c, i, b, o in rows])
    assert validate(program, memory, mapping) == []
    assert simulate(program, memory, mapping).total_seconds == pytest.approx(float(state.total[0]), abs=1e-9)
    fresh = _empty_choice(program, memory, problem)
    for c, issue, back, offset in rows:
        fresh.issue[c], fresh.back[c], fresh.offset[c] = issue, back, offset
        kernel.set_span(problem, fresh, int(c))
        kernel.put(problem, fresh, int(c))
    assert np.array_equal(fresh.layer_bytes, state.layer_bytes)
    assert np.allclose(fresh.elapsed, state.elapsed, rtol=0, atol=0)


@settings(max_examples=150, deadline=None)
@given(st.data(), programs(max_steps=8, max_tensors=4))
def test_a_start_is_adopted_validly_and_never_made_worse(data: st.DataObject, program: Program) -> None:
    memory = small_hierarchy()
    start = data.draw(likely_mappings(program, memory))
    if validate(program, memory, start):
        start = Mapping()
    pieces = candidates(program, memory)
    if pieces:
        problem = make_tables(program, memory, pieces)
        state = _empty_choice(program, memory, problem)
        _adopt(program, problem, pieces, state, start)
        chosen = state.chosen[: state.number[0]]
        rows = [(pieces[c], int(state.issue[c]), int(state.back[c]), int(state.offset[c])) for c in chosen]
        assert validate(program, memory, assemble(program, rows)) == []
    result = anneal(program, memory, seconds=0.01, start=start)
    assert validate(program, memory, result.mapping) == []
    assert result.seconds <= simulate(program, memory, start).total_seconds + 1e-9
    assert result.lower_bound_seconds <= result.seconds + 1e-9

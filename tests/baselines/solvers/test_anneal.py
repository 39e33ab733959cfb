"""Annealing: what it returns is always valid, judged exactly, never worse than its start, and optimal when tiny."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import kernel, timing
from mallocgame.baselines.anneal.candidates import candidates
from mallocgame.baselines.anneal.solve import anneal, restore, to_mapping
from mallocgame.baselines.anneal.start import adopt
from mallocgame.baselines.anneal.state import ROW
from mallocgame.baselines.anneal.tables import empty_choice, make_tables
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from tests.strategies import likely_mappings, programs, small_hierarchy


@settings(max_examples=400, deadline=None)
@given(st.integers(2, 4), programs(max_steps=10, max_tensors=6), st.integers(0, 2**31))
def test_every_state_is_a_valid_mapping_judged_exactly(num_layers: int, program: Program, seed: int) -> None:
    memory = small_hierarchy(num_layers=num_layers)
    pieces = candidates(program, memory)
    if not pieces:
        return
    tables, best = make_tables(program, memory, pieces), np.zeros((len(pieces) + 1, ROW), dtype=np.int64)
    state = empty_choice(program, memory, tables)
    state.total[0] = timing.judge(tables, state, np.inf)
    assert state.total[0] == pytest.approx(home_seconds(program, memory))
    kernel.anneal(tables, state, best, float(state.total[0]), 60, 1.0, 0.1, seed)
    kernel.save(state, best)
    mapping = to_mapping(program, pieces, best[: best[-1, 0]])
    assert validate(program, memory, mapping) == []
    assert simulate(program, memory, mapping).total_seconds == pytest.approx(float(state.total[0]), abs=1e-9)
    fresh = empty_choice(program, memory, tables)
    restore(program, memory, tables, fresh, best)
    assert fresh.total[0] == pytest.approx(float(state.total[0]), abs=1e-12)
    assert np.array_equal(fresh.layer_bytes, state.layer_bytes)
    assert np.allclose(fresh.elapsed, state.elapsed, rtol=0, atol=0)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(2, 3), programs(max_steps=8, max_tensors=4))
def test_a_start_is_adopted_validly_and_never_made_worse(
    data: st.DataObject, num_layers: int, program: Program
) -> None:
    memory = small_hierarchy(num_layers=num_layers)
    start = data.draw(likely_mappings(program, memory))
    if validate(program, memory, start):
        start = Mapping()
    pieces = candidates(program, memory)
    if pieces:
        tables, best = make_tables(program, memory, pieces), np.zeros((len(pieces) + 1, ROW), dtype=np.int64)
        state = empty_choice(program, memory, tables)
        adopt(program, tables, pieces, state, start)
        kernel.save(state, best)
        assert validate(program, memory, to_mapping(program, pieces, best[: best[-1, 0]])) == []
    result = anneal(program, memory, seconds=0.01, start=start)
    assert validate(program, memory, result.mapping) == []
    assert result.seconds <= simulate(program, memory, start).total_seconds + 1e-9
    assert result.lower_bound_seconds <= result.seconds + 1e-9

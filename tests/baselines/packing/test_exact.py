"""The exact solvers against the oracle: heights, proofs of infeasibility, bounds, alignment, fixed buffers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.packing import PackingProblem, SolverName, pack
from mallocgame.baselines.packing.buffers import Buffer, max_live_bytes, validate_packing
from mallocgame.baselines.packing.part import Part
from tests.baselines.packing.instances import planted, random_buffers
from tests.baselines.packing.oracle import fits, least_height, small_problems

SEARCH = settings(max_examples=300, deadline=None)


def check_exact(buffers: list[Buffer], solver: SolverName) -> None:
    best = least_height(buffers)
    result = pack(buffers, solver=solver, seconds=60, workers=1)
    assert (result.status, result.height_bytes, result.lower_bound_bytes) == ("optimal", best, best)
    assert validate_packing(buffers, result.offsets.tolist(), best) == []
    below = pack(buffers, best - 1, solver=solver, seconds=60, workers=1)
    assert below.status == "infeasible"
    assert validate_packing(buffers, below.offsets.tolist()) == []


@given(small_problems())
@SEARCH
def test_search_is_exact(buffers: list[Buffer]) -> None:
    check_exact(buffers, "search")


@given(small_problems(aligned=True))
@SEARCH
def test_search_is_exact_with_alignment(buffers: list[Buffer]) -> None:
    check_exact(buffers, "search")


@given(small_problems(aligned=True, fixed=True))
@SEARCH
def test_search_is_exact_with_fixed_buffers(buffers: list[Buffer]) -> None:
    check_exact(buffers, "search")


@given(small_problems(aligned=True, fixed=True))
@settings(max_examples=40, deadline=None)
def test_cpsat_is_exact(buffers: list[Buffer]) -> None:
    check_exact(buffers, "cpsat")


@given(small_problems(aligned=True, fixed=True), st.integers(0, 14))
@SEARCH
def test_shallow_search_agrees(buffers: list[Buffer], capacity: int) -> None:
    """The cheap section bound of very large parts prunes less and answers the same."""
    from unittest.mock import patch

    whole = PackingProblem.from_buffers(buffers)
    with patch("mallocgame.baselines.packing.part._DEEP_SPAN", -1):
        status = pack(buffers, capacity, solver="search", seconds=60, workers=1).status
    assert (status in ("optimal", "feasible")) == fits(buffers, capacity)
    assert whole.lower_bound() <= least_height(buffers)


@given(st.integers(0, 10**6), st.integers(8, 14))
@settings(max_examples=60, deadline=None)
def test_search_and_cpsat_agree(seed: int, num_buffers: int) -> None:
    """Beyond the oracle's reach the two exact solvers must at least prove the same height."""
    buffers = random_buffers(seed, num_buffers=num_buffers, num_steps=9, max_size=7)
    one = pack(buffers, solver="search", seconds=60, workers=1)
    two = pack(buffers, solver="cpsat", seconds=60, workers=1)
    assert one.status == two.status == "optimal"
    assert one.height_bytes == two.height_bytes >= max_live_bytes(buffers)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_planted_packings_are_found(seed: int) -> None:
    buffers, offsets = planted(seed, num_buffers=40, capacity_bytes=4096, num_steps=60, unit_bytes=8)
    assert validate_packing(buffers, offsets, 4096) == []
    result = pack(buffers, 4096, solver="search", seconds=60, workers=2)
    assert result.status == "optimal"
    assert validate_packing(buffers, result.offsets.tolist(), 4096) == []


def test_order_of_rows_does_not_change_failed_states() -> None:
    """Twins share a label; buffers that differ in anything the future depends on do not."""
    problem = PackingProblem.of(
        np.array([0, 0, 0, 0]), np.array([2, 2, 2, 2]), np.array([4, 4, 3, 4]), alignment=np.array([2, 2, 2, 4])
    )
    label = Part(problem, np.arange(4), 0)._label
    assert label[0] == label[1]
    assert len(set(label.tolist())) == 3


@pytest.mark.parametrize("capacity", [10, 11, 12])
def test_agrees_with_the_oracle_around_the_least_height(capacity: int) -> None:
    """Around the least height the oracle and the solver agree on both sides."""
    buffers = [
        Buffer(name="a", lower=0, upper=2, size_bytes=4),
        Buffer(name="b", lower=1, upper=4, size_bytes=4),
        Buffer(name="c", lower=3, upper=6, size_bytes=4),
        Buffer(name="d", lower=1, upper=2, size_bytes=2),
        Buffer(name="e", lower=0, upper=6, size_bytes=2),
        Buffer(name="f", lower=3, upper=4, size_bytes=2, alignment_bytes=4),
    ]
    packed = pack(buffers, capacity, solver="search", seconds=10).status in ("optimal", "feasible")
    assert packed == fits(buffers, capacity)

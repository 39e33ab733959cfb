"""The multiple-choice knapsack kernel against plain dynamic programming and enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.neur2ro.choice_knapsack import solve_choice_knapsack


def enumerate_best(gain: np.ndarray, weight: np.ndarray, capacity: float) -> float:
    options = itertools.product(range(gain.shape[1]), repeat=len(gain))
    rows = np.arange(len(gain))
    return max(gain[rows, list(pick)].sum() for pick in options if weight[rows, list(pick)].sum() <= capacity + 1e-12)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 4), st.booleans())
def test_equals_enumeration(seed: int, items: int, options: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    gain = np.column_stack([np.zeros(items), rng.normal(3, 3, (items, options - 1))])
    weight = np.column_stack([np.zeros(items), rng.uniform(0, 9, (items, options - 1))])
    if whole:
        gain, weight = np.round(gain), np.round(weight)
    capacity = float(np.round(rng.uniform(0, weight.max(axis=1).sum() + 1)))
    value, choice = solve_choice_knapsack(gain, weight, capacity, 0.0)
    rows = np.arange(items)
    assert weight[rows, choice].sum() <= capacity + 1e-9
    assert gain[rows, choice].sum() == pytest.approx(value, abs=1e-9)
    assert value == pytest.approx(enumerate_best(gain, weight, capacity), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_equals_dynamic_programming_on_strongly_correlated_items(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.column_stack([np.zeros(40), rng.integers(1, 200, 40), rng.integers(200, 300, 40)]).astype(float)
    gain = np.where(weight > 0, weight + 20, 0.0)
    capacity = int(weight[:, 1].sum() * 0.6)
    best = np.zeros(capacity + 1)
    for g, w in zip(gain, weight.astype(int), strict=True):
        best = np.max(
            [np.append(np.full(v, -np.inf), best[: capacity + 1 - v]) + p for p, v in zip(g, w, strict=True)], axis=0
        )
    assert solve_choice_knapsack(gain, weight, float(capacity), 0.0)[0] == best.max()


@pytest.mark.parametrize("seed", range(4))
def test_a_core_that_leaves_nothing_to_choose_still_fits(seed: int) -> None:
    """All items fixed by the bound: the choice must be within the capacity, 0 included."""
    rng = np.random.default_rng(seed)
    for _ in range(4000):
        items = int(rng.integers(2, 6))
        weight = np.column_stack([np.zeros(items), rng.integers(1, 12, items)]).astype(float)
        gain = np.column_stack([np.zeros(items), np.round(weight[:, 1] * rng.uniform(0.5, 1.5, items), 1)])
        capacity = float(rng.integers(0, 1 + int(weight.sum()) // 2))
        value, choice = solve_choice_knapsack(gain, weight, capacity, 0.0)
        assert weight[np.arange(items), choice].sum() <= capacity + 1e-9
        assert gain[np.arange(items), choice].sum() == pytest.approx(value, abs=1e-9)

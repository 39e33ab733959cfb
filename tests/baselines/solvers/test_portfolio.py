"""The portfolio: valid, never worse than its start or the compiler's mapping, and a bound that holds."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.portfolio import Lane, best
from mallocgame.evaluation import judge, make_case
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import SolveResult
from tests.baselines.solvers.tiny import tiny_hierarchy, tiny_program
from tests.brute_force import brute_force
from tests.strategies import likely_mappings, programs, small_hierarchy
from tests.toy import toy_program, toy_trace


def check(program: Program, result: SolveResult) -> None:
    """Assert what every result of a run on v5e promises."""
    memory = preset("v5e")
    assert validate(program, memory, result.mapping) == []
    assert result.seconds == pytest.approx(simulate(program, memory, result.mapping).total_seconds, rel=1e-12)
    assert [s for _, s in result.history] == sorted((s for _, s in result.history), reverse=True)
    assert result.history[-1][1] == pytest.approx(result.seconds)
    assert 0 < result.lower_bound_seconds <= result.seconds


def test_it_beats_greedy_and_carries_a_sharper_bound_than_annealing() -> None:
    program, memory = toy_program(num_layers=12), preset("v5e")
    result = best(program, memory, seconds=4.0)
    check(program, result)
    assert result.seconds <= greedy(program, memory, seconds=20.0).seconds
    assert result.lower_bound_seconds >= anneal(program, memory, seconds=0.0).lower_bound_seconds


@pytest.mark.parametrize("seed", range(6))
def test_tiny_programs_are_bounded_by_brute_force(seed: int) -> None:
    program, memory = tiny_program(seed), tiny_hierarchy(7 * seed + 1)
    optimum = brute_force(program, memory, seconds=60.0)
    result = best(program, memory, seconds=0.8, seed=seed)
    assert validate(program, memory, result.mapping) == []
    assert result.lower_bound_seconds <= optimum.seconds * (1 + 1e-9) + 1e-12
    assert result.seconds >= optimum.seconds * (1 - 1e-9) - 1e-12
    assert result.status in ("feasible", "optimal")
    assert result.status != "optimal" or result.seconds == pytest.approx(optimum.seconds)


@settings(max_examples=12, deadline=None)
@given(st.data(), programs(max_steps=8, max_tensors=4), st.integers(2, 3))
def test_a_start_is_never_made_worse(data: st.DataObject, program: Program, layers: int) -> None:
    memory = small_hierarchy(num_layers=layers)
    start = data.draw(likely_mappings(program, memory))
    if validate(program, memory, start):
        start = Mapping()
    judged = simulate(program, memory, start).total_seconds
    result = best(program, memory, seconds=0.1, start=start)
    assert validate(program, memory, result.mapping) == []
    assert result.seconds <= judged + 1e-9


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_lanes(workers: int) -> None:
    program, memory = toy_program(num_layers=20), preset("v5e")
    result = best(program, memory, seconds=1.5, workers=workers)
    check(program, result)
    assert result.seconds < home_seconds(program, memory)


def test_no_time_returns_the_best_known_start() -> None:
    program, memory = toy_program(num_layers=8), preset("v5e")
    good = greedy(program, memory, seconds=20.0)
    home = home_seconds(program, memory)
    assert best(program, memory, seconds=0.0).seconds == home
    assert best(program, memory, seconds=0.0, start=good.mapping).mapping == good.mapping


def test_an_interrupt_returns_the_incumbent_and_ends_the_planning_thread() -> None:
    calls = []

    def interrupt(_: float) -> None:
        calls.append(1)
        if len(calls) == 60:
            raise KeyboardInterrupt

    program, memory = toy_program(num_layers=30, trip_count=4), preset("v5e")
    result = best(program, memory, seconds=120.0, progress=interrupt)
    assert result.status == "interrupted"
    check(program, result)
    assert result.solve_seconds < 100.0
    for thread in threading.enumerate():
        if isinstance(thread, Lane):
            thread.join(240.0)
            assert not thread.is_alive()


def test_annealing_on_two_threads_and_near_its_start() -> None:
    program, memory = toy_program(num_layers=12), preset("v5e")
    start = greedy(program, memory, seconds=20.0)
    result = anneal(program, memory, steps=200, start=start.mapping, workers=2, refine=True)
    check(program, result)
    assert result.seconds <= start.seconds
    assert result.seconds < 0.999 * start.seconds


def test_rows_show_the_best_bound_that_is_known() -> None:
    trace = toy_trace(num_layers=4)
    home = home_seconds(trace.program, trace.hierarchy)
    case = make_case(trace, lower_bound_seconds=0.2 * home)
    assert judge(case, Mapping(), solver="best", bound_seconds=0.1 * home).row()["lower_bound_seconds"] == 0.2 * home
    row = judge(case, Mapping(), solver="best", bound_seconds=0.5 * home).row()
    assert row["gap"] == pytest.approx(0.5)
    assert judge(case, Mapping(), solver="best").row(0.4 * home)["lower_bound_seconds"] == 0.4 * home

"""The integer-programming solvers: valid, never worse than their start, bounded, optimal where that is checkable."""

import _thread
import threading

import pytest

from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.baselines.milp.cpsat import cpsat
from mallocgame.baselines.milp.engine import cpsat_point
from mallocgame.baselines.milp.lns import lns
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from tests.baselines.solvers.tiny import tiny_hierarchy, tiny_program
from tests.brute_force import brute_force

CASES = range(300, 306)


@pytest.mark.parametrize("seed", CASES)
def test_cpsat_is_valid_and_bounded(seed: int) -> None:
    program, hierarchy = tiny_program(seed, num_steps=4, num_tensors=2), tiny_hierarchy(7 * seed + 1)
    best = brute_force(program, hierarchy, seconds=60.0)
    found = cpsat(program, hierarchy, seconds=1.0, seed=1)
    assert not validate(program, hierarchy, found.mapping)
    assert found.seconds == simulate(program, hierarchy, found.mapping).total_seconds
    assert found.lower_bound_seconds <= best.seconds * (1 + 1e-12) <= found.seconds * (1 + 1e-9)
    if found.status == "optimal":
        assert found.seconds == pytest.approx(best.seconds, rel=1e-5)
    times = [seconds for _, seconds in found.history]
    assert times == sorted(times, reverse=True)
    assert times[-1] == found.seconds


def test_cpsat_engine_bound_is_never_above_the_optimum() -> None:
    for seed in range(700, 720):
        program, hierarchy = tiny_program(seed, num_steps=4, num_tensors=2), tiny_hierarchy(7 * seed + 1)
        best = brute_force(program, hierarchy, seconds=60.0)
        point = cpsat_point(relax(program, hierarchy), seconds=10.0, seed=0, workers=1)
        assert point.bound_seconds <= best.seconds * (1 + 1e-12)


def test_optimum_is_mostly_found() -> None:
    hits = 0
    for seed in range(800, 806):
        program, hierarchy = tiny_program(seed, num_steps=4, num_tensors=2), tiny_hierarchy(7 * seed + 1)
        best = brute_force(program, hierarchy, seconds=60.0)
        hits += cpsat(program, hierarchy, seconds=3.0).seconds <= best.seconds * (1 + 1e-9)
    assert hits >= 4


@pytest.mark.parametrize("solver", [cpsat, lns])
def test_no_time_returns_the_start(solver: type[cpsat] | type[lns]) -> None:
    program, hierarchy = tiny_program(5), tiny_hierarchy(36)
    assert solver(program, hierarchy, seconds=0.0).mapping == Mapping()
    best = brute_force(program, hierarchy, seconds=60.0)
    again = solver(program, hierarchy, seconds=0.0, start=best.mapping)
    assert again.mapping == best.mapping
    assert again.seconds == best.seconds


def test_lns_is_never_worse_than_its_start() -> None:
    for seed in range(400, 404):
        program, hierarchy = tiny_program(seed, num_steps=6, num_tensors=3), tiny_hierarchy(seed)
        start = cpsat(program, hierarchy, seconds=0.5)
        found = lns(program, hierarchy, seconds=0.5, start=start.mapping)
        assert found.seconds <= start.seconds <= home_seconds(program, hierarchy)
        assert not validate(program, hierarchy, found.mapping)


def test_interrupt_returns_the_incumbent() -> None:
    program, hierarchy = tiny_program(11, num_steps=8, num_tensors=5), tiny_hierarchy(11)
    timer = threading.Timer(0.5, _thread.interrupt_main)

    def begin(_: float) -> None:  # once it is solving
        if timer.ident is None:
            timer.start()

    found = lns(program, hierarchy, seconds=30.0, progress=begin)
    timer.cancel()
    assert found.status == "interrupted"
    assert found.solve_seconds < 25.0
    assert not validate(program, hierarchy, found.mapping)

"""Robust memory plans: valid in every scenario, judged by the simulator, never worse than nominal and static."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mallocgame.baselines.neur2ro.memory_plan import ScenarioJudge, carried_out, claims, plan_memory
from mallocgame.baselines.neur2ro.memory_scenarios import NOMINAL, MemoryScenario, MemoryUncertainty
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.errors import InputError
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping, Residency
from mallocgame.program import Program
from mallocgame.workloads import suite
from mallocgame.workloads.trace import load_mapping
from tests.strategies import programs, small_hierarchy


@settings(max_examples=30, deadline=None)
@given(programs(), st.integers(4, 10), st.floats(1.0, 3.0), st.floats(0.0, 0.9))
def test_plans_are_valid_mappings_in_every_scenario(
    program: Program, capacity: int, growth: float, contention: float
) -> None:
    hierarchy = small_hierarchy(capacity)
    made = greedy(program, hierarchy, seconds=1.0).mapping
    plan = claims(made)
    same = carried_out(program, hierarchy, plan)
    assert simulate(program, hierarchy, same).total_seconds == simulate(program, hierarchy, made).total_seconds
    assert sorted(map(repr, same.residencies)) == sorted(map(repr, made.residencies))
    scenario = MemoryScenario(growth=growth, contention=contention)
    case = MemoryUncertainty(growth=3.0, contention=0.9).apply(program, hierarchy, scenario)
    assert validate(*case, carried_out(*case, plan)) == []


@settings(max_examples=8, deadline=None)
@given(programs(), st.integers(3, 8))
def test_robust_is_never_worse_than_nominal_and_static(program: Program, capacity: int) -> None:
    hierarchy = small_hierarchy(capacity)
    plans = plan_memory(program, hierarchy, MemoryUncertainty(growth=2.0), solver=greedy, seconds=0.4)
    worst = {name: costs.worst for name, costs in plans.costs.items()}
    assert worst["robust"] <= min(worst["nominal"], worst["static"]) * (1 + 1e-9)
    assert validate(program, hierarchy, plans.mapping) == []
    judge = ScenarioJudge(program, hierarchy, MemoryUncertainty(growth=2.0))
    for scenario, seconds in zip(judge.grid, plans.costs["robust"].seconds, strict=True):
        case = judge.case(scenario)
        assert simulate(*case, carried_out(*case, plans.robust)).total_seconds == seconds
    assert np.isfinite(plans.costs["static"].seconds).all()


def test_the_set_is_budgeted_and_starts_at_the_compiled_program() -> None:
    uncertainty = MemoryUncertainty(growth=2.0, contention=0.5)
    grid = uncertainty.grid()
    assert grid[0] == NOMINAL
    assert MemoryScenario(growth=2.0, contention=0.5) not in grid
    drawn = uncertainty.sample(np.random.default_rng(0), 200)
    assert max((s.growth - 1.0) / 1.0 + s.contention / 0.5 for s in (*grid, *drawn)) <= 1 + 1e-9
    assert len(MemoryUncertainty(growth=1.0, contention=0.0).grid()) == 1


def test_growth_and_contention_change_what_they_say() -> None:
    case = suite.load("lstm-v5e")
    uncertainty = MemoryUncertainty(growth=2.0, contention=0.5, grows="")
    program, hierarchy = uncertainty.apply(case.program, case.hierarchy, MemoryScenario(growth=2.0, contention=0.5))
    for before, after in zip(case.program.tensors, program.tensors, strict=True):
        assert after.size_bytes == before.size_bytes * (1 if before.is_parameter else 2)
    assert hierarchy.layers[0].bytes_per_second == case.hierarchy.layers[0].bytes_per_second / 2
    assert hierarchy.layers[1] == case.hierarchy.layers[1]
    grown, _ = MemoryUncertainty(growth=2.0, grows=".").apply(case.program, case.hierarchy, MemoryScenario(growth=2.0))
    assert all(t.size_bytes == 2 * b.size_bytes for t, b in zip(grown.tensors, case.program.tensors, strict=True))


@pytest.mark.parametrize("settings_", [{"growth": 0.5}, {"contention": 1.0}, {"growth": float("nan")}, {"grows": "("}])
def test_uncertainty_that_is_none_is_refused(settings_: dict[str, float]) -> None:
    with pytest.raises(InputError):
        MemoryUncertainty(**settings_)  # type: ignore[arg-type]


def test_an_invalid_start_is_refused() -> None:
    case = suite.load("lstm-v5e")
    bad = Mapping(residencies=(Residency(tensor=0, layer=1, offset_bytes=-4096, start_step=0, end_step=1),))
    with pytest.raises(InputError, match="start mapping is not valid"):
        plan_memory(case.program, case.hierarchy, MemoryUncertainty(), solver=greedy, seconds=1.0, start=bad)


def test_command_line_writes_a_mapping_for_inject(tmp_path: Path) -> None:
    from mallocgame.cli.robust import app

    out = tmp_path / "robust.json"
    arguments = ["memory", "lstm-v5e", "--seconds", "2", "--samples", "5", "--out", str(out)]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "robust" in shown.stdout
    case = suite.load("lstm-v5e")
    mapping = load_mapping(out, case.program, case.hierarchy)
    assert validate(case.program, case.hierarchy, mapping) == []

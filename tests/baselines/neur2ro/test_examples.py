"""The examples that users meet: the tutorial of docs/neur2ro.md as written there, and a published optimum."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mallocgame.baselines.neur2ro.exact import solve_exact
from mallocgame.baselines.neur2ro.registry import family
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from mallocgame.cli.robust import app
from mallocgame.errors import InputError
from tests.baselines.neur2ro.location_transportation import LocationTransportation
from tests.paths import ROOT


@pytest.mark.parametrize("total", [772.0, 0.0])
def test_published_location_transportation_optimum(total: float) -> None:
    problem = LocationTransportation(total_capacity=total)
    found = solve_exact(problem, seconds=60)
    assert found.worst_case == pytest.approx(33_680, abs=0.5)
    assert found.worst_case_exact
    assert found.stopped == "optimal"
    searched = solve_search(problem, None, SearchConfig(seconds=20))
    assert searched.worst_case == pytest.approx(33_680, abs=0.5)


def tutorial() -> str:
    page = (ROOT / "docs" / "neur2ro.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(# warehouses\.py\n.*?)```", page, flags=re.DOTALL)
    return str(code)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "warehouses.py").write_text(tutorial(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "warehouses", raising=False)
    return tmp_path


def test_tutorial_from_file_to_certified_plan(in_folder: Path) -> None:
    assert len(tutorial().splitlines()) <= 45
    arguments = ["solve", "--problem", "warehouses:Warehouses", "--method", "exact", "--out", "plan.json", "--json"]
    solved = CliRunner().invoke(app, arguments, catch_exceptions=False)
    plan = json.loads(solved.stdout)
    assert plan["worst_case_exact"]
    assert plan["stopped"] == "optimal"
    assert plan["lower_bound"] == pytest.approx(plan["worst_case"], rel=1e-3)
    arguments = ["evaluate", "plan.json", "--problem", "warehouses:Warehouses", "--json"]
    judged = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert judged["worst_case"] == pytest.approx(plan["worst_case"])
    assert judged["sampled_worst"] <= judged["worst_case"] + 1e-6
    arguments = ["compare", "--problem", "warehouses:Warehouses", "--methods", "average,static,exact", "--json"]
    rows = [json.loads(line) for line in CliRunner().invoke(app, arguments, catch_exceptions=False).stdout.splitlines()]
    costs = {row["method"]: row["worst_case"] for row in rows if row["feasible"]}
    assert costs["exact"] == min(costs.values())


def test_tutorial_problem_is_trained_and_its_network_used(in_folder: Path) -> None:
    pytest.importorskip("torch")
    arguments = ["train", "--problem", "warehouses:Warehouses", "--instances", "12", "--plans", "4", "--scenarios", "4"]
    arguments += ["--worst-cases", "0", "--epochs", "3", "--processes", "1", "--out", "net"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    for method in ("learned", "search", "paper"):
        arguments = ["solve", "--problem", "warehouses:Warehouses", "--network", "net", "--method", method]
        arguments += ["--seconds", "3", "--json"]
        found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
        assert found["used_network"]
        assert found["feasible"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere_to_be:Found", "no module named 'nowhere_to_be'"),
        ("warehouses:Absent", "module warehouses has no Absent"),
        ("warehouses:np", "is not a subclass"),
        ("warehouses:", "expected package.module:Class"),
        ("broken:Broken", "lacks recourse"),
        ("damaged:Damaged", "cannot be imported"),
    ],
)
def test_classes_that_are_no_problem_are_named(in_folder: Path, text: str, words: str) -> None:
    start = "from mallocgame.baselines.neur2ro.problem import TwoStageProblem\nclass Broken(TwoStageProblem):\n"
    members = "    uncertainty_kind = 'general'\n    sample = first_stage = uncertainty = None\n"
    (in_folder / "broken.py").write_text(start + members, encoding="utf-8")
    (in_folder / "damaged.py").write_text("def (:\n", encoding="utf-8")
    with pytest.raises(InputError, match=words):
        family(text)


def test_installed_families_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from mallocgame import registry as names
    from mallocgame.baselines.neur2ro import registry

    value = "tests.baselines.neur2ro.location_transportation:LocationTransportation"
    entry = EntryPoint(name="transport", value=value, group=registry.GROUP)
    found = {"transport": entry}
    monkeypatch.setattr(names, "registered", lambda group: found if group == registry.GROUP else {})
    monkeypatch.setattr(registry, "registered", names.registered)
    assert isinstance(family("transport").sample(np.random.default_rng(0)), LocationTransportation)
    with pytest.raises(InputError, match=r"expected one of .*transport"):
        family("tranport")

"""Instance files, solver errors and the command line on bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mallocgame.baselines.neur2ro.formats import read_branch_and_price, read_number_table
from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet, binary_set, budget_set
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem, read_knapsack
from mallocgame.baselines.neur2ro.problems.loans import read_loans
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
from mallocgame.baselines.neur2ro.references import solve_nominal
from mallocgame.baselines.neur2ro.solvers import solve
from mallocgame.cli.robust import app
from mallocgame.errors import InputError, TraceError
from tests.baselines.neur2ro.user_problem import Reservation

GOOD = "2 9 1\n5 2 1 3 6\n 4 1 2 2 5\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "empty"),
        ("2 9\n", 1, "expected 3"),
        ("2.5 9 1\n", 1, "positive whole number"),
        ("0 9 1\n", 1, "positive whole number"),
        ("3 9 1\n5 2 1 3 6\n4 1 2 2 5\n", 3, "expected 3 as the first line says"),
        ("2 9 1\n5 2 1 3\n4 1 2 2 5\n", 2, "expected 5"),
        ("2 9 1\n5 2 1 3 nan\n4 1 2 2 5\n", 2, "finite"),
        ("2 9 1\n5 2 1 3 six\n4 1 2 2 5\n", 2, "expected a number"),
        ("2 9 1\n5 2 1 -3 6\n4 1 2 2 5\n", 2, "c is -3"),
        ("2 -9 1\n5 2 1 3 6\n4 1 2 2 5\n", 1, "expected both >= 0"),
        (GOOD + "7 7 7 7 7\n", 4, "expected the end"),
    ],
)
def test_malformed_knapsack_files(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    path = write(tmp_path / "instance", text)
    with pytest.raises(TraceError, match=words) as caught:
        read_knapsack(path)
    assert str(caught.value).startswith(f"{path}:{line}:" if line else f"{path}:")


def test_good_files_are_read(tmp_path: Path) -> None:
    problem = read_knapsack(write(tmp_path / "k", GOOD))
    assert (problem.capacity, problem.budget, problem.weight.tolist()) == (9.0, 1.0, [3.0, 2.0])
    loans = read_loans(write(tmp_path / "l", "1 50 10 10 0.2 0.3 0.8 5 2\n3.5 20 0.1 -0.2\n"))
    assert loans.loadings.tolist() == [[0.1, -0.2]]
    with pytest.raises(TraceError, match="3 factors"):
        read_loans(write(tmp_path / "m", "1 50 10 10 0.2 0.3 0.8 5 3\n3.5 20 0.1 -0.2\n"))


def test_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not UTF-8 text"):
        read_number_table(tmp_path / "b", ("n",), None)
    with pytest.raises(TraceError, match="cannot read"):
        read_number_table(tmp_path / "absent", ("n",), None)


def test_branch_and_price_table(tmp_path: Path) -> None:
    head = "\ufeffFile name,Time,Best primal bound,a,b,Solved to optimality\n"
    rows = read_branch_and_price(write(tmp_path / "t.csv", head + "A,1.5,20,1,2,1\nB,TIME_LIMIT,30,1,2,0\n"))
    assert rows["A"].solved
    assert not rows["B"].solved
    assert rows["B"].seconds == float("inf")
    with pytest.raises(TraceError, match=":2: expected numbers"):
        read_branch_and_price(write(tmp_path / "u.csv", head + "A,fast,20,1,2,1\n"))


def test_infeasible_and_unbounded_problems_are_named() -> None:
    class Impossible(Reservation):
        def first_stage(self) -> LinearSet:
            n = len(self.demand)
            return binary_set(n, cost=self.reserve_cost, rows=np.ones((1, n)), row_upper=np.array([-1.0]))

    class Endless(Reservation):
        def first_stage(self) -> LinearSet:
            n = len(self.demand)
            free = np.zeros(n, bool)
            return LinearSet(lower=np.full(n, -np.inf), upper=np.full(n, np.inf), integer=free, cost=-np.ones(n))

    arrays = {"reserve_cost": np.ones(3), "demand": np.ones(3), "extra": np.ones(3)}
    with pytest.raises(InputError, match="is infeasible"):
        solve_nominal(Impossible(**arrays))
    with pytest.raises(InputError, match="is unbounded"):
        solve_nominal(Endless(**arrays))


def test_solver_names_and_statuses() -> None:
    model = LinearModel()
    model.add_columns(1, upper=1.0, cost=-1.0, integer=True)
    assert solve(model).objective == -1.0
    assert solve(model, backend="scip").objective == pytest.approx(-1.0)
    with pytest.raises(InputError, match="expected 'highs' or 'scip'"):
        solve(model, backend="cplex")  # type: ignore[arg-type]
    model.add_row(np.array([0]), np.array([1.0]), lower=2.0)
    assert solve(model).status == "infeasible"
    assert solve(model, backend="scip").status == "infeasible"


def test_bad_sets_and_memory_settings() -> None:
    with pytest.raises(InputError, match="shapes"):
        LinearSet(lower=np.zeros(2), upper=np.ones(3), integer=np.zeros(2, bool))
    with pytest.raises(InputError, match="NaN"):
        LinearSet(lower=np.array([np.nan]), upper=np.ones(1), integer=np.zeros(1, bool))
    assert budget_set(3, 1.0).violation(np.ones(3)) == pytest.approx(2.0)
    with pytest.raises(InputError, match="worst cases"):
        MemoryProblem.random(np.random.default_rng(0), tensors=30, steps=40, variant="size", budget=10)


def test_command_line_solve_and_evaluate(tmp_path: Path) -> None:
    problem = KnapsackProblem.generate(np.random.default_rng(0), n=8, kind="UN", deviation=0.2, delta=0.5, fill=0.4)
    rows = [f"8 {problem.capacity:.0f} {problem.budget:.0f}"]
    columns = (
        problem.profit,
        problem.degradation,
        problem.repair_weight,
        problem.weight,
        problem.outsourcing_cost,
    )
    rows += [" ".join(f"{v:.0f}" for v in item) for item in zip(*columns, strict=True)]
    path, plan = write(tmp_path / "k", "\n".join(rows)), tmp_path / "plan.json"
    runner = CliRunner()
    arguments = ["solve", str(path), "--seconds", "3", "--out", str(plan), "--json", "--plot", str(tmp_path / "p.png")]
    solved = runner.invoke(app, arguments, catch_exceptions=False)
    worst = json.loads(solved.stdout)["worst_case"]
    judged = runner.invoke(app, ["evaluate", str(plan), str(path), "--json"], catch_exceptions=False)
    assert json.loads(judged.stdout)["worst_case"] == pytest.approx(worst)
    assert (tmp_path / "p.png").stat().st_size > 1000
    arguments = ["compare", str(path), "--methods", "search,nominal", "--seconds", "2", "--json"]
    compared = [json.loads(line) for line in runner.invoke(app, arguments, catch_exceptions=False).stdout.splitlines()]
    assert [row["method"] for row in compared] == ["search", "nominal"]
    assert compared[0]["regret_percent"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["solve", "--problem", "chess"], "unknown"),
        (["solve", "--problem", "loans", "--method", "guess"], "unknown"),
        (["solve", "--problem", "loans", "--method", "paper"], "none comes with loans"),
        (["solve", "--problem", "memory", "--variant", "colour"], "expected bandwidth"),
        (["compare", "--problem", "loans", "--budgets", "1"], "is for --problem memory"),
        (["evaluate", "absent.json"], "cannot read"),
        (["solve", "--size", "6", "--device", "cpu"], "a device is for method learned"),
        (["compare", "--size", "6", "--device", "cpu"], "--device is for method learned"),
        (["train", "--out", "x", "--device", "abacus"], "cannot be used"),
    ],
)
def test_command_line_refuses(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)

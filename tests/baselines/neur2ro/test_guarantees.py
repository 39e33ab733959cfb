"""What a certificate is worth: infeasible second stages, false claims, deadlines, strict JSON."""

import itertools
import json
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.neur2ro.clock import Clock
from mallocgame.baselines.neur2ro.dual import DualAdversary, has_binary_vertices, is_right_hand_side
from mallocgame.baselines.neur2ro.exact import solve_exact
from mallocgame.baselines.neur2ro.learned import LearnedConfig, solve_learned
from mallocgame.baselines.neur2ro.linear import LinearSet, binary_set, budget_set
from mallocgame.baselines.neur2ro.methods import judge, run
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem, Uncertainty, corners_of
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
from mallocgame.baselines.neur2ro.recourse import RecourseSolver
from mallocgame.baselines.neur2ro.references import solve_average, solve_nominal, solve_static
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from mallocgame.baselines.neur2ro.second_stages import SecondStages
from mallocgame.baselines.neur2ro.vertices import listed_points
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle
from mallocgame.errors import InputError
from tests.baselines.neur2ro.user_problem import Reservation


@dataclass(frozen=True, kw_only=True, eq=False)
class Cover(TwoStageProblem):
    """Open sites of size 4 and ship to customers whose demand is uncertain; nothing may be left unserved."""

    open_cost: np.ndarray
    ship_cost: np.ndarray  # [sites, customers]
    demand: np.ndarray
    extra: np.ndarray
    budget: float = 1.0
    listed: bool = False
    size: float = 4.0

    @property
    def uncertainty_kind(self) -> Uncertainty:  # type: ignore[override]
        return "finite" if self.listed else "general"

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        sites, customers = int(rng.integers(2, 5)), int(rng.integers(1, 4))
        return cls(
            open_cost=rng.uniform(1, 6, sites),
            ship_cost=rng.uniform(0, 2, (sites, customers)),
            demand=rng.uniform(0.5, 3, customers),
            extra=rng.uniform(0, 3, customers),
            budget=float(rng.integers(1, customers + 1)),
        )

    def first_stage(self) -> LinearSet:
        return binary_set(len(self.open_cost), cost=self.open_cost)

    def uncertainty(self) -> LinearSet:
        return budget_set(len(self.demand), self.budget)

    def scenarios(self) -> np.ndarray | None:
        if not self.listed:
            return None
        points = np.array(list(itertools.product((0.0, 1.0), repeat=len(self.demand))))
        return points[points.sum(axis=1) <= self.budget]

    def recourse(self, xi: np.ndarray) -> Recourse:
        sites, customers = self.ship_cost.shape
        out = np.repeat(np.eye(sites), customers, axis=1)
        arrive = np.tile(np.eye(customers), sites)
        return Recourse(
            x_cost=np.zeros(sites),
            y_cost=self.ship_cost.ravel(),
            constant=0.0,
            x_rows=np.vstack([-self.size * np.eye(sites), np.zeros((customers, sites))]),
            y_rows=np.vstack([out, -arrive]),
            row_upper=np.concatenate([np.zeros(sites), -(self.demand + self.extra * xi)]),
            y_lower=np.zeros(sites * customers),
            y_upper=np.full(sites * customers, 50.0),
            y_integer=np.zeros(sites * customers, bool),
        )


def enumerated(problem: Cover) -> float:
    """Return the robust optimum over all plans and 0/1 scenarios; inf if no plan serves every scenario."""
    listed = replace(problem, listed=True)
    scenarios = listed.scenarios()
    assert scenarios is not None
    plans = np.array(list(itertools.product((0.0, 1.0), repeat=len(problem.open_cost))))
    costs = plans @ problem.open_cost + TwoStageProblem.values(listed, plans, scenarios).max(axis=1)
    return float(costs.min())


@pytest.mark.parametrize("listed", [False, True])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_exact_and_search_price_infeasible_second_stages(listed: bool, seed: int) -> None:
    problem = replace(Cover.sample(np.random.default_rng(seed)), listed=listed)
    best = enumerated(problem)
    if not np.isfinite(best):
        with pytest.raises(InputError, match="infeasible"):
            solve_exact(problem, seconds=30)
        return
    found = solve_exact(problem, seconds=30)
    assert found.worst_case == pytest.approx(best, rel=2e-4)
    assert found.worst_case_exact
    assert found.lower_bound <= best * (1 + 1e-6)
    for other in (
        solve_search(problem, None, SearchConfig(seconds=5, quiet_restarts=2)),
        solve_nominal(problem),
        solve_average(problem),
    ):
        assert other.worst_case >= best * (1 - 1e-6)
        assert other.worst_case_exact
        if other.method == "search":
            assert other.feasible


def test_a_plan_without_second_stage_costs_inf_and_is_strict_json() -> None:
    problem = Cover(
        open_cost=np.ones(3), ship_cost=np.ones((3, 1)), demand=np.array([3.0]), extra=np.array([5.0]), size=4.0
    )
    nominal = solve_nominal(problem)  # one site meets the demand of 3, not of 8
    assert nominal.worst_case == np.inf
    assert nominal.worst_case_exact
    text = json.dumps(nominal.to_json(), allow_nan=False)
    assert json.loads(text)["worst_case"] is None
    assert json.loads(text)["feasible"] is False
    assert solve_exact(problem).worst_case == pytest.approx(2 + 8)
    judged = judge(problem, nominal.x, samples=40)
    assert judged.worst_case == np.inf
    assert 0 < judged.infeasible_share < 1


class Bump(TwoStageProblem):
    """A cost of 80 xi (1 - xi), at most 20, that is 0 at both ends: no cutting plane sees it."""

    uncertainty_kind: Uncertainty = "objective"
    hidden: ClassVar[bool] = False  # in second_stage() only

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        return cls()

    def first_stage(self) -> LinearSet:
        return binary_set(2, cost=np.array([1.0, 2.0]))

    def uncertainty(self) -> LinearSet:
        return budget_set(1, 1.0)

    def recourse(self, xi: np.ndarray) -> Recourse:
        return Recourse(
            x_cost=np.zeros(2),
            y_cost=np.zeros(1) if self.hidden else 80 * xi * (1 - xi),
            constant=0.0,
            x_rows=np.zeros((1, 2)),
            y_rows=-np.ones((1, 1)),
            row_upper=-np.ones(1),
            y_lower=np.zeros(1),
            y_upper=np.ones(1),
            y_integer=np.zeros(1, bool),
        )


class Hidden(Bump):
    hidden = True

    def second_stage(self, x: np.ndarray, xi: np.ndarray):  # type: ignore[no-untyped-def]
        found = super().second_stage(x, xi)
        return replace(found, value=20.0)


class Listed(Bump):
    uncertainty_kind: Uncertainty = "finite"

    def scenarios(self) -> np.ndarray | None:
        return np.linspace(0, 1, 5)[:, None]


@pytest.mark.parametrize("method", ["average", "search", "exact", "static", "nominal", "k-adaptability"])
def test_a_cost_that_is_not_affine_gets_no_certificate(method: str) -> None:
    with pytest.raises(InputError, match="not affine in xi"):
        run(method, Bump(), None, seconds=5)


def test_a_second_stage_that_is_not_its_recourse_gets_no_certificate() -> None:
    with pytest.raises(InputError, match="must be the same problem"):
        solve_exact(Hidden(), seconds=5)
    assert solve_exact(Listed(), seconds=5).worst_case == pytest.approx(20.0)


class Unlimited(Reservation):
    """Lost orders without an upper bound: they bound the duals."""

    def recourse(self, xi: np.ndarray) -> Recourse:
        found = super().recourse(xi)
        return replace(found, y_upper=np.full(len(found.y_cost), np.inf))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [Reservation, Unlimited])
def test_dual_adversary_equals_the_listed_vertices(seed: int, kind: type[Reservation]) -> None:
    rng = np.random.default_rng(seed)
    problem = kind.sample(rng)
    affine = is_right_hand_side(problem)
    assert affine is not None
    adversary = DualAdversary.build(affine)
    assert adversary is not None
    listed = listed_points(problem.uncertainty(), convex=True)
    assert listed is not None
    for x in problem.sample_first_stage(rng, 3):
        values = problem.values(x[None], listed)[0]
        found = adversary.worst_scenario(x, Clock(30))
        assert found.upper == pytest.approx(values.max(), rel=1e-5)
        assert problem.second_stage(x, found.xi).value == pytest.approx(values.max(), rel=1e-5)


def test_exact_uses_the_dual_where_vertices_are_too_many() -> None:
    rng = np.random.default_rng(3)
    n = 14
    problem = replace(
        Reservation.sample(rng),
        reserve_cost=rng.uniform(8, 16, n),
        demand=rng.uniform(2, 5, n),
        extra=rng.uniform(0, 4, n),
    )
    wide = type("Wide", (Unlimited,), {"uncertainty": lambda self: budget_set(n, 7.0)})(**problem.__dict__)
    oracle = WorstCaseOracle(wide)
    assert oracle.how == "dual program"
    found = solve_exact(wide, seconds=20, gap=1e-3)
    assert found.worst_case_exact
    sampled = judge(wide, found.x, samples=200)
    assert sampled.sampled_worst <= found.worst_case + 1e-6
    assert found.lower_bound <= found.worst_case


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_corners_of_a_budget_are_the_linear_programs_best(seed: int, n: int, whole: bool) -> None:
    from mallocgame.baselines.neur2ro.solvers import optimise_over

    rng = np.random.default_rng(seed)
    low = rng.integers(-1, 1, n).astype(float) if whole else rng.uniform(-1, 0, n)
    row = rng.integers(0, 2, n).astype(float) if whole else np.where(rng.random(n) < 0.3, 0.0, rng.random(n))
    room = float(rng.integers(0, 4)) if whole else float(rng.uniform(0.0, 2.0))
    box = LinearSet(
        lower=low,
        upper=low + (rng.integers(0, 3, n) if whole else rng.uniform(0, 2, n)),
        integer=np.full(n, whole),
        rows=row[None],
        row_upper=np.array([row @ low + room]),
    )
    directions = rng.normal(size=(4, n)) * (rng.random((4, n)) < 0.8)
    for direction, corner in zip(directions, corners_of(box, directions), strict=True):
        assert box.violation(corner) <= 1e-9
        assert direction @ corner == pytest.approx(direction @ optimise_over(box, direction, "the set"), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 2))
def test_vertices_give_the_best_of_every_linear_cost(seed: int, n: int, rows: int) -> None:
    from mallocgame.baselines.neur2ro.solvers import optimise_over

    rng = np.random.default_rng(seed)
    box = LinearSet(
        lower=rng.uniform(-2, 0, n),
        upper=rng.uniform(0, 2, n),
        integer=np.zeros(n, bool),
        rows=rng.uniform(0 if rows == 1 else -1, 1, (rows, n)),
        row_upper=rng.uniform(0.1, 1.0, rows),
    )
    points = listed_points(box, convex=True)
    assert points is not None
    assert max(box.violation(point) for point in points) <= 1e-7
    for cost in rng.normal(size=(4, n)):
        best = cost @ optimise_over(box, cost, "the set")
        assert (points @ cost).min() == pytest.approx(best, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_whole_points_equal_enumeration(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = rng.integers(-1, 1, n).astype(float), rng.integers(0, 3, n).astype(float)
    box = LinearSet(
        lower=low,
        upper=high,
        integer=np.ones(n, bool),
        rows=rng.integers(-2, 3, (2, n)).astype(float),
        row_upper=rng.integers(0, 4, 2).astype(float),
    )
    points = listed_points(box, convex=False)
    every = np.array(list(itertools.product(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)))))
    expected = {tuple(point) for point in every if box.violation(point) <= 1e-9}
    assert points is not None
    assert {tuple(point + 0.0) for point in points} == {tuple(np.array(point) + 0.0) for point in expected}


def test_sets_with_binary_vertices_are_told_from_others() -> None:
    assert has_binary_vertices(budget_set(4, 2.0))
    assert not has_binary_vertices(budget_set(4, 1.5))
    assert has_binary_vertices(budget_set(4, 1.5, integer=True))


def test_warm_second_stages_equal_cold_ones_and_are_built_once() -> None:
    rng = np.random.default_rng(0)
    problem = Reservation.sample(rng)
    stages = SecondStages(problem)
    xs, xis = problem.sample_first_stage(rng, 5), problem.sample_scenarios(rng, 6)
    values = stages.values(xs, xis)
    for a, x in enumerate(xs):
        for b, xi in enumerate(xis):
            cold = RecourseSolver().solve(problem.recourse(xi), x, Clock()).value
            assert values[a, b] == pytest.approx(cold, abs=1e-6)
    assert stages.solver.solves >= 30
    assert stages.solver.builds == 1


class Slow(Reservation):
    """A second stage that takes 20 ms."""

    def second_stage(self, x: np.ndarray, xi: np.ndarray):  # type: ignore[no-untyped-def]
        time.sleep(0.02)
        return super().second_stage(x, xi)


@pytest.mark.parametrize("method", ["average", "search", "exact", "static", "nominal", "k-adaptability"])
def test_deadlines_bind_every_method(method: str) -> None:
    slow = Slow(**Reservation.sample(np.random.default_rng(1)).__dict__)
    began = time.perf_counter()
    result = run(method, slow, None, seconds=1.0)
    assert time.perf_counter() - began < 10.0  # where nobody else works 1.1
    assert slow.first_stage().violation(result.x) <= 1e-6


def test_a_deadline_binds_listed_scenarios_of_mixed_integer_second_stages() -> None:
    problem = MemoryProblem.random(np.random.default_rng(0), tensors=40, steps=60, variant="size", budget=2)
    began = time.perf_counter()
    result = run("search", problem, None, seconds=1.5)
    assert time.perf_counter() - began < 15.0
    assert not result.worst_case_exact  # 780 mixed-integer programs do not fit


def test_learned_without_a_network_is_an_ablation_and_needs_a_binary_plan() -> None:
    problem = KnapsackProblem.generate(np.random.default_rng(0), n=8, kind="UN", deviation=0.2, delta=0.5, fill=0.4)
    result = solve_learned(problem, None, LearnedConfig(seconds=2.0, quiet_rounds=5))
    assert not result.used_network
    assert result.worst_case >= solve_exact(problem, seconds=20).worst_case - 1e-6
    with pytest.raises(InputError, match="needs a trained network"):
        run("learned", problem, None, seconds=1.0)


class ExactNetwork:
    """Stands in for a network: predicts the exact values."""

    device_name = ""

    def __init__(self, problem: TwoStageProblem) -> None:
        self.solve = SecondStages(problem).solve
        self.known: dict[bytes, float] = {}

    def bind(self, problem: TwoStageProblem, device: str | None) -> "ExactNetwork":
        return self

    def predict(self, xs: np.ndarray, xis: np.ndarray) -> np.ndarray:
        return np.array([[self.value(x, xi) for xi in xis] for x in xs])

    def value(self, x: np.ndarray, xi: np.ndarray) -> float:
        key = x.tobytes() + xi.tobytes()
        if key not in self.known:
            self.known[key] = self.solve(x, xi).value
        return self.known[key]


def test_learned_prices_first_what_the_network_ranks_best_where_pricing_is_slow() -> None:
    problem = MemoryProblem.random(np.random.default_rng(17), tensors=5, steps=7, variant="bucket")
    network: Any = ExactNetwork(problem)
    found = solve_learned(problem, network, LearnedConfig(seconds=20.0, samples=4, quiet_rounds=1))
    best = solve_exact(problem, seconds=30).worst_case
    assert found.worst_case == pytest.approx(best, rel=1e-3)
    assert found.history[0].main == pytest.approx(best, rel=0.005)  # the average plan is 1.2 % above
    assert found.worst_case <= solve_average(problem).worst_case + 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": np.array([1.0, np.nan])}, "KnapsackProblem.weight holds NaN"),
        ({"weight": np.array(["1", "2"])}, "KnapsackProblem.weight holds <U1 entries"),
        ({"profit": np.array([1.0, np.inf])}, "infinite"),
        ({"capacity": float("nan")}, "capacity holds NaN"),
        ({"repair_weight": np.array([-1.0, 2.0])}, "expected numbers >= 0"),
        ({"degradation": np.ones(3)}, "has 3 entries; expected 2"),
    ],
)
def test_figures_that_are_none_are_refused(change: dict[str, object], words: str) -> None:
    good: dict[str, object] = {name: np.ones(2) for name in ("profit", "degradation", "repair_weight", "weight")}
    good |= {"outsourcing_cost": np.ones(2), "capacity": 1.0, "budget": 1.0, "name": "k"}
    with pytest.raises(InputError, match=words):
        KnapsackProblem(**{**good, **change})  # type: ignore[arg-type]


def test_recourse_arrays_are_checked() -> None:
    good = Bump().recourse(np.zeros(1))
    with pytest.raises(InputError, match=r"Recourse\.y_cost holds NaN"):
        replace(good, y_cost=np.array([np.nan]))
    with pytest.raises(InputError, match=r"Recourse\.y_rows has shape \(1, 2\); expected \(1, 1\)"):
        replace(good, y_rows=np.ones((1, 2)))
    with pytest.raises(InputError, match="expected 2, the variables"):
        solve_nominal(
            type(
                "Narrow",
                (Bump,),
                {"recourse": lambda self, xi: replace(good, x_cost=np.zeros(1), x_rows=np.zeros((1, 1)))},
            )()
        )


def test_a_value_that_is_no_number_is_refused() -> None:
    nan = type("Nan", (Listed,), {"values": lambda self, xs, xis: np.full((len(xs), len(xis)), np.nan)})
    with pytest.raises(InputError, match="gives NaN or -inf"):
        solve_nominal(nan())


def test_static_plan_is_infeasible_where_no_answer_suits_all() -> None:
    problem = Cover(open_cost=np.ones(2), ship_cost=np.ones((2, 1)), demand=np.array([3.0]), extra=np.array([9.0]))
    with pytest.raises(InputError, match="static robust program is infeasible"):
        solve_static(problem)

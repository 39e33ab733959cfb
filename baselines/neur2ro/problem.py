"""What a two-stage robust problem is to this package, and what a user writes to bring one of their own.

    minimise over x in X   c.x + max over xi in Xi   min over y   q_x(xi).x + q_y(xi).y + q_0(xi)
                                                     with  T(xi) x + W(xi) y <= h(xi)

Five members are required (docs/neur2ro.md has a complete example in 40 lines); everything else has a default that
solves small linear or integer programs, and can be overridden for speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet, as_numbers
from mallocgame.baselines.neur2ro.recourse import Recourse, RecourseSolver, SecondStage
from mallocgame.baselines.neur2ro.solvers import highs_program, import_highs, optimise_over, require, solve
from mallocgame.errors import InputError

__all__ = [
    "AffineMap",
    "Deterministic",
    "Features",
    "Recourse",
    "SecondStage",
    "TwoStageProblem",
    "Uncertainty",
    "add_recourse",
    "corners_of",
    "default_features",
    "deterministic_by_milp",
    "nominal_scenario",
    "per_item",
]

F64 = npt.NDArray[np.float64]
Uncertainty = Literal["objective", "finite", "general"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineMap:
    """v -> matrix v + offset, reshaped to [items, width]."""

    matrix: F64  # [items * width, size of v]
    offset: F64  # [items * width]
    width: int  # numbers per item

    @property
    def items(self) -> int:
        return len(self.offset) // self.width

    def __call__(self, v: F64) -> F64:
        """Map float64[..., size] to float64[..., items, width]."""
        flat = v @ self.matrix.T + self.offset
        return flat.reshape(*v.shape[:-1], self.items, self.width)


def per_item(items: int) -> AffineMap:
    """Return the map that gives item i its own variable i."""
    return AffineMap(matrix=np.eye(items), offset=np.zeros(items), width=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the network sees of an instance: numbers per item, and where x and xi enter.

    ``x_items`` and ``xi_items`` are static features (scale them by the instance, so that a trained network carries over
    to other sizes); a constant 1 is appended by the network. Predicted values are (value - label_offset) / label_scale.
    """

    x_map: AffineMap
    xi_map: AffineMap
    x_items: F64  # [items of x_map, features]
    xi_items: F64  # [items of xi_map, features]
    label_offset: float = 0.0
    label_scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.x_items) != self.x_map.items or len(self.xi_items) != self.xi_map.items:
            raise InputError("Features: the static features and the maps disagree on the number of items")
        for name in ("x_items", "xi_items", "label_offset", "label_scale"):
            if not np.isfinite(as_numbers(getattr(self, name), f"Features.{name}")).all():
                raise InputError(f"Features.{name} must be finite")
        if not self.label_scale > 0:
            raise InputError(f"Features.label_scale is {self.label_scale}; expected a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deterministic:
    """The best plan when the scenario is known: value = c.x + second stage."""

    value: float
    bound: float  # proved lower bound on the value (equal to it when solved exactly)
    x: F64
    y: F64


class TwoStageProblem(Protocol):
    """One instance. Subclass it and write the first five members; the rest have defaults."""

    #: What the maximum over scenarios looks like: "objective" (xi only in costs, affinely: worst cases are exact by
    #: cutting planes), "finite" (``scenarios`` lists them) or "general" (worst cases are searched: a lower bound).
    uncertainty_kind: Uncertainty

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Return a random instance of the family, for training."""
        ...

    def first_stage(self) -> LinearSet:
        """Return X, with the certain costs c."""
        ...

    def uncertainty(self) -> LinearSet:
        """Return Xi."""
        ...

    def recourse(self, xi: F64) -> Recourse:
        """Return the second stage at xi (float64[size of Xi]) as a linear program with integers."""
        ...

    def features(self) -> Features:
        """Return what the network sees. Default: first-stage costs, and how far a rise of xi_k moves costs and rows."""
        return default_features(self)

    def scenarios(self) -> F64 | None:
        """Return every scenario that can be a worst case, float64[K, size of Xi], or None if there is no such list."""
        return None

    def second_stage(self, x: F64, xi: F64) -> SecondStage:
        """Solve the second stage exactly. Default: the recourse program on the MILP solver."""
        return RecourseSolver().solve(self.recourse(xi), x, Clock())

    def values(self, xs: F64, xis: F64) -> F64:
        """Return second-stage values, float64[A, B], of every pair of xs[A, nx] and xis[B, nxi]."""
        if type(self).second_stage is not TwoStageProblem.second_stage:
            rows = [[self.second_stage(x, xi).value for xi in xis] for x in xs]
        else:
            solver, recourses = RecourseSolver(), [self.recourse(xi) for xi in xis]
            rows = [[solver.solve(recourse, x, Clock()).value for recourse in recourses] for x in xs]
        return np.array(rows).reshape(len(xs), len(xis))

    def warm_up(self) -> None:
        """Compile or load what the second stage needs; called before any clock starts. Default: nothing."""

    def mean_scenario(self) -> F64:
        """Return the scenario of a planner who expects the average, float64[nxi].

        Default: the mean of the listed scenarios, or of a sample; of whole numbers the sample nearest to it.
        """
        listed = self.scenarios()
        drawn = self.sample_scenarios(np.random.default_rng(0), 256) if listed is None else np.asarray(listed, float)
        mean = drawn.mean(axis=0)
        if listed is None and not self.uncertainty().integer.any():
            return np.asarray(mean, float)
        return np.asarray(drawn[np.argmin(np.abs(drawn - mean).sum(axis=1))])

    def deterministic(self, xi: F64) -> Deterministic:
        """Return the best (x, y) for a known scenario. Default: one MILP."""
        return deterministic_by_milp(self, xi)

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Return plans to train on, float64[count, nx]: answers to random costs over X."""
        stage = self.first_stage()
        plans = corners_of(stage, rng.normal(size=(count, stage.size)), "the first stage")
        return np.where(stage.integer, np.round(plans), plans)

    def sample_scenarios(self, rng: np.random.Generator, count: int) -> F64:
        """Return scenarios to train on, float64[count, nxi]: vertices of Xi and (where Xi is convex) their mixtures."""
        listed = self.scenarios()
        if listed is not None:
            return listed[rng.integers(len(listed), size=count)]
        box = self.uncertainty()
        corners = corners_of(box, rng.normal(size=(count, box.size)))
        if box.integer.any():
            return np.where(box.integer, np.round(corners), corners)
        weights = rng.dirichlet(np.full(count, 0.3), size=count)
        return np.where(rng.random((count, 1)) < 0.3, corners, weights @ corners)


def default_features(problem: TwoStageProblem) -> Features:
    """Return features of any problem: item i of x is (c_i, rows touched); item k of xi how costs and rows follow it."""
    stage, box = problem.first_stage(), problem.uncertainty()
    low = nominal_scenario(problem)
    base = problem.recourse(low)
    cost = stage.cost + base.x_cost
    money = max(1e-9, float(np.abs(cost).mean()))
    x_items = np.stack([cost / money, np.abs(base.x_rows).sum(axis=0) / max(1e-9, np.abs(base.x_rows).sum())], axis=1)
    moves = []
    for k in range(box.size):
        xi = low.copy()
        xi[k] = box.upper[k] if low[k] < box.upper[k] else box.lower[k]
        at = problem.recourse(xi)
        moves.append([np.abs(at.y_cost - base.y_cost).sum(), np.abs(at.row_upper - base.row_upper).sum()])
    table = np.array(moves).reshape(box.size, 2)
    table = table / np.maximum(1e-9, table.mean(axis=0, keepdims=True))
    seen = problem.values(problem.sample_first_stage(np.random.default_rng(0), 4), low[None])
    seen = seen[np.isfinite(seen)]
    scale = float(np.abs(seen).max(initial=0.0)) or money * stage.size
    return Features(
        x_map=per_item(stage.size), xi_map=per_item(box.size), x_items=x_items, xi_items=table, label_scale=scale
    )


def corners_of(box: LinearSet, directions: F64, what: str = "the uncertainty set") -> F64:
    """Return the point of the set with the least cost for each direction, float64[A, n]; warm from one to the next.

    Raises:
        InputError: the set is empty or unbounded; ``what`` names it.
    """
    if len(box.rows) == 0 and np.isfinite([box.lower, box.upper]).all():
        return np.where(directions > 0, box.lower, box.upper)
    if _is_budget(box):
        return _budget_corners(box, directions)
    if box.integer.any():
        return np.array([optimise_over(box, direction, what) for direction in directions])
    model = LinearModel()
    columns = model.add_set(box).astype(np.int32)
    program = highs_program(model)
    found = []
    for direction in directions:
        program.changeColsCost(len(columns), columns, direction)
        program.run()
        if program.getModelStatus() != import_highs().HighsModelStatus.kOptimal:
            found.append(optimise_over(box, direction, what))  # says what is wrong
        else:
            found.append(np.clip(np.array(program.getSolution().col_value), box.lower, box.upper))
    return np.array(found)


def _is_budget(box: LinearSet) -> bool:
    """Whether the set is a box with one budget that is not broken at the lower bounds and keeps vertices whole."""
    if len(box.rows) != 1 or not np.isfinite([box.lower, box.upper]).all():
        return False
    row, room = box.rows[0], float(box.row_upper[0] - box.rows[0] @ box.lower)
    if (row < 0).any() or box.row_lower[0] > row @ box.lower or room < 0:
        return False
    whole = (*box.lower, *box.upper, room) if np.isfinite(room) else (*box.lower, *box.upper)
    return not box.integer.any() or bool(np.isin(row, (0.0, 1.0)).all() and np.equal(np.mod(whole, 1.0), 0.0).all())


def _budget_corners(box: LinearSet, directions: F64) -> F64:
    """Return the cheapest point for each direction: what saves most per unit of the budget first."""
    row, width = box.rows[0], box.upper - box.lower
    room = float(box.row_upper[0] - row @ box.lower)
    saving = np.maximum(-directions, 0.0)
    order = np.argsort(-saving / np.where(row > 0, row, 1.0), axis=1, kind="stable")
    need = np.take_along_axis(np.where(saving > 0, row * width, 0.0), order, axis=1)
    left = room - (np.cumsum(need, axis=1) - need)
    share = np.where(need > 0, np.clip(left / np.where(need > 0, need, 1.0), 0.0, 1.0), 1.0)
    found = np.empty_like(directions)
    np.put_along_axis(found, order, share, axis=1)
    return np.asarray(box.lower + np.where(saving > 0, found, 0.0) * width)


def nominal_scenario(problem: TwoStageProblem) -> F64:
    """Return the scenario of a planner who ignores uncertainty: the point of Xi nearest to 0 in the sum of sizes."""
    box = problem.uncertainty()
    zero = np.clip(np.zeros(box.size), box.lower, box.upper)
    if box.violation(zero) <= 1e-9:
        return zero
    return optimise_over(box, np.where(box.lower >= 0, 1.0, 0.0), "the uncertainty set")


def deterministic_by_milp(
    problem: TwoStageProblem, xi: F64, *, gap: float = 1e-5, seconds: float = 60.0
) -> Deterministic:
    """Solve the problem at a known scenario on the MILP solver.

    Raises:
        InputError: it is infeasible or unbounded.
        OutOfTimeError: no plan was found in time.
    """
    recourse, stage = problem.recourse(xi), problem.first_stage()
    model = LinearModel()
    x = model.add_set(stage, with_cost=True)
    model.set_cost(x, stage.cost + recourse.x_cost)
    y = add_recourse(model, [recourse], x)
    model.set_cost(y, recourse.y_cost)
    model.offset = recourse.constant
    result = solve(model, gap=gap, seconds=seconds)
    if result.status == "unknown":
        raise OutOfTimeError
    require(result, f"{type(problem).__name__} at a known scenario")
    best_x = np.where(stage.integer, np.round(result.values[x]), result.values[x])
    value = float(stage.cost @ best_x) + recourse.value(best_x, result.values[y])
    return Deterministic(value=value, bound=min(value, result.bound), x=best_x, y=result.values[y])


def add_recourse(
    model: LinearModel,
    recourses: Sequence[Recourse],
    x: npt.NDArray[np.int64],
    selectors: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Add one copy of y that obeys each recourse in turn, or the one whose selector (a binary column) is 1.

    Rows that all recourses share are added once; the others are relaxed by their largest activity when not selected.
    """
    first = recourses[0]
    y_lower = np.min([r.y_lower for r in recourses], axis=0)
    y_upper = np.max([r.y_upper for r in recourses], axis=0)
    y = model.add_columns(len(first.y_cost), lower=y_lower, upper=y_upper, integer=first.y_integer)
    x_lower, x_upper = np.array(model.lower)[x], np.array(model.upper)[x]
    for row in range(len(first.row_upper)):
        shared = all(
            np.array_equal(r.x_rows[row], first.x_rows[row])
            and np.array_equal(r.y_rows[row], first.y_rows[row])
            and r.row_upper[row] == first.row_upper[row]
            for r in recourses
        )
        for k, r in enumerate(recourses[:1] if shared else recourses):
            terms = [(x, r.x_rows[row]), (y, r.y_rows[row])]
            if shared or selectors is None:
                model.add_terms(terms, upper=r.row_upper[row])
                continue
            top = sum(
                float(np.where(v > 0, v * high, v * low)[v != 0].sum())
                for v, low, high in ((r.x_rows[row], x_lower, x_upper), (r.y_rows[row], y_lower, y_upper))
            )
            slack = top - r.row_upper[row]
            if slack > 0:
                if not np.isfinite(slack):
                    raise InputError("a recourse row that differs between scenarios needs bounded x and y")
                model.add_terms([*terms, (selectors[k : k + 1], np.array([slack]))], upper=r.row_upper[row] + slack)
    return y

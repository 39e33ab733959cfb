"""What a two-stage robust problem is to this package, and what a user writes to bring one of their own.

    minimise over x in X   c.x + max over xi in Xi   min over y   q_x(xi).x + q_y(xi).y + q_0(xi)
                                                     with  T(xi) x + W(xi) y <= h(xi)

Six methods are required (docs/neur2ro.md has a complete example in 60 lines); everything else has a default that
solves small linear or integer programs, and can be overridden for speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import Bool, LinearSet, Model
from mallocgame.baselines.neur2ro.solvers import optimise_over, require, solve
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
Uncertainty = Literal["objective", "finite", "general"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recourse:
    """The second stage at one scenario: minimise x_cost.x + y_cost.y + constant over y.

    Subject to x_rows x + y_rows y <= row_upper and y_lower <= y <= y_upper, y_j whole where y_integer_j.
    """

    x_cost: F64  # [nx]
    y_cost: F64  # [ny]
    constant: float
    x_rows: F64  # [m, nx]
    y_rows: F64  # [m, ny]
    row_upper: F64  # [m]
    y_lower: F64  # [ny]
    y_upper: F64  # [ny]
    y_integer: Bool  # [ny]

    def value(self, x: F64, y: F64) -> float:
        """Return the second-stage cost of (x, y)."""
        return float(self.x_cost @ x + self.y_cost @ y + self.constant)


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
        if not (np.isfinite(self.x_items).all() and np.isfinite(self.xi_items).all() and self.label_scale > 0):
            raise InputError("Features must be finite and label_scale positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondStage:
    """The exact second stage at (x, xi): its value (inf when infeasible) and an optimal y."""

    value: float
    y: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class Deterministic:
    """The best plan when the scenario is known: value = c.x + second stage."""

    value: float
    bound: float  # proved lower bound on the value (equal to it when solved exactly)
    x: F64
    y: F64


class TwoStageProblem(Protocol):
    """One instance. Subclass it and write the first six members; the rest have defaults."""

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
        """Return what the network sees."""
        ...

    def scenarios(self) -> F64 | None:
        """Return every scenario that can be a worst case, float64[K, size of Xi], or None if there is no such list."""
        return None

    def second_stage(self, x: F64, xi: F64) -> SecondStage:
        """Solve the second stage exactly. Default: the recourse program on the MILP solver."""
        recourse = self.recourse(xi)
        model = Model()
        y = model.add_columns(
            len(recourse.y_cost),
            lower=recourse.y_lower,
            upper=recourse.y_upper,
            cost=recourse.y_cost,
            integer=recourse.y_integer,
        )
        room = recourse.row_upper - recourse.x_rows @ x
        for row, limit in zip(recourse.y_rows, room, strict=True):
            model.add_row(y, row, upper=limit)
        result = solve(model, gap=1e-9, seconds=60.0)
        if result.status == "infeasible":
            return SecondStage(value=np.inf, y=np.zeros(len(y)))
        values = require(result, "the second stage").values
        return SecondStage(value=recourse.value(x, values), y=values)

    def values(self, xs: F64, xis: F64) -> F64:
        """Return second-stage values, float64[A, B], of every pair of xs[A, nx] and xis[B, nxi]."""
        return np.array([[self.second_stage(x, xi).value for xi in xis] for x in xs]).reshape(len(xs), len(xis))

    def deterministic(self, xi: F64) -> Deterministic:
        """Return the best (x, y) for a known scenario. Default: one MILP."""
        return deterministic_by_milp(self, xi)

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Return plans to train on, float64[count, nx]: answers to random costs over X."""
        stage = self.first_stage()
        return np.array([optimise_over(stage, rng.normal(size=stage.size), "the first stage") for _ in range(count)])

    def sample_scenarios(self, rng: np.random.Generator, count: int) -> F64:
        """Return scenarios to train on, float64[count, nxi]: vertices of Xi and (where Xi is convex) their mixtures."""
        listed = self.scenarios()
        if listed is not None:
            return listed[rng.integers(len(listed), size=count)]
        box = self.uncertainty()
        corners = np.array([optimise_over(box, rng.normal(size=box.size), "the uncertainty set") for _ in range(count)])
        if box.integer.any():
            return np.round(corners)
        weights = rng.dirichlet(np.full(count, 0.3), size=count)
        return np.where(rng.random((count, 1)) < 0.3, corners, weights @ corners)


def deterministic_by_milp(
    problem: TwoStageProblem, xi: F64, *, gap: float = 1e-5, seconds: float = 60.0
) -> Deterministic:
    """Solve the problem at a known scenario on the MILP solver.

    Raises:
        InputError: it is infeasible or unbounded.
    """
    recourse, stage = problem.recourse(xi), problem.first_stage()
    model = Model()
    x = model.add_set(stage, with_cost=True)
    model.set_cost(x, stage.cost + recourse.x_cost)
    y = add_recourse(model, [recourse], x)
    model.set_cost(y, recourse.y_cost)
    model.offset = recourse.constant
    result = require(solve(model, gap=gap, seconds=seconds), "the problem at a known scenario")
    best_x = np.where(stage.integer, np.round(result.values[x]), result.values[x])
    value = float(stage.cost @ best_x) + recourse.value(best_x, result.values[y])
    return Deterministic(value=value, bound=min(value, result.bound), x=best_x, y=result.values[y])


def add_recourse(
    model: Model,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CostBasis:
    """The affine dependence of the second-stage cost on xi, for problems with uncertainty in the objective only."""

    x_cost: F64  # [nxi + 1, nx]: constant part first
    y_cost: F64  # [nxi + 1, ny]
    constant: F64  # [nxi + 1]

    def cut(self, x: F64, y: F64) -> F64:
        """Return (a_0, a) with cost(x, y, xi) = a_0 + a.xi, float64[nxi + 1]."""
        return self.x_cost @ x + self.y_cost @ y + self.constant


def cost_basis(problem: TwoStageProblem) -> CostBasis:
    """Return the affine cost of a problem whose uncertainty is in the objective, from its recourse at unit vectors.

    Raises:
        InputError: a constraint of the recourse depends on xi although the problem says that only costs do.
    """
    size = problem.uncertainty().size
    base = problem.recourse(np.zeros(size))
    x_cost, y_cost, constant = [base.x_cost], [base.y_cost], [base.constant]
    for unit in np.eye(size):
        at = problem.recourse(unit)
        if not (np.array_equal(at.y_rows, base.y_rows) and np.array_equal(at.row_upper, base.row_upper)):
            raise InputError("uncertainty_kind is 'objective' but the recourse constraints change with xi")
        x_cost.append(at.x_cost - base.x_cost)
        y_cost.append(at.y_cost - base.y_cost)
        constant.append(at.constant - base.constant)
    return CostBasis(x_cost=np.array(x_cost), y_cost=np.array(y_cost), constant=np.array(constant))

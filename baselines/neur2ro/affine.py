"""How a recourse depends on the scenario: affine coefficients from points of Xi, checked at other points of Xi.

A method that prices by cutting planes, duality or separation is right only if the numbers are affine in xi; a problem
that says so and is not gets an error that names the array, never a certificate.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import LinearSet
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem, nominal_scenario
from mallocgame.baselines.neur2ro.solvers import optimise_over
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
TOLERANCE = 1e-7  # relative to the largest entry of the array
CHECKS = 24  # points at which affinity is checked
NUMBERS = tuple(field.name for field in fields(Recourse) if field.name != "y_integer")


def recourse_at(problem: TwoStageProblem, xi: F64, *, plan_size: int) -> Recourse:
    """Return the recourse at xi after checking that it fits a plan of ``plan_size`` numbers.

    Raises:
        InputError: ``x_cost`` or ``x_rows`` are for another number of first-stage variables.
    """
    found = problem.recourse(xi)
    if found.x_rows.shape[1] != plan_size:
        raise InputError(
            f"{type(problem).__name__}.recourse: x_cost and x_rows have {found.x_rows.shape[1]} columns; "
            f"expected {plan_size}, the variables of first_stage()"
        )
    return found


def spanning_points(box: LinearSet) -> F64:
    """Return points of Xi whose affine hull is that of Xi, float64[K, nxi]; the origin and unit vectors if they fit."""
    n = box.size
    simple = np.vstack([np.zeros((1, n)), np.eye(n)])
    if all(box.violation(point) <= 1e-9 for point in simple):
        return simple
    points: list[F64] = []
    rank = 0
    for direction in (*np.eye(n), *-np.eye(n)):
        point = optimise_over(box, direction, "the uncertainty set")
        now = np.linalg.matrix_rank(np.array([*points, point]) - (points[0] if points else point), tol=1e-9)
        if not points or now > rank:
            points.append(np.round(point) if box.integer.all() else point)
            rank = int(now)
    return np.array(points)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """One array of the recourse as constant + sum_k xi_k slope_k."""

    constant: F64  # [...]
    slope: F64  # [nxi, ...]
    is_fixed: bool

    def at(self, xi: F64) -> F64:
        """Return the array at xi."""
        return self.constant if self.is_fixed else np.asarray(self.constant + np.tensordot(xi, self.slope, axes=1))


class AffineRecourse:
    """A recourse whose numbers are affine in xi.

    Raises:
        InputError: a number is not affine over Xi, a bound is infinite in some scenarios only, ``y_integer`` changes.
    """

    def __init__(self, problem: TwoStageProblem, *, costs_only: bool = False) -> None:
        self.problem = problem
        self.box = problem.uncertainty()
        self.costs_only = costs_only
        self._size = problem.first_stage().size
        points = spanning_points(self.box)
        self.base = recourse_at(problem, points[0], plan_size=self._size)
        samples = [self.base, *(recourse_at(problem, point, plan_size=self._size) for point in points[1:])]
        self._shift = points[0]
        self._exact = np.array_equal(points, np.vstack([np.zeros((1, self.box.size)), np.eye(self.box.size)]))
        moves = points[1:] - points[0]
        self._inverse = moves if self._exact or not len(moves) else np.linalg.pinv(moves)
        self._parts = {name: self._fit(name, samples) for name in NUMBERS}
        self._check(points)

    def _fit(self, name: str, samples: list[Recourse]) -> Coefficients:
        first = np.asarray(getattr(samples[0], name), float)
        if all(np.array_equal(first, getattr(sample, name)) for sample in samples[1:]):
            return Coefficients(first, np.broadcast_to(np.zeros(()), (self.box.size, *first.shape)), is_fixed=True)
        values = np.array([np.asarray(getattr(sample, name), float) for sample in samples])
        if (np.isinf(values) != np.isinf(values[0])).any():
            raise InputError(f"{type(self.problem).__name__}.recourse: {name} is infinite in some scenarios only")
        base = np.where(np.isinf(values[0]), 0.0, values[0])
        change = np.where(np.isinf(values[1:]), 0.0, values[1:]) - base
        slope = change if self._exact else np.tensordot(self._inverse, change, axes=1)
        slope = np.where(np.abs(slope) <= 1e-11 * max(1.0, float(np.abs(base).max(initial=0.0))), 0.0, slope)
        constant = values[0] - np.tensordot(self._shift, slope, axes=1)
        return Coefficients(constant, slope, is_fixed=not slope.any())

    def _check(self, points: F64) -> None:
        rng = np.random.default_rng(0)
        drawn = [*self.problem.sample_scenarios(rng, CHECKS), nominal_scenario(self.problem)]
        for xi in drawn:
            if self.box.violation(xi) > 1e-6:
                raise InputError(f"{type(self.problem).__name__}.sample_scenarios gives a scenario outside Xi")
        if not self.box.integer.any():
            weights = rng.dirichlet(np.full(len(points), 0.5), size=CHECKS)
            drawn += list(weights @ points)
        for xi in drawn:
            self._check_at(xi)

    def _check_at(self, xi: F64) -> None:
        found = recourse_at(self.problem, xi, plan_size=self._size)
        if not np.array_equal(found.y_integer, self.base.y_integer):
            raise InputError(f"{type(self.problem).__name__}.recourse: y_integer changes with xi")
        for name, part in self._parts.items():
            have = np.asarray(getattr(found, name), float)
            expected = part.at(xi)
            finite = np.isfinite(have)
            if have.shape != expected.shape or (finite != np.isfinite(expected)).any():
                raise InputError(f"{type(self.problem).__name__}.recourse: {name} changes its shape with xi")
            scale = max(1.0, float(np.abs(have[finite]).max(initial=0.0)))
            error = float(np.abs(have[finite] - expected[finite]).max(initial=0.0))
            if error > TOLERANCE * scale:
                raise InputError(self._complaint(name, xi, error))

    def _complaint(self, name: str, xi: F64, error: float) -> str:
        where = ", ".join(f"{value:.4g}" for value in xi[:8]) + (", ..." if len(xi) > 8 else "")
        what = "a cost" if name in ("x_cost", "y_cost", "constant") else "a constraint"
        claim = " although uncertainty_kind is 'objective'" if self.costs_only else ""
        return (
            f"{type(self.problem).__name__}.recourse: {what} is not affine in xi{claim}: {name} at xi = ({where}) is "
            f"{error:.4g} off; use uncertainty_kind 'finite' with scenarios(), or 'general' and method search"
        )

    def part(self, name: str) -> Coefficients:
        """Return the coefficients of one array of the recourse by its field's name."""
        return self._parts[name]

    def is_fixed(self, *names: str) -> bool:
        """Whether none of the arrays depends on xi."""
        return all(self._parts[name].is_fixed for name in names)

    @cached_property
    def uncertain_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the recourse that depend on xi, int64[R]."""
        moving = np.zeros(len(self.base.row_upper), bool)
        for name in ("x_rows", "y_rows", "row_upper"):
            part = self._parts[name]
            if not part.is_fixed:
                changes = (part.slope != 0).any(axis=0)
                moving |= changes.any(axis=1) if changes.ndim == 2 else changes
        return np.flatnonzero(moving)

    def cost_cut(self, x: F64, y: F64) -> F64:
        """Return (a_0, a) with second-stage cost(x, y, xi) = a_0 + a.xi, float64[1 + nxi]."""
        x_cost, y_cost, constant = (self._parts[name] for name in ("x_cost", "y_cost", "constant"))
        base = x_cost.constant @ x + y_cost.constant @ y + constant.constant
        return np.append(base, x_cost.slope @ x + y_cost.slope @ y + constant.slope)

    def constraints(self, x: F64, y: F64) -> F64:
        """Return (a_0, a) of the cost, then of each uncertain row's excess, at (x, y): float64[1 + rows, 1 + nxi]."""
        rows = self.uncertain_rows
        x_rows, y_rows, upper = (self._parts[name] for name in ("x_rows", "y_rows", "row_upper"))
        base = x_rows.constant[rows] @ x + y_rows.constant[rows] @ y - upper.constant[rows]
        slope = x_rows.slope[:, rows] @ x + y_rows.slope[:, rows] @ y - upper.slope[:, rows]
        return np.vstack([self.cost_cut(x, y), np.column_stack([base, slope.T])])

    def worst_scenarios(self, x: F64, y: F64, bound: float) -> list[F64]:
        """Return scenarios where (x, y) costs more than ``bound`` or breaks a row, the worst of each."""
        fresh = []
        for k, (constant, *slope) in enumerate(self.constraints(x, y)):
            xi = optimise_over(self.box, -np.array(slope), "the uncertainty set")
            value = constant + float(np.array(slope) @ xi) - (bound if k == 0 else 0.0)
            if value > 1e-6 * max(1.0, abs(bound)):
                fresh.append(xi)
        return fresh


def costs_only(problem: TwoStageProblem) -> AffineRecourse:
    """Return the affine costs of a problem whose uncertainty is in the objective.

    Raises:
        InputError: a cost is not affine in xi over Xi, or a constraint of the recourse depends on xi.
    """
    affine = AffineRecourse(problem, costs_only=True)
    for name in ("x_rows", "y_rows", "row_upper", "y_lower", "y_upper"):
        if not affine.is_fixed(name):
            raise InputError(
                f"uncertainty_kind is 'objective' but the recourse constraints change with xi ({name}); "
                "use 'general', or 'finite' with scenarios()"
            )
    return affine

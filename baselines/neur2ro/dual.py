"""The exact adversary for a linear second stage whose right-hand side is uncertain, by linear-programming duality.

At plan x the second stage is min {q.y : G y <= a + A xi}, its value max {-v.(a + A xi) : G'v = -q, v >= 0}. Where the
vertices of Xi are 0/1 (after scaling), the product of a bounded multiplier and a 0/1 entry is linear in a mixed-integer
program (McCormick), so the worst scenario is found and proved. Two programs: the least total violation (multipliers in
[0, 1], so it is exact whatever q) finds scenarios without a feasible second stage; the cost comes after it.

Bounds on multipliers: their largest values over the dual polyhedron where it is bounded; otherwise, if every scenario
leaves a margin s_r in the uncertain rows (again the first program), any optimal v has v.s <= q.y' - q.y for the y' that
keeps the margin, hence v_r <= (max q.y - min q.y over the bounds of y) / s_r.
Source of the dual adversary: Zeng and Zhao, Operations Research Letters 41 (2013), doi:10.1016/j.orl.2013.05.003.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.affine import AffineRecourse
from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem
from mallocgame.baselines.neur2ro.solvers import solve
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
GAP = 1e-7
MARGINS = (0.2, 0.05, 0.01)  # of a row's size, tried in turn
TRIAL = 1e4  # bound of multipliers that have none: the scenario found is then no proof
VIOLATION = 1e-6  # relative; least total violation that counts as infeasible


def is_right_hand_side(problem: TwoStageProblem) -> AffineRecourse | None:
    """Return the affine recourse if the second stage is linear with uncertainty outside its matrix and costs of y."""
    try:
        affine = AffineRecourse(problem)
    except InputError:
        return None
    linear = not affine.base.y_integer.any() and affine.is_fixed("y_rows", "y_cost", "y_lower", "y_upper")
    return affine if linear else None


def has_binary_vertices(box: LinearSet) -> bool:
    """Whether Xi, scaled to the unit box, has only 0/1 vertices: whole numbers, or rows that nest (laminar)."""
    if (box.integer | (box.upper == box.lower)).all():
        return bool(((box.upper - box.lower) <= 1.0).all())
    if box.integer.any():
        return False
    span = box.upper - box.lower
    rows = box.rows * span
    ends = [box.row_lower - box.rows @ box.lower, box.row_upper - box.rows @ box.lower]
    sets: list[frozenset[int]] = []
    for k, row in enumerate(rows):
        used = np.flatnonzero(row)
        scale = row[used[0]] if len(used) else 1.0
        whole = [end[k] / scale for end in ends if np.isfinite(end[k])]
        if scale <= 0 or not np.allclose(row[used], scale) or not np.allclose(whole, np.round(whole)):
            return False
        sets.append(frozenset(used.tolist()))
    return all(a <= b or b <= a or not (a & b) for a in sets for b in sets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A scenario and a proved upper bound on the second-stage value (inf when infeasible there)."""

    xi: F64
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DualAdversary:
    """The dual of one recourse with bounds on its multipliers."""

    affine: AffineRecourse
    rows: F64  # G, [m, ny]: the recourse's rows, then finite bounds on y
    multiplier_upper: F64  # [m], proved; inf where the row does not depend on xi

    @classmethod
    def build(cls, affine: AffineRecourse) -> Self | None:
        """Return the adversary, or None where Xi has other vertices or no multiplier can be bounded."""
        if not has_binary_vertices(affine.box):
            return None
        base = affine.base
        eye = np.eye(len(base.y_cost))
        lows, highs = np.isfinite(base.y_lower), np.isfinite(base.y_upper)
        rows = np.vstack([base.y_rows, -eye[lows], eye[highs]])
        upper = np.full(len(rows), np.inf)
        for row in affine.uncertain_rows:
            model = LinearModel()
            v = model.add_columns(len(rows))
            for column, cost in zip(rows.T, base.y_cost, strict=True):
                model.add_row(v, column, lower=-cost, upper=-cost)
            model.cost[int(v[row])] = -1.0
            result = solve(model, seconds=20.0)
            if result.status == "optimal":
                upper[row] = -result.objective * (1 + 1e-6) + 1e-9
            elif result.status != "unbounded" or not np.isfinite(_cost_range(base)):
                return None
        return cls(affine=affine, rows=rows, multiplier_upper=upper)

    def worst_scenario(self, x: F64, clock: Clock) -> Found:
        """Return the worst scenario of plan ``x`` with a proved bound on its second-stage cost.

        Raises:
            OutOfTimeError: the deadline passed before any scenario was found.
        """
        limit = VIOLATION * max(1.0, float(np.abs(self.affine.base.row_upper).max(initial=0.0)))
        violation, most, xi = self._solve(x, clock, np.zeros(len(self.rows)), None)
        if violation > limit:
            return Found(xi=xi, upper=np.inf)
        if most > limit + GAP:
            raise OutOfTimeError  # feasibility is neither proved nor refuted
        tops = self._multiplier_bounds(x, clock)
        _, upper, xi = self._solve(x, clock, np.zeros(len(self.rows)), np.where(np.isnan(tops), TRIAL, tops))
        proved = not np.isnan(tops).any()
        return Found(xi=xi, upper=upper if proved else np.inf)

    def _multiplier_bounds(self, x: F64, clock: Clock) -> F64:
        """Return upper bounds on the multipliers at plan ``x``, float64[m]; NaN where none was found."""
        tops = self.multiplier_upper.copy()
        rows = self.affine.uncertain_rows
        unknown = rows[np.isinf(tops[rows])]
        if not len(unknown):
            return tops
        a, slope = self._right_hand_side(x)
        scale = np.maximum(1e-3, np.abs(a[unknown]) + np.abs(slope[unknown]).sum(axis=1))
        for share in MARGINS:
            margin = np.zeros(len(self.rows))
            margin[unknown] = share * scale
            _, most, _ = self._solve(x, clock, margin, None)
            if most <= VIOLATION * float(margin[unknown].min()):
                tops[unknown] = _cost_range(self.affine.base) / margin[unknown]
                return tops
        tops[unknown] = np.nan
        return tops

    def _right_hand_side(self, x: F64) -> tuple[F64, F64]:
        """Return (a, A) with row limits a + A xi at plan x: [m], [m, nxi]."""
        base = self.affine.base
        upper, x_rows = self.affine.part("row_upper"), self.affine.part("x_rows")
        a = upper.constant - x_rows.constant @ x
        slope = (upper.slope - x_rows.slope @ x).T
        lows, highs = np.isfinite(base.y_lower), np.isfinite(base.y_upper)
        extra = len(self.rows) - len(a)
        ends = np.concatenate([-base.y_lower[lows], base.y_upper[highs]])
        return np.append(a, ends), np.vstack([slope, np.zeros((extra, slope.shape[1]))])

    def _solve(self, x: F64, clock: Clock, margin: F64, tops: F64 | None) -> tuple[float, float, F64]:
        """Return (value, proved upper bound, scenario) of the dual program.

        Args:
            x: float64[nx].
            clock: the deadline.
            margin: float64[m], taken off the right-hand side.
            tops: float64[m] bounds on the multipliers; None asks for the least total violation of the recourse's rows
                instead of the cost (bounds on y are never relaxed).
        """
        clock.check()
        box, base = self.affine.box, self.affine.base
        a, slope = self._right_hand_side(x)
        a = a - margin
        feasibility = tops is None
        model = LinearModel()
        xi = model.add_set(box)
        span = box.upper - box.lower
        picks = model.add_columns(box.size, upper=1.0, integer=True)
        for k in range(box.size):  # xi_k = lower_k + span_k pick_k
            terms = [(xi[k : k + 1], np.ones(1)), (picks[k : k + 1], -span[k : k + 1])]
            model.add_terms(terms, lower=float(box.lower[k]), upper=float(box.lower[k]))
        if tops is None:
            tops = np.where(np.arange(len(a)) < len(base.row_upper), 1.0, np.inf)
        v = model.add_columns(len(a), upper=tops, cost=a + slope @ box.lower)
        target = np.zeros(len(base.y_cost)) if feasibility else base.y_cost
        for column, cost in zip(self.rows.T, target, strict=True):
            model.add_row(v, column, lower=-cost, upper=-cost)
        for row, k in zip(*np.nonzero(slope), strict=True):
            weight = float(slope[row, k] * span[k])
            if weight:
                _product(model, int(v[row]), int(picks[k]), float(tops[row]), weight)
        if not feasibility:
            self._add_direct_costs(model, x, xi)
        result = solve(model, seconds=max(0.05, clock.left), gap=GAP)
        if not result.has_solution:
            raise OutOfTimeError
        found = result.values[xi]
        found = np.where(box.integer, np.round(found), np.clip(found, box.lower, box.upper))
        return -result.objective, -result.bound, found

    def _add_direct_costs(self, model: LinearModel, x: F64, xi: npt.NDArray[np.int64]) -> None:
        """Add what xi costs without the second stage: x_cost(xi).x + constant(xi)."""
        x_cost, constant = self.affine.part("x_cost"), self.affine.part("constant")
        model.offset = -float(x_cost.constant @ x + constant.constant)
        model.set_cost(xi, -(x_cost.slope @ x + constant.slope))


def _cost_range(base: Recourse) -> float:
    """Return the difference between the largest and the least q.y over the bounds of y; inf where one has none."""
    used = base.y_cost != 0
    ends = np.stack([base.y_cost[used] * base.y_lower[used], base.y_cost[used] * base.y_upper[used]])
    return float((ends.max(axis=0) - ends.min(axis=0)).sum())


def _product(model: LinearModel, v: int, pick: int, top: float, weight: float) -> None:
    """Add a column that is v * pick (v in [0, top], pick 0/1) at cost ``weight``."""
    column = model.add_columns(1, upper=top, cost=weight)
    one = np.ones(1)
    model.add_terms([(column, one), (np.array([v]), -one)], upper=0.0)
    model.add_terms([(column, one), (np.array([pick]), np.array([-top]))], upper=0.0)
    model.add_terms([(column, one), (np.array([v]), -one), (np.array([pick]), np.array([-top]))], lower=-top)

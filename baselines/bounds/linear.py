"""A linear program built row by row, and a lower bound on its optimum that no solver tolerance can overstate."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import csr_array

from mallocgame.baselines.native import call

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Terms = list[tuple[int, float]]  # (column, coefficient)


@dataclass(slots=True)
class Expression:
    """``constant`` + sum of coefficient x column."""

    terms: Terms = field(default_factory=list)
    constant: float = 0.0

    @classmethod
    def of(cls, *columns: int, constant: float = 0.0) -> "Expression":
        """Return the sum of ``columns``."""
        return cls([(column, 1.0) for column in columns], constant)

    def shifted(self, by: int) -> "Expression":
        """Return the same of the columns that are ``by`` further on."""
        return Expression([(column + by, a) for column, a in self.terms], self.constant)

    def plus(self, other: "Expression", factor: float = 1.0) -> "Expression":
        """Return this + factor x other."""
        return Expression(
            self.terms + [(c, factor * a) for c, a in other.terms], self.constant + factor * other.constant
        )

    def add(self, other: "Expression", factor: float = 1.0) -> None:
        """Add factor x other to this one."""
        self.terms += other.terms if factor == 1.0 else [(c, factor * a) for c, a in other.terms]
        self.constant += factor * other.constant


@dataclass(slots=True)
class LinearProgram:
    """Minimise cost x subject to rows >= bounds and box bounds. Every column is boxed, so every dual gives a bound."""

    cost: "array[float]" = field(default_factory=lambda: array("d"))
    low: "array[float]" = field(default_factory=lambda: array("d"))
    high: "array[float]" = field(default_factory=lambda: array("d"))
    constant: float = 0.0
    row_index: "array[int]" = field(default_factory=lambda: array("q"))
    column_index: "array[int]" = field(default_factory=lambda: array("q"))
    coefficient: "array[float]" = field(default_factory=lambda: array("d"))
    row_bound: "array[float]" = field(default_factory=lambda: array("d"))
    _built: csr_array | None = field(default=None, repr=False, compare=False)

    def column(self, low: float, high: float, cost: float = 0.0) -> int:
        """Add a column and return its number."""
        self.low.append(low)
        self.high.append(high)
        self.cost.append(cost)
        return len(self.cost) - 1

    def add_columns(self, high: F64, cost: float = 0.0) -> I64:
        """Add columns between 0 and ``high`` and return their numbers."""
        first = len(self.cost)
        self.low.frombytes(np.zeros(len(high)).tobytes())
        self.high.frombytes(np.asarray(high, dtype=np.float64).tobytes())
        self.cost.frombytes(np.full(len(high), cost).tobytes())
        return np.arange(first, first + len(high))

    def at_least(self, terms: Iterable[tuple[int, float]], bound: float) -> None:
        """Add the row: sum of terms >= bound."""
        before = len(self.column_index)
        for column, coefficient in terms:
            self.column_index.append(column)
            self.coefficient.append(coefficient)
        self.row_index.extend([len(self.row_bound)] * (len(self.column_index) - before))
        self.row_bound.append(bound)

    def add_rows(self, rows: I64, columns: I64, coefficients: F64, bounds: F64) -> int:
        """Add rows ``>= bounds`` from terms in any order; ``rows`` count from 0. Return the first one's number."""
        first = len(self.row_bound)
        self.row_index.frombytes((np.asarray(rows, dtype=np.int64) + first).tobytes())
        self.column_index.frombytes(np.asarray(columns, dtype=np.int64).tobytes())
        self.coefficient.frombytes(np.asarray(coefficients, dtype=np.float64).tobytes())
        self.row_bound.frombytes(np.asarray(bounds, dtype=np.float64).tobytes())
        return first

    def not_above(self, small: Expression, large: Expression) -> None:
        """Add the row: small <= large (unless it always holds)."""
        difference = large.plus(small, -1.0)
        if difference.terms or difference.constant < 0.0:
            self.at_least(difference.terms, -difference.constant)

    @property
    def matrix(self) -> csr_array:
        """The rows, duplicates summed: float64[rows, columns]. Built once, until a row or a column is added."""
        shape = (len(self.row_bound), len(self.cost))
        if self._built is None or self._built.shape != shape:
            terms = (np.array(self.coefficient), (np.array(self.row_index), np.array(self.column_index)))
            self._built = csr_array(terms, shape=shape)
        return self._built


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSolution:
    """A solved relaxation: ``bound`` is safe, ``value`` is what the solver claims."""

    bound: float
    value: float
    columns: F64
    status: str
    duals: F64  # float64[rows], >= 0
    is_solved: bool = True  # False: no time; the bound is that of the boxes alone


def solve(
    program: LinearProgram,
    *,
    seconds: float = 3600.0,
    method: str = "highs",
    stop: Callable[[], bool] = lambda: False,
) -> LinearSolution:
    """Solve by HiGHS, in a child that ends with the limit; an unfinished solve gives the bound of the boxes alone."""
    cost, boxes, rows = np.array(program.cost), np.array([program.low, program.high]), np.array(program.row_bound)
    arguments = (cost, program.matrix, rows, boxes, method, max(seconds, 0.01))
    found: tuple[F64 | None, F64 | None, str] | None = (cost, np.zeros(len(rows)), "There is nothing to decide.")
    if len(cost):  # linprog refuses a program without columns
        found = call(_solve, *arguments, seconds=max(seconds, 0.01), stop=stop)
    columns, duals, status = found if found is not None else (None, None, "Time limit reached.")
    if status.startswith("The problem is infeasible"):
        raise AssertionError("the relaxation has no solution, though the empty mapping is one")
    is_solved = columns is not None and duals is not None
    if columns is None or duals is None:
        columns, duals = boxes[0], np.zeros(len(rows))
    value = float(cost @ columns) + program.constant
    bound = safe_bound(program, duals)
    return LinearSolution(
        bound=bound,
        value=value,
        columns=columns,
        status=status,
        duals=np.maximum(np.nan_to_num(duals), 0.0),
        is_solved=is_solved,
    )


def boxes_below(program: LinearProgram, duals: F64, cutoff: float) -> F64:
    """Return float64[2, columns], boxes that hold every point whose cost is at most ``cutoff``.

    The Lagrangian of ``duals`` is a bound; a column that leaves its best end costs its reduced cost on top of it.
    """
    low, high = np.array(program.low), np.array(program.high)
    reduced = np.array(program.cost) - program.matrix.T @ duals
    room = max(cutoff - safe_bound(program, duals), 0.0) * (1.0 + 1e-6) + 1e-9
    most = np.divide(room, np.abs(reduced), out=np.full(len(reduced), np.inf), where=np.abs(reduced) > 1e-12)
    tight = np.array([np.where(reduced < 0.0, high - most, low), np.where(reduced > 0.0, low + most, high)])
    boxes: F64 = np.array([np.maximum(tight[0], low), np.minimum(tight[1], high)])
    return boxes


def _solve(
    cost: F64, matrix: csr_array, rows: F64, boxes: F64, method: str, seconds: float
) -> tuple[F64 | None, F64 | None, str]:
    """Return the columns, the duals of the rows, and what HiGHS says."""
    options = {"time_limit": seconds}
    result = linprog(cost, A_ub=-matrix, b_ub=-rows, bounds=boxes.T, method=method, options=options)
    status = str(result.message).split("\n")[0]
    if result.x is None:
        return None, None, status
    return np.asarray(result.x), -np.asarray(result.ineqlin.marginals), status


def safe_bound(program: LinearProgram, duals: F64) -> float:
    """Return a value not above the optimum, from any duals: the Lagrangian over the boxes, less its rounding error.

    Args:
        duals: float64[rows], one multiplier a row; negative ones count as 0.
    """
    matrix = program.matrix
    weights = np.maximum(np.nan_to_num(duals), 0.0)
    low, high = np.array(program.low), np.array(program.high)
    reduced = np.array(program.cost) - matrix.T @ weights
    products = np.where(reduced >= 0.0, reduced * low, reduced * high)
    rows = weights * np.array(program.row_bound)
    magnitude = np.abs(rows).sum() + abs(program.constant)
    sizes = np.abs(matrix).T @ weights + np.abs(np.array(program.cost))
    magnitude += float((sizes * np.maximum(np.abs(low), np.abs(high))).sum())
    longest = 256 + int(np.diff(matrix.tocsc().indptr).max(initial=0))  # additions in a row; numpy sums in pairs
    error = float(magnitude) * 4.0 * float(np.finfo(np.float64).eps) * longest
    return float(rows.sum() + products.sum() + program.constant) - error

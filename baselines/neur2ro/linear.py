"""Linear and mixed-integer models that no solver owns: sets of linear constraints, and a model under construction."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def as_numbers(values: object, what: str) -> F64:
    """Return ``values`` as float64.

    Raises:
        InputError: text, objects or NaN among them; ``what`` names them.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} holds {array.dtype} entries; expected numbers")
    numbers = np.asarray(array, float)
    if np.isnan(numbers).any():
        raise InputError(f"{what} holds NaN; expected numbers")
    return numbers


def check_figures(
    problem: object,
    names: Sequence[str],
    *,
    length: int,
    nonnegative: Sequence[str] = (),
    free: Sequence[str] = (),
) -> None:
    """Check the figures of an instance: finite numbers, one row an item, not negative where they must not be.

    Args:
        problem: a (frozen) dataclass; its arrays become float64.
        names: fields, numbers or arrays.
        length: items.
        nonnegative: those among them that must be >= 0.
        free: arrays of any length.

    Raises:
        InputError: a field that is none of this, by name and value.
    """
    kind = type(problem).__name__
    for name in names:
        values = as_numbers(getattr(problem, name), f"{kind}.{name}")
        if values.ndim and name not in free and len(values) != length:
            raise InputError(f"{kind}.{name} has {len(values)} entries; expected {length}, one an item")
        if not np.isfinite(values).all():
            raise InputError(f"{kind}.{name} holds an infinite number; expected finite ones")
        if name in nonnegative and (values < 0).any():
            raise InputError(f"{kind}.{name} holds {float(values.min()):g}; expected numbers >= 0")
        if values.ndim:
            object.__setattr__(problem, name, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSet:
    """{v : lower <= v <= upper, row_lower <= rows v <= row_upper, v_j whole where integer_j}, with a cost on v.

    All arrays are float64 (``integer`` is bool); leave out rows for a box. Raises InputError on shapes that disagree.
    """

    lower: F64  # [n]
    upper: F64  # [n]
    integer: Bool  # [n]
    cost: F64 = field(default_factory=lambda: np.zeros(0))  # [n]; empty means 0
    rows: F64 = field(default_factory=lambda: np.zeros((0, 0)))  # [m, n]
    row_lower: F64 = field(default_factory=lambda: np.zeros(0))  # [m]
    row_upper: F64 = field(default_factory=lambda: np.zeros(0))  # [m]

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "cost", "rows", "row_lower", "row_upper"):
            object.__setattr__(self, name, as_numbers(getattr(self, name), f"a LinearSet: {name}"))
        n = len(self.lower)
        if self.cost.size == 0:
            object.__setattr__(self, "cost", np.zeros(n))
        if self.rows.size == 0:
            object.__setattr__(self, "rows", np.zeros((len(self.row_upper), n)))
        m = len(self.rows)
        if self.row_lower.size == 0:
            object.__setattr__(self, "row_lower", np.full(m, -np.inf))
        shapes = [self.upper.shape, self.integer.shape, self.cost.shape, self.rows.shape[1:]]
        if any(shape != (n,) for shape in shapes) or self.row_lower.shape != (m,) or self.row_upper.shape != (m,):
            raise InputError(f"a LinearSet of {n} variables has arrays of shapes {shapes}; expected {n} each")
        if not (np.isfinite(self.rows).all() and np.isfinite(self.cost).all()):
            raise InputError("a LinearSet has an infinite cost or row entry; only bounds may be infinite")

    @property
    def size(self) -> int:
        """Number of variables."""
        return len(self.lower)

    @property
    def is_binary(self) -> bool:
        """Whether every variable is 0 or 1."""
        return bool(self.integer.all() and (self.lower >= 0).all() and (self.upper <= 1).all())

    def violation(self, v: F64) -> float:
        """Return the largest violation of bounds, rows and integrality at ``v`` (float64[n])."""
        parts = [self.lower - v, v - self.upper, np.where(self.integer, np.abs(v - np.round(v)), 0.0)]
        if len(self.rows):
            activity = self.rows @ v
            parts += [self.row_lower - activity, activity - self.row_upper]
        return float(max((part.max() for part in parts if part.size), default=0.0))


def binary_set(n: int, *, cost: F64 | None = None, rows: F64 | None = None, row_upper: F64 | None = None) -> LinearSet:
    """Return {v in {0, 1}^n : rows v <= row_upper} with a cost."""
    return LinearSet(
        lower=np.zeros(n),
        upper=np.ones(n),
        integer=np.ones(n, bool),
        cost=np.zeros(n) if cost is None else cost,
        rows=np.zeros((0, n)) if rows is None else rows,
        row_upper=np.zeros(0) if row_upper is None else row_upper,
    )


def budget_set(n: int, budget: float, *, integer: bool = False) -> LinearSet:
    """Return {v in [0, 1]^n : sum v <= budget}, optionally with whole v."""
    return LinearSet(
        lower=np.zeros(n),
        upper=np.ones(n),
        integer=np.full(n, integer),
        rows=np.ones((1, n)),
        row_upper=np.array([float(budget)]),
    )


class LinearModel:
    """A mixed-integer linear program (minimise) that is being built; ``solvers.solve`` runs it."""

    def __init__(self) -> None:
        self.lower: list[float] = []
        self.upper: list[float] = []
        self.cost: list[float] = []
        self.integer: list[bool] = []
        self.row_columns: list[I64] = []
        self.row_values: list[F64] = []
        self.row_lower: list[float] = []
        self.row_upper: list[float] = []
        self.offset = 0.0

    @property
    def num_columns(self) -> int:
        return len(self.lower)

    @property
    def num_rows(self) -> int:
        return len(self.row_lower)

    def add_columns(
        self,
        count: int,
        *,
        lower: float | F64 = 0.0,
        upper: float | F64 = np.inf,
        cost: float | F64 = 0.0,
        integer: bool | Bool = False,
    ) -> I64:
        """Add variables and return their indices, int64[count]."""
        first = self.num_columns
        self.lower += np.broadcast_to(np.asarray(lower, float), count).tolist()
        self.upper += np.broadcast_to(np.asarray(upper, float), count).tolist()
        self.cost += np.broadcast_to(np.asarray(cost, float), count).tolist()
        self.integer += np.broadcast_to(np.asarray(integer, bool), count).tolist()
        return np.arange(first, first + count)

    def add_set(self, linear_set: LinearSet, *, with_cost: bool = False) -> I64:
        """Add the variables and rows of a set and return the variables' indices."""
        columns = self.add_columns(
            linear_set.size,
            lower=linear_set.lower,
            upper=linear_set.upper,
            cost=linear_set.cost if with_cost else 0.0,
            integer=linear_set.integer,
        )
        for row, low, high in zip(linear_set.rows, linear_set.row_lower, linear_set.row_upper, strict=True):
            self.add_row(columns, row, lower=low, upper=high)
        return columns

    def add_row(self, columns: I64, values: F64, *, lower: float = -np.inf, upper: float = np.inf) -> None:
        """Add lower <= values . v[columns] <= upper; zeros are left out and a column may come only once."""
        used = np.flatnonzero(values)
        self.row_columns.append(np.asarray(columns, np.int64)[used])
        self.row_values.append(np.asarray(values, float)[used])
        self.row_lower.append(float(lower))
        self.row_upper.append(float(upper))

    def add_terms(self, terms: list[tuple[I64, F64]], *, lower: float = -np.inf, upper: float = np.inf) -> None:
        """Add a row made of several groups of columns, each column in one group only."""
        columns = np.concatenate([np.atleast_1d(c) for c, _ in terms])
        values = np.concatenate([np.atleast_1d(np.asarray(v, float)) for _, v in terms])
        self.add_row(columns, values, lower=lower, upper=upper)

    def set_cost(self, columns: I64, values: F64 | float) -> None:
        """Set the cost of columns."""
        for column, value in zip(columns, np.broadcast_to(np.asarray(values, float), len(columns)), strict=True):
            self.cost[int(column)] = float(value)

    def relaxed(self, *, with_cost: bool = True) -> "LinearModel":
        """Return the linear relaxation, sharing rows and bounds with this model, without an offset."""
        relaxed = LinearModel()
        relaxed.__dict__.update(self.__dict__)
        relaxed.integer = [False] * self.num_columns
        relaxed.offset = 0.0
        if not with_cost:
            relaxed.cost = [0.0] * self.num_columns
        return relaxed

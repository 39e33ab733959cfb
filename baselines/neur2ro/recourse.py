"""The second stage as a program, and a solver that keeps it warm from one plan or scenario to the next."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.linear import Bool, LinearModel, as_numbers
from mallocgame.baselines.neur2ro.solvers import highs_program, import_highs
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
GAP = 1e-7  # relative, of second stages with whole numbers
ROOM = 1e-7  # relative; rows broken by less count as kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Recourse:
    """The second stage at one scenario: minimise x_cost.x + y_cost.y + constant over y.

    Subject to x_rows x + y_rows y <= row_upper and y_lower <= y <= y_upper, y_j whole where y_integer_j.

    Raises:
        InputError: arrays of shapes that disagree, or entries that are not numbers (bounds may be infinite).
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

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in ("y_integer", "constant"):
                value = as_numbers(getattr(self, field.name), f"Recourse.{field.name}")
                object.__setattr__(self, field.name, value)
        constant = as_numbers(self.constant, "Recourse.constant")
        if constant.size != 1 or not np.isfinite(constant).all():
            raise InputError(f"Recourse.constant is {self.constant!r}; expected a finite number")
        object.__setattr__(self, "constant", float(constant.reshape(())))
        nx, ny, m = self.x_cost.size, self.y_cost.size, self.row_upper.size
        shapes = {
            "x_cost": (nx,),
            "y_cost": (ny,),
            "x_rows": (m, nx),
            "y_rows": (m, ny),
            "row_upper": (m,),
            "y_lower": (ny,),
            "y_upper": (ny,),
            "y_integer": (ny,),
        }
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                raise InputError(f"Recourse.{name} has shape {np.shape(getattr(self, name))}; expected {shape}")
        for name in ("x_cost", "y_cost", "x_rows", "y_rows"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"Recourse.{name} holds an infinite number; only bounds may be infinite")

    def value(self, x: F64, y: F64) -> float:
        """Return the second-stage cost of (x, y)."""
        return float(self.x_cost @ x + self.y_cost @ y + self.constant)

    def excess(self, x: F64, y: F64) -> float:
        """Return how far (x, y) breaks the worst row or bound; at most 0 when it breaks none."""
        parts = [self.x_rows @ x + self.y_rows @ y - self.row_upper, self.y_lower - y, y - self.y_upper]
        return float(max((part.max() for part in parts if part.size), default=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondStage:
    """The exact second stage at (x, xi): its value (inf when infeasible) and an optimal y."""

    value: float
    y: F64


class RecourseSolver:
    """Second stages on one HiGHS instance: only what differs from the program before is changed."""

    def __init__(self, gap: float = GAP) -> None:
        self.gap = gap
        self._program: Any = None
        self._last: Recourse | None = None
        self.solves = 0
        self.builds = 0

    def solve(self, recourse: Recourse, x: F64, clock: Clock) -> SecondStage:
        """Return the second stage of ``recourse`` at plan ``x`` (float64[nx]).

        Raises:
            OutOfTimeError: the deadline passed before it was solved.
            InputError: the second stage is unbounded.
        """
        room = recourse.row_upper - recourse.x_rows @ x
        values = self._run(recourse, room, clock)
        if values is None:  # plans come from programs that keep rows to a tolerance: so must this one
            values = self._run(recourse, room + ROOM * np.maximum(1.0, np.abs(room)), clock)
        if values is None:
            return SecondStage(value=np.inf, y=np.zeros(len(recourse.y_cost)))
        return SecondStage(value=recourse.value(x, values), y=values)

    def _run(self, recourse: Recourse, room: F64, clock: Clock) -> F64 | None:
        clock.check()
        self._load(recourse, room)
        self.solves += 1
        limit = min(clock.left, 1e7)
        self._program.setOptionValue("time_limit", self._program.getRunTime() + max(limit, 0.01))
        self._program.run()
        return self._outcome(recourse)

    def _outcome(self, recourse: Recourse) -> F64 | None:
        """Return y, or None where the second stage is infeasible."""
        program, states = self._program, import_highs().HighsModelStatus
        state = program.getModelStatus()
        if state == states.kUnboundedOrInfeasible:
            program.setOptionValue("presolve", "off")
            program.run()
            state = program.getModelStatus()
            program.setOptionValue("presolve", "choose")
        if state == states.kInfeasible:
            return None
        if state in (states.kUnbounded, states.kUnboundedOrInfeasible):
            raise InputError("the second stage is unbounded: its cost falls without limit; add bounds on y")
        if state == states.kTimeLimit:
            raise OutOfTimeError
        if state not in (states.kOptimal, states.kModelEmpty):
            raise InputError(f"the second stage could not be solved (HiGHS: {state.name})")
        values = np.array(program.getSolution().col_value, float)
        values = np.clip(values, recourse.y_lower, recourse.y_upper)
        return np.asarray(np.where(recourse.y_integer, np.round(values), values))

    def _load(self, recourse: Recourse, room: F64) -> None:
        last = self._last
        self._last = recourse
        same = last is not None and all(
            np.array_equal(getattr(last, name), getattr(recourse, name)) for name in ("y_rows", "y_integer")
        )
        if not same:
            self._build(recourse, room)
            return
        assert last is not None
        m, n = len(room), len(recourse.y_cost)
        if m:
            self._program.changeRowsBounds(m, np.arange(m, dtype=np.int32), np.full(m, -np.inf), room)
        if not np.array_equal(last.y_cost, recourse.y_cost):
            self._program.changeColsCost(n, np.arange(n, dtype=np.int32), recourse.y_cost)
        if not (np.array_equal(last.y_lower, recourse.y_lower) and np.array_equal(last.y_upper, recourse.y_upper)):
            self._program.changeColsBounds(n, np.arange(n, dtype=np.int32), recourse.y_lower, recourse.y_upper)

    def _build(self, recourse: Recourse, room: F64) -> None:
        self.builds += 1
        model = LinearModel()
        y = model.add_columns(
            len(recourse.y_cost),
            lower=recourse.y_lower,
            upper=recourse.y_upper,
            cost=recourse.y_cost,
            integer=recourse.y_integer,
        )
        for row, limit in zip(recourse.y_rows, room, strict=True):
            model.add_row(y, row, upper=limit)
        self._program = highs_program(model)
        self._program.setOptionValue("mip_rel_gap", self.gap)

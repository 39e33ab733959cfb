"""The relaxation with its 0-1 columns kept whole: HiGHS's branch and bound, and what it proves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from mallocgame.baselines.bounds.linear import LinearProgram
from mallocgame.baselines.bounds.relaxation import Relaxation
from mallocgame.baselines.native import call

F64 = npt.NDArray[np.float64]

INFEASIBLE = 2  # what SciPy calls a program without a point
MARGIN = 2e-6  # of the bound, taken off for the solver's feasibility tolerance of 1e-7 (docs/bounds.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerSolution:
    """``bound_seconds`` is proved up to ``MARGIN``; ``columns`` is the best point found, None without one."""

    bound_seconds: float
    value_seconds: float
    columns: F64 | None
    is_optimal: bool


def solve_integer(
    relaxation: Relaxation,
    *,
    seconds: float,
    gap: float = 1e-4,
    boxes: F64 | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> IntegerSolution:
    """Minimise with every share in {0, 1}, for at most ``seconds``, until the relative ``gap`` is closed.

    With ``boxes`` (float64[2, columns]) only the points in them count: where there is none, the bound is infinite.
    """
    linear, unit = relaxation.linear, relaxation.unit_seconds
    whole = relaxation.is_whole
    boxes = np.array([linear.low, linear.high]) if boxes is None else whole_boxes(boxes, whole)
    if (boxes[0] > boxes[1]).any():
        return IntegerSolution(bound_seconds=float("inf"), value_seconds=float("inf"), columns=None, is_optimal=False)
    answer = minimise(
        np.array(linear.cost),
        linear,
        boxes,
        whole,
        seconds=seconds,
        gap=gap,
        stop=stop,
    )
    proved = answer.proved
    bound = (proved + linear.constant) * (1.0 - MARGIN) * unit if proved > -np.inf else 0.0
    value = float("inf") if answer.columns is None else (answer.value + linear.constant) * unit
    return IntegerSolution(
        bound_seconds=bound, value_seconds=value, columns=answer.columns, is_optimal=answer.is_optimal
    )


def whole_boxes(boxes: F64, whole: npt.NDArray[np.bool_]) -> F64:
    """Return boxes (float64[2, columns]) with ``whole`` columns between integers: one that cannot reach 1 is 0."""
    low = np.where(whole, np.ceil(boxes[0] - 1e-6), boxes[0])
    high = np.where(whole, np.floor(boxes[1] + 1e-6), boxes[1])
    return np.array([low, high])


class Minimum(NamedTuple):
    """What HiGHS answers: the best point (None: none found), its cost, the proved bound, and whether they meet."""

    columns: F64 | None
    value: float
    proved: float
    is_optimal: bool


def minimise(
    cost: F64,
    linear: LinearProgram,
    boxes: F64,
    is_whole: npt.NDArray[np.bool_],
    *,
    seconds: float,
    gap: float,
    stop: Callable[[], bool] = lambda: False,
) -> Minimum:
    """Minimise ``cost`` over the rows of ``linear``, within other boxes, in a child that ends with the limit.

    Args:
        cost: float64[columns].
        linear: its rows.
        boxes: float64[2, columns], low and high.
        is_whole: bool[columns], which columns are integers.
        seconds: limit.
        gap: relative, at which to stop.
        stop: ends it early.
    """
    if stop():
        return Minimum(None, float("inf"), -float("inf"), False)
    rows, seconds = np.array(linear.row_bound), max(seconds, 0.05)
    found = call(_minimise, cost, linear.matrix, rows, boxes, is_whole, seconds, gap, seconds=seconds, stop=stop)
    return found if found is not None else Minimum(None, float("inf"), -float("inf"), False)


def _minimise(
    cost: F64, matrix: csr_array, rows: F64, boxes: F64, is_whole: npt.NDArray[np.bool_], seconds: float, gap: float
) -> Minimum:
    result = milp(
        cost,
        constraints=LinearConstraint(matrix, lb=rows),
        bounds=Bounds(boxes[0], boxes[1]),
        integrality=is_whole.astype(np.int64),
        options={"time_limit": seconds, "mip_rel_gap": gap},
    )
    columns = None if result.x is None else np.asarray(result.x)
    proved = -float("inf") if result.mip_dual_bound is None else float(result.mip_dual_bound)
    if result.status == INFEASIBLE:
        proved = float("inf")
    value = float("inf") if columns is None else float(result.fun)
    return Minimum(columns, value, proved, result.status == 0)

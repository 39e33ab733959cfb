"""Two engines for the 0-1 relaxation: HiGHS (fast, floating point) and CP-SAT (integers throughout)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ortools.sat.python import cp_model

from mallocgame.baselines.bounds.integer import minimise
from mallocgame.baselines.bounds.linear import LinearProgram
from mallocgame.baselines.bounds.relaxation import Relaxation
from mallocgame.baselines.native import call

F64 = npt.NDArray[np.float64]

STEP = 10**8  # a column that is not 0 or 1 counts in units of 1 / STEP
SCALE = 10**7  # coefficients count in units of 1 / SCALE, or coarser where sums would not fit
LARGEST = 2**60  # of a sum of absolute values


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A solved 0-1 relaxation: its columns (None: no point found) and the proved bound in seconds (0.0: none)."""

    columns: F64 | None
    bound_seconds: float
    is_optimal: bool


def highs_point(
    relaxation: Relaxation,
    cost: F64,
    low: F64,
    high: F64,
    *,
    seconds: float,
    gap: float = 1e-3,
    stop: Callable[[], bool] = lambda: False,
) -> Point:
    """Minimise ``cost`` (which need not be the relaxation's own) within other boxes; the bound is not used."""
    boxes = np.array([low, high])
    found = minimise(cost, relaxation.linear, boxes, relaxation.is_whole, seconds=seconds, gap=gap, stop=stop)
    return Point(columns=found.columns, bound_seconds=0.0, is_optimal=found.is_optimal)


def cpsat_point(
    relaxation: Relaxation,
    *,
    seconds: float,
    seed: int,
    workers: int,
    stop: Callable[[], bool] = lambda: False,
) -> Point:
    """Minimise the relaxation's time by CP-SAT, in a child that ends with the limit.

    The bound is in seconds; (no point, no bound) where there was no time.
    """
    linear, unit, seconds = relaxation.linear, relaxation.unit_seconds, max(seconds, 0.05)
    arguments = (linear, relaxation.is_share, unit, seconds, seed, workers)
    found = call(_cpsat_point, *arguments, seconds=seconds, stop=stop)
    return found if found is not None else Point(columns=None, bound_seconds=0.0, is_optimal=False)


def _cpsat_point(
    linear: LinearProgram, whole: npt.NDArray[np.bool_], unit: float, seconds: float, seed: int, workers: int
) -> Point:
    """Minimise by CP-SAT with a bound that no rounding can overstate.

    Every row is multiplied by a scale and rounded, and then loosened by the most that rounding coefficients and
    columns can change, so each mapping stays a point of the integer model, with at most half a ``STEP`` a column lost.
    """
    began = time.perf_counter()
    model = cp_model.CpModel()
    variables, high = [], np.array(linear.high)
    if high.max(initial=0.0) > LARGEST / STEP:
        return Point(columns=None, bound_seconds=0.0, is_optimal=False)
    for column, (low, top) in enumerate(zip(linear.low, linear.high, strict=True)):
        if whole[column]:
            variables.append(model.new_bool_var(""))
        else:
            variables.append(model.new_int_var(math.floor(low * STEP), math.ceil(top * STEP), ""))
    matrix = linear.matrix
    for row, bound in enumerate(linear.row_bound):
        span = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns, values = matrix.indices[span], matrix.data[span]
        whole_here = whole[columns]
        most = float((np.abs(values) * np.where(whole_here, 1.0, high[columns])).sum())
        scale = min(SCALE, LARGEST / STEP / max(most, 1e-300))  # sums stay in 64 bits
        if abs(bound) > most * (1.0 + 1e-9):
            if bound < 0.0:
                continue  # always holds
            return Point(columns=None, bound_seconds=0.0, is_optimal=False)
        rounded = [round(float(value) * scale) for value in values]
        factors = [c * (STEP if w else 1) for c, w in zip(rounded, whole_here, strict=True)]
        slack = len(rounded) * STEP // 2 + sum(abs(c) for c, w in zip(rounded, whole_here, strict=True) if not w) // 2
        right = math.floor(bound * scale * STEP) - slack - 2 - abs(round(bound * scale * STEP)) // 2**50
        model.add(cp_model.LinearExpr.weighted_sum([variables[c] for c in columns], factors) >= right)
    priced = [column for column, cost in enumerate(linear.cost) if cost != 0.0]
    if any(whole[column] or linear.cost[column] != 1.0 for column in priced):
        raise AssertionError("CP-SAT minimises the relaxation's own cost: seconds of excess and of waiting")
    model.minimize(sum(variables[column] for column in priced))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(seconds - (time.perf_counter() - began), 0.05)
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.num_workers = workers
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    lost = (len(priced) / 2 + 1) / STEP
    bound = (solver.best_objective_bound / STEP - lost + linear.constant * (1 - 1e-15)) * unit
    columns_found = None
    if found:
        raw = np.array([solver.value(variable) for variable in variables], dtype=np.float64)
        columns_found = np.where(whole, raw, raw / STEP)
    known = found or status == cp_model.UNKNOWN
    return Point(
        columns=columns_found,
        bound_seconds=max(bound, 0.0) if known and np.isfinite(bound) else 0.0,
        is_optimal=status == cp_model.OPTIMAL,
    )

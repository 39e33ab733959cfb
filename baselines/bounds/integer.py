"""The relaxation with its 0-1 columns kept whole: HiGHS's branch and bound, and what it proves."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from mallocgame.baselines.bounds.relaxation import Relaxation

F64 = npt.NDArray[np.float64]

MARGIN = 2e-6  # of the bound, taken off for the solver's feasibility tolerance of 1e-7 (docs/bounds.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerSolution:
    """``bound_seconds`` is proved up to ``MARGIN``; ``columns`` is the best point found, None without one."""

    bound_seconds: float
    value_seconds: float
    columns: F64 | None
    is_optimal: bool


def solve_integer(relaxation: Relaxation, *, seconds: float, gap: float = 1e-4) -> IntegerSolution:
    """Minimise with every share in {0, 1}, for at most ``seconds``, until the relative ``gap`` is closed."""
    linear = relaxation.linear
    result = milp(
        np.array(linear.cost),
        constraints=LinearConstraint(linear.matrix, lb=np.array(linear.row_bound)),
        bounds=Bounds(np.array(linear.low), np.array(linear.high)),
        integrality=relaxation.is_whole.astype(np.int64),
        options={"time_limit": seconds, "mip_rel_gap": gap},
    )
    proved = result.mip_dual_bound
    unit = relaxation.unit_seconds
    bound = 0.0
    if proved is not None and np.isfinite(proved):
        bound = (proved + linear.constant) * (1.0 - MARGIN) * unit
    columns = None if result.x is None else np.asarray(result.x)
    value = float("inf") if columns is None else (float(result.fun) + linear.constant) * unit
    return IntegerSolution(bound_seconds=bound, value_seconds=value, columns=columns, is_optimal=result.status == 0)

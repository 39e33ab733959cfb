"""What every robust solver here returns."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One round of a solver; figures in the problem's own units, costs (smaller is better)."""

    seconds: float
    main: float  # objective of the main program (or the incumbent's worst case)
    adversary: float  # cost that the adversary claims for the plan (or the lower bound)
    scenarios: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustResult:
    """A plan and what is known of it.

    ``worst_case`` is the plan's cost under the worst scenario found by the exact second stage; the true worst case
    when ``worst_case_exact``. ``lower_bound`` is proved, -inf when nothing is.
    """

    method: str
    x: F64
    worst_case: float
    worst_case_exact: bool
    worst_scenario: F64
    lower_bound: float
    seconds: float  # of the solve; the final exact evaluation is not in it
    evaluation_seconds: float
    stopped: str  # why the solver ended
    scenarios: F64  # float64[K, nxi] that the solver used
    history: tuple[Iteration, ...]

    @property
    def gap(self) -> float:
        """Relative gap to the lower bound."""
        return (self.worst_case - self.lower_bound) / max(1e-12, abs(self.worst_case))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "method": self.method,
            "x": [round(float(v), 9) for v in self.x],
            "worst_case": self.worst_case,
            "worst_case_exact": self.worst_case_exact,
            "worst_scenario": [float(v) for v in self.worst_scenario],
            "lower_bound": self.lower_bound if np.isfinite(self.lower_bound) else None,
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "stopped": self.stopped,
            "scenarios": len(self.scenarios),
            "history": [asdict(row) for row in self.history],
        }

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

    ``worst_case`` is the plan's cost under the worst scenario found by the exact second stage, inf when it has no
    feasible second stage there; the true worst case when ``worst_case_exact``. ``lower_bound`` is proved, -inf when
    nothing is.
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
    used_network: bool = False
    device: str = ""  # that the network's predictions ran on; "" is NumPy, or no network

    @property
    def feasible(self) -> bool:
        """Whether the plan has a second stage in every scenario looked at."""
        return bool(np.isfinite(self.worst_case))

    @property
    def gap(self) -> float:
        """Relative gap to the lower bound; inf when nothing is proved or the plan is infeasible."""
        if not np.isfinite([self.worst_case, self.lower_bound]).all():
            return float("inf")
        return (self.worst_case - self.lower_bound) / max(1e-12, abs(self.worst_case))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that strict parsers read: what is not finite becomes null."""
        found: dict[str, Any] = strict(
            {
                "method": self.method,
                "used_network": self.used_network,
                "device": self.device or None,
                "x": [round(float(v), 9) for v in self.x],
                "feasible": self.feasible,
                "worst_case": self.worst_case,
                "worst_case_exact": self.worst_case_exact,
                "worst_scenario": [float(v) for v in self.worst_scenario],
                "lower_bound": self.lower_bound,
                "seconds": self.seconds,
                "evaluation_seconds": self.evaluation_seconds,
                "stopped": self.stopped,
                "scenarios": len(self.scenarios),
                "history": [asdict(row) for row in self.history],
            }
        )
        return found


def strict(value: Any) -> Any:
    """Return JSON values with NaN and infinities as None, at every depth, and NumPy scalars as Python's."""
    if isinstance(value, dict):
        return {key: strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value

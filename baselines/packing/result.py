"""What a packing solver answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt

SolverName = Literal["best", "search", "cpsat", "hill-climb", "best-fit", "first-fit"]
Status = Literal["optimal", "feasible", "infeasible", "not found"]
SOLVERS: tuple[str, ...] = get_args(SolverName)
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackResult:
    """A packing and what is known about it.

    Attributes:
        offsets: int64[n], bytes, in the order of the buffers; the lowest packing known even where it exceeds the
            capacity.
        height_bytes: its greatest end address.
        lower_bound_bytes: proved: no packing is lower.
        status: ``optimal`` (within the capacity, and as low as proved possible), ``feasible`` (within the capacity),
            ``infeasible`` (proved: nothing is within the capacity) or ``not found`` (nothing found, nothing proved).
        seconds: wall-clock time spent.
        interrupted: Ctrl-C ended the search early.
    """

    offsets: I64
    height_bytes: int
    lower_bound_bytes: int
    status: Status
    seconds: float
    interrupted: bool = False

    @classmethod
    def of(cls, offsets: Sequence[int], height: int, lower_bound: int, status: Status, seconds: float) -> Self:
        """Build from plain values."""
        return cls(
            offsets=np.array(offsets, np.int64),
            height_bytes=height,
            lower_bound_bytes=lower_bound,
            status=status,
            seconds=seconds,
        )


def status_of(height: int, lower_bound: int, capacity: int) -> Status:
    """Return the word for a height, a proved bound and a capacity, all in bytes."""
    if height <= capacity:
        return "optimal" if height <= lower_bound else "feasible"
    return "infeasible" if lower_bound > capacity else "not found"

"""Addresses of one fast layer: rectangles in time and address, and the best fit for the next one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
Span = tuple[int, int]  # boundaries, half-open; a start of -1 means held from the run before


class AddressSpace:
    """The rectangles placed in a layer. Adding keeps them disjoint."""

    def __init__(self, capacity_bytes: int, alignment_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.alignment_bytes = alignment_bytes
        self._rows: I64 = np.zeros((16, 4), dtype=np.int64)  # start, end, offset, offset + size
        self._count = 0

    def best_fit(self, spans: Sequence[Span], size_bytes: int) -> int | None:
        """Return the offset in the smallest gap that is free over all ``spans``; None if nothing fits."""
        rows = self._rows[: self._count]
        met = np.zeros(self._count, dtype=np.bool_)
        for start, end in spans:
            met |= (rows[:, 0] < end) & (rows[:, 1] > start)
        best, best_gap = None, self.capacity_bytes + 1
        floor = 0
        for _, _, low, high in [*sorted(rows[met].tolist(), key=lambda row: row[2]), (0, 0, self.capacity_bytes, 0)]:
            offset = -(-floor // self.alignment_bytes) * self.alignment_bytes
            if offset + size_bytes <= low and low - floor < best_gap:
                best, best_gap = offset, low - floor
            floor = max(floor, high)
        return best

    def is_free(self, span: Span, size_bytes: int, offset: int) -> bool:
        """Whether ``[offset, offset + size)`` is inside the layer and free over ``span``."""
        rows = self._rows[: self._count]
        met = (rows[:, 0] < span[1]) & (rows[:, 1] > span[0])
        met &= (rows[:, 2] < offset + size_bytes) & (rows[:, 3] > offset)
        return 0 <= offset <= self.capacity_bytes - size_bytes and not met.any()

    def add(self, spans: Sequence[Span], size_bytes: int, offset: int) -> None:
        """Take the place that ``best_fit`` found."""
        for start, end in spans:
            if self._count == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._rows[self._count] = start, end, offset, offset + size_bytes
            self._count += 1


class InFlight:
    """Copies under way between boundaries, per link and direction, against the links' limits."""

    def __init__(self, num_boundaries: int, limits: Sequence[int]) -> None:
        self._limits = limits
        self._running = np.zeros((2 * len(limits), num_boundaries + 1), dtype=np.int64)

    def add(self, queue: int, issue: int, due: int) -> bool:
        """Start a copy on queue 2 link + direction; False (and nothing changes) if the link is full."""
        running = self._running[queue, issue:due]
        if running.max(initial=0) >= self._limits[queue // 2]:
            return False
        running += 1
        return True

    def remove(self, queue: int, issue: int, due: int) -> None:
        """Take a copy back."""
        self._running[queue, issue:due] -= 1

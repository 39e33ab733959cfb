"""One deadline for every part of a solve."""

import math
import time


class OutOfTimeError(Exception):
    """Raised inside a solve when its deadline has passed; the methods catch it and return what they have."""


class Clock:
    """Wall-clock seconds since its creation, and those left of a limit."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self.began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds until the deadline; at most 0 when it has passed."""
        return self.seconds - self.elapsed

    def check(self) -> None:
        """Raise OutOfTimeError if the deadline has passed."""
        if self.left <= 0:
            raise OutOfTimeError

    def part(self, share: float) -> "Clock":
        """Return a clock that ends after ``share`` of the time left."""
        return Clock(share * self.left)

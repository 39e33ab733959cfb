"""Deadlines that compiled kernels can see, and worker threads that stop on Ctrl-C."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mallocgame.baselines.packing.problem import I64


@dataclass(slots=True, kw_only=True)
class Budget:
    """A wall-clock deadline and a flag (int64[1]) that kernels poll while they run without the GIL."""

    deadline: float  # of time.monotonic()
    flag: I64 = field(default_factory=lambda: np.zeros(1, np.int64))

    @classmethod
    def of(cls, seconds: float) -> "Budget":
        """Start a budget now."""
        return cls(deadline=time.monotonic() + seconds)

    def left(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self.deadline - time.monotonic())

    def slice(self, seconds: float) -> "Budget":
        """Return a shorter budget within this one."""
        return Budget(deadline=min(self.deadline, time.monotonic() + seconds))

    def spent(self) -> bool:
        """Tell whether work must stop: time is up, or someone raised the flag."""
        return bool(self.flag[0]) or time.monotonic() >= self.deadline


def run_workers(work: Sequence[Callable[[], None]], budget: Budget, on_stop: Callable[[], None] | None = None) -> None:
    """Run each callable in a thread until all return; raise the flag at the deadline and on Ctrl-C.

    Ctrl-C is passed on once all have returned. Any worker's exception stops the others and is raised here.
    """
    errors: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # passed on to the caller's thread below
            errors.append(error)
            budget.flag[0] = 1

    threads = [threading.Thread(target=guarded, args=(function,), daemon=True) for function in work]
    for thread in threads:
        thread.start()
    told = False
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(min(0.05, budget.left()) if not told else 0.05)
                if budget.spent() and not told:
                    budget.flag[0] = 1
                    told = True
                    if on_stop is not None:
                        on_stop()
    except KeyboardInterrupt:
        budget.flag[0] = 1
        if on_stop is not None:
            on_stop()
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]

"""Limits of the clock on machines where others work, too."""

import time
from collections.abc import Callable


def slowness(own_seconds: float = 0.2) -> float:
    """Return how many times as long as alone a process computes here now, 1 or more."""
    begun, own = time.perf_counter(), time.process_time()
    while time.process_time() - own < own_seconds:
        pass
    return max(1.0, (time.perf_counter() - begun) / (time.process_time() - own))


def is_on_time(run: Callable[[], object], limit_seconds: float, *, attempts: int = 3) -> bool:
    """Tell whether ``run`` keeps a limit, as often as it takes: what is too slow by itself is so each time.

    A limit is as much longer as the machine is slower for this process than if it were alone.
    """
    for _ in range(attempts):
        begun = time.perf_counter()
        run()
        spent = time.perf_counter() - begun
        if spent < limit_seconds or spent < limit_seconds * slowness():
            return True
    return False

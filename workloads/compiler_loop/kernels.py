"""A solver's kernels, made ready while the compiler works."""

import threading
import time
from typing import Any

from mallocgame.warm_up import tiny_problem
from mallocgame.workloads.compiler_loop.settings import Say

TOLD_SECONDS = 2.0  # that kernels keep the user waiting


class Kernels:
    """Loads a solver's kernels, or compiles them where that was never done, while the default program compiles."""

    def __init__(self, solve: Any, say: Say) -> None:
        """Begin at once; ``say`` is told where it keeps the user waiting."""
        self._solve, self._say = solve, say
        self._thread = threading.Thread(target=self._prepare, daemon=True)
        self._thread.start()

    def _prepare(self) -> None:
        if hasattr(self._solve, "prepare"):
            self._solve.prepare(tiny_problem())

    def wait(self) -> float:
        """Wait for them, and return the seconds: compiling kernels, once for good, is no part of the search's time."""
        start = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.2)
        waited = time.monotonic() - start
        if waited > TOLD_SECONDS:
            self._say(f"kernels were compiled, once, for {waited:.0f} s more: --seconds count without these")
        return waited

"""Whether a function is the same program each time: options found for one are worth nothing to another.

What a function is lowered to may depend on inputs made by chance, the order of a set, the clock, the environment, or a
file that is edited meanwhile. A tuning run compiles the scheduled module of its first lowering and would not see that.
So a process of its own lowers the function once more, in the background.
"""

import threading
import time

from mallocgame.workloads.compiler_loop.settings import Say
from mallocgame.workloads.compiler_loop.verify import Target
from mallocgame.workloads.xla.compiler import CompileRequest

CAUSES = "inputs made by chance, the order of a set (PYTHONHASHSEED), the clock, a file edited meanwhile?"


class SameProgram:
    """Lowers a target once more beside the search, and says where that is another program.

    A context manager: what is under way is stopped at its end.
    """

    def __init__(self, target: Target, deadline: float, say: Say) -> None:
        """Take ``deadline`` as ``time.monotonic`` counts."""
        self._target, self._deadline, self._say = target, deadline, say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._lower, daemon=True)
        self.lowers_alike: bool | None = None  # None: not known, or not yet

    def __enter__(self) -> "SameProgram":
        if self._target.lowering:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def wait(self, until: float) -> None:
        """Wait for the answer, but no longer than ``until``, on ``time.monotonic``'s clock."""
        if self._thread.is_alive():
            self._thread.join(max(until - time.monotonic(), 0.0))

    def _lower(self) -> None:
        asked = CompileRequest(
            reference=self._target.reference,
            chip=self._target.chip,
            hlo=False,
            anew=True,
            timeout_seconds=self._deadline - time.monotonic(),
            stop=self._stop,
        )
        found = self._target.compiler.compile(asked).lowering
        if not found:
            return
        self.lowers_alike = found == self._target.lowering
        if not self.lowers_alike:
            reference = self._target.reference
            self._say(f"warning: {reference} is another program in a new process ({CAUSES}): options may not fit it")

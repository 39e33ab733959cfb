"""Ctrl-C and SIGTERM that wait for the end of a move, so that what is saved belongs together."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after saving."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def postponed() -> Iterator[Callable[[], None]]:
    """Yield a function that raises ``Interrupted`` if SIGINT or SIGTERM has come since; a second one is not postponed.

    Outside the main thread signals are not ours to catch: nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if came:
            raise Interrupted(number)
        came.append(number)

    def check() -> None:
        if came:
            raise Interrupted(came[0])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""An end that is asked for: SIGTERM is met as Ctrl-C is, and both have the exit code that shells expect."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM. Whatever catches Ctrl-C catches it."""


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[list[int]]:
    """Raise ``Terminated`` at SIGTERM; the yielded list then holds the exit code, 130 until then."""
    code = [130]

    def end(number: int, frame: FrameType | None) -> None:
        code[0] = 128 + number
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield code
    finally:
        signal.signal(signal.SIGTERM, before)

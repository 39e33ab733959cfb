"""Native solvers run where they can be ended: in a child process, killed at the deadline.

HiGHS and CP-SAT look at their time limit only now and then, print to standard output, and abort a process that exits
while they work. ``call`` runs a function of ours that uses them in a child, and takes no longer than it was given.
"""

import atexit
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from mallocgame.system import end_with_parent, module_command

T = TypeVar("T")
GRACE_SECONDS, GRACE_SHARE = 0.5, 0.1  # after the limit: a solver that nearly obeys it may hand over its answer
POLL_SECONDS = 0.02
START_SECONDS = 60.0  # to import what the solvers need

_lock = threading.Lock()
_idle: list["_Child"] = []
_all: set["_Child"] = set()


class ChildError(RuntimeError):
    """The function raised in the child; the message is the child's traceback."""


class _Child:
    """A process that answers one request at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [*module_command("mallocgame.baselines.native"), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        _all.add(self)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: bytes, stop: Callable[[], bool], deadline: float) -> bytes | None:
        """Return the answer, None if there is none by the deadline, if ``stop`` says so, or if the child died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self._write(len(request).to_bytes(8, "little") + request)
            head = self._read(8, stop, deadline)
            return None if head is None else self._read(int.from_bytes(head, "little"), stop, deadline)
        except (BrokenPipeError, EOFError):
            return None

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def _read(self, size: int, stop: Callable[[], bool], deadline: float) -> bytes | None:
        assert self.process.stdout is not None
        found = bytearray()
        while len(found) < size:
            ready, _, _ = select.select([self.process.stdout], [], [], POLL_SECONDS)
            if ready:
                part = self.process.stdout.read(size - len(found))
                if not part:
                    raise EOFError
                found += part
            elif stop() or time.monotonic() > deadline:
                return None
        return bytes(found)

    def is_ready(self, stop: Callable[[], bool]) -> bool:
        """Wait until it has imported what it needs; end it where ``stop`` says so first."""
        if self.ask(pickle.dumps((bool, ())), stop, time.monotonic() + START_SECONDS) is not None:
            return True
        self.end()
        return False

    def end(self) -> None:
        """Kill and forget."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        _all.discard(self)


def start(count: int = 1) -> None:
    """Have children ready, so that the next calls do not wait for them: done before a clock starts."""
    with _lock:
        living = sum(child.is_alive for child in _idle)
        fresh = [_Child() for _ in range(count - living)]
    for child in fresh:
        if child.is_ready(lambda: False):
            with _lock:
                _idle.append(child)


def call(
    function: Callable[..., T], *arguments: Any, seconds: float, stop: Callable[[], bool] = lambda: False
) -> T | None:
    """Return ``function(*arguments)``, run in a child; None where that takes much longer than ``seconds``.

    Args:
        function: of a module, so that the child finds it by name; its arguments and its answer are sent as they are.
        arguments: of the function.
        seconds: the limit; a little later the child is killed.
        stop: asked all the time; the child is killed as soon as it says so.

    Raises:
        ChildError: the function raised.
    """
    if seconds <= 0.0 or stop():
        return None
    child = _take(stop)
    if child is None:
        return None
    deadline = time.monotonic() + seconds * (1.0 + GRACE_SHARE) + GRACE_SECONDS
    answer: bytes | None = None
    try:
        answer = child.ask(pickle.dumps((function, arguments)), stop, deadline)
    finally:
        if answer is None:
            child.end()
        else:
            with _lock:
                _idle.append(child)
    if answer is None:
        return None
    is_result, value = pickle.loads(answer)  # from our own child
    if not is_result:
        raise ChildError(value)
    return cast(T, value)


def _take(stop: Callable[[], bool]) -> _Child | None:
    """Return a child that is ready, a new one if need be; None where ``stop`` says so first."""
    with _lock:
        while _idle:
            child = _idle.pop()
            if child.is_alive:
                return child
            child.end()
        child = _Child()
    return child if child.is_ready(stop) else None


@atexit.register
def _end_all() -> None:
    for child in list(_all):
        child.end()


def _serve(parent: int) -> None:
    """Answer requests until standard input ends; whatever libraries print goes to standard error's void."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if not end_with_parent(signal.SIGKILL, parent):
        return
    out = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    import scipy.optimize  # noqa: F401 (so that no request waits for them)
    from ortools.sat.python import cp_model  # noqa: F401

    while head := sys.stdin.buffer.read(8):
        function, arguments = pickle.loads(sys.stdin.buffer.read(int.from_bytes(head, "little")))
        try:
            answer = (True, function(*arguments))
        except Exception:
            import traceback

            answer = (False, traceback.format_exc())
        data = pickle.dumps(answer)
        out.write(len(data).to_bytes(8, "little") + data)
        out.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))

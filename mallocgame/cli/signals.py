"""Ctrl-C, SIGTERM and a closed terminal, met in one way: an exception that unwinds the command, and an exit code.

Whatever catches ``KeyboardInterrupt`` to keep its best answer does so for all three. Imports nothing heavy: what comes
before these handlers are set is not caught.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import Any

from mallocgame import system

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminal closed"}
_DEAF_SECONDS = 1.0  # a second signal so soon is the first once more: an impatient finger, or a parent passing it on
_AGAIN_SECONDS = 0.05
_STUCK_SECONDS = 3.0  # so long a library may keep a signal from Python, where nothing can be lost
_NATIVE_IMPORT = {ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__}
_IN_A_KERNELS_CALL = ("typeof_pyval", "_numba_unpickle")
_NUMBA = os.path.join("numba", "core", "")
_END_SECONDS = 1.0  # a command that is done may take so long to end after a signal

_first: int | None = None  # the signal that ended this command
_heard_at = 0.0
_kept = ""  # what the interrupted command says it kept
_is_done = False  # only the end of the process is left


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, where Ctrl-C would be a KeyboardInterrupt."""


def catch_signals() -> None:
    """Turn the signals into exceptions in the main thread; those that the parent ignores stay ignored."""
    global _first, _kept, _is_done
    _first, _kept, _is_done = None, "", False
    if threading.current_thread() is not threading.main_thread():
        return  # a program that calls us from elsewhere keeps its handlers
    for number in _WORDS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _raise)
    sys.unraisablehook = _on_unraisable
    system.stand_by = _stand_by
    _ignore_at_the_very_end()


def received() -> int | None:
    """Return the first signal met since ``catch_signals``, or None."""
    return _first


def word(number: int) -> str:
    """Return what happened in a word, and what was kept."""
    return "; ".join(part for part in (_WORDS[signal.Signals(number)], _kept) if part)


def kept(what: str) -> int:
    """Note what an interrupted command kept, for the line that says so; return its exit code."""
    global _kept
    _kept = what
    return 128 + (_first or signal.SIGINT)


def done() -> None:
    """From here on no signal raises: the command is done and ends with its own exit code.

    Where that takes longer than ``_END_SECONDS`` after a signal (a library that waits for a thread, a pipe that nobody
    reads), the signal ends it.
    """
    global _is_done
    _is_done = True


def restore_signals() -> None:
    """Give the signals back to Python: for a program, such as a test, that goes on after the command."""
    global _is_done
    _is_done = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _WORDS:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if sys.unraisablehook is _on_unraisable:
        sys.unraisablehook = sys.__unraisablehook__
    system.stand_by = nullcontext


@contextmanager
def _stand_by() -> Iterator[None]:
    """End the process where a signal comes while LLVM compiles, which Python would hear only after it, in a minute."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(read, _first is not None), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)  # which ends the thread
        watch.join()
        os.close(read)


def _watch(read: int, may_keep: bool) -> None:
    """Wait for a signal, then for the main thread to leave; where it does not, remove temporary folders and end.

    It may have met the signal and lost it, in a callback of the library, say. ``may_keep``: it met one before, and what
    was kept then may still have to be written.
    """
    number = next((n for n in iter(lambda: (os.read(read, 1) or b"\0")[0], 0) if n in _WORDS), 0)
    deadline = time.monotonic() + _STUCK_SECONDS
    while number and (left := deadline - time.monotonic()) > 0:
        if select.select([read], [], [], left)[0] and not os.read(read, 16):
            return
    if not number or may_keep:
        return
    end = threading.Timer(_END_SECONDS, os._exit, (128 + number,))
    end.daemon = True
    end.start()
    _tell(number)
    with suppress(Exception):
        getattr(weakref.finalize, "_exitfunc", int)()  # temporary folders
    os._exit(128 + number)


def _tell(number: int) -> None:
    """Say what ends the process where nothing is unwound; a bar that moves has hidden the terminal's cursor."""
    shown = "\x1b[?25h" if os.isatty(2) else ""
    os.write(2, f"{shown}mallocgame: {_WORDS[signal.Signals(number)]}\n".encode())


def _raise(number: int, frame: FrameType | None) -> None:
    global _first, _heard_at
    if _is_done:
        _end_soon(number)
        return
    now = time.monotonic()
    if _first is not None and now - _heard_at < _DEAF_SECONDS:
        return
    _first, _heard_at = (number if _first is None else _first), now
    _raise_again(number, frame)


def _raise_again(number: int, frame: FrameType | None) -> None:
    if _is_done:
        return
    if _is_called_by_native(frame):
        _later()
    else:
        raise KeyboardInterrupt if _first == signal.SIGINT else Terminated


def _is_called_by_native(frame: FrameType | None) -> bool:
    """Whether native code waits for a frame that must not raise.

    Some modules, jaxlib's, crash the process if anything raises while they are made; a call of a kernel goes on where
    Numba asks for a type or makes an array's, and loses the exception or fails with a SystemError.
    """
    while frame is not None and frame.f_code not in _NATIVE_IMPORT:
        code = frame.f_code
        if code.co_name in _IN_A_KERNELS_CALL and _NUMBA in code.co_filename:
            return True
        frame = frame.f_back
    return frame is not None


def _later() -> None:
    signal.signal(signal.SIGALRM, _raise_again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


def _end_soon(number: int) -> None:
    """End the process where it does not end by itself."""

    def end(alarm: int, frame: FrameType | None) -> None:
        _tell(number)
        os._exit(128 + number)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _END_SECONDS)


@cache
def _ignore_at_the_very_end() -> None:
    """Ignore signals once Python takes its handlers away: registered first, this runs after all that ends at exit."""

    def ignore() -> None:
        for number in _WORDS:
            if signal.getsignal(number) is _raise:
                signal.signal(number, signal.SIG_IGN)
                signal.setitimer(signal.ITIMER_REAL, 0)

    atexit.register(ignore)


def _on_unraisable(found: Any) -> None:
    """An interrupt met inside a finaliser or a C callback is dropped by Python: raise it again a moment later."""
    if isinstance(found.exc_value, KeyboardInterrupt) and _first is not None and not _is_done:
        _later()
    else:
        sys.__unraisablehook__(found)

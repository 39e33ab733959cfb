"""What the operating system does for us: cores, locks that end with their process, children that end with theirs."""

import ctypes
import fcntl
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

_PR_SET_PDEATHSIG = 1

# What stands by while a library computes and hears no signal, and nothing can be lost yet: the command line sets it.
stand_by: Callable[[], AbstractContextManager[None]] = nullcontext


def module_command(module: str) -> list[str]:
    """Return how to start a module of this package, whatever files lie in the folder we are in (``types.py``, …)."""
    try:
        is_checkout = os.path.samefile("mallocgame", os.path.dirname(__file__))  # where it may be found only from here
    except OSError:
        is_checkout = False
    return [sys.executable, *([] if is_checkout else ["-P"]), "-m", module]


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process; False where another process holds it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def owner_of(descriptor: int) -> str:
    """Return the process id that ``sign`` wrote into a lock file, ``unknown`` if there is none."""
    found = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return found if found.isdecimal() else "unknown"


def sign(descriptor: int) -> None:
    """Write this process's id into a lock file that it holds, for those that find it locked, if there is room."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def end_with_parent(signal_number: int, parent: int) -> bool:
    """Let this process get a signal when its parent ends, whatever it does then; False if the parent has ended already.

    Only Linux can do that; elsewhere a pipe that ends is what a process has to go by.

    Args:
        signal_number: the signal.
        parent: process id of the parent, as it was when this process was started.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)
    return os.getppid() == parent

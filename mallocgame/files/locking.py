"""One writer at a time: a lock on an open file that ends with its process, however that ends."""

import fcntl
import os


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
    """Return the process id that ``sign`` wrote, ``unknown`` if there is none."""
    found = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return found if found.isdecimal() else "unknown"


def sign(descriptor: int) -> None:
    """Write this process's id into a lock file that it holds, for those that find it locked."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

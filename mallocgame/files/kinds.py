"""What reading and writing share: kinds of files, and the error for one that cannot be opened."""

import os
import stat
from typing import NoReturn

from mallocgame.errors import InputError, TraceError

StrPath = str | os.PathLike[str]

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(status: os.stat_result) -> str:
    """Return what stands at a path, in words."""
    return next((name for test, name in _KINDS if test(status.st_mode)), "no regular file")


def refuse(path: StrPath, error: OSError | ValueError, doing: str) -> NoReturn:
    """Raise the error for a file that the system refuses; an InputError passes."""
    if isinstance(error, InputError):
        raise error
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    raise TraceError(path, None, f"cannot {doing}: {reason}") from None

"""Faults in code that the user brought: their traceback is his lines alone."""

import os
import re
import sys
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from types import FrameType

ANNOUNCED = "code of yours raised an error (the lines of mallocgame and of libraries are left out):"

_HERE = f"{Path(__file__).parent}{os.sep}"
_NUMBA_PLACE = re.compile(r" at (/.+?\.py) \(\d+\)")

_packages: set[str] = set()  # top-level names of installed packages whose solvers, policies, … were asked for


def bring(module: str) -> None:
    """Count an installed package as the user's: what it registers, or he names, is his choice."""
    if not _is_ours(module):
        _packages.add(module.partition(".")[0])


def users_traceback(error: BaseException) -> str:
    """Return an error's traceback with the user's own lines alone, empty where none of them was running.

    What was raised while another error was handled is told with that one, as usual, if both passed through his lines.
    """
    if not _passes_users_code(error):
        return f"{type(error).__name__}: {error}\n" if _is_of_users_kernel(error) else ""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = "" if earlier is None else users_traceback(earlier)
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(_users_frames(error))
    told.__cause__ = told.__context__ = None
    return f"{before}\nWhile this was handled:\n\n{''.join(told.format())}" if before else "".join(told.format())


def at_users_place(error: BaseException) -> str:
    """Return `` (FILE:LINE)`` of the innermost line of the user's that an error passed through, else nothing."""
    frames = _users_frames(error)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _passes_users_code(error: BaseException) -> bool:
    return any(_is_users(frame) for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_of_users_kernel(error: BaseException) -> bool:
    """Whether Numba cannot compile a function of the user's: no line of his was running."""
    if not type(error).__module__.startswith("numba."):
        return False
    return any(_is_users_file(file) for file in _NUMBA_PLACE.findall(str(error)))


def _users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    kept = [_is_users(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = traceback.extract_tb(error.__traceback__)
    return [line for line, is_kept in zip(lines, kept, strict=True) if is_kept]


def _is_users(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    if _is_ours(name) or name == "__main__":  # the command itself
        return False
    return name.partition(".")[0] in _packages or _is_users_file(frame.f_code.co_filename)


def _is_users_file(file: str) -> bool:
    return not file.startswith(("<", _HERE, *_libraries()))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "mallocgame"


@cache
def _libraries() -> tuple[str, ...]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {folder for folder in sys.path if folder.rstrip(os.sep).endswith(("site-packages", "dist-packages"))}
    return tuple(sorted(f"{folder}{os.sep}" for folder in folders if folder))

"""Traces by file or by the name of a shipped one."""

import os
import re
from pathlib import Path

from mallocgame.errors import InputError, TraceError
from mallocgame.files import open_input
from mallocgame.workloads import suite
from mallocgame.workloads import trace as files


def load_trace(name: str | Path) -> files.Trace:
    """Return the trace in a file, or the shipped trace of that name, from any folder.

    Raises:
        InputError: neither exists, or the file is not a trace.
    """
    path = trace_file(str(name))[0]
    try:
        return files.load_trace(path)
    except TraceError:
        if _is_hlo(path):
            raise TraceError(path, None, f"HLO, not a trace: mallocgame capture --hlo {path} makes one of it") from None
        raise


def _is_hlo(path: Path) -> bool:
    if not path.is_file():
        return False
    with open_input(path) as file:
        return file.read(4096).lstrip().startswith(b"HloModule")


def trace_file(text: str) -> tuple[Path, bool]:
    """Return the file that ``text`` names and whether it is a shipped one.

    Raises:
        InputError: no such file and no shipped trace of that name.
    """
    if text in suite.names() and not Path(text).is_file():
        return suite.path(text), True
    if os.path.lexists(text):  # a folder or a pipe, too: its reader says what it is
        return Path(text), False
    is_function = re.fullmatch(r"[\w./-]+:[\w.]+", text) is not None
    hint = f"of a function mallocgame capture {text} makes a trace" if is_function else suite.hint(text)
    raise InputError(f"{text}: no such file and no shipped trace of that name; {hint}")

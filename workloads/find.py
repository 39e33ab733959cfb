"""Traces by file or by the name of a shipped one."""

import os
from pathlib import Path

from mallocgame.errors import InputError
from mallocgame.workloads import suite
from mallocgame.workloads import trace as files


def load_trace(name: str | Path) -> files.Trace:
    """Return the trace in a file, or the shipped trace of that name, from any folder.

    Raises:
        InputError: neither exists, or the file is not a trace.
    """
    return files.load_trace(trace_file(str(name))[0])


def trace_file(text: str) -> tuple[Path, bool]:
    """Return the file that ``text`` names and whether it is a shipped one.

    Raises:
        InputError: no such file and no shipped trace of that name.
    """
    if text in suite.names() and not Path(text).is_file():
        return suite.path(text), True
    if os.path.lexists(text):  # a folder or a pipe, too: its reader says what it is
        return Path(text), False
    raise InputError(f"{text}: no such file and no shipped trace of that name; {suite.hint(text)}")

"""Offsets from ``*buffer-assignment.txt``, which XLA dumps beside a module: where in its memory each value lies."""

import os
import re
from pathlib import Path

from mallocgame.errors import TraceError
from mallocgame.files import read_lines
from mallocgame.workloads.hlo.shapes import Index, to_index

Offsets = dict[tuple[str, Index], tuple[int, int]]  # instruction and index: memory space and offset in bytes

_VALUE = re.compile(
    r"^\s*value: <\d+ (?P<name>[^\s{}]+)(?:\{(?P<index>[\d,]*)\})?(?: \(phi\))? @(?P<space>\d+)> "
    r"\(size=(?P<size>\d+),offset=(?P<offset>\d+)\)",
    re.MULTILINE,
)


def read_offsets(folder: str | os.PathLike[str], module: str) -> Offsets:
    """Return the offsets that a dump folder states for a module.

    Raises:
        TraceError: no buffer assignment there, or several of which none is this module's.
    """
    try:
        files = sorted(Path(folder).glob("*buffer-assignment.txt"))
    except OSError as error:
        raise TraceError(folder, None, f"cannot be read: {error.strerror or error}") from error
    if not files:
        reason = "no *buffer-assignment.txt: dump with xla_dump_to and xla_dump_hlo_as_text"
        raise TraceError(folder, None, reason)
    own = [file for file in files if f".{module}." in f".{file.name}"] or files
    newest = max(own, key=lambda file: file.stat().st_size)
    text = "\n".join(read_lines(newest, errors="replace"))
    found: Offsets = {}
    for match in _VALUE.finditer(text):
        place = match["name"], to_index(match["index"] or "")
        found[place] = int(match["space"]), int(match["offset"])
    if not found:
        raise TraceError(newest, None, "holds no line 'value: <NUMBER NAME @SPACE> (size=BYTES,offset=BYTES)'")
    return found

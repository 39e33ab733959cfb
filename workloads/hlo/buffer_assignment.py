"""Offsets from ``*buffer-assignment.txt``, which XLA dumps beside a module: where in its memory each value lies."""

import os
import re
from pathlib import Path

from mallocgame.errors import TraceError
from mallocgame.files import read_lines
from mallocgame.workloads.hlo.module import HloModule
from mallocgame.workloads.hlo.shapes import Index, to_index

Offsets = dict[tuple[str, Index], tuple[int, int]]  # instruction and index: memory space and offset in bytes

_VALUE = re.compile(
    r"^\s*value: <\d+ (?P<name>[^\s{}]+)(?:\{(?P<index>[\d,]*)\})?(?: \(phi\))? @(?P<space>\d+)> "
    r"\(size=(?P<size>\d+),offset=(?P<offset>\d+)\)",
    re.MULTILINE,
)
_NUMBER = re.compile(r"module_\d+\.")


def read_offsets(folder: str | os.PathLike[str], module: HloModule, file: str = "") -> Offsets:
    """Return the offsets that a dump folder states for a module.

    Modules of one name are told apart by their number (``module_0012``), where the name of the module's ``file`` has
    it, else by the names of their instructions.

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
    own = [each for each in files if f".{module.name}." in f".{each.name}"] or files
    number = _NUMBER.match(file)
    own = [each for each in own if number and each.name.startswith(number[0])] or own
    known = {name for computation in module.computations.values() for name in computation.instructions}
    best = max((_offsets(each) for each in own), key=lambda found: sum(name in known for name, _ in found))
    if not best:
        raise TraceError(own[0], None, "holds no line 'value: <NUMBER NAME @SPACE> (size=BYTES,offset=BYTES)'")
    return best


def _offsets(file: Path) -> Offsets:
    text = "\n".join(read_lines(file, errors="replace"))
    return {
        (match["name"], to_index(match["index"] or "")): (int(match["space"]), int(match["offset"]))
        for match in _VALUE.finditer(text)
    }

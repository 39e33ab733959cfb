"""Trace files of many kinds, read in blocks and unpacked on the way.

A file may be larger than memory; only the set of distinct ids has to fit (with ``spill`` the dense ids themselves go to
a temporary file). Nothing is guessed silently: what may be read in two ways is refused with the choices, and what was
assumed or left out stands in the trace's notes.
"""

import os
from dataclasses import replace
from pathlib import Path

from mallocgame.baselines.paging.readers.binary import (
    ORACLE_RECORD,
    oracle_records,
    read_oracle,
    read_records,
)
from mallocgame.baselines.paging.readers.files import Progress, bare_name
from mallocgame.baselines.paging.readers.options import ReadOptions
from mallocgame.baselines.paging.readers.prompts import read_mooncake, read_prompts
from mallocgame.baselines.paging.readers.sizes import read_sized
from mallocgame.baselines.paging.readers.table import read_arc, read_csv, read_lirs, read_text, unknown_format
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError
from mallocgame.files import reader

__all__ = [
    "FORMATS",
    "ORACLE_RECORD",
    "ReadOptions",
    "guess_format",
    "oracle_records",
    "read_arc",
    "read_csv",
    "read_lirs",
    "read_mooncake",
    "read_oracle",
    "read_prompts",
    "read_sized",
    "read_text",
    "read_trace",
]

FORMATS = ("text", "csv", "oracle", "lcs", "vscsi", "arc", "lirs", "mooncake", "prompts")
_SUFFIXES = {
    ".jsonl": "prompts",
    ".ndjson": "prompts",
    ".bin": "oracle",
    ".oraclegeneral": "oracle",
    ".lcs": "lcs",
    ".vscsi": "vscsi",
    ".csv": "csv",
    ".tsv": "csv",
    ".lis": "arc",
    ".arc": "arc",
    ".trc": "lirs",
    ".lirs": "lirs",
}


def guess_format(path: str | os.PathLike[str]) -> str:
    """Guess a file's format from its name (also packed), otherwise text.

    >>> [guess_format(name) for name in ("a.oracleGeneral.zst", "P1.lis", "keys")]
    ['oracle', 'arc', 'text']
    """
    name = bare_name(Path(path))
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), "text")


@reader("a trace of this format")
def read_trace(
    path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    column: str | None = None,
    spill: bool = False,
    options: ReadOptions | None = None,
    on_progress: Progress | None = None,
) -> PageTrace:
    """Read a trace file.

    Args:
        path: the file.
        kind, column, spill: shorthands for fields of ``options``, which they go before.
        options: everything that may be said about the file.
        on_progress: called with the number of bytes read.

    Raises:
        InputError: an unknown format, or whatever is wrong in the file, with its line.
    """
    options = options or ReadOptions()
    options = replace(
        options,
        format=kind if kind is not None else options.format,
        column=column if column is not None else options.column,
        spill=spill or options.spill,
    )
    chosen = guess_format(path) if options.format == "auto" else options.format
    if options.page_bytes is not None and chosen not in ("text", "csv", "lirs"):
        raise InputError(f"{path}: --page-bytes is for addresses in text or a table, and this is read as {chosen}")
    if chosen in ("csv",) or (chosen == "text" and _speaks_of_a_table(options)):
        return read_csv(path, options=options, on_progress=on_progress)
    if chosen == "text":
        return read_text(path, options=options, on_progress=on_progress)
    if chosen in ("oracle", "lcs", "vscsi"):
        return read_records(path, chosen, options=options, on_progress=on_progress)
    if chosen in ("prompts", "mooncake"):
        return read_prompts(path, options=options, on_progress=on_progress)
    if chosen in ("arc", "lirs"):
        return (read_arc if chosen == "arc" else read_lirs)(path, options=options, on_progress=on_progress)
    raise unknown_format(chosen, FORMATS)


def _speaks_of_a_table(options: ReadOptions) -> bool:
    """Whether a choice was made that only a table has: then a file of unknown name is one."""
    return options.column is not None or options.delimiter is not None or options.header is not None

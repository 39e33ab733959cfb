"""Traces of sized pages: the binary formats, and tables with a column of sizes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.baselines.paging.readers.binary import open_records
from mallocgame.baselines.paging.readers.files import bare_name, first_lines
from mallocgame.baselines.paging.readers.keys import Keys, parse_integers
from mallocgame.baselines.paging.readers.options import ReadOptions
from mallocgame.baselines.paging.readers.table import choose_column, columns, find_layout, zero_note
from mallocgame.baselines.paging.sized import AccessTrace, reads_only
from mallocgame.baselines.paging.structures import F64, I64, U64
from mallocgame.baselines.paging.trace import Densifier, PageTrace
from mallocgame.errors import InputError
from mallocgame.files import reader

_BINARY = {".bin": "oracle", ".oraclegeneral": "oracle", ".lcs": "lcs", ".vscsi": "vscsi"}


@reader("a trace of this format")
def read_sized(path: str | os.PathLike[str], *, options: ReadOptions | None = None) -> AccessTrace:
    """Read a trace with its sizes, as reads; a page has the largest size that any record gives it.

    Sizes are in oracleGeneral, lcs and vscsi files, and in tables whose ``size_column`` is named. Records of size 0
    are skipped as libCacheSim does (in vscsi they count as 1 byte).

    Raises:
        InputError: the format has no sizes, or the table's column of sizes is not named.
    """
    file, options = Path(path), options or ReadOptions()
    if options.page_bytes is not None:
        raise InputError(f"{file}: --page-bytes is for pages of one size, and here each has its own")
    name = bare_name(file)
    kind = options.format
    if kind == "auto":
        kind = next((kind for suffix, kind in _BINARY.items() if name.endswith(suffix)), "csv")
    skipped = [0]
    if kind in ("oracle", "lcs", "vscsi"):
        parts = _binary_parts(file, kind, skipped)
    elif kind == "csv" and options.size_column is not None:
        parts = _table_parts(file, options, skipped)
    else:
        raise InputError(
            f"{file}: sizes are known for program traces, oracleGeneral, lcs and vscsi files, "
            "and for tables with --size-column"
        )
    densify = Densifier()
    pages, sizes, times = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for ids, bytes_, seconds in parts:
        pages.append(densify(ids))
        sizes.append(bytes_)
        times.append(seconds)
    trace = PageTrace(name=file.name, pages=np.concatenate(pages), num_pages=densify.num_pages)
    size_bytes = np.zeros(densify.num_pages, np.int64)
    np.maximum.at(size_bytes, trace.pages, np.concatenate(sizes))
    known = np.concatenate(times)
    return reads_only(
        trace.noting(zero_note(skipped[0])), size_bytes, known if known.size == trace.num_requests else None
    )


def _binary_parts(path: Path, kind: str, skipped: list[int]) -> Iterator[tuple[U64, I64, F64]]:
    records = open_records(path, kind)
    for rows in records.chunks():
        sizes = rows["size_bytes"] if "size_bytes" in rows.dtype.names else np.ones(rows.size)
        yield (
            np.ascontiguousarray(rows["page"]).astype(np.uint64),
            np.maximum(sizes.astype(np.int64), 1),
            _seconds(rows),
        )
    skipped[0] = records.skipped


def _seconds(rows: Any) -> F64:
    """Return float64[n] where the records have a time, otherwise nothing."""
    for name, units_a_second in (("second", 1.0), ("microsecond", 1e6)):
        if name in rows.dtype.names:
            seconds: F64 = rows[name].astype(np.float64) / units_a_second
            return seconds
    return np.zeros(0)


def _table_parts(path: Path, options: ReadOptions, skipped: list[int]) -> Iterator[tuple[U64, I64, F64]]:
    lines = first_lines(path)
    if not any(line.strip() for line in lines):
        return
    layout = find_layout(path, lines, options)
    index, _ = choose_column(path, layout, options.column)
    assert options.size_column is not None
    whole = options.keys != "text" and _all_integers(path, options)
    keys = Keys()
    for tokens, sizes in columns(path, layout, [index, layout.index(path, options.size_column)]):
        assert sizes is not None
        keep = sizes > 0
        skipped[0] += int(np.sum(~keep))
        ids = np.empty(tokens.starts.size, np.uint64)
        if whole:
            parse_integers(np.frombuffer(tokens.data, np.uint8), tokens.starts, tokens.ends, ids)
        else:
            ids[:] = [keys.number(tokens.token(at)) for at in range(tokens.starts.size)]
        yield ids[keep], sizes[keep], np.zeros(0)


def _all_integers(path: Path, options: ReadOptions) -> bool:
    """Whether every page id is an integer; raises what reading them would raise."""
    layout = find_layout(path, first_lines(path), options)
    index, _ = choose_column(path, layout, options.column)
    for tokens, _ in columns(path, layout, [index]):
        ids = np.empty(tokens.starts.size, np.uint64)
        if parse_integers(np.frombuffer(tokens.data, np.uint8), tokens.starts, tokens.ends, ids) >= 0:
            return False
    return True

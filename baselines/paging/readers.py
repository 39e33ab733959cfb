"""Streaming readers: page ids as text or CSV, libCacheSim's oracleGeneral records, Mooncake's JSON Lines.

A file is read in blocks, so it may be larger than memory; only the set of distinct ids has to fit (with ``spill`` the
dense ids themselves go to a temporary file). ``.gz`` files are unpacked on the way.
"""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mallocgame.baselines.paging.predict.conversation import ConversationFeatures
from mallocgame.baselines.paging.sized import AccessTrace, reads_only
from mallocgame.baselines.paging.structures import U8, U64
from mallocgame.baselines.paging.trace import Context, Densifier, PageTrace, from_chunks
from mallocgame.errors import InputError, TraceError
from mallocgame.jit import jit

BLOCK_BYTES = 1 << 23
ORACLE_RECORD = np.dtype([("second", "<u4"), ("page", "<u8"), ("size_bytes", "<u4"), ("next_request", "<i8")])
FORMATS = ("text", "csv", "oracle", "mooncake")
_OK, _NOT_INTEGER, _NEGATIVE, _TOO_LARGE, _NO_COLUMN = 0, 1, 2, 3, 4
_REASONS = {
    _NOT_INTEGER: "expected an integer page id",
    _NEGATIVE: "a page id must not be negative",
    _TOO_LARGE: "a page id must fit in 64 bits",
    _NO_COLUMN: "the line has too few columns",
}
_NEWLINE, _HASH, _MINUS, _ZERO, _NINE = ord("\n"), ord("#"), ord("-"), ord("0"), ord("9")
Progress = Callable[[float], None]


@jit
def _is_blank(byte: int) -> bool:
    return byte == 32 or byte == 9 or byte == 13


@jit
def _parse(block: U8, delimiter: int, column: int, ids: U64) -> tuple[int, int, int]:
    """Parse the ids of whole lines: every token (delimiter 0) or field ``column``; return (count, status, line)."""
    count, line, i, n = 0, 0, 0, block.size
    largest = np.uint64(0xFFFFFFFFFFFFFFFF)
    while i < n:
        field = 0
        wanted = False  # CSV: the field was met on this line
        empty = True
        while i < n and block[i] != _NEWLINE:
            if _is_blank(block[i]):
                i += 1
                continue
            if block[i] == _HASH and empty:
                while i < n and block[i] != _NEWLINE:
                    i += 1
                break
            empty = False
            if delimiter and field != column:
                while i < n and block[i] != _NEWLINE and block[i] != delimiter:
                    i += 1
                if i < n and block[i] == delimiter:
                    i += 1
                    field += 1
                continue
            if block[i] == _MINUS:
                return count, _NEGATIVE if i + 1 < n and _ZERO <= block[i + 1] <= _NINE else _NOT_INTEGER, line
            value, digits = np.uint64(0), 0
            while i < n and _ZERO <= block[i] <= _NINE:
                digit = np.uint64(block[i] - _ZERO)
                if value > (largest - digit) // np.uint64(10):
                    return count, _TOO_LARGE, line
                value = value * np.uint64(10) + digit
                digits += 1
                i += 1
            while delimiter and i < n and _is_blank(block[i]):
                i += 1
            ends = i == n or block[i] == _NEWLINE or (block[i] == delimiter if delimiter else _is_blank(block[i]))
            if digits == 0 or not ends:
                return count, _NOT_INTEGER, line
            ids[count] = value
            count += 1
            if delimiter:
                wanted = True
                while i < n and block[i] != _NEWLINE:
                    i += 1
        if delimiter and not empty and not wanted:
            return count, _NO_COLUMN, line
        i += 1
        line += 1
    return count, _OK, line


def _open(path: Path) -> IO[bytes]:
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        if path.suffix == ".zst":
            raise TraceError(path, None, "zstd files are not read; unpack it first: zstd -d FILE")
        return path.open("rb")
    except OSError as error:
        raise TraceError(path, None, error.strerror or str(error)) from None


def _blocks(path: Path, on_progress: Progress | None) -> Iterator[bytes]:
    with _open(path) as file:
        done = 0
        while True:
            try:
                block = file.read(BLOCK_BYTES)
            except (OSError, EOFError) as error:
                raise TraceError(path, None, f"cannot unpack: {error}") from None
            if not block:
                return
            done += len(block)
            if on_progress is not None:
                on_progress(float(done))
            yield block


def _text_ids(path: Path, delimiter: str, column: str, on_progress: Progress | None) -> Iterator[U64]:
    rest, line, index = b"", 1, -1
    for block in _with_end(_blocks(path, on_progress)):
        whole, newline, tail = (rest + block).rpartition(b"\n") if block else (rest, b"", b"")
        rest = tail
        if not whole:
            line += len(newline)
            continue
        if delimiter and index < 0:
            index, skip = _csv_column(path, whole.split(b"\n", 1)[0].decode("utf-8", "replace"), delimiter, column)
            if skip:
                _, newline, whole = whole.partition(b"\n")
                line += 1
                if not newline:
                    continue
        data = np.frombuffer(whole, np.uint8)
        ids = np.empty(len(whole) // 2 + 1, np.uint64)
        count, status, lines = _parse(data, ord(delimiter) if delimiter else 0, max(index, 0), ids)
        if status != _OK:
            shown = whole.split(b"\n")[lines][:60].decode("utf-8", "replace")
            raise TraceError(path, line + lines, f"{_REASONS[status]}, got {shown!r}")
        line += whole.count(b"\n") + 1
        yield ids[:count]


def _with_end(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield from blocks
    yield b""  # the last line may lack its newline


def _csv_column(path: Path, first: str, delimiter: str, column: str) -> tuple[int, bool]:
    """Return (column index, whether the first line is a header)."""
    fields = [field.strip() for field in first.split(delimiter)]
    if column.isdecimal():
        index = int(column)
        if index >= len(fields):
            raise TraceError(path, 1, f"there is no column {index}: the line has {len(fields)}")
        return index, not fields[index].lstrip("-").isdecimal()
    if column not in fields:
        raise TraceError(path, 1, f"there is no column {column!r}; there are: {', '.join(fields)}")
    return fields.index(column), True


def read_text(path: str | os.PathLike[str], *, spill: bool = False, on_progress: Progress | None = None) -> PageTrace:
    """Read page ids as text: any number a line, white space between them, '#' starts a comment line."""
    return from_chunks(_text_ids(Path(path), "", "0", on_progress), name=Path(path).name, spill=spill)


def read_csv(
    path: str | os.PathLike[str],
    *,
    column: str = "0",
    delimiter: str = ",",
    spill: bool = False,
    on_progress: Progress | None = None,
) -> PageTrace:
    """Read page ids from one column of a CSV file, by index from 0 or by the name in the header line."""
    if len(delimiter) != 1 or not delimiter.isascii():
        raise InputError(f"a CSV delimiter is one ASCII character, got {delimiter!r}")
    return from_chunks(_text_ids(Path(path), delimiter, column, on_progress), name=Path(path).name, spill=spill)


def oracle_records(path: str | os.PathLike[str], *, on_progress: Progress | None = None) -> Iterator[Any]:
    """Yield arrays of oracleGeneral records: second, page, size_bytes, next_request (24 bytes, packed).

    Raises:
        TraceError: the file is not a whole number of records.
    """
    rest, count = b"", 0
    for block in _blocks(Path(path), on_progress):
        data = rest + block
        whole = len(data) - len(data) % ORACLE_RECORD.itemsize
        rest = data[whole:]
        count += whole // ORACLE_RECORD.itemsize
        yield np.frombuffer(data[:whole], ORACLE_RECORD)
    if rest:
        raise TraceError(
            path, None, f"truncated: {len(rest)} bytes after record {count}, a record has {ORACLE_RECORD.itemsize}"
        )


def read_oracle(path: str | os.PathLike[str], *, spill: bool = False, on_progress: Progress | None = None) -> PageTrace:
    """Read libCacheSim's oracleGeneral binary format; sizes are ignored (unit pages)."""
    chunks = (np.ascontiguousarray(r["page"]) for r in oracle_records(path, on_progress=on_progress))
    return from_chunks(chunks, name=Path(path).name, spill=spill)


def _mooncake_requests(path: Path, on_progress: Progress | None) -> Iterator[tuple[int, int, U64]]:
    """Yield (timestamp_ms, input tokens, block ids) of each line."""
    rest, line = b"", 0
    for block in _with_end(_blocks(path, on_progress)):
        *lines, rest = (rest + block).split(b"\n") if block else [rest, b""]
        for text in lines:
            line += 1
            if not text.strip():
                continue
            try:
                row = json.loads(text)
                ids, when, tokens = row["hash_ids"], row["timestamp"], row["input_length"]
            except (ValueError, KeyError, TypeError):
                raise TraceError(
                    path, line, "expected a JSON object with timestamp, input_length and hash_ids"
                ) from None
            if not isinstance(ids, list) or not all(type(x) is int and 0 <= x < 2**64 for x in ids):
                raise TraceError(path, line, "hash_ids must be a list of non-negative integers of 64 bits")
            if type(when) not in (int, float) or type(tokens) is not int or tokens < 0:
                raise TraceError(path, line, "timestamp must be a number and input_length a non-negative integer")
            yield int(when), tokens, np.array(ids, np.uint64)


def read_mooncake(path: str | os.PathLike[str], *, on_progress: Progress | None = None) -> PageTrace:
    """Read a Mooncake trace: each request (prompt) references its KV-cache blocks in order.

    The trace carries as context what a serving system knows when the prompt arrives (predict/conversation.py); the
    output length is not among it.
    """
    densify, features = Densifier(), ConversationFeatures()
    pages, rows = [], []
    for when, tokens, ids in _mooncake_requests(Path(path), on_progress):
        dense = densify(ids)
        pages.append(dense)
        rows.append(features.rows(when, tokens, dense))
    return PageTrace(
        name=Path(path).name,
        pages=np.concatenate(pages) if pages else np.zeros(0, np.int32),
        num_pages=densify.num_pages,
        context=Context(names=ConversationFeatures.NAMES, values=np.concatenate(rows)) if rows else None,
    )


def guess_format(path: str | os.PathLike[str]) -> str:
    """Guess a file's format from its name: .csv, .jsonl, .bin and .oracleGeneral (also .gz), otherwise text."""
    name = Path(path).name.lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".jsonl"):
        return "mooncake"
    if name.endswith((".bin", ".oraclegeneral")):
        return "oracle"
    return "csv" if name.endswith((".csv", ".tsv")) else "text"


def read_trace(
    path: str | os.PathLike[str],
    *,
    kind: str = "auto",
    column: str = "0",
    spill: bool = False,
    on_progress: Progress | None = None,
) -> PageTrace:
    """Read a trace file of the given or guessed format.

    Raises:
        InputError: an unknown format, or whatever is wrong in the file, with its line.
    """
    kind = guess_format(path) if kind == "auto" else kind
    if kind == "text":
        return read_text(path, spill=spill, on_progress=on_progress)
    if kind == "csv":
        delimiter = "\t" if ".tsv" in Path(path).name.lower() else ","
        return read_csv(path, column=column, delimiter=delimiter, spill=spill, on_progress=on_progress)
    if kind == "oracle":
        return read_oracle(path, spill=spill, on_progress=on_progress)
    if kind == "mooncake":
        return read_mooncake(path, on_progress=on_progress)
    raise InputError(f"unknown trace format {kind!r}; there are: {', '.join(FORMATS)}")


def read_oracle_sized(path: str | os.PathLike[str]) -> AccessTrace:
    """Read an oracleGeneral file with its sizes, as reads; a page has the largest size that any record gives it."""
    densify = Densifier()
    pages, sizes = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for records in oracle_records(path):
        pages.append(densify(np.ascontiguousarray(records["page"])))
        sizes.append(np.maximum(records["size_bytes"].astype(np.int64), 1))
    trace = PageTrace(name=Path(path).name, pages=np.concatenate(pages), num_pages=densify.num_pages)
    size_bytes = np.zeros(densify.num_pages, np.int64)
    np.maximum.at(size_bytes, trace.pages, np.concatenate(sizes))
    return reads_only(trace, size_bytes)

"""Page ids from text: integers where every one is an integer, otherwise keys that are compared byte for byte.

A column is read as integers first. At the first id that is none, it is read again as keys, and every distinct key gets
a number: nothing is hashed, so no two keys can fall together.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mallocgame.baselines.paging.structures import I64, U8, U64
from mallocgame.errors import TraceError
from mallocgame.jit import jit

OK, NO_COLUMN, RAGGED, OPEN_QUOTE, BAD_QUOTE = 0, 1, 2, 3, 4
WHITE = 1  # as a delimiter: any run of blanks
_NEWLINE, _HASH, _QUOTE, _ZERO, _NINE = ord("\n"), ord("#"), ord('"'), ord("0"), ord("9")
_NUMBER = re.compile(rb"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]\d+)?$")
KINDS = ("auto", "integer", "text")


@jit
def _is_blank(byte: int, delimiter: int) -> bool:
    return (byte == 32 or byte == 9 or byte == 13) and byte != delimiter


@jit
def find_tokens(block: U8, starts: I64, ends: I64) -> int:
    """Find every run of non-blank bytes; a line whose first such byte is '#' is a comment. Return how many."""
    count, i, n = 0, 0, block.size
    fresh = True  # nothing but blanks on this line so far
    while i < n:
        byte = block[i]
        if byte == _NEWLINE:
            fresh = True
            i += 1
        elif _is_blank(byte, 0):
            i += 1
        elif byte == _HASH and fresh:
            while i < n and block[i] != _NEWLINE:
                i += 1
        else:
            fresh = False
            starts[count] = i
            while i < n and block[i] != _NEWLINE and not _is_blank(block[i], 0):
                i += 1
            ends[count] = i
            count += 1
    return count


@jit
def find_fields(  # noqa: C901 (a kernel: one loop)
    block: U8, delimiter: int, columns: I64, num_columns: int, starts: I64, ends: I64
) -> tuple[int, int, int]:
    """Find the fields numbered ``columns`` of every line that is not blank; every line must have ``num_columns``.

    starts, ends: int64[lines, len(columns)]. Returns (lines found, status, line of the status within the block).
    """
    count, line, i, n = 0, 0, 0, block.size
    white = delimiter == WHITE
    while i < n:
        field_number, found = 0, 0
        while i < n and _is_blank(block[i], delimiter):
            i += 1
        if i < n and block[i] != _NEWLINE:
            while True:
                while i < n and _is_blank(block[i], delimiter):
                    i += 1
                quoted = i < n and block[i] == _QUOTE
                if quoted:
                    i += 1
                    start = i
                    while True:
                        if i >= n or block[i] == _NEWLINE:
                            return count, OPEN_QUOTE, line
                        if block[i] == _QUOTE:
                            if i + 1 < n and block[i + 1] == _QUOTE:
                                i += 1
                            else:
                                break
                        i += 1
                    end = i
                    i += 1
                    while i < n and _is_blank(block[i], delimiter):
                        i += 1
                    ends_here = i >= n or block[i] == _NEWLINE or block[i] == delimiter or white
                    if not ends_here:
                        return count, BAD_QUOTE, line
                else:
                    start = i
                    if white:
                        while i < n and block[i] != _NEWLINE and not _is_blank(block[i], 0):
                            i += 1
                    else:
                        while i < n and block[i] != _NEWLINE and block[i] != delimiter:
                            i += 1
                    end = i
                    while end > start and _is_blank(block[end - 1], delimiter):
                        end -= 1
                for j in range(columns.size):
                    if columns[j] == field_number:
                        starts[count, j] = start
                        ends[count, j] = end
                        found += 1
                field_number += 1
                if white:
                    while i < n and _is_blank(block[i], 0):
                        i += 1
                if i >= n or block[i] == _NEWLINE:
                    break
                if not white:
                    i += 1
            if found < columns.size:
                return count, NO_COLUMN, line
            if field_number != num_columns:
                return count, RAGGED, line
            count += 1
        i += 1
        line += 1
    return count, OK, line


@jit
def parse_integers(block: U8, starts: I64, ends: I64, ids: U64) -> int:
    """Parse decimal integers below 2**64; return the index of the first token that is none, or -1."""
    largest = np.uint64(0xFFFFFFFFFFFFFFFF)
    for at in range(starts.size):
        value = np.uint64(0)
        if starts[at] == ends[at]:
            return at
        for i in range(starts[at], ends[at]):
            if block[i] < _ZERO or block[i] > _NINE:
                return at
            digit = np.uint64(block[i] - _ZERO)
            if value > (largest - digit) // np.uint64(10):
                return at
            value = value * np.uint64(10) + digit
        ids[at] = value
    return -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of a block of whole lines: token j is ``data[starts[j]:ends[j]]``; ``line`` is that of the block."""

    data: bytes
    starts: I64
    ends: I64
    line: int

    def token(self, at: int) -> bytes:
        """Return one token."""
        return self.data[int(self.starts[at]) : int(self.ends[at])]

    def line_of(self, at: int) -> int:
        """Return the number of the line where a token stands, from 1."""
        return self.line + self.data.count(b"\n", 0, int(self.starts[at]))


TokenSource = Callable[[], Iterator[Tokens]]


class NotIntegersError(Exception):
    """The ids are keys: they have to be read again from the start."""


@dataclass(slots=True, kw_only=True)
class Keys:
    """Numbers keys 0, 1, 2, ... in order of first appearance; ``0x1F`` and ``0x01f`` are one key."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    _canonical: dict[bytes, int] = field(default_factory=dict)

    def number(self, key: bytes) -> int:
        """Return the number of ``key``, a new one if it was not met before."""
        known = self.numbers.get(key)
        if known is None:
            plain = key
            if key[:2] in (b"0x", b"0X"):
                plain = b"0x" + (key[2:].lower().lstrip(b"0") or b"0")
            known = self.numbers[key] = self._canonical.setdefault(plain, len(self._canonical))
        return known


def integer_ids(path: Path, source: TokenSource, kind: str) -> Iterator[U64]:
    """Yield uint64 ids, block by block.

    Raises:
        NotIntegersError: an id is no integer, and ``kind`` allows keys.
        TraceError: an id is no integer and must be one, is negative, or is a decimal number.
    """
    for tokens in source():
        ids = np.empty(tokens.starts.size, np.uint64)
        at = parse_integers(np.frombuffer(tokens.data, np.uint8), tokens.starts, tokens.ends, ids)
        if at >= 0:
            token = tokens.token(at)
            _refuse_odd(path, tokens.line_of(at), token, kind)
            raise NotIntegersError
        yield ids


def key_ids(path: Path, source: TokenSource) -> Iterator[U64]:
    """Yield uint64 numbers of keys, block by block."""
    keys = Keys()
    for tokens in source():
        starts, ends, data = tokens.starts.tolist(), tokens.ends.tolist(), tokens.data
        ids = np.empty(len(starts), np.uint64)
        for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
            key = data[start:end]
            if not key:
                raise TraceError(path, tokens.line_of(at), "the page id is empty")
            if b'""' in key and data[start - 1 : start] == b'"':
                key = key.replace(b'""', b'"')
            ids[at] = keys.number(key)
        yield ids


def _refuse_odd(path: Path, line: int, token: bytes, kind: str) -> None:
    shown = token[:60].decode("utf-8", "replace")
    if kind == "integer":
        raise TraceError(path, line, f"expected an integer page id below 2**64, got {shown!r}")
    if token == b"*":
        raise TraceError(path, line, "expected a page id, got '*', a mark of LIRS traces: read it with --format lirs")
    if token.startswith(b"-") and token[1:].isdigit():
        raise TraceError(path, line, f"a page id must not be negative, got {shown!r} (--keys text takes it as text)")
    if _NUMBER.match(token) and not token.isdigit():
        raise TraceError(path, line, f"expected an integer page id, got {shown!r} (--keys text takes it as text)")

"""Byte addresses, as traces of memory accesses have them: which page each falls into."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mallocgame.baselines.paging.readers.keys import Tokens, TokenSource, parse_integers
from mallocgame.baselines.paging.structures import U64
from mallocgame.errors import TraceError

NOTE = "ids are compared as they are, each its own page; if they are byte addresses, say --page-bytes"
_NAMES = ("address", "addr")


def address_pages(path: Path, source: TokenSource, page_bytes: int) -> Iterator[U64]:
    """Yield uint64 pages of ``page_bytes`` bytes, block by block.

    Raises:
        TraceError: an id that is no address: decimal, or hexadecimal after 0x, below 2**64.
    """
    for tokens in source():
        ids = np.empty(tokens.starts.size, np.uint64)
        if parse_integers(np.frombuffer(tokens.data, np.uint8), tokens.starts, tokens.ends, ids) >= 0:
            ids[:] = [_address(path, tokens, at) for at in range(tokens.starts.size)]
        yield ids // np.uint64(page_bytes)


def address_note(name: str, token: str) -> str:
    """Return what to tell where a column of this name, or a first id like this, may hold byte addresses; else empty."""
    return NOTE if name.strip().lower() in _NAMES or token[:2].lower() == "0x" else ""


def _address(path: Path, tokens: Tokens, at: int) -> int:
    token = tokens.token(at)[:80]
    is_hex = token[:2].lower() == b"0x"
    try:
        value = int(token, 16 if is_hex else 10)
    except ValueError:
        value = -1
    if not 0 <= value < 2**64 or not token.isalnum():
        shown = token[:60].decode("utf-8", "replace")
        reason = f"expected a byte address below 2**64, decimal or hexadecimal after 0x, got {shown!r}"
        raise TraceError(path, tokens.line_of(at), reason)
    return value

"""Files read whole or refused in one line: bytes (gzip unpacked), UTF-8 text, strict JSON."""

import io
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, BinaryIO, Literal, NoReturn, ParamSpec, TypeVar

from mallocgame.errors import InputError, TraceError, printable
from mallocgame.files.kinds import StrPath, kind_of, refuse

P = ParamSpec("P")
R = TypeVar("R")

MAX_BYTES = 64 * 2**20  # of a file, after decompression: a trace of 100,000 instructions has about 30 MB
MAX_INTEGER = 2**62
NOT_TEXT = "not UTF-8 text"
_SMALL_BYTES = 8 * 2**20  # up to here any gzip ratio is believed
_MAX_GZIP_RATIO = 250  # traces reach 30, zeros 1,000
_GZIP_MAGIC = b"\x1f\x8b"
_EXTREME = re.compile(r"\d{19}|[eE][+-]?0*\d{3}")  # the numbers that need a closer look than a C parser gives them


def open_input(path: StrPath) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        TraceError: it is absent, a folder, a pipe, a device or a socket (none of which is opened), or not readable.
    """
    try:
        _check_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe put there since does not block
        file = os.fdopen(descriptor, "rb")
        _check_regular(path, os.fstat(descriptor))
    except (OSError, ValueError) as error:
        refuse(path, error, "read")
    return file


def read_bytes(path: StrPath, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file whole, unpacked if its first bytes say gzip.

    Raises:
        TraceError: it cannot be read, is larger than ``max_bytes``, or holds broken, unfinished or suspiciously dense
            gzip data.
    """
    with open_input(path) as file, refusing_damage(path, "a file"):
        data = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    if data.startswith(_GZIP_MAGIC):
        data = _gunzip(path, data, max_bytes)
    if len(data) > max_bytes:
        raise TraceError(path, None, f"larger than {max_bytes} bytes")
    return data


def read_text(path: StrPath, *, max_bytes: int = MAX_BYTES) -> str:
    """Read a regular file of UTF-8 text whole; a byte-order mark at its start is dropped.

    Raises:
        TraceError: as ``read_bytes``, or not UTF-8, with the line.
    """
    data = read_bytes(path, max_bytes=max_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(path, data[: error.start].count(b"\n") + 1, NOT_TEXT) from None


def read_lines(path: StrPath, *, errors: Literal["strict", "replace"] = "strict") -> Iterator[str]:
    """Yield the lines of a regular file of text of any size, without their ends.

    What is neither printable nor a tab comes as an escape: the names in a log or a dump reach a terminal some day.

    Raises:
        TraceError: as ``open_input``, or not UTF-8 (with errors "strict").
    """
    text = io.TextIOWrapper(open_input(path), encoding="utf-8", errors=errors)
    with text as lines, refusing_damage(path, "text"):
        try:
            for line in lines:
                plain = line.rstrip("\n")
                yield plain if plain.replace("\t", "").isprintable() else printable(plain)
        except UnicodeDecodeError:
            raise TraceError(path, None, NOT_TEXT) from None


def read_json(path: StrPath, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read a file of strict JSON: no repeated key, NaN, infinity, integer above 2**62 or lone surrogate.

    Raises:
        TraceError: as ``read_text``, or not strict JSON; with the line where that is known.
    """
    return parse_json(read_text(path, max_bytes=max_bytes), path)


def parse_json(text: str, path: object) -> Any:
    """Parse strict JSON (``read_json``); ``path`` is for the message."""
    numbers: dict[str, Any] = {}
    if _EXTREME.search(text):
        numbers = {"parse_int": _integer, "parse_float": _real}
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, **numbers)
        if "\\u" in text:
            _check_surrogates(value)
    except json.JSONDecodeError as error:
        raise TraceError(path, error.lineno, f"not JSON: {error.msg} at column {error.colno}") from None
    except _BadValueError as error:
        raise TraceError(path, None, str(error)) from None
    except RecursionError:
        raise TraceError(path, None, "nested too deeply") from None
    return value


@contextmanager
def refusing_damage(path: object, expected: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads ``path`` into one TraceError.

    The last line of defence: what can be foreseen deserves a reason of its own.

    Args:
        path: the file, for the message.
        expected: what the file should be, e.g. "the weights of this network".
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise TraceError(path, None, f"cannot be read: {error.strerror or error}") from error
    except Exception as error:
        first = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
        raise TraceError(path, None, f"damaged, or not {expected} ({detail[:200]})") from error


def reader(expected: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose first argument is a path with ``refusing_damage``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def read(*args: P.args, **kwargs: P.kwargs) -> R:
            with refusing_damage(args[0] if args else next(iter(kwargs.values())), expected):
                return function(*args, **kwargs)

        return read

    return decorate


class _BadValueError(Exception):
    """A value that strict JSON does not have; the message is for the user."""


def _check_regular(path: StrPath, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TraceError(path, None, f"is {kind_of(status)}, expected a regular file")


def _gunzip(path: StrPath, data: bytes, max_bytes: int) -> bytes:
    limit = min(max_bytes, max(_SMALL_BYTES, _MAX_GZIP_RATIO * len(data)))
    stream = zlib.decompressobj(31)
    try:
        plain = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise TraceError(path, None, f"broken gzip data: {error}") from None
    if len(plain) > limit:
        raise TraceError(path, None, f"larger than {limit} bytes when decompressed, from {len(data)}")
    if not stream.eof:
        raise TraceError(path, None, "truncated gzip data")
    if stream.unused_data:
        raise TraceError(path, None, f"{len(stream.unused_data)} bytes follow the gzip data")
    return plain


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _BadValueError(f"key {key[:40]!r} is repeated in one object")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise _BadValueError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
        raise _BadValueError(f"integer {digits[:24]} is out of range, expected at most {MAX_INTEGER} in magnitude")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if value - value != 0.0:
        raise _BadValueError(f"number {digits[:24]} is out of range")
    return value


def _check_surrogates(value: Any) -> None:
    """Refuse halves of surrogate pairs: no file and no terminal can be given such a string."""
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            waiting += entry
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
        elif isinstance(entry, str) and not entry.isascii() and any("\ud800" <= c <= "\udfff" for c in entry):
            raise _BadValueError(f"{ascii(entry)[:40]} holds half of a surrogate pair")

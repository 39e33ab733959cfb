"""TOML, as strict as JSON is read here: no number that is none or out of range."""

import tomllib
from collections.abc import Iterator
from typing import Any

from mallocgame.errors import TraceError
from mallocgame.files.kinds import StrPath
from mallocgame.files.reading import MAX_INTEGER, read_text

_MAX_BYTES = 2**20  # people write it by hand
_MAX_DOTS = 100  # in a key: tables nest deeper than Python recurses, and take time by the square


def read_toml(path: StrPath) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        TraceError: it cannot be read, is no TOML, is larger than a MiB, or holds a number that is not finite or an
            integer beyond ``MAX_INTEGER``, or a key of more than a hundred parts.
    """
    text = read_text(path, max_bytes=_MAX_BYTES)
    for number, line in enumerate(text.splitlines(), 1):
        if line.partition("=")[0].count(".") > _MAX_DOTS:
            raise TraceError(path, number, f"a key has more than {_MAX_DOTS} parts")
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a ValueError, too
        raise TraceError(path, None, f"not TOML: {str(error).partition(';')[0]}") from None
    for name, value in _leaves(table):
        is_wrong = isinstance(value, float) and value - value != 0.0
        if is_wrong or (isinstance(value, int) and abs(value) > MAX_INTEGER):
            raise TraceError(path, None, f"{name[:60]}: number {str(value)[:24]} is out of range")
    return table


def _leaves(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    waiting: list[tuple[str, Any]] = [("", table)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}" if name else key, entry) for key, entry in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{name}[{index}]", value[index]) for index in reversed(range(len(value)))]
        else:
            yield name, value

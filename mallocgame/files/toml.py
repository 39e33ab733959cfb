"""TOML, as strict as JSON is read here: no number that is none or out of range."""

import tomllib
from collections.abc import Iterator
from typing import Any

from mallocgame.errors import TraceError
from mallocgame.files.kinds import StrPath
from mallocgame.files.reading import MAX_INTEGER, read_text

_MAX_BYTES = 2**20  # people write it by hand


def read_toml(path: StrPath) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        TraceError: it cannot be read, is no TOML, is larger than a MiB, or holds a number that is not finite or an
            integer beyond ``MAX_INTEGER``.
    """
    text = read_text(path, max_bytes=_MAX_BYTES)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a ValueError, too
        raise TraceError(path, None, f"not TOML: {str(error).partition(';')[0]}") from None
    for name, value in _leaves("", table):
        is_wrong = isinstance(value, float) and value - value != 0.0
        if is_wrong or (isinstance(value, int) and abs(value) > MAX_INTEGER):
            raise TraceError(path, None, f"{name}: number {str(value)[:24]} is out of range")
    return table


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(f"{name}.{key}" if name else key, entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _leaves(f"{name}[{index}]", entry)
    else:
        yield name, value

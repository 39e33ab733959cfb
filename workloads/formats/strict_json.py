"""Reading JSON that somebody else wrote: typed, bounded and complete, or one ``TraceError`` that says why not.

Nothing is assumed and nothing defaults: unknown, missing and repeated keys, NaN, infinities, huge integers, lone
surrogates, deep nesting, truncated or overlong gzip streams are all errors.
"""

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from mallocgame.errors import TraceError
from mallocgame.files import MAX_INTEGER, StrPath, read_json, write_bytes


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value and where it stands, e.g. ``program.uses.step[17]`` of a file."""

    path: StrPath
    where: str
    value: Any

    def fail(self, reason: str) -> NoReturn:
        """Raise the error for this value."""
        raise TraceError(self.path, None, f"{self.where}: {reason}" if self.where else reason)

    def fields(self, *names: str) -> "tuple[Node, ...]":
        """Return the values of an object that has exactly these keys."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, got {_shown(self.value)}")
        for name in names:
            if name not in self.value:
                self.fail(f"key {name!r} is missing")
        for name in self.value:
            if name not in names:
                self.fail(f"unknown key {name!r}, expected {', '.join(names)}")
        prefix = f"{self.where}." if self.where else ""
        return tuple(Node(self.path, prefix + name, self.value[name]) for name in names)

    def columns(self, *names: str) -> "tuple[int, tuple[Node, ...]]":
        """Return the length and the columns of a table: an object of arrays that are equally long."""
        found = self.fields(*names)
        lengths = [len(column.array()) for column in found]
        for column, length in zip(found, lengths, strict=True):
            if length != lengths[0]:
                column.fail(f"has {length} entries, {names[0]} has {lengths[0]}")
        return lengths[0], found

    def array(self) -> list[Any]:
        """Return an array as it is."""
        if not isinstance(self.value, list):
            self.fail(f"expected an array, got {_shown(self.value)}")
        return self.value

    def items(self) -> "list[Node]":
        """Return the elements of an array."""
        return [Node(self.path, f"{self.where}[{i}]", value) for i, value in enumerate(self.array())]

    def text(self) -> str:
        """Return a string of printable characters."""
        return str(self._one(_is_text, "a string of printable characters"))

    def texts(self) -> list[str]:
        """Return an array of printable strings."""
        return self._all(_is_text, "a string of printable characters")

    def booleans(self) -> list[bool]:
        """Return an array of true and false."""
        return self._all(lambda value: isinstance(value, bool), "true or false")

    def integer(self, low: int, high: int = MAX_INTEGER) -> int:
        """Return an integer in [low, high]."""
        return int(self._one(lambda value: type(value) is int and low <= value <= high, _range_text(low, high)))

    def integers(self, low: int, high: int = MAX_INTEGER) -> list[int]:
        """Return an array of integers in [low, high]."""
        return self._all(lambda value: type(value) is int and low <= value <= high, _range_text(low, high))

    def real(self) -> float:
        """Return a finite number >= 0."""
        return float(self._one(_is_real, "a number >= 0"))

    def reals(self) -> list[float]:
        """Return an array of finite numbers >= 0."""
        return [float(value) for value in self._all(_is_real, "a number >= 0")]

    def _one(self, accepts: Callable[[Any], bool], expected: str) -> Any:
        if not accepts(self.value):
            self.fail(f"expected {expected}, got {_shown(self.value)}")
        return self.value

    def _all(self, accepts: Callable[[Any], bool], expected: str) -> list[Any]:
        values = self.array()
        for i, value in enumerate(values):
            if not accepts(value):
                Node(self.path, f"{self.where}[{i}]", value)._one(accepts, expected)
        return values


def read(path: StrPath) -> Node:
    """Parse a JSON file, gzip-compressed or not (its first bytes tell).

    Raises:
        TraceError: it cannot be read, is too large, or is not strict JSON; with the line where that is known.
    """
    return Node(path, "", read_json(path))


def check_header(node: Node, expected_format: str, *versions: int) -> int:
    """Refuse a file of another kind or version before anything else is looked at; return its version."""
    if not isinstance(node.value, dict) or node.value.get("format") != expected_format:
        found = node.value.get("format") if isinstance(node.value, dict) else node.value
        node.fail(f"expected a file of format {expected_format!r}, got {_shown(found)}")
    found = node.value.get("version")
    if type(found) is not int or found not in versions:
        known = " and ".join(str(version) for version in versions)
        node.fail(f"version {_shown(found)} of {expected_format} is unknown, this release reads version {known}")
    return found


def write(path: StrPath, value: dict[str, Any]) -> None:
    """Write strict JSON, one key a line and arrays compact; gzip if the name ends in ``.gz``. Same value, same bytes.

    Raises:
        TraceError: the file cannot be written.
        ValueError: ``value`` holds NaN or an infinity.
    """
    data = (_dump(value, "") + "\n").encode("utf-8")
    if os.fspath(path).endswith(".gz"):
        squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)  # zlib writes no time and no name into the header
        data = squeeze.compress(data) + squeeze.flush()
    write_bytes(path, data)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


def _range_text(low: int, high: int) -> str:
    return f"an integer >= {low}" if high == MAX_INTEGER else f"an integer from {low} to {high}"


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _dump(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    inner = indent + " "
    lines = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {_dump(entry, inner)}" for key, entry in value.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

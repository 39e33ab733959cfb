"""Where instructions come from: the source tables at the head of an XLA module's text, as stacks of frames."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
ROW = re.compile(r"(\d{1,9}) (.*)")

_FIELD = re.compile(r"(\w+)=(\d{1,9})\b")
_MACHINERY = (
    "<frozen",
    "/jax/_src/",
    "site-packages/jax",
    "/workloads/xla/compiler_child.py",
    "/workloads/xla/lower.py",
    "/workloads/calls.py",
)
_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python")


class Frame(NamedTuple):
    """A place in the source, and the function around it."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})" if self.function else f"{self.file}:{self.line}"


Stack = tuple[Frame, ...]  # the innermost first


def stacks(tables: Mapping[str, Sequence[str]]) -> dict[int, Stack]:
    """Return the stack of each frame number; what a row does not say is left out.

    Frames of JAX itself and of the process that compiles are left out where others are there.

    >>> tables = {
    ...     "FileNames": ['1 "net.py"', '2 "/lib/python3/site-packages/flax/linear.py"'],
    ...     "FunctionNames": ['1 "layer"', '2 "step"'],
    ...     "FileLocations": [
    ...         "1 {file_name_id=1 function_name_id=2 line=20}",
    ...         "2 {file_name_id=2 function_name_id=1 line=7}",
    ...     ],
    ...     "StackFrames": ["1 {file_location_id=1 parent_frame_id=1}", "2 {file_location_id=2 parent_frame_id=2}"],
    ... }
    >>> [str(frame) for frame in stacks(tables)[2]]
    ['/lib/python3/site-packages/flax/linear.py:7 (layer)', 'net.py:20 (step)']
    >>> str(users_frame(stacks(tables)[2]))
    'net.py:20 (step)'
    >>> " < ".join(map(str, in_short(stacks(tables)[2])))
    'flax/linear.py:7 (layer) < net.py:20 (step)'
    """
    files = {number: text.strip('"') for number, text in _rows(tables, "FileNames")}
    functions = {number: text.strip('"') for number, text in _rows(tables, "FunctionNames")}
    places = {}
    for number, text in _rows(tables, "FileLocations"):
        row = _fields(text)
        file = files.get(row.get("file_name_id", 0), "")
        if file:
            places[number] = Frame(file, row.get("line", 0), functions.get(row.get("function_name_id", 0), ""))
    rows = {number: _fields(text) for number, text in _rows(tables, "StackFrames")}
    parents = {number: row.get("parent_frame_id", 0) - 1 for number, row in rows.items()}  # written one too high
    own = {n: places[row["file_location_id"]] for n, row in rows.items() if row.get("file_location_id") in places}
    return {number: _stack(number, parents, own) for number in rows}


def users_frame(stack: Stack) -> Frame | None:
    """Return the innermost frame outside of installed libraries, or the innermost of all."""
    return next((f for f in stack if _is_users(f)), stack[0] if stack else None)


def in_short(stack: Stack) -> Stack:
    """Return the innermost frame, and those of the user's own code, without the folders of installed libraries."""
    kept = [f for number, f in enumerate(stack) if number == 0 or _is_users(f)]
    return tuple(f._replace(file=f.file.rpartition("/site-packages/")[2]) for f in kept)


def _is_users(frame: Frame) -> bool:
    return not any(part in frame.file for part in _LIBRARIES)


def _stack(number: int, parents: Mapping[int, int], own: Mapping[int, Frame]) -> Stack:
    found: list[Frame] = []
    seen: set[int] = set()
    while number in parents and number not in seen:
        seen.add(number)
        if number in own:
            found.append(own[number])
        number = parents[number]
    found = list(dict.fromkeys(found))  # where calls are inlined, frames stand again and again
    return tuple(f for f in found if not any(part in f.file for part in _MACHINERY)) or tuple(found[:1])


def _rows(tables: Mapping[str, Sequence[str]], name: str) -> Iterator[tuple[int, str]]:
    for row in tables.get(name, ()):
        match = ROW.match(row)
        if match:
            yield int(match[1]), match[2].strip()


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in _FIELD.findall(text)}

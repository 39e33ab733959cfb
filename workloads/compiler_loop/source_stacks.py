"""The stack of source lines behind each instruction, from the tables at the head of an XLA module's text."""

import re

_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_ROW = re.compile(r"(\d+) (.*)")
_FIELD = re.compile(r"(\w+)=(\d+)")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?stack_frame_id=(\d+)")
_MACHINERY = ("<frozen", "/jax/_src/", "compiler_child.py", "site-packages/jax")

Rows = dict[str, dict[int, str]]


def source_stacks(module: str) -> dict[str, tuple[str, ...]]:
    """Return, for each instruction that has one, its stack of ``file:line (function)``, the innermost first.

    Frames of JAX itself and of the process that compiles are left out.

    >>> text = '''HloModule m
    ...
    ... FileNames
    ... 1 "net.py"
    ...
    ... FunctionNames
    ... 1 "layer"
    ... 2 "step"
    ...
    ... FileLocations
    ... 1 {file_name_id=1 function_name_id=2 line=20 end_line=20 column=1 end_column=2}
    ... 2 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=2}
    ...
    ... StackFrames
    ... 1 {file_location_id=1 parent_frame_id=1}
    ... 2 {file_location_id=2 parent_frame_id=2}
    ...
    ... ENTRY %main () -> f32[] {
    ...   ROOT %add.1 = f32[] add(), metadata={op_name="add" stack_frame_id=2}
    ... }
    ... '''
    >>> source_stacks(text)
    {'add.1': ('net.py:7 (layer)', 'net.py:20 (step)')}
    """
    rows = _tables(module)
    frames = {number: _fields(text) for number, text in rows["StackFrames"].items()}
    found = {}
    for line in module.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction:
            stack = _stack(int(instruction[2]), frames, rows)
            if stack:
                found[instruction[1]] = stack
    return found


def _tables(module: str) -> Rows:
    rows: Rows = {name: {} for name in _TABLES}
    table: dict[int, str] | None = None
    for line in module.splitlines():
        if line in rows:
            table = rows[line]
        elif not line.strip():
            table = None
        elif table is not None and (row := _ROW.match(line)):
            table[int(row[1])] = row[2]
    return rows


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in _FIELD.findall(text)}


def _stack(frame: int, frames: dict[int, dict[str, int]], rows: Rows) -> tuple[str, ...]:
    """Follow the parents, whose numbers are written one too high (0 is no frame)."""
    found: list[str] = []
    seen: set[int] = set()
    while frame in frames and frame not in seen:
        seen.add(frame)
        location = _fields(rows["FileLocations"].get(frames[frame].get("file_location_id", 0), ""))
        file = rows["FileNames"].get(location.get("file_name_id", 0), "").strip('"')
        function = rows["FunctionNames"].get(location.get("function_name_id", 0), "").strip('"')
        if file and not any(part in file for part in _MACHINERY):
            found.append(f"{file}:{location.get('line', 0)} ({function})")
        frame = frames[frame].get("parent_frame_id", 0) - 1
    return tuple(dict.fromkeys(found))  # where calls are inlined, frames stand again and again

"""Scheduled HLO text, read: computations, instructions, operands, tuple shapes, and where each came from in the source.

Only what buffer traces need is kept. Format: the text that ``HloModule::ToString`` writes (``xla_dump_hlo_as_text``).
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mallocgame.errors import TraceError

Index = tuple[int, ...]  # a position in a (nested) tuple shape; () is the whole
Shape = str | tuple["Shape", ...]  # a leaf's text, or a tuple's members

_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "c64": 64, "c128": 128, "token": 0}  # others: the digits in the name
_COMPUTATION = re.compile(r"^(ENTRY )?%([^\s(]+) \(.*\{$")
_NAME = re.compile(r"^\s*(ROOT )?%([^\s=]+) = ")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLED = re.compile(
    r"\b(calls|condition|body|to_apply|called_computations|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_ELEMENT = re.compile(r"\bindex=(\d{1,9})\b")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_SOURCE = re.compile(r'source_file="([^"]*)"(?: source_line=(\d+))?')
_OUTPUT_ALIAS = re.compile(r"\{([\d, ]*)\}: \((\d+), \{([\d, ]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HloInstruction:
    """One instruction; ``attributes`` is the text after its operands."""

    name: str
    opcode: str
    shape: Shape
    operands: tuple[str, ...]  # names of instructions in the same computation
    arguments: str  # the text between the parentheses: a constant's value, a parameter's number
    attributes: str

    @property
    def element(self) -> int | None:
        """Return which element a get-tuple-element takes."""
        match = _ELEMENT.search(self.attributes)
        return int(match[1]) if match else None

    def called(self, role: str) -> tuple[str, ...]:
        """Return the computations called in ``role`` (``calls``, ``condition``, ``body``, …)."""
        names = next((text for key, text in _CALLED.findall(self.attributes) if key == role), "")
        return tuple(name.strip(" %") for name in names.strip("{}").split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class HloComputation:
    """Instructions in the order of the text, which is the schedule in a scheduled module."""

    name: str
    instructions: dict[str, HloInstruction]
    root: str

    def parameter(self, number: int) -> HloInstruction:
        """Return parameter ``number``."""
        wanted = str(number)
        return next(i for i in self.instructions.values() if i.opcode == "parameter" and i.arguments.strip() == wanted)


@dataclass(frozen=True, kw_only=True)
class HloModule:
    """A module: its computations, entry, donated inputs and source table."""

    name: str
    entry: str
    computations: dict[str, HloComputation]
    donations: tuple[tuple[Index, int, Index], ...] = ()  # output index, parameter number, index in the parameter
    sources: dict[int, str] = field(default_factory=dict)  # stack frame: file:line

    def source(self, instruction: HloInstruction) -> str:
        """Return ``file:line`` of the user's code, or an empty string.

        A fusion without a place of its own takes that of its root, or of the first instruction inside that has one.
        """
        own = self._own_source(instruction)
        if own or instruction.opcode != "fusion":
            return own
        fused = [self.computations[name] for name in instruction.called("calls") if name in self.computations]
        inside = [i for body in fused for i in (body.instructions[body.root], *body.instructions.values())]
        return next((place for place in map(self._own_source, inside) if place), "")

    def _own_source(self, instruction: HloInstruction) -> str:
        direct = _SOURCE.search(instruction.attributes)
        if direct:
            return f"{direct[1]}:{direct[2]}" if direct[2] else direct[1]
        frame = _FRAME.search(instruction.attributes)
        return self.sources.get(int(frame[1]), "") if frame else ""


def leaves(shape: Shape, prefix: Index = ()) -> Iterator[tuple[Index, str]]:
    """Yield the index and text of each array in a shape."""
    if isinstance(shape, str):
        yield prefix, shape
    else:
        for i, member in enumerate(shape):
            yield from leaves(member, (*prefix, i))


def dimensions(text: str) -> tuple[int, ...]:
    """Return the sizes of an array such as ``bf16[8,128]{1,0}``; () for a scalar or no array."""
    match = _ARRAY.match(text)
    return tuple(int(size) for size in match[2].split(",") if size) if match else ()


def array_bytes(text: str) -> int:
    """Return the bytes of an array, without padding."""
    match = _ARRAY.match(text)
    if not match:
        return 0
    digits = re.search(r"\d+", match[1])
    bits = _BITS.get(match[1], int(digits[0]) if digits else 0)
    return math.prod(dimensions(text)) * bits // 8


def parse_hlo(text: str, path: object = "HLO") -> HloModule:
    """Parse a module.

    Raises:
        TraceError: not HLO text, no entry computation, or an instruction that does not parse.
    """
    lines = text.splitlines()
    if not lines or not lines[0].startswith("HloModule "):
        raise TraceError(path, 1, "not HLO text: expected a first line 'HloModule NAME, …'")
    computations: dict[str, HloComputation] = {}
    entry, current, root = "", "", ""
    body: dict[str, HloInstruction] = {}
    for number, line in enumerate(lines, start=1):
        if not current:
            opening = _COMPUTATION.match(line)
            if opening:
                current, body, root = opening[2], {}, ""
                entry = current if opening[1] else entry
            continue
        if line.startswith("}"):
            computations[current] = HloComputation(
                name=current, instructions=body, root=root or next(reversed(body), "")
            )
            current = ""
            continue
        named = _NAME.match(line)
        if not named:
            if line.strip():
                raise TraceError(path, number, f"not an HLO instruction: {line.strip()[:80]!r}")
            continue
        try:
            instruction = _instruction(named[2], _COMMENT.sub("", line[named.end() :]))
        except (ValueError, IndexError, RecursionError) as error:
            raise TraceError(path, number, f"not an HLO instruction: {line.strip()[:80]!r}") from error
        body[instruction.name] = instruction
        root = instruction.name if named[1] else root
    if current:
        raise TraceError(path, len(lines), f"the text ends inside computation {current}")
    if entry not in computations:
        raise TraceError(path, len(lines), "no ENTRY computation")
    name = lines[0].split(",")[0].removeprefix("HloModule ").strip()
    donations = _donations(lines[0])
    return HloModule(
        name=name, entry=entry, computations=computations, donations=donations, sources=_source_table(lines)
    )


def _instruction(name: str, text: str) -> HloInstruction:
    shape, at = _shape(text, 0)
    opcode = _OPCODE.match(text, at)
    if not opcode:
        raise ValueError("no opcode")
    end = _closing(text, opcode.end())
    arguments = text[opcode.end() : end]
    operands = () if opcode[1] in ("constant", "parameter", "iota") else tuple(_operand_names(arguments))
    return HloInstruction(
        name=name, opcode=opcode[1], shape=shape, operands=operands, arguments=arguments, attributes=text[end + 1 :]
    )


def _shape(text: str, at: int) -> tuple[Shape, int]:
    """Parse a shape at ``at``; return it and where it ends."""
    if text[at] != "(":
        end = at
        depth = 0
        while end < len(text) and (depth or text[end] not in " ,)"):
            depth += (text[end] in "{[(") - (text[end] in "}])")
            end += 1
        if end == at:
            raise ValueError("no shape")
        return text[at:end], end
    members: list[Shape] = []
    at += 1
    while True:
        while text[at] in " ,":
            at += 1
        if text[at] == ")":
            return tuple(members), at + 1
        member, at = _shape(text, at)
        members.append(member)


def _closing(text: str, at: int) -> int:
    """Return the position of the parenthesis that closes the one before ``at`` (quotes are respected)."""
    depth, quoted = 1, False
    while True:
        letter = text[at]
        if letter == '"' and text[at - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (letter in "({[") - (letter in ")}]")
            if depth == 0:
                return at
        at += 1


def _operand_names(arguments: str) -> Iterator[str]:
    """Yield operand names; each may have its shape in front."""
    depth, start = 0, 0
    for at, letter in enumerate(arguments + ","):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            word = arguments[start:at].strip()
            if word:
                yield word.rpartition(" ")[2].lstrip("%")
            start = at + 1


def _donations(header: str) -> tuple[tuple[Index, int, Index], ...]:
    start = header.find("input_output_alias={")
    if start < 0:
        return ()
    start += len("input_output_alias={")
    inside = header[start : _closing(header, start)]
    return tuple((to_index(a), int(number), to_index(b)) for a, number, b in _OUTPUT_ALIAS.findall(inside))


def to_index(text: str) -> Index:
    """Return the tuple index written as ``0, 1`` (empty: the whole)."""
    return tuple(int(word) for word in text.split(",") if word.strip())


def _source_table(lines: Sequence[str]) -> dict[int, str]:
    """Return file:line per stack frame from the tables that newer XLA versions write after the header."""
    section = ""
    files: dict[int, str] = {}
    places: dict[int, tuple[int, str]] = {}
    frames: dict[int, str] = {}
    for line in lines:
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            section = line
        elif not line.strip() or not line[0].isdigit():
            section = "" if line.startswith(("%", "ENTRY")) else section
        else:
            number, _, rest = line.partition(" ")
            values = dict(re.findall(r"(\w+)=(\d+)", rest))
            if section == "FileNames":
                files[int(number)] = rest.strip().strip('"')
            elif section == "FileLocations" and "file_name_id" in values:
                places[int(number)] = (int(values["file_name_id"]), values.get("line", "0"))
            elif section == "StackFrames" and int(values.get("file_location_id", 0)) in places:
                file, at = places[int(values["file_location_id"])]
                frames[int(number)] = f"{files.get(file, '')}:{at}"
    return frames

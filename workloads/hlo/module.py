"""HLO text, read: computations, instructions, operands, tuple shapes, and where each came from in the source.

Only what buffer traces need is kept. Format: the text that ``HloModule::ToString`` writes (``xla_dump_hlo_as_text``),
long or short: names may lack ``%``, a computation its signature, and everything may go over several lines.
"""

import re
from dataclasses import dataclass, field
from typing import NoReturn

from mallocgame.errors import TraceError, printable
from mallocgame.workloads.hlo import scan
from mallocgame.workloads.hlo.shapes import Index, Shape, array_bytes, dimensions, leaves, to_index
from mallocgame.workloads.hlo.stacks import ROW, TABLES, Stack, stacks, users_frame

__all__ = [
    "HloComputation",
    "HloInstruction",
    "HloModule",
    "Index",
    "Shape",
    "array_bytes",
    "dimensions",
    "leaves",
    "parse_hlo",
    "to_index",
]

_HEADER = re.compile(r"HloModule\b[ \t]*([^\s,]*)")
_COMPUTATION = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\s*(?=[({])")
_INSTRUCTION = re.compile(r"(ROOT\s+)?%?([^\s=,(){}\[\]\"%]+)\s*=\s*")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\s*\(")
_ARROW = re.compile(r"\s*->\s*")
_OPERAND = re.compile(r"%?([^\s=,(){}\[\]\"%]+)")
_LITERAL = ("constant", "parameter", "iota", "partition-id", "replica-id")
_SAME_SHAPE = frozenset(  # the result's shape is the first operand's
    {"abs", "add", "and", "atan2", "cbrt", "ceil", "copy", "cosine", "cosh", "divide", "dynamic-update-slice"}
    | {"exponential", "exponential-minus-one", "floor", "log", "log-plus-one", "logistic", "maximum", "minimum"}
    | {"multiply", "negate", "not", "optimization-barrier", "or", "popcnt", "power", "remainder", "rsqrt", "sign"}
    | {"round-nearest-afz", "round-nearest-even", "shift-left", "shift-right-arithmetic", "shift-right-logical"}
    | {"sine", "sinh", "sqrt", "subtract", "tan", "tanh", "while", "xor"}
)
_CALLED = re.compile(
    r"\b(calls|condition|body|to_apply|called_computations|branch_computations|true_computation|false_computation)"
    r"=(\{[^}]*\}|%?[\w.\-]+)"
)
_ELEMENT = re.compile(r"\bindex=(\d{1,9})\b")
_OPERATION = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_FRAME = re.compile(r"stack_frame_id=(\d{1,9})\b")
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
    line: int = 0  # of the text, from 1

    @property
    def element(self) -> int | None:
        """Return which element a get-tuple-element takes."""
        match = _ELEMENT.search(self.attributes)
        return int(match[1]) if match else None

    def called(self, role: str) -> tuple[str, ...]:
        """Return the computations called in ``role`` (``calls``, ``condition``, ``body``, …)."""
        if role not in self.attributes:  # most call nothing
            return ()
        names = next((text for key, text in _CALLED.findall(self.attributes) if key == role), "")
        return tuple(name.strip(" %\n\t") for name in names.strip("{}").split(",") if name.strip())

    def branches(self) -> tuple[str, ...]:
        """Return a conditional's computations, in the order of their numbers (of two: true, false)."""
        pair = (*self.called("true_computation"), *self.called("false_computation"))
        return self.called("branch_computations") or pair


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
    stacks: dict[int, Stack] = field(default_factory=dict)  # by the number of the innermost frame
    is_scheduled: bool = False

    def source(self, instruction: HloInstruction) -> str:
        """Return ``file:line`` of the user's code, of a library's where there is none, or an empty string.

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
        frame = users_frame(self.stack(instruction))
        return f"{frame.file}:{frame.line}" if frame else ""

    def stack(self, instruction: HloInstruction) -> Stack:
        """Return the frames that an instruction comes from, the innermost first; empty: the text does not say."""
        frame = _FRAME.search(instruction.attributes)
        return self.stacks.get(int(frame[1]), ()) if frame else ()


def argument_label(parameter: HloInstruction) -> str:
    """Return what JAX calls an argument of the compiled function, such as ``state[0].mu['embed']``; empty: nothing."""
    found = _OPERATION.search(parameter.attributes)
    return printable(found[1].replace("\\", "")) if found else ""


def parse_hlo(text: str, path: object = "HLO") -> HloModule:
    """Parse a module.

    Raises:
        TraceError: not HLO text, no computation, or an instruction that does not parse.
    """
    return _Parser(scan.without_comments(text), path).module()


class _Parser:
    """Reads one text from front to back; ``at`` is where it is."""

    def __init__(self, text: str, path: object) -> None:
        self.text, self.path = text, path
        self.at = scan.skip_space(text, 0)
        self.line, self.counted = 1, 0  # the line number at position ``counted``
        self.tables: dict[str, list[str]] = {}

    def module(self) -> HloModule:
        header = _HEADER.match(self.text, self.at)
        if not header:
            self._fail("not HLO text: expected a first line 'HloModule NAME, …'")
        begin = self.at
        self.at = header.end()
        try:
            self.at = scan.attributes_end(self.text, self.at)
        except ValueError as error:
            self._fail(f"not a module's first line: {error}")
        attributes = self.text[begin : self.at]
        computations: dict[str, HloComputation] = {}
        entry = ""
        self._skip()
        while self.at < len(self.text):
            if not self._table():
                computation, is_entry = self._computation()
                if computation.name in computations:
                    self._fail(f"two computations are named {computation.name}")
                computations[computation.name] = computation
                entry = computation.name if is_entry else entry
            self._skip()
        if not computations:
            self._fail("no ENTRY computation")
        return HloModule(
            name=header[1],
            entry=entry or next(reversed(computations)),
            computations=computations,
            donations=_donations(attributes),
            stacks=stacks(self.tables),
            is_scheduled="is_scheduled=true" in attributes,
        )

    def _skip(self) -> None:
        self.at = scan.skip_space(self.text, self.at)

    def _line(self, at: int) -> int:
        if at >= self.counted:
            self.line += self.text.count("\n", self.counted, at)
            self.counted = at
        return self.line

    def _fail(self, reason: str) -> NoReturn:
        raise TraceError(self.path, self._line(min(self.at, len(self.text))), reason)

    def _excerpt(self) -> str:
        return repr(self.text[self.at : self.at + 80].partition("\n")[0].strip())

    def _table(self) -> bool:
        """Read one of the tables of source places that newer XLA versions write, if one stands here."""
        name = next((name for name in TABLES if self.text.startswith(name, self.at)), "")
        if not name:
            return False
        rows = self.tables.setdefault(name, [])
        self.at += len(name)
        self._skip()
        while self.text[self.at : self.at + 1].isdigit():
            end = self.text.find("\n", self.at)
            end = len(self.text) if end < 0 else end
            rows.append(self.text[self.at : end])
            if not ROW.match(rows[-1]):
                self._fail(f"not a row of {name}: {self._excerpt()}")
            self.at = end
            self._skip()
        return True

    def _computation(self) -> tuple[HloComputation, bool]:
        opening = _COMPUTATION.match(self.text, self.at)
        if not opening and _HEADER.match(self.text, self.at):
            self._fail("a second module begins here, expected one in a file")
        if not opening:
            self._fail(f"not an HLO computation: {self._excerpt()}")
        try:
            self.at = opening.end()
            if self.text[self.at] == "(":
                self.at = scan.closing(self.text, self.at) + 1
                arrow = _ARROW.match(self.text, self.at)
                if arrow:
                    self.at = scan.skip_space(self.text, scan.shape_at(self.text, arrow.end())[1])
            if self.text[self.at : self.at + 1] != "{":
                raise ValueError("expected '{'")
        except ValueError as error:
            self._fail(f"computation {opening[2]}: {error}")
        self.at += 1
        body, root = self._body(opening[2])
        self.at = scan.attributes_end(self.text, self.at + 1)  # an execution thread
        return HloComputation(name=opening[2], instructions=body, root=root), bool(opening[1])

    def _body(self, name: str) -> tuple[dict[str, HloInstruction], str]:
        body: dict[str, HloInstruction] = {}
        root = ""
        self._skip()
        while self.text[self.at : self.at + 1] != "}":
            if self.at >= len(self.text):
                self._fail(f"the text ends inside computation {name}")
            instruction, is_root = self._instruction(body)
            if instruction.name in body:
                self._fail(f"{name}: two instructions are named {instruction.name}")
            body[instruction.name] = instruction
            root = instruction.name if is_root else root
            self._skip()
        return body, root or next(reversed(body), "")

    def _instruction(self, before: dict[str, HloInstruction]) -> tuple[HloInstruction, bool]:
        line = self._line(self.at)
        named = _INSTRUCTION.match(self.text, self.at)
        if not named:
            self._fail(f"not an HLO instruction: {self._excerpt()}")
        try:
            opcode, shape = _OPCODE.match(self.text, named.end()), None
            if not opcode:
                shape, at = scan.shape_at(self.text, named.end())
                opcode = _OPCODE.match(self.text, at)
            if not opcode:
                raise ValueError("no opcode")
            end = scan.closing(self.text, opcode.end() - 1)
            arguments = self.text[opcode.end() : end]
            operands = () if opcode[1] in _LITERAL else tuple(map(_operand, scan.split(arguments)))
            stop = scan.attributes_end(self.text, end + 1)
            if shape is None:
                shape = _inferred(opcode[1], [before[name].shape for name in operands], self.text[end:stop])
        except (ValueError, LookupError) as error:
            self._fail(f"not an HLO instruction: {self._excerpt()} ({error})")
        self.at = stop
        instruction = HloInstruction(
            name=named[2],
            opcode=opcode[1],
            shape=shape,
            operands=operands,
            arguments=arguments,
            attributes=self.text[end + 1 : stop],
            line=line,
        )
        return instruction, bool(named[1])


def _operand(text: str) -> str:
    """Return the name of an operand, which may have its shape in front."""
    at = 0
    if any(letter in text for letter in "[({ "):
        at = scan.skip_space(text, scan.shape_at(text, 0)[1])
    name = _OPERAND.fullmatch(text, at)
    if not name:
        raise ValueError(f"not an operand: {text[:40]!r}")
    return name[1]


def _inferred(opcode: str, operands: list[Shape], attributes: str) -> Shape:
    """Return the shape of an instruction that is written without one; short text may leave out what follows."""
    if opcode == "tuple":
        return tuple(operands)
    if opcode == "get-tuple-element" and operands:
        element, source = _ELEMENT.search(attributes), operands[0]
        if element and isinstance(source, tuple):
            return source[int(element[1])]
    if opcode in _SAME_SHAPE and operands:
        return operands[0]
    raise ValueError(f"no shape, and that of {opcode} does not follow from its operands")


def _donations(header: str) -> tuple[tuple[Index, int, Index], ...]:
    start = header.find("input_output_alias={")
    if start < 0:
        return ()
    start += len("input_output_alias=")
    inside = header[start : scan.closing(header, start)]
    return tuple((to_index(a), int(number), to_index(b)) for a, number, b in _OUTPUT_ALIAS.findall(inside))

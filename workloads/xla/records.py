"""The parts of XLA's memory-space-assignment log, as data. Step numbers are XLA's logical times."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mallocgame.workloads.hlo.module import Index, to_index

POSITION = r"(\S+?)(?: \{([\d,]*)\})?"
OPERAND = r"(?<![^\s,])([^\s,]+), operand (\d+)(?: \{([\d,]*)\})?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in an instruction's result (``operand`` = -1) or in one of its operands."""

    instruction: str
    operand: int = -1
    index: Index = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferRow:
    """A row of XLA's debug table: one buffer that may live in the alternate memory, and all uses of its group."""

    line: int
    buffer: int
    name: str
    size_bytes: int
    uses: tuple[Position, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One part of a sliced copy; ``offset_bytes`` is its place in the alternate memory."""

    start_after: int
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRow:
    """One interval that XLA's answer gives a value: pinned where it is defined, or copied.

    Times are inclusive. ``offset_bytes`` is None in the default memory. A copy is issued after step ``start_after``
    and complete before step ``done_before``; ``slices`` are its parts where it is copied in parts.
    """

    line: int
    defined_at: Position
    offset_bytes: int | None
    size_bytes: int | None  # None where the line does not say it
    start_time: int
    end_time: int
    is_copy: bool = False
    start_after: int = -1
    done_before: int = -1
    slices: tuple[Slice, ...] = ()
    source_offset_bytes: int | None = None  # of the allocation it is copied from; None: the default memory
    replaces: str = ""  # the synchronous copy that the pass made this asynchronous one of
    cross_program: bool = False  # a copy for this run made in the run before, or for the next run
    uses: tuple[Position, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRow:
    """A line of XLA's own timeline, after assignment."""

    name: str
    elapsed_seconds: float
    trip_count: int


@dataclass(kw_only=True)
class XlaLog:
    """The parts of one compilation's log that make a trace."""

    path: str
    options: dict[str, str] = field(default_factory=dict)
    schedule: list[tuple[str, str]] = field(default_factory=list)  # computation, instruction
    home_seconds: dict[int, float] = field(default_factory=dict)  # step: elapsed with everything in default memory
    accessed_bytes: dict[Position, int] = field(default_factory=dict)
    unknown_bytes: dict[Position, int] = field(default_factory=dict)  # sizes of what is accessed to an unknown extent
    sizes_bytes: dict[Position, int] = field(default_factory=dict)
    benefit_seconds: dict[Position, float] = field(default_factory=dict)  # negative: compute-bound by that much
    buffers: list[BufferRow] = field(default_factory=list)
    allocations: list[AllocationRow] = field(default_factory=list)
    intervals: set[tuple[int, int, int]] = field(default_factory=set)  # offset, start and end time: XLA's own table
    mirrored: set[tuple[int, int, int]] = field(default_factory=set)  # the same of a loop's view of an allocation
    simulated: list[SimulatedRow] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)  # names of values that may not leave the default memory
    output_values: set[str] = field(default_factory=set)
    charged_fast: set[Position] = field(default_factory=set)  # by XLA's simulator: uses in *any* memory, definitions
    async_conversions: int = 0  # synchronous copies that the pass replaced
    seconds_without_copies: float | None = None
    seconds_with_copies: float | None = None
    error: str = ""


def parse_position(text: str) -> Position | None:
    """Parse ``NAME``, ``NAME {0,1}`` or ``NAME, operand 2 {0}``; None if it is none of them."""
    operand = re.fullmatch(OPERAND, text)
    if operand:
        return Position(instruction=operand[1], operand=int(operand[2]), index=to_index(operand[3] or ""))
    position = re.fullmatch(POSITION, text)
    return Position(instruction=position[1], index=to_index(position[2] or "")) if position else None


def parse_uses(text: str) -> Iterator[Position]:
    """Yield the positions of ``A, operand 0,B, operand 1 {2}`` (``none``: nothing)."""
    for name, operand, index in re.findall(OPERAND, text):
        yield Position(instruction=name, operand=int(operand), index=to_index(index))

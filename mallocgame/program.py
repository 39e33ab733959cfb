"""The problem: a scheduled program, the tensors it touches, and how often each instruction runs.

A program is a straight list of instructions (a while loop's condition and body appear once and run ``trip_count``
times). A tensor is one *alias group*: all values that the compiler keeps in one storage location (an ``HloBuffer``
in XLA: while carries, in-place updates, bitcasts, tuple elements). ``Program`` never stores a solution.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Array = TypeVar("Array", F64, I64, Bool)


class UseKind(IntEnum):
    """How an instruction touches a tensor."""

    READ = 0
    DEFINE = 1  # writes it whole: what it held before is dead
    UPDATE = 2  # writes a part in place: the rest must be there


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One instruction touching one tensor.

    ``operand`` is the operand number, -1 for the instruction's result; ``index`` the position in a tuple shape.
    """

    step: int
    bytes: int  # really read or written in one execution; may exceed the tensor's size (re-read tiles) or be less
    kind: UseKind = UseKind.READ
    operand: int = -1
    index: tuple[int, ...] = ()
    home_only: bool = False  # the compiler insists on layer 0 here


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One storage location's contents over time: an alias group of values.

    A parameter (``definition_step`` = -1) starts in layer 0; an output must be in layer 0 at the end. Every other
    tensor begins with a ``DEFINE`` use, which may write into any layer.
    """

    name: str
    size_bytes: int  # as laid out by the compiler, padding included
    uses: tuple[Use, ...]  # in schedule order
    is_parameter: bool = False
    is_output: bool = False
    movable: bool = True  # the compiler lets it live outside layer 0
    holdable: bool = False  # may stay in fast memory from one run of the program to the next (cross-program prefetch)
    hoistable: bool = True  # may be copied into fast memory before a loop that uses it and stay there

    @property
    def definition_step(self) -> int:
        """The step of the first definition, -1 for a parameter."""
        return -1 if self.is_parameter else self.uses[0].step


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One scheduled instruction; all figures are for one execution."""

    name: str
    compute_seconds: float  # what it takes however fast its operands and outputs arrive
    trip_count: int = 1  # executions in one run of the program: the product of the enclosing loops' trip counts
    fixed_bytes: tuple[int, ...] = ()  # per layer: traffic that no mapping can move; missing layers mean 0
    opcode: str = ""
    computation: str = ""
    source: str = ""  # file:line where the compiler knows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Steps ``start_step <= t < end_step`` run ``trip_count`` times each time control reaches the loop."""

    start_step: int
    end_step: int  # exclusive
    trip_count: int

    def contains_boundary(self, boundary: int) -> bool:
        """Whether the moment before step ``boundary`` lies inside one iteration (entry and exit lie outside)."""
        return self.start_step < boundary < self.end_step


@dataclass(frozen=True, kw_only=True)
class Program:
    """A scheduled program, checked at construction.

    Raises:
        InputError: a use outside the schedule or before the tensor's definition, two definitions of one tensor in one
            step, a size or time that is not finite and non-negative, loops that cross, trip counts that disagree.
    """

    name: str
    instructions: tuple[Instruction, ...]
    tensors: tuple[Tensor, ...]
    loops: tuple[Loop, ...] = ()

    def __post_init__(self) -> None:
        _check_loops(self)
        for step, instruction in enumerate(self.instructions):
            _check_instruction(self, step, instruction)
        for index, tensor in enumerate(self.tensors):
            _check_tensor(self, index, tensor)

    @property
    def num_steps(self) -> int:
        """T, the number of scheduled instructions."""
        return len(self.instructions)

    @property
    def num_decisions(self) -> int:
        """The moves of a game: steps in which a movable tensor is used and may be anywhere, summed over tensors."""
        decisions = 0
        for tensor in self.tensors:
            if tensor.movable:
                pinned = {use.step for use in tensor.uses if use.home_only}
                decisions += len({use.step for use in tensor.uses} - pinned)
        return decisions

    @cached_property
    def compute_seconds(self) -> F64:
        """float64[T], seconds of one execution however fast memory is."""
        return _frozen(np.array([i.compute_seconds for i in self.instructions], dtype=np.float64))

    @cached_property
    def trip_counts(self) -> I64:
        """int64[T], executions of each instruction in one run."""
        return _frozen(np.array([i.trip_count for i in self.instructions], dtype=np.int64))

    def fixed_bytes(self, num_layers: int) -> I64:
        """int64[T, num_layers], bytes of one execution that no mapping can move."""
        table = np.zeros((self.num_steps, num_layers), dtype=np.int64)
        np.add.at(table, (self._fixed[:, 0], np.minimum(self._fixed[:, 1], num_layers - 1)), self._fixed[:, 2])
        return table

    @cached_property
    def _fixed(self) -> I64:
        """int64[F, 3]: step, layer, bytes."""
        rows = [
            (step, layer, size)
            for step, instruction in enumerate(self.instructions)
            for layer, size in enumerate(instruction.fixed_bytes)
        ]
        return _frozen(np.array(rows, dtype=np.int64).reshape(-1, 3))

    @cached_property
    def sizes_bytes(self) -> I64:
        """int64[N], size of each tensor."""
        return _frozen(np.array([t.size_bytes for t in self.tensors], dtype=np.int64))

    @cached_property
    def uses(self) -> "UseTable":
        """All uses of all tensors, flattened, ordered by tensor and then by step."""
        return UseTable.from_tensors(self.tensors)

    def enclosing_loops(self, step: int) -> Iterator[Loop]:
        """Yield the loops whose body holds ``step``."""
        return (loop for loop in self.loops if loop.start_step <= step < loop.end_step)

    def boundary_trip_count(self, start_boundary: int, end_boundary: int) -> int:
        """Return how often something that lasts from one boundary to another happens in a run.

        Boundary b is the moment before step b. Loops that contain both moments count.
        """
        product = 1
        for loop in self.loops:
            if loop.contains_boundary(start_boundary) and loop.contains_boundary(end_boundary):
                product *= loop.trip_count
        return product

    @cached_property
    def live_steps(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Per tensor, the half-open spans of steps in which its contents matter (a step that uses it included)."""
        return tuple(_live_spans(self, tensor) for tensor in self.tensors)

    def without_hoisting(self) -> Self:
        """Return the same program in which no tensor may be copied into fast memory before a loop and stay there."""
        return replace(self, tensors=tuple(replace(tensor, hoistable=False) for tensor in self.tensors))

    def focused(self, fraction: float) -> Self:
        """Return the same program with its least tensors fixed in layer 0.

        Fixed are those that together move at most ``fraction`` of the bytes. A mapping of the result is a mapping of
        this program: fewer decisions, hardly less to win.
        """
        traffic = np.zeros(len(self.tensors))
        np.add.at(traffic, self.uses.tensor, self.uses.bytes * self.trip_counts[self.uses.step])
        order = np.argsort(traffic, kind="stable")
        small = set(order[np.cumsum(traffic[order]) <= fraction * traffic.sum()].tolist())
        kept = (replace(t, movable=t.movable and i not in small) for i, t in enumerate(self.tensors))
        return replace(self, tensors=tuple(kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class UseTable:
    """Arrays over all uses, ordered by tensor, then step; ``first[i]:first[i+1]`` are tensor i's."""

    tensor: I64
    step: I64
    bytes: I64
    kind: I64
    home_only: Bool
    first: I64  # int64[N + 1]

    @classmethod
    def from_tensors(cls, tensors: tuple[Tensor, ...]) -> Self:
        """Flatten the uses of ``tensors``."""
        rows = [(i, u.step, u.bytes, int(u.kind), u.home_only) for i, t in enumerate(tensors) for u in t.uses]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 5)
        first = np.zeros(len(tensors) + 1, dtype=np.int64)
        np.cumsum([len(t.uses) for t in tensors], out=first[1:])
        tensor, step, size, kind, home = (_frozen(columns[:, c].copy()) for c in range(5))
        return cls(tensor=tensor, step=step, bytes=size, kind=kind, home_only=home.astype(np.bool_), first=first)


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array


def _check_loops(program: Program) -> None:
    loops = program.loops
    for loop in loops:
        if not 0 <= loop.start_step < loop.end_step <= program.num_steps or loop.trip_count < 1:
            raise InputError(
                f"{program.name}: need 0 <= start < end <= {program.num_steps} and trip count >= 1: {loop}"
            )
    for a in loops:
        for b in loops:
            if a.start_step < b.start_step < a.end_step < b.end_step:
                raise InputError(f"{program.name}: loops must nest, these cross: {a} and {b}")


def _check_instruction(program: Program, step: int, instruction: Instruction) -> None:
    where = f"{program.name}: step {step} ({instruction.name})"
    seconds = instruction.compute_seconds
    if not (np.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{where}: compute_seconds must be finite and >= 0, got {seconds}")
    if any(size < 0 for size in instruction.fixed_bytes):
        raise InputError(f"{where}: fixed_bytes must be >= 0, got {instruction.fixed_bytes}")
    expected = 1
    for loop in program.enclosing_loops(step):
        expected *= loop.trip_count
    if instruction.trip_count != expected:
        raise InputError(f"{where}: trip_count is {instruction.trip_count}, its loops run it {expected} times")


def _check_tensor(program: Program, index: int, tensor: Tensor) -> None:
    where = f"{program.name}: tensor {index} ({tensor.name})"
    if tensor.size_bytes <= 0:
        raise InputError(f"{where}: size_bytes must be > 0, got {tensor.size_bytes}")
    if not tensor.uses and not tensor.is_parameter:
        raise InputError(f"{where}: no use and not a parameter, so it is never defined")
    defined = tensor.is_parameter
    last = -1
    written = -1
    for use in tensor.uses:
        if not 0 <= use.step < program.num_steps:
            raise InputError(f"{where}: use at step {use.step}, the schedule has steps 0 to {program.num_steps - 1}")
        if use.step < last:
            raise InputError(f"{where}: uses must be in schedule order, step {use.step} follows {last}")
        if use.bytes < 0:
            raise InputError(f"{where}: use at step {use.step} has {use.bytes} bytes, expected >= 0")
        if use.kind != UseKind.READ:
            if written == use.step:
                raise InputError(f"{where}: written twice in step {use.step}")
            written = use.step
        if use.kind == UseKind.DEFINE:
            defined = True
        elif not defined:
            raise InputError(f"{where}: used at step {use.step} before its definition")
        last = use.step


def _live_spans(program: Program, tensor: Tensor) -> tuple[tuple[int, int], ...]:
    """Backward liveness with loops' back edges, to the fixed point, over the boundaries where something can change."""
    reads = {use.step for use in tensor.uses if use.kind != UseKind.DEFINE}
    steps = {use.step for use in tensor.uses}
    ends = {0, program.num_steps} | steps | {step + 1 for step in steps}
    boundaries = sorted(ends.union(*({loop.start_step, loop.end_step} for loop in program.loops)))
    position = {boundary: i for i, boundary in enumerate(boundaries)}
    back = [(position[loop.end_step], position[loop.start_step]) for loop in program.loops]
    live = [False] * len(boundaries)  # live[i]: the contents at boundary i matter
    live[-1] = tensor.is_output
    changed = True
    while changed:
        before = list(live)
        for end, start in back:
            live[end] = live[end] or live[start]
        for i in range(len(boundaries) - 2, -1, -1):
            step = boundaries[i]
            if step in steps:  # then the next boundary is step + 1
                live[i] = step in reads
            else:
                live[i] = live[i + 1] or live[i]
            for end, start in back:
                live[end] = live[end] or live[start]
        changed = live != before
    spans: list[tuple[int, int]] = []
    for i in range(len(boundaries) - 1):
        if boundaries[i] in steps or (live[i] and live[i + 1]):
            start = spans.pop()[0] if spans and spans[-1][1] == boundaries[i] else boundaries[i]
            spans.append((start, boundaries[i + 1]))
    return tuple(spans)

"""The problem: a scheduled program, the tensors it touches, and how often each instruction runs.

A program is a straight list of instructions: a while loop's condition and body appear once and run ``trip_count``
times; a conditional's branches stand one after the other, and one of them runs. A tensor is one *alias group*: all
values that the compiler keeps in one storage location (an ``HloBuffer`` in XLA: while carries, in-place updates,
bitcasts, tuple elements). ``Program`` never stores a solution.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.regions import END, Conditional, Flow, Loop, check_regions
from mallocgame.text import bytes_text, counted

__all__ = ["Conditional", "Instruction", "Loop", "Program", "Tensor", "Use", "UseKind", "UseTable"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Array = TypeVar("Array", F64, I64, Bool, npt.NDArray[Any])


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
    label: str = ""  # what the user's function calls it, such as state[0].mu['embed']; empty: not known

    @property
    def title(self) -> str:
        """What a reader is shown: the user's word for it where there is one, else the compiler's name.

        One of several results has its number, as in ``fusion.50{1}``.
        """
        if self.label or self.is_parameter or not self.uses[0].index:
            return self.label or self.name
        return f"{self.name}{{{','.join(map(str, self.uses[0].index))}}}"

    @property
    def definition_step(self) -> int:
        """The step of the first definition, -1 for a parameter."""
        return -1 if self.is_parameter else self.uses[0].step


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One scheduled instruction; all figures are for one execution."""

    name: str
    compute_seconds: float  # what it takes however fast its operands and outputs arrive
    trip_count: float = 1  # expected executions in one run: product of the enclosing trip counts and branch weights
    fixed_bytes: tuple[int, ...] = ()  # per layer: traffic that no mapping can move; missing layers mean 0
    opcode: str = ""
    computation: str = ""
    source: str = ""  # file:line where the compiler knows it
    is_replaceable: bool = False  # only copies the tensor it reads to the one it defines: transfers may do it instead


@dataclass(frozen=True, kw_only=True)
class Program:
    """A scheduled program, checked at construction.

    Raises:
        InputError: a use outside the schedule or before the tensor's definition on some path, two definitions of one
            tensor in one step, a read in the step of the first, a size or time that is not finite and non-negative,
            loops or branches that cross, weights that do not sum to 1, trip counts that disagree, a replaceable copy
            that does more than read one tensor and define another.
    """

    name: str
    instructions: tuple[Instruction, ...]
    tensors: tuple[Tensor, ...]
    loops: tuple[Loop, ...] = ()
    conditionals: tuple[Conditional, ...] = ()

    def __repr__(self) -> str:
        size = bytes_text(sum(tensor.size_bytes for tensor in self.tensors))
        parts = [counted(self.num_steps, "instruction"), f"{counted(len(self.tensors), 'tensor')} of {size}"]
        parts += [counted(len(self.loops), "loop")] if self.loops else []
        parts += [counted(len(self.conditionals), "conditional")] if self.conditionals else []
        return f"<Program {self.name}: {', '.join(parts)}>"

    def __post_init__(self) -> None:
        check_regions(self.name, self.num_steps, self.loops, self.conditionals)
        for step, instruction in enumerate(self.instructions):
            _check_instruction(self, step, instruction)
        for index, tensor in enumerate(self.tensors):
            _check_tensor(self, index, tensor)
        for step, pair in self.replaceable_copies.items():
            if pair is None:
                where = f"{self.name}: step {step} ({self.instructions[step].name})"
                raise InputError(f"{where}: a replaceable copy reads one tensor and defines another, nothing else")

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
    def trip_counts(self) -> npt.NDArray[Any]:
        """int64[T], executions of each instruction in one run; float64[T] where one of them is a fraction."""
        return _frozen(_counts([i.trip_count for i in self.instructions]))

    @cached_property
    def loop_context(self) -> I64:
        """int64[T + 1], per boundary the innermost loop that repeats with that moment inside an iteration, -1: none."""
        context = np.full(self.num_steps + 1, -1, dtype=np.int64)
        order = sorted(range(len(self.loops)), key=lambda i: self.loops[i].start_step - self.loops[i].end_step)
        for index in order:  # outer loops first
            loop = self.loops[index]
            if loop.trip_count > 1:
                context[loop.start_step + 1 : loop.end_step] = index
        return _frozen(context)

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

    @cached_property
    def replaceable_copies(self) -> dict[int, tuple[int, int] | None]:
        """Steps that transfers may replace: (index of the use that reads, of the one that defines) in ``uses``."""
        steps = [step for step, instruction in enumerate(self.instructions) if instruction.is_replaceable]
        return {step: self._copied(step) for step in steps}

    def _copied(self, step: int) -> tuple[int, int] | None:
        here = np.flatnonzero(self.uses.step == step).tolist()
        by_kind = {int(self.uses.kind[use]): use for use in here}
        if len(here) != 2 or by_kind.keys() != {int(UseKind.READ), int(UseKind.DEFINE)}:
            return None
        read, defined = by_kind[int(UseKind.READ)], by_kind[int(UseKind.DEFINE)]
        return None if self.uses.tensor[read] == self.uses.tensor[defined] else (read, defined)

    def enclosing_loops(self, step: int) -> Iterator[Loop]:
        """Yield the loops whose body holds ``step``."""
        return (loop for loop in self.loops if loop.start_step <= step < loop.end_step)

    def boundary_trip_count(self, start_boundary: int, end_boundary: int) -> float:
        """Return how often something that lasts from one boundary to another happens in a run, as expected.

        Boundary b is the moment before step b. Loops that contain both moments count, and branches.
        """
        product: float = 1
        for loop in self.loops:
            if loop.contains_boundary(start_boundary) and loop.contains_boundary(end_boundary):
                product *= loop.trip_count
        for conditional in self.conditionals:
            branch = conditional.branch_at(start_boundary)
            if branch is not None and branch >= 0 and branch == conditional.branch_at(end_boundary):
                product *= conditional.weights[branch]
        return product

    @cached_property
    def live_steps(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Per tensor, the half-open spans of steps in which its contents matter (a step that uses it included)."""
        return tuple(live_spans(self, tensor) for tensor in self.tensors)

    def without_hoisting(self, but: Collection[int] = ()) -> Self:
        """Return the same program in which none ``but`` these tensors may be copied in before a loop and stay there."""
        tensors = (replace(t, hoistable=t.hoistable and i in but) for i, t in enumerate(self.tensors))
        return replace(self, tensors=tuple(tensors))

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


def _counts(values: Sequence[float]) -> npt.NDArray[Any]:
    """Return whole counts as integers, so that sums over them are exact."""
    is_whole = all(float(value).is_integer() for value in values)
    return np.array(values, dtype=np.int64 if is_whole else np.float64)


def _check_instruction(program: Program, step: int, instruction: Instruction) -> None:
    where = f"{program.name}: step {step} ({instruction.name})"
    seconds = instruction.compute_seconds
    if not (np.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{where}: compute_seconds must be finite and >= 0, got {seconds}")
    if any(size < 0 for size in instruction.fixed_bytes):
        raise InputError(f"{where}: fixed_bytes must be >= 0, got {instruction.fixed_bytes}")
    expected: float = 1
    for loop in program.enclosing_loops(step):
        expected *= loop.trip_count
    for conditional in program.conditionals:
        expected *= next((weight for start, end, weight in conditional.branches() if start <= step < end), 1)
    if instruction.trip_count != expected and not abs(instruction.trip_count - expected) <= 1e-9 * expected:
        raise InputError(f"{where}: trip_count is {instruction.trip_count}, its loops run it {expected} times")


def _check_tensor(program: Program, index: int, tensor: Tensor) -> None:
    where = f"{program.name}: tensor {index} ({tensor.name})"
    if tensor.size_bytes <= 0:
        raise InputError(f"{where}: size_bytes must be > 0, got {tensor.size_bytes}")
    if not tensor.uses and not tensor.is_parameter:
        raise InputError(f"{where}: no use and not a parameter, so it is never defined")
    defined = tensor.is_parameter
    first = -1
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
            first = use.step if not defined else first
            defined = True
        elif not defined:
            raise InputError(f"{where}: used at step {use.step} before its definition")
        elif first == use.step:
            raise InputError(f"{where}: read in step {use.step}, which is its first definition")
        last = use.step
    if program.conditionals and not tensor.is_parameter:
        _check_defined(program, tensor, where)


def _check_defined(program: Program, tensor: Tensor, where: str) -> None:
    """Check that every way through the branches defines the tensor before it is used."""
    stretches = _Stretches.of(program, tensor)
    before = [i not in stretches.first for i in range(len(stretches.boundaries))]
    changed = True
    while changed:
        changed = False
        for i, following in enumerate(stretches.successors):
            after = before[i] or stretches.boundaries[i] in stretches.defining
            for j in following:
                if j != END and before[j] and not after:
                    before[j], changed = False, True
    for i, step in enumerate(stretches.boundaries[:-1]):
        if step in stretches.reading and not before[i]:
            raise InputError(f"{where}: used at step {step}, which a branch without its definition may reach")
    ends = [i for i, following in enumerate(stretches.successors) if END in following]
    at_end = [before[i] or stretches.boundaries[i] in stretches.defining for i in ends]
    if tensor.is_output and not (all(at_end) and END not in stretches.first):
        raise InputError(f"{where}: an output that a branch leaves undefined")


class _Stretches(NamedTuple):
    """The schedule cut where a tensor's state can change; a step that uses it is a stretch of its own."""

    boundaries: list[int]
    first: set[int]
    successors: list[set[int]]
    reading: set[int]  # steps that need its contents
    defining: set[int]

    @classmethod
    def of(cls, program: Program, tensor: Tensor) -> Self:
        steps = {use.step for use in tensor.uses}
        cuts = {0, program.num_steps} | steps | {step + 1 for step in steps}
        cuts |= {b for loop in program.loops for b in (loop.start_step, loop.end_step)}
        cuts |= {b for conditional in program.conditionals for b in conditional.edges}
        boundaries = sorted(cuts)
        flow = Flow(boundaries, program.loops, program.conditionals)
        return cls(
            boundaries=boundaries,
            first=flow.first(),
            successors=flow.successors(),
            reading={use.step for use in tensor.uses if use.kind != UseKind.DEFINE},
            defining={use.step for use in tensor.uses if use.kind == UseKind.DEFINE},
        )


def live_spans(program: Program, tensor: Tensor) -> tuple[tuple[int, int], ...]:
    """Return the half-open spans of steps in which a tensor's contents matter (a step that uses it included).

    Backward liveness over every way through loops and branches, to the fixed point. ``tensor`` need not be one of the
    program's.
    """
    stretches = _Stretches.of(program, tensor)
    steps = {use.step for use in tensor.uses}
    count = len(stretches.successors)
    before, after = [False] * count, [False] * count
    changed = True
    while changed:
        changed = False
        for i in range(count - 1, -1, -1):
            following = stretches.successors[i]
            needed = any(before[j] if j != END else tensor.is_output for j in following)
            step = stretches.boundaries[i]
            wanted = step in stretches.reading if step in steps else needed
            changed |= (before[i], after[i]) != (wanted, needed)
            before[i], after[i] = wanted, needed
    spans: list[tuple[int, int]] = []
    for i in range(count):
        start, end = stretches.boundaries[i], stretches.boundaries[i + 1]
        if start in steps or (before[i] and after[i]):
            start = spans.pop()[0] if spans and spans[-1][1] == start else start
            spans.append((start, end))
    return tuple(spans)

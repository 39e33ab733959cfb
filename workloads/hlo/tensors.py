"""The tensors of a scheduled module: what is stored where, who touches it, and what is copied between memories.

An *allocation* is an alias group: one place in one memory. A *tensor* is the allocations that copies between memories
connect: its contents, wherever they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mallocgame.errors import TraceError
from mallocgame.program import Tensor, Use, UseKind
from mallocgame.workloads.hlo import asynchronous
from mallocgame.workloads.hlo.aliases import FORWARDING, Aliases, Place
from mallocgame.workloads.hlo.diverging import Copy, diverging
from mallocgame.workloads.hlo.module import HloInstruction, argument_label
from mallocgame.workloads.hlo.schedule import Schedule
from mallocgame.workloads.hlo.shapes import Index, array, dimensions, leaves
from mallocgame.workloads.hlo.spaces import HOST, Spaces
from mallocgame.workloads.hlo.work import operand_bytes, written_bytes

CONCATENATED = 'custom_call_target="ConcatBitcast"'  # slices that were copied one by one, seen as one value
_SLICE = re.compile(r"\bslice=\{([^}]*)\}")
_SLICE_START = re.compile(r"\[(\d+):")
_UNINITIALISED = 'custom_call_target="AllocateBuffer"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A copy between two memories, or one slice of it: ``offset_bytes`` into the tensor."""

    source: Place  # allocations
    target: Place
    start_step: int
    done_step: int
    size_bytes: int
    offset_bytes: int = 0


@dataclass(kw_only=True)
class Tensors:
    """The tensors, and the allocations that hold them."""

    tensors: tuple[Tensor, ...] = ()
    tensor_of: dict[Place, int] = field(default_factory=dict)  # allocation: tensor
    space_of: dict[Place, int] = field(default_factory=dict)  # allocation: memory space
    moves: list[Move] = field(default_factory=list)
    mixed: str = ""  # a value that the text puts into two memories at once
    unplanned_spaces: tuple[int, ...] = ()


def find_tensors(aliases: Aliases, schedule: Schedule, spaces: Spaces, path: object) -> Tensors:
    """Return the tensors that the schedule touches.

    Raises:
        TraceError: a value in host memory on a hierarchy without one.
    """
    return _Finding(aliases, schedule, spaces, path).tensors()


@dataclass(slots=True)
class _Group:
    """A tensor in the making."""

    size: int = 0
    uses: list[Use] = field(default_factory=list)
    is_constant: bool = False  # a constant is the first to write it
    is_array: bool = False  # more than a single number


class _Finding:
    def __init__(self, aliases: Aliases, schedule: Schedule, spaces: Spaces, path: object) -> None:
        self.aliases, self.schedule, self.spaces, self.path = aliases, schedule, spaces, path
        self.module = aliases.module
        self.parent: dict[Place, Place] = {}  # allocations joined by copies
        self.found = Tensors()
        self.groups: dict[Place, _Group] = {}
        self.handed_on: set[str] = set()  # instructions that only copy between memories, or name what is copied

    def tensors(self) -> Tensors:
        self._read_spaces()
        self._read_moves()
        for step in range(len(self.schedule.steps)):
            self._step(step)
        return self._made()

    # Memory spaces and copies between them

    def _read_spaces(self) -> None:
        unplanned = set()
        for computation, name in self.schedule.steps:
            instruction = self.module.computations[computation].instructions[name]
            for index, text in leaves(instruction.shape):
                space = array(text).memory_space
                if space == HOST and not self.spaces.has_host:
                    reason = f"{name} is in host memory, S({HOST}), and this hierarchy has none, as host-v5e has"
                    raise TraceError(self.path, instruction.line or None, reason)
                if space not in self.spaces.layers:
                    unplanned.add(space)
                group = self.aliases.find((name, index))
                if self.found.space_of.setdefault(group, space) != space:
                    self.found.mixed = self.found.mixed or name
        self.found.unplanned_spaces = tuple(sorted(unplanned))

    def _is_planned(self, allocation: Place) -> bool:
        return self.found.space_of.get(allocation, 0) in self.spaces.layers

    def _layer(self, allocation: Place) -> int:
        return self.spaces.layers.get(self.found.space_of.get(allocation, 0), -1)

    def _read_moves(self) -> None:
        done = {}
        for step, (_, name) in enumerate(self.schedule.steps):
            instruction = self.aliases.instruction(name)
            if instruction.opcode in ("copy-done", "slice-done"):
                done[self.aliases.find((name, ()))] = (step, name)
        copies = list(self._copies(done))
        entry = self.module.computations[self.module.entry]
        parameters = {self.aliases.find((i.name, ())) for i in entry.instructions.values() if i.opcode == "parameter"}
        held = {place for place in parameters if self._layer(place) > 0 and self.spaces.has_host}
        apart = diverging(self.aliases, self.schedule, copies, held=held)
        starts = {copy.start_step: copy for copy in copies if copy.start_step not in apart}
        pieces: dict[Place, Move] = {}
        for step, (_, name) in enumerate(self.schedule.steps):
            instruction = self.aliases.instruction(name)
            if step in starts:
                source, target, _ = starts[step]
                size = array(_leaf(instruction, asynchronous.result_index(instruction.opcode))).laid_out_bytes
                move = Move(source=source, target=target, start_step=step, done_step=done[target][0], size_bytes=size)
                if instruction.opcode == "copy-start":
                    self._join(source, target)
                    self.found.moves.append(move)
                    self.handed_on |= {name, done[target][1]}
                else:
                    pieces[target] = move
            elif instruction.opcode == "custom-call" and CONCATENATED in instruction.attributes:
                self._concatenate(instruction, pieces, done)

    def _copies(self, done: dict[Place, tuple[int, str]]) -> Iterator[Copy]:
        """Yield the copies, and slices, between two memories that are planned."""
        for step, (_, name) in enumerate(self.schedule.steps):
            instruction = self.aliases.instruction(name)
            if instruction.opcode not in ("copy-start", "slice-start"):
                continue
            target = self.aliases.find((name, asynchronous.result_index(instruction.opcode)))
            source = self.aliases.find((instruction.operands[0], ()))
            layers = self._layer(source), self._layer(target)
            if -1 not in layers and layers[0] != layers[1] and target in done:
                yield Copy(source, target, step)

    def _concatenate(
        self, instruction: HloInstruction, pieces: dict[Place, Move], done: dict[Place, tuple[int, str]]
    ) -> None:
        """Take slices that are seen as one value together as the slices of one copy."""
        parts = [pieces.get(self.aliases.find((name, ()))) for name in instruction.operands]
        moves = sorted((part for part in parts if part is not None), key=self._slice_starts)
        if len(moves) < len(parts) or len({move.source for move in moves}) != 1:
            return
        whole = self.aliases.find((instruction.name, ()))
        offset = 0
        self.handed_on.add(instruction.name)
        for move in moves:
            self._join(move.source, move.target)
            self._join(move.source, whole)
            start = self.schedule.steps[move.start_step][1]
            self.handed_on |= {start, done[move.target][1]}
            self.found.moves.append(
                Move(
                    source=move.source,
                    target=whole,
                    start_step=move.start_step,
                    done_step=move.done_step,
                    size_bytes=move.size_bytes,
                    offset_bytes=offset,
                )
            )
            offset += move.size_bytes

    def _slice_starts(self, move: Move) -> tuple[int, ...]:
        """Return where a slice begins in each dimension: operands stand in the order of issue, not of their place."""
        attributes = self.aliases.instruction(self.schedule.steps[move.start_step][1]).attributes
        stated = _SLICE.search(attributes)
        return tuple(int(start) for start in _SLICE_START.findall(stated[1])) if stated else ()

    def _join(self, a: Place, b: Place) -> None:
        first, second = self._root(a), self._root(b)
        if first != second:
            self.parent[second] = first

    def _root(self, allocation: Place) -> Place:
        while allocation in self.parent:
            allocation = self.parent[allocation]
        return allocation

    # Uses

    def _step(self, step: int) -> None:
        computation, name = self.schedule.steps[step]
        instruction = self.aliases.instruction(name)
        if name in self.handed_on or instruction.opcode in FORWARDING:
            if instruction.opcode == "parameter" and computation == self.module.entry:
                for index, text in leaves(instruction.shape):
                    self._group((name, index), text)
            if instruction.opcode == "conditional":
                self._reads(step, instruction, [0])
            return
        if instruction.opcode == "constant":
            self._constant(step, instruction)
            return
        if asynchronous.is_handed_on(instruction.opcode):
            self._held_until(step, instruction)
            return
        self._reads(step, instruction, range(len(instruction.operands)))
        self._writes(step, instruction)

    def _group(self, place: Place, text: str) -> _Group | None:
        """Return the tensor at a place; None for what takes no bytes or is not planned."""
        allocation = self.aliases.find(place)
        size = array(text).laid_out_bytes
        if not size or not self._is_planned(allocation):
            return None
        group = self.groups.setdefault(self._root(allocation), _Group())
        group.size = max(group.size, size)
        return group

    def _constant(self, step: int, instruction: HloInstruction) -> None:
        for index, text in leaves(instruction.shape):
            group = self._group((instruction.name, index), text)
            if group is None:
                continue
            group.is_constant |= not group.uses
            group.is_array |= bool(dimensions(text))
            group.uses.append(Use(step=step, bytes=0, kind=UseKind.DEFINE, index=index))

    def _held_until(self, step: int, instruction: HloInstruction) -> None:
        """The end of an asynchronous pair: until here its operands are read."""
        where = asynchronous.source_index(instruction.opcode)
        if instruction.opcode.endswith("-update") or where is None or not instruction.operands:
            return
        start = self.module.computations[self.aliases.computation_of[instruction.name]].instructions[
            instruction.operands[0]
        ]
        for index, text in leaves(start.shape):
            if index[: len(where)] == where:
                group = self._group((start.name, index), text)
                if group is not None and group.uses:
                    group.uses.append(Use(step=step, bytes=0, operand=0, index=index))

    def _reads(self, step: int, instruction: HloInstruction, operands: "range | list[int]") -> None:
        computation = self.module.computations[self.schedule.steps[step][0]]
        for operand in operands:
            source = instruction.operands[operand]
            for index, text in leaves(computation.instructions[source].shape):
                size = (
                    operand_bytes(self.module, computation, instruction, operand)
                    if not index
                    else array(text).laid_out_bytes
                )
                group = self._group((source, index), text)
                if group is not None and size:
                    group.uses.append(Use(step=step, bytes=size, operand=operand, index=index))

    def _writes(self, step: int, instruction: HloInstruction) -> None:
        computation = self.module.computations[self.schedule.steps[step][0]]
        for index, text in asynchronous.results(instruction):
            group = self._group((instruction.name, index), text)
            if group is None:
                continue
            size, kind = array(text).laid_out_bytes, UseKind.DEFINE
            if (instruction.name, index) in self.aliases.in_place:
                size, kind = written_bytes(self.module, computation, instruction, text), UseKind.UPDATE
            if _UNINITIALISED in instruction.attributes:
                size = 0
            _write(group, Use(step=step, bytes=size, kind=kind, index=index))

    # Tensors

    def _made(self) -> Tensors:
        entry = self.module.computations[self.module.entry]
        outputs = {
            self._root(self.aliases.find((entry.root, index)))
            for index, _ in leaves(entry.instructions[entry.root].shape)
        }
        parameters = {
            self._root(self.aliases.find((i.name, index))): i
            for i in entry.instructions.values()
            if i.opcode == "parameter"
            for index, _ in leaves(i.shape)
        }
        moved = {self._root(move.source) for move in self.found.moves}  # what the text copies out of the host may move
        tensors: list[Tensor] = []
        number: dict[Place, int] = {}
        for root, group in self.groups.items():
            uses, is_parameter = _settled(group, root in parameters)
            if not uses and not is_parameter:
                continue
            first = self.schedule.steps[uses[0].step][1] if uses else ""
            number[root] = len(tensors)
            parameter = parameters.get(root)
            tensors.append(
                Tensor(
                    name=parameter.name if parameter else root[0] if is_parameter else first,
                    label=argument_label(parameter) if parameter else "",
                    size_bytes=group.size,
                    uses=uses,
                    is_parameter=is_parameter,
                    is_output=root in outputs,
                    movable=root in moved or self._layer(root) != 0 or self.found.space_of.get(root, 0) != HOST,
                    holdable=is_parameter and self.spaces.has_host,
                )
            )
        self.found.tensors = tuple(tensors)
        for allocation in self.found.space_of:
            if self._root(allocation) in number:
                self.found.tensor_of[allocation] = number[self._root(allocation)]
        return self.found


def _leaf(instruction: HloInstruction, index: Index) -> str:
    return dict(leaves(instruction.shape)).get(index, "token[]")


def _write(group: _Group, use: Use) -> None:
    """Add a write; of several in one step (a tuple whose elements share storage), one."""
    for position, before in enumerate(group.uses):
        if before.step == use.step and before.kind != UseKind.READ:
            kind = UseKind.UPDATE if UseKind.UPDATE in (before.kind, use.kind) else UseKind.DEFINE
            group.uses[position] = Use(step=use.step, bytes=before.bytes + use.bytes, kind=kind, index=before.index)
            return
    group.uses.append(use)


def _settled(group: _Group, is_parameter: bool) -> tuple[tuple[Use, ...], bool]:
    """Return a group's uses and whether it is there from the start: an array that only constants write is.

    Of a single number that only constants write there is nothing to plan.
    """
    written = [use for use in group.uses if use.kind != UseKind.READ and use.bytes]
    if group.is_constant and not written and not is_parameter:
        reads = tuple(use for use in group.uses if use.kind == UseKind.READ) if group.is_array else ()
        return reads, bool(reads)
    return tuple(group.uses), is_parameter

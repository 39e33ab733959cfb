"""The placement that scheduled text states, as the compiler's own mapping: memory spaces and copies between them."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Program, Tensor, Use, UseKind, live_spans
from mallocgame.regions import Conditional
from mallocgame.workloads.hlo.aliases import FORWARDING, Aliases, Place
from mallocgame.workloads.hlo.asynchronous import is_handed_on, touched
from mallocgame.workloads.hlo.buffer_assignment import Offsets
from mallocgame.workloads.hlo.module import HloInstruction
from mallocgame.workloads.hlo.schedule import Schedule
from mallocgame.workloads.hlo.shapes import leaves
from mallocgame.workloads.hlo.spaces import HOST, Spaces
from mallocgame.workloads.hlo.tensors import CONCATENATED, Move, Tensors
from mallocgame.workloads.trace import Value

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CompilerPlacement:
    """The mapping, None where the text states none or it cannot be kept; ``notes`` say why and how."""

    mapping: Mapping | None = None
    notes: dict[str, Value] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Block:
    """An allocation outside layer 0: where it is, what touches it, and when its contents matter."""

    tensor: int
    layer: int
    size_bytes: int
    uses: list[Use] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)  # steps whose end issues a first copy into it
    is_parameter: bool = False
    is_fetched: bool = False  # a parameter in the fastest layer: copied in at the start of each run
    is_output: bool = False
    offset_bytes: int = -1
    parts: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PlacedText:
    """What a scheduled module says, as far as placement goes."""

    aliases: Aliases
    schedule: Schedule
    tensors: Tensors
    spaces: Spaces


def place(program: Program, hierarchy: Hierarchy, text: PlacedText, offsets: Offsets) -> CompilerPlacement:
    """Return the mapping, valid by the judge's rules, or none and the reason."""
    tensors = text.tensors
    if not {text.spaces.fast, HOST} & set(tensors.space_of.values()):
        return CompilerPlacement()
    if tensors.mixed:
        return _refused(f"{tensors.mixed} shares storage with a value in another memory space")
    if any(move.done_step <= move.start_step for move in tensors.moves):
        return _refused("a copy is under way from one iteration of a loop to the next")
    blocks = _blocks(program, text)
    for block in blocks.values():
        block.parts = _parts(program, block)
    known = _read_offsets(blocks, text, offsets)
    for layer in range(1, hierarchy.num_layers):
        inside = [block for block in blocks.values() if block.layer == layer]
        if not _pack(inside, hierarchy.layers[layer].capacity_bytes, hierarchy.layers[layer].alignment_bytes):
            return _refused(f"what the text places in {hierarchy.layers[layer].name} does not fit into it")
    mapping = _mapping(program, blocks, tensors)
    broken = validate(program, hierarchy, mapping)
    if broken:
        return _refused(f"{len(broken)} rules are broken, the first ({broken[0].rule}): {broken[0].message}")
    source = "buffer assignment" if known == len(blocks) else "packed here" if not known else "partly packed here"
    return CompilerPlacement(mapping=mapping, notes={"placement": "memory spaces of the text", "offsets": source})


def _refused(reason: str) -> CompilerPlacement:
    return CompilerPlacement(notes={"placement": f"not kept: {reason}"})


class _Touching:
    """Collects what touches each allocation outside layer 0."""

    def __init__(self, program: Program, text: PlacedText) -> None:
        self.program, self.text = program, text
        self.blocks: dict[Place, _Block] = {}
        # a slice that is one part of a copy is not there on its own
        self.wholes = {m.target for m in text.tensors.moves} | {m.source for m in text.tensors.moves}
        self.sliced = {text.tensors.tensor_of.get(m.target) for m in text.tensors.moves if m.offset_bytes}

    def block(self, allocation: Place) -> _Block | None:
        tensors = self.text.tensors
        layer = self.text.spaces.layers.get(tensors.space_of.get(allocation, 0), 0)
        tensor = tensors.tensor_of.get(allocation)
        if layer < 1 or tensor is None or (tensor in self.sliced and self._is_slice(allocation)):
            return None
        size = self.program.tensors[tensor].size_bytes
        return self.blocks.setdefault(allocation, _Block(tensor=tensor, layer=layer, size_bytes=size))

    def _is_slice(self, allocation: Place) -> bool:
        name = self.text.aliases.instruction(allocation[0])
        return allocation not in self.wholes and name.opcode in ("slice-start", "slice-done")

    def use(self, place: Place, step: int, kind: UseKind) -> None:
        block = self.block(self.text.aliases.find(place))
        if block is not None:
            block.uses.append(Use(step=step, bytes=0, kind=kind))


def _blocks(program: Program, text: PlacedText) -> dict[Place, _Block]:
    touching = _Touching(program, text)
    aliases, entry = text.aliases, text.aliases.module.computations[text.aliases.module.entry]
    moving = {text.schedule.steps[step][1] for m in text.tensors.moves for step in (m.start_step, m.done_step)}
    for step, (computation, name) in enumerate(text.schedule.steps):
        instruction = aliases.instruction(name)
        if instruction.opcode == "parameter" and computation == entry.name:
            for index, _ in leaves(instruction.shape):
                block = touching.block(aliases.find((name, index)))
                if block is not None:
                    block.is_parameter = True
                    block.is_fetched = text.tensors.space_of[aliases.find((name, index))] == text.spaces.fast
        if instruction.opcode in FORWARDING or name in moving or _hands_on(instruction):
            continue
        for place, is_written in touched(instruction, aliases.module.computations[computation].instructions):
            written = UseKind.UPDATE if place in aliases.in_place else UseKind.DEFINE
            touching.use(place, step, written if is_written else UseKind.READ)
    for index, _ in leaves(entry.instructions[entry.root].shape):
        block = touching.block(aliases.find((entry.root, index)))
        if block is not None:
            block.is_output = True
    _add_moves(touching, text.tensors.moves)
    return touching.blocks


def _hands_on(instruction: HloInstruction) -> bool:
    return is_handed_on(instruction.opcode) or CONCATENATED in instruction.attributes


def _add_moves(touching: _Touching, moves: list[Move]) -> None:
    """A copy needs its source until it is done; its first slice begins what is at the target anew."""
    first: dict[Place, int] = {}
    for move in sorted(moves, key=lambda m: m.start_step):
        source, target = touching.block(move.source), touching.block(move.target)
        last = max(move.done_step - 1, move.start_step + 1)  # a copy that is waited for at once ends in that step
        if source is not None:
            source.uses.append(Use(step=move.start_step, bytes=0))
            source.uses.append(Use(step=last, bytes=0))
        if target is None:
            continue
        is_slice = bool(move.offset_bytes) or first.get(move.target, -1) >= 0
        begins = not is_slice or first.get(move.target, -1) < 0
        first[move.target] = move.start_step
        target.uses.append(Use(step=move.start_step, bytes=0, kind=UseKind.DEFINE if begins else UseKind.READ))
        target.uses.append(Use(step=last, bytes=0))
        if begins:
            target.filled.append(move.start_step)


def _parts(program: Program, block: _Block) -> list[tuple[int, int]]:
    """Return when the contents of an allocation matter; in between, the compiler gives its place to others."""
    if block.is_parameter:  # in a middle layer it is there from the run before, and for the one after
        return [(0 if block.is_fetched else HELD, program.num_steps)]
    uses = tuple(sorted(block.uses, key=lambda use: use.step))
    shadow = Tensor(name="", size_bytes=1, uses=uses, is_output=block.is_output)
    parts = list(live_spans(program, shadow))
    for step in sorted(block.filled):  # a copy's target is taken once it is issued, when its step ends
        parts = [piece for part in parts for piece in _cut(part, step)]
    begun = {use.step for use in uses if use.kind == UseKind.DEFINE} | {step + 1 for step in block.filled}
    for conditional in reversed(program.conditionals):  # what is enclosed first
        parts = _joined(parts, conditional, begun)
    return parts


def _joined(parts: list[tuple[int, int]], conditional: Conditional, begun: set[int]) -> list[tuple[int, int]]:
    """Join what stands in several branches: what they find at the conditional's entry, or leave at its exit.

    ``begun`` are the steps at which other contents begin.
    """
    start, end = conditional.start_step, conditional.end_step
    joined: list[tuple[int, int]] = []
    for part in parts:
        enters = start <= part[0] < end and part[0] not in begun
        leaves = start <= part[0] < end < part[1]
        same = [
            row
            for row in joined
            if (enters and row[0] < start <= row[1]) or (leaves and row[1] > start and row[1] in conditional.edges[1:])
        ]
        joined = [row for row in joined if row not in same]
        joined.append((min([part[0], *(row[0] for row in same)]), part[1]))
    return sorted(joined)


def _cut(part: tuple[int, int], step: int) -> list[tuple[int, int]]:
    if not part[0] <= step < part[1]:
        return [part]
    return [piece for piece in ((part[0], step), (step + 1, part[1])) if piece[0] < piece[1]]


def _read_offsets(blocks: dict[Place, _Block], text: PlacedText, offsets: Offsets) -> int:
    """Fill in the offsets that the buffer assignment states; return how many."""
    if not offsets:
        return 0
    for computation, name in text.schedule.steps:
        instruction = text.aliases.module.computations[computation].instructions[name]
        for index, _ in leaves(instruction.shape):
            allocation = text.aliases.find((name, index))
            stated = offsets.get((name, index))
            if stated is not None and allocation in blocks and stated[0] == text.tensors.space_of[allocation]:
                blocks[allocation].offset_bytes = stated[1]
    return sum(block.offset_bytes >= 0 for block in blocks.values())


def _pack(blocks: list[_Block], capacity: int, alignment: int) -> bool:
    """Give offsets to the blocks that have none, large ones first, each the lowest that is free all its time."""
    order = sorted(blocks, key=lambda block: (block.offset_bytes < 0, -block.size_bytes, block.parts[0][0]))
    rows = np.zeros((sum(len(block.parts) for block in blocks), 4), dtype=np.int64)  # start, end, offset, its end
    count = 0
    for block in order:
        if block.offset_bytes < 0:
            placed = rows[:count]
            meeting = np.zeros(count, dtype=np.bool_)
            for start, end in block.parts:
                meeting |= (placed[:, 0] < end) & (start < placed[:, 1])
            block.offset_bytes = _lowest_gap(placed[meeting, 2:], block.size_bytes, alignment)
        top = block.offset_bytes + block.size_bytes
        if top > capacity:
            return False
        for start, end in block.parts:
            rows[count] = start, end, block.offset_bytes, top
            count += 1
    return True


def _lowest_gap(blocks: I64, size: int, alignment: int) -> int:
    offset = 0
    for start, end in blocks[np.argsort(blocks[:, 0], kind="stable")].tolist():
        if start - offset >= size:
            break
        offset = max(offset, -(-end // alignment) * alignment)
    return offset


def _mapping(program: Program, blocks: dict[Place, _Block], tensors: Tensors) -> Mapping:
    residencies: list[Residency] = []
    pieces: dict[Place, list[int]] = {}
    for allocation, block in blocks.items():
        pieces[allocation] = list(range(len(residencies), len(residencies) + len(block.parts)))
        residencies += [
            Residency(
                tensor=block.tensor,
                layer=block.layer,
                offset_bytes=block.offset_bytes,
                start_step=start,
                end_step=end,
            )
            for start, end in block.parts
        ]
    transfers = [
        Transfer(
            tensor=tensors.tensor_of[move.target],
            source=_piece(residencies, pieces.get(move.source, []), move.start_step),
            target=_piece(residencies, pieces.get(move.target, []), move.start_step + 1),
            start_after=move.start_step,
            done_before=move.done_step,
            size_bytes=move.size_bytes,
            slice_offset_bytes=move.offset_bytes,
        )
        for move in tensors.moves
    ]
    transfers += _fetched(program, blocks, pieces)
    outputs = [pieces[allocation] for allocation, block in blocks.items() if block.is_output]
    transfers += _taken_home(program, residencies, outputs)
    return Mapping(residencies=tuple(residencies), transfers=tuple(sorted(transfers, key=lambda x: x.start_after)))


def _fetched(program: Program, blocks: dict[Place, _Block], pieces: dict[Place, list[int]]) -> list[Transfer]:
    """Return the copies at the start of the run of parameters that the text has in the fastest layer."""
    return [
        Transfer(
            tensor=block.tensor,
            source=HOME,
            target=pieces[allocation][0],
            start_after=-1,
            done_before=min((use.step for use in block.uses), default=program.num_steps),
            size_bytes=block.size_bytes,
        )
        for allocation, block in blocks.items()
        if block.is_fetched
    ]


def _piece(residencies: list[Residency], pieces: list[int], step: int) -> int:
    """Return the residency of an allocation that is there at ``step``; HOME where it has none."""
    if not pieces:
        return HOME
    return max(pieces, key=lambda i: (residencies[i].start_step <= step, residencies[i].start_step))


def _taken_home(program: Program, residencies: list[Residency], outputs: list[list[int]]) -> list[Transfer]:
    """Return the copies at the end of the run that bring outputs which the text leaves elsewhere to layer 0."""
    end = program.num_steps
    return [
        Transfer(
            tensor=residencies[index].tensor,
            source=index,
            target=HOME,
            start_after=end - 1,
            done_before=end,
            size_bytes=program.tensors[residencies[index].tensor].size_bytes,
        )
        for pieces in outputs
        for index in pieces
        if residencies[index].end_step >= end
    ]

"""Which places of a scheduled module share storage: alias groups, as XLA's HloAliasAnalysis defines them.

Tuples, their elements and bitcasts forward values; a while loop's operand, parameters, body result and result are one
place; dynamic-update-slice, scatter and fusions that end in one write in place. Donated inputs are *not* merged with
the outputs that reuse their memory: the output's contents are new.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mallocgame.errors import TraceError
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction, HloModule, Index, leaves, to_index
from mallocgame.workloads.hlo.verify import verify

FORWARDING = frozenset({"get-tuple-element", "tuple", "bitcast", "while", "parameter", "optimization-barrier"})
_IN_PLACE = {"dynamic-update-slice": 0, "scatter": 0}  # opcode: the operand written
_TRANSPARENT = frozenset({"bitcast", "get-tuple-element", "convert-element-type"})
_UNSUPPORTED = {"conditional": "conditionals", "call": "calls"}

Place = tuple[str, Index]  # an instruction's name and a leaf of its result


@dataclass(frozen=True, kw_only=True)
class WhileLoop:
    """A while instruction and the computations it runs."""

    instruction: str
    parent: str
    condition: str
    body: str


@dataclass(kw_only=True)
class Aliases:
    """Alias groups over the computations that the schedule holds."""

    module: HloModule
    computation_of: dict[str, str] = field(default_factory=dict)  # instruction: its computation
    loops: list[WhileLoop] = field(default_factory=list)
    parent_of: dict[Place, Place] = field(default_factory=dict)
    in_place: dict[Place, int] = field(default_factory=dict)  # result written in place: the operand it shares

    def find(self, place: Place) -> Place:
        """Return the representative of a place's group."""
        root = place
        while self.parent_of.get(root, root) != root:
            root = self.parent_of[root]
        while self.parent_of.get(place, place) != root:
            self.parent_of[place], place = root, self.parent_of[place]
        return root

    def join(self, a: Place, b: Place) -> None:
        """Make two places one group."""
        first, second = self.find(a), self.find(b)
        if first != second:
            self.parent_of[second] = first

    def instruction(self, name: str) -> HloInstruction:
        """Return an instruction of a scheduled computation by name."""
        return self.module.computations[self.computation_of[name]].instructions[name]

    def operand_group(self, instruction: HloInstruction, operand: int, index: Index) -> Place:
        """Return the group of an operand."""
        return self.find((instruction.operands[operand], index))

    def donated_pairs(self) -> set[frozenset[Place]]:
        """Return the groups that share memory because an input is donated to an output."""
        entry = self.module.computations[self.module.entry]
        pairs = set()
        for output, number, index in self.module.donations:
            pairs.add(frozenset((self.find((entry.root, output)), self.find((entry.parameter(number).name, index)))))
        return pairs


def alias_groups(module: HloModule, path: object = "HLO", opaque: frozenset[str] = frozenset()) -> Aliases:
    """Build the groups of all computations that the entry reaches through while loops.

    Instructions with an opcode in ``opaque`` are taken as they are, though they run other computations.

    Raises:
        TraceError: a kind of instruction that is not supported, by name; an operand that does not exist.
    """
    verify(module, path)
    aliases = Aliases(module=module)
    waiting = [module.entry]
    while waiting:
        computation = module.computations[waiting.pop()]
        for instruction in computation.instructions.values():
            if instruction.name in aliases.computation_of:
                raise TraceError(path, None, f"two scheduled instructions are named {instruction.name}")
            aliases.computation_of[instruction.name] = computation.name
            if instruction.opcode not in opaque:
                _refuse(instruction, path)
            missing = [name for name in instruction.operands if name not in computation.instructions]
            if missing:
                raise TraceError(path, None, f"{instruction.name} uses {missing[0]}, which {computation.name} lacks")
            if instruction.opcode == "while":
                loop = _while_loop(instruction, computation, module, path)
                aliases.loops.append(loop)
                waiting += [loop.body, loop.condition]
    for name in aliases.computation_of:
        _connect(aliases, aliases.instruction(name))
    for loop in aliases.loops:
        _connect_loop(aliases, loop)
    entry = module.computations[module.entry]
    for output, number, index in module.donations:
        aliases.join((entry.parameter(number).name, index), (entry.root, output))
    return aliases


def _refuse(instruction: HloInstruction, path: object) -> None:
    reason = _UNSUPPORTED.get(instruction.opcode)
    if reason:
        raise TraceError(path, None, f"{instruction.name}: {reason} are not supported")


def _while_loop(instruction: HloInstruction, parent: HloComputation, module: HloModule, path: object) -> WhileLoop:
    condition, body = instruction.called("condition"), instruction.called("body")
    if len(condition) != 1 or len(body) != 1 or not {*condition, *body} <= module.computations.keys():
        raise TraceError(path, None, f"{instruction.name}: a while loop without its condition and body")
    return WhileLoop(instruction=instruction.name, parent=parent.name, condition=condition[0], body=body[0])


def _connect(aliases: Aliases, instruction: HloInstruction) -> None:
    name, operands = instruction.name, instruction.operands
    if instruction.opcode == "get-tuple-element":
        for index, _ in leaves(instruction.shape):
            aliases.join((operands[0], (instruction.element or 0, *index)), (name, index))
    elif instruction.opcode == "tuple":
        for index, _ in leaves(instruction.shape):
            aliases.join((operands[index[0]], index[1:]), (name, index))
    elif instruction.opcode in ("bitcast", "optimization-barrier", "add-dependency", "domain"):
        for index, _ in leaves(instruction.shape):
            aliases.join((operands[0], index), (name, index))
    elif instruction.opcode.endswith(("-start", "-update", "-done")) or instruction.opcode in ("send", "recv"):
        for index, operand, inner in passed_on(instruction):
            aliases.join((operands[operand], inner), (name, index))
    else:
        for index, operand, inner in in_place_pairs(aliases.module, instruction):
            aliases.join((operands[operand], inner), (name, index))
            aliases.in_place[name, index] = operand


def _connect_loop(aliases: Aliases, loop: WhileLoop) -> None:
    instruction = aliases.instruction(loop.instruction)
    condition, body = aliases.module.computations[loop.condition], aliases.module.computations[loop.body]
    places = (instruction.operands[0], condition.parameter(0).name, body.parameter(0).name, body.root)
    for index, _ in leaves(instruction.shape):
        for name in places:
            aliases.join((loop.instruction, index), (name, index))


def passed_on(instruction: HloInstruction) -> Iterator[tuple[Index, int, Index]]:
    """Yield (result index, operand, index in the operand) of what an asynchronous instruction only hands on.

    A start holds its operands in the first element of its result and what is being written in the second (a copy-start
    the other way round); a done takes the second out.
    """
    opcode, several = instruction.opcode, len(instruction.operands) > 1
    places = [index for index, _ in leaves(instruction.shape)]
    if opcode == "all-reduce-start":
        return
    if opcode == "copy-start":
        yield from ((index, 0, index[1:]) for index in places if index[:1] == (1,))
    elif opcode in ("async-start", "all-gather-start", "collective-permute-start", "send"):
        nested = opcode == "async-start" or several
        for index in places:
            if index[:1] == (0,) and opcode == "send":
                yield index, 0, index[1:]
            elif index[:1] == (0,):
                yield (index, index[1], index[2:]) if nested else (index, 0, index[1:])
    elif opcode in ("async-update", "all-reduce-done"):
        yield from ((index, 0, index) for index in places)
    elif opcode in ("copy-done", "recv-done"):
        inner = (0,) if opcode == "copy-done" else ()
        yield from ((index, 0, (*inner, *index)) for index in places if opcode == "copy-done" or index[:1] == (0,))
    elif opcode.endswith("-done") and opcode != "send-done":
        yield from ((index, 0, (1, *index)) for index in places)


def in_place_pairs(module: HloModule, instruction: HloInstruction) -> Iterator[tuple[Index, int, Index]]:
    """Yield (result index, operand, index in the operand) for each result that must share an operand's storage."""
    aliasing = instruction.attributes.find("output_to_operand_aliasing={")
    if aliasing >= 0:
        yield from _declared_pairs(instruction.attributes[aliasing:])
    elif instruction.opcode in _IN_PLACE:
        for index, _ in leaves(instruction.shape):
            yield index, index[0] if index else _IN_PLACE[instruction.opcode], ()
    elif instruction.opcode == "fusion":
        called = instruction.called("calls")
        if called and called[0] in module.computations:
            yield from _fusion_pairs(module.computations[called[0]])


def _declared_pairs(text: str) -> Iterator[tuple[Index, int, Index]]:
    for output, operand, inner in re.findall(r"\{([\d, ]*)\}: \((\d+), \{([\d, ]*)\}", text):
        yield to_index(output), int(operand), to_index(inner)


def _fusion_pairs(fused: HloComputation) -> Iterator[tuple[Index, int, Index]]:
    root = fused.instructions[fused.root]
    outputs: Iterable[tuple[Index, str]] = (
        (((i,), name) for i, name in enumerate(root.operands)) if root.opcode == "tuple" else (((), root.name),)
    )
    for index, name in outputs:
        writer = fused.instructions[name]
        while writer.opcode in _TRANSPARENT:
            writer = fused.instructions[writer.operands[0]]
        if writer.opcode not in _IN_PLACE:
            continue
        target = fused.instructions[writer.operands[_IN_PLACE[writer.opcode]]]
        while target.opcode in _TRANSPARENT:
            target = fused.instructions[target.operands[0]]
        if target.opcode == "parameter":
            yield index, int(target.arguments), ()

"""Which places of a scheduled module share storage: alias groups, as XLA's HloAliasAnalysis defines them.

Tuples, their elements and bitcasts forward values; a while loop's operand, parameters, body result and result are one
place, a conditional's operands and its branches' parameters, its branches' results and its own; the end of an
asynchronous pair is the place that its start writes; dynamic-update-slice, scatter and fusions that end in one write
in place. Donated inputs are *not* merged with the outputs that reuse their memory: the output's contents are new.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mallocgame.errors import TraceError
from mallocgame.workloads.hlo.asynchronous import forwarded_pairs, result_index
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction, HloModule
from mallocgame.workloads.hlo.shapes import Index, leaves, to_index
from mallocgame.workloads.hlo.verify import verify

FORWARDING = frozenset(
    {"get-tuple-element", "tuple", "bitcast", "while", "parameter", "optimization-barrier", "conditional"}
    | {"add-dependency", "after-all", "domain"}
)
_IN_PLACE = {"dynamic-update-slice": 0, "scatter": 0}  # opcode: the operand written
_TRANSPARENT = frozenset({"bitcast", "get-tuple-element", "convert-element-type"})

Place = tuple[str, Index]  # an instruction's name and a leaf of its result


@dataclass(frozen=True, kw_only=True)
class WhileLoop:
    """A while instruction and the computations it runs."""

    instruction: str
    parent: str
    condition: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Branching:
    """A conditional and the computations of which it runs one."""

    instruction: str
    parent: str
    branches: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CallSite:
    """A call whose computation's instructions are steps of the schedule."""

    instruction: str
    parent: str
    computation: str


@dataclass(kw_only=True)
class Aliases:
    """Alias groups over the computations that the schedule holds."""

    module: HloModule
    computation_of: dict[str, str] = field(default_factory=dict)  # instruction: its computation
    loops: list[WhileLoop] = field(default_factory=list)
    conditionals: list[Branching] = field(default_factory=list)
    calls: list[CallSite] = field(default_factory=list)
    asynchronous: list[CallSite] = field(default_factory=list)  # what async-starts run, where that is scheduled too
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


def alias_groups(
    module: HloModule,
    path: object = "HLO",
    opaque: frozenset[str] = frozenset(),
    scheduled: frozenset[str] = frozenset(),
) -> Aliases:
    """Build the groups of all computations that the entry reaches through loops, conditionals and calls.

    Calls in ``opaque`` are taken as single steps, though they run other computations; what an async-start runs is
    only of the schedule if ``scheduled`` names that computation.

    Raises:
        TraceError: control flow without its computations, or shapes that do not fit together, by name and line.
    """
    verify(module, path)
    aliases = Aliases(module=module)
    waiting = [module.entry]
    while waiting:
        computation = module.computations[waiting.pop()]
        for instruction in computation.instructions.values():
            if instruction.name in aliases.computation_of:
                raise TraceError(path, instruction.line, f"two scheduled instructions are named {instruction.name}")
            aliases.computation_of[instruction.name] = computation.name
            waiting += _callees(aliases, computation, instruction, path, opaque)
            waiting += _called_beside(aliases, computation, instruction, scheduled)
    for name in aliases.computation_of:
        _connect(aliases, aliases.instruction(name))
    for loop in aliases.loops:
        _connect_loop(aliases, loop)
    for conditional in aliases.conditionals:
        _connect_conditional(aliases, conditional)
    for call in (*aliases.calls, *aliases.asynchronous):
        _connect_call(aliases, call)
    entry = module.computations[module.entry]
    for output, number, index in module.donations:
        aliases.join((entry.parameter(number).name, index), (entry.root, output))
    return aliases


def _callees(
    aliases: Aliases, parent: HloComputation, instruction: HloInstruction, path: object, opaque: frozenset[str]
) -> list[str]:
    """Record the control flow of an instruction; return the computations whose instructions become steps."""
    module = aliases.module
    if instruction.opcode == "while":
        loop = _while_loop(instruction, parent, module, path)
        aliases.loops.append(loop)
        return [loop.body, loop.condition]
    if instruction.opcode == "conditional":
        branches = instruction.branches()
        if not branches or not set(branches) <= module.computations.keys():
            raise TraceError(path, instruction.line, f"{instruction.name}: a conditional without its branches")
        aliases.conditionals.append(Branching(instruction=instruction.name, parent=parent.name, branches=branches))
        return list(branches)
    if instruction.opcode == "call" and instruction.name not in opaque:
        called = instruction.called("to_apply")
        if len(called) != 1 or called[0] not in module.computations:
            raise TraceError(path, instruction.line, f"{instruction.name}: a call without its computation")
        aliases.calls.append(CallSite(instruction=instruction.name, parent=parent.name, computation=called[0]))
        return list(called)
    return []


def _called_beside(
    aliases: Aliases, parent: HloComputation, instruction: HloInstruction, scheduled: frozenset[str]
) -> list[str]:
    """Record what an asynchronous call runs, if that is part of the schedule."""
    called = instruction.called("calls") if instruction.opcode == "async-start" else ()
    found = [name for name in called if name in scheduled and name in aliases.module.computations]
    aliases.asynchronous += [
        CallSite(instruction=instruction.name, parent=parent.name, computation=name) for name in found
    ]
    return found


def _while_loop(instruction: HloInstruction, parent: HloComputation, module: HloModule, path: object) -> WhileLoop:
    condition, body = instruction.called("condition"), instruction.called("body")
    if len(condition) != 1 or len(body) != 1 or not {*condition, *body} <= module.computations.keys():
        raise TraceError(path, instruction.line, f"{instruction.name}: a while loop without its condition and body")
    return WhileLoop(instruction=instruction.name, parent=parent.name, condition=condition[0], body=body[0])


def _connect(aliases: Aliases, instruction: HloInstruction) -> None:
    name, operands = instruction.name, instruction.operands
    if instruction.opcode == "get-tuple-element":
        for index, _ in leaves(instruction.shape):
            aliases.join((operands[0], (instruction.element or 0, *index)), (name, index))
    elif instruction.opcode == "tuple":
        for index, _ in leaves(instruction.shape):
            aliases.join((operands[index[0]], index[1:]), (name, index))
    elif instruction.opcode in ("bitcast", "optimization-barrier", "add-dependency", "domain") or only_names(
        instruction
    ):
        for index, _ in leaves(instruction.shape):
            aliases.join((operands[0], index), (name, index))
    else:
        for index, operand, inner in forwarded_pairs(instruction):
            aliases.join((operands[operand], inner), (name, index))
        for index, operand, inner in in_place_pairs(aliases.module, instruction):
            aliases.join((operands[operand], inner), (name, index))
            aliases.in_place[name, index] = operand


def only_names(instruction: HloInstruction) -> bool:
    """Whether a custom call says something of its operand's placement and hands it on."""
    return instruction.opcode == "custom-call" and 'xla_coloring_hint="true"' in instruction.attributes


def _connect_loop(aliases: Aliases, loop: WhileLoop) -> None:
    instruction = aliases.instruction(loop.instruction)
    condition, body = aliases.module.computations[loop.condition], aliases.module.computations[loop.body]
    places = (instruction.operands[0], condition.parameter(0).name, body.parameter(0).name, body.root)
    for index, _ in leaves(instruction.shape):
        for name in places:
            aliases.join((loop.instruction, index), (name, index))


def _connect_conditional(aliases: Aliases, conditional: Branching) -> None:
    instruction = aliases.instruction(conditional.instruction)
    for number, name in enumerate(conditional.branches):
        branch = aliases.module.computations[name]
        parameter = branch.parameter(0)
        for index, _ in leaves(parameter.shape):
            aliases.join((instruction.operands[number + 1], index), (parameter.name, index))
        for index, _ in leaves(instruction.shape):
            aliases.join((conditional.instruction, index), (branch.root, index))


def _connect_call(aliases: Aliases, call: CallSite) -> None:
    instruction, callee = aliases.instruction(call.instruction), aliases.module.computations[call.computation]
    operands = instruction.operands
    if instruction.opcode == "async-start" and not operands:  # they come with an update
        around = aliases.module.computations[call.parent].instructions.values()
        updates = (i for i in around if i.opcode == "async-update" and i.operands[:1] == (instruction.name,))
        instruction = next(updates, instruction)
        operands = instruction.operands[1:]
    for number, operand in enumerate(operands):
        parameter = callee.parameter(number)
        for index, _ in leaves(parameter.shape):
            aliases.join((operand, index), (parameter.name, index))
    where = () if instruction.opcode == "call" else result_index(instruction.opcode)
    for index, _ in leaves(callee.instructions[callee.root].shape):
        aliases.join((instruction.name, (*where, *index)), (callee.root, index))


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
    shared = set()
    for index, name in outputs:
        writer = _behind(fused, name)
        target = writer
        while target.opcode in _IN_PLACE:  # several updates, one after another, write the same storage
            target = _behind(fused, target.operands[_IN_PLACE[target.opcode]])
        if writer.opcode in _IN_PLACE and target.opcode == "parameter" and target.name not in shared:
            shared.add(target.name)  # a second result of the same operand gets storage of its own
            yield index, int(target.arguments), ()


def _behind(fused: HloComputation, name: str) -> HloInstruction:
    """Return what stands behind bitcasts and tuple elements."""
    instruction = fused.instructions[name]
    while instruction.opcode in _TRANSPARENT:
        instruction = fused.instructions[instruction.operands[0]]
    return instruction

"""One copy of a computation for each place that runs it, and one name for each scheduled instruction.

Compilers flatten the call graph and give unique names before they schedule; tests and hand-written text do not.
"""

import re
from dataclasses import replace

from mallocgame.errors import TraceError
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction, HloModule

MAX_INSTRUCTIONS = 2_000_000
MAX_DEPTH = 100

_CONTROL_FLOW = {"while": ("condition", "body"), "call": ("to_apply",)}


def scheduled_computations(instruction: HloInstruction) -> tuple[str, ...]:
    """Return the computations whose instructions run one by one when this instruction does."""
    if instruction.opcode == "conditional":
        return instruction.branches()
    return tuple(name for role in _CONTROL_FLOW.get(instruction.opcode, ()) for name in instruction.called(role))


def unshared(module: HloModule, path: object = "HLO") -> HloModule:
    """Return the module in which no scheduled computation is run from two places, and names are unique.

    Raises:
        TraceError: the copies would be too many, or a computation runs itself.
    """
    work = _Unsharing(module, path)
    work.visit(module.entry, module.entry, ())
    ordered: dict[str, HloComputation] = {}
    for name, computation in module.computations.items():  # a copy stands beside its original: callees come first
        ordered[name] = work.made.get(name, computation)
        ordered.update((copy, work.made[copy]) for copy in work.copies.get(name, ()))
    return replace(module, computations=ordered)


class _Unsharing:
    def __init__(self, module: HloModule, path: object) -> None:
        self.module, self.path = module, path
        self.made: dict[str, HloComputation] = {}
        self.copies: dict[str, list[str]] = {}
        self.taken: set[str] = set()
        self.count = 0

    def visit(self, source: str, name: str, above: tuple[str, ...]) -> None:
        """Make computation ``name`` out of ``source``, after those that it runs."""
        computation = self.module.computations.get(source)
        if computation is None or source in above or len(above) > MAX_DEPTH:
            deep = f"nests deeper than {MAX_DEPTH}"
            reason = "is missing" if computation is None else "runs itself" if source in above else deep
            raise TraceError(self.path, None, f"computation {source} {reason}")
        self.count += len(computation.instructions)
        if self.count > MAX_INSTRUCTIONS:
            raise TraceError(
                self.path, None, f"more than {MAX_INSTRUCTIONS} steps, once shared computations are copied"
            )
        self.made[name] = computation  # keeps the name
        names = {old: self._name(old, name) for old in computation.instructions}
        instructions = {}
        for instruction in computation.instructions.values():
            changed = self._callees(instruction, (*above, source))
            operands = tuple(names.get(operand, operand) for operand in instruction.operands)
            new = names[instruction.name]
            if (new, operands) != (instruction.name, instruction.operands) or changed is not instruction:
                changed = replace(changed, name=new, operands=operands)
            instructions[new] = changed
        root = names.get(computation.root, computation.root)
        self.made[name] = replace(computation, name=name, instructions=instructions, root=root)

    def _name(self, old: str, computation: str) -> str:
        new, number = old, 1
        while new in self.taken:
            new = f"{old}~{computation}" if number == 1 else f"{old}~{computation}~{number}"
            number += 1
        self.taken.add(new)
        return new

    def _callees(self, instruction: HloInstruction, above: tuple[str, ...]) -> HloInstruction:
        attributes = instruction.attributes
        seen = set()
        for callee in scheduled_computations(instruction):
            if callee in self.made or callee in seen:
                number = 2
                while {f"{callee}.{number}"} & (self.made.keys() | self.module.computations.keys()):
                    number += 1
                copy = f"{callee}.{number}"
                self.copies.setdefault(callee, []).append(copy)
                attributes = _renamed(attributes, callee, copy)
            else:
                copy = callee
            seen.add(callee)
            self.visit(callee, copy, above)
        return instruction if attributes == instruction.attributes else replace(instruction, attributes=attributes)


def _renamed(attributes: str, old: str, new: str) -> str:
    """Replace the last reference to a computation (of two alike, each visit takes one)."""
    found = list(re.finditer(rf"(?<=[={{,%\s]){re.escape(old)}(?=[,}}\s]|$)", attributes))
    if not found:
        return attributes
    last = found[-1]
    return attributes[: last.start()] + new + attributes[last.end() :]

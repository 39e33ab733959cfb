"""How often the while loops of a scheduled module run, where counting shows it."""

import re
from typing import NamedTuple

from mallocgame.workloads.hlo.aliases import Aliases, WhileLoop
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_FOLLOWED = frozenset({"copy", "bitcast", "reshape", "convert"})
_MAX_FOLLOWED = 1000


class _Value(NamedTuple):
    """What an instruction computes; ``caller`` is the fusion or call that runs its computation, if any does."""

    computation: HloComputation
    instruction: HloInstruction
    caller: "_Value | None" = None

    def operand(self, number: int) -> "_Value":
        found = self.computation.instructions[self.instruction.operands[number]]
        return self._replace(instruction=found)


def trip_count(aliases: Aliases, loop: WhileLoop) -> int | None:
    """Return how often the body runs, if the compiler annotated it or counting from a constant to a constant shows it.

    The condition must compare the counter with a constant, and the body add a constant to the counter.
    """
    instruction = aliases.instruction(loop.instruction)
    known = _KNOWN.search(instruction.attributes)
    if known:
        return int(known[1])
    test = _resolve(aliases, _root(aliases, loop.condition))
    direction = re.search(r"direction=(\w+)", test.instruction.attributes)
    if test.instruction.opcode != "compare" or direction is None:
        return None
    counter = _tuple_element(aliases, test.operand(0))
    limit = _constant(aliases, test.operand(1), loop)
    if counter is None or limit is None:
        return None
    start = _initial(aliases, loop, counter)
    step = _increment(aliases, loop, counter)
    if start is None or not step:
        return None
    return _count(start, limit, step, direction[1])


def _count(start: int, limit: int, step: int, direction: str) -> int | None:
    if direction in ("LE", "GE"):
        limit += 1 if direction == "LE" else -1
    if direction in ("LT", "LE") and step > 0:
        return max(0, -(-(limit - start) // step))
    if direction in ("GT", "GE") and step < 0:
        return max(0, -(-(start - limit) // -step))
    if direction == "NE" and (limit - start) % step == 0:
        return max(0, (limit - start) // step)
    return None


def _root(aliases: Aliases, computation: str) -> _Value:
    body = aliases.module.computations[computation]
    return _Value(body, body.instructions[body.root])


def _resolve(aliases: Aliases, value: _Value) -> _Value:
    """Follow copies, which have the same value, into fusions and calls, and from their parameters out again."""
    for _ in range(_MAX_FOLLOWED):
        instruction = value.instruction
        called = instruction.called("calls") or instruction.called("to_apply")
        if instruction.opcode in _FOLLOWED:
            value = value.operand(0)
        elif instruction.opcode == "parameter" and value.caller is not None:
            value = value.caller.operand(int(instruction.arguments))
        elif instruction.opcode in ("fusion", "call") and called and called[0] in aliases.module.computations:
            value = _root(aliases, called[0])._replace(caller=value)
        elif instruction.opcode == "get-tuple-element" and instruction.element is not None:
            source = _resolve(aliases, value.operand(0))
            if source.instruction.opcode != "tuple":
                return value
            value = source.operand(instruction.element)
        else:
            break
    return value


def _tuple_element(aliases: Aliases, value: _Value) -> int | None:
    """Return which element of the parameter of the loop's condition or body a value is."""
    found = _resolve(aliases, value)
    if found.instruction.opcode != "get-tuple-element":
        return None
    source = _resolve(aliases, found.operand(0)).instruction
    return found.instruction.element if source.opcode == "parameter" else None


def _constant(aliases: Aliases, value: _Value, loop: WhileLoop) -> int | None:
    number = _number(aliases, value)
    if number is not None:
        return number
    element = _tuple_element(aliases, value)
    if element is None or value.computation.name == loop.parent or not _invariant(aliases, loop, element):
        return None
    return _initial(aliases, loop, element)


def _number(aliases: Aliases, value: _Value) -> int | None:
    found = _resolve(aliases, value).instruction
    if found.opcode != "constant" or not re.fullmatch(r"-?\d{1,18}", found.arguments.strip()):
        return None
    return int(found.arguments)


def _next(aliases: Aliases, loop: WhileLoop, element: int) -> _Value | None:
    """Return what the body makes of an element."""
    root = _resolve(aliases, _root(aliases, loop.body))
    return root.operand(element) if root.instruction.opcode == "tuple" else None


def _invariant(aliases: Aliases, loop: WhileLoop, element: int) -> bool:
    made = _next(aliases, loop, element)
    return made is not None and _tuple_element(aliases, made) == element


def _initial(aliases: Aliases, loop: WhileLoop, element: int) -> int | None:
    parent = aliases.module.computations[loop.parent]
    whole = _Value(parent, aliases.instruction(loop.instruction), _caller(aliases, loop.parent))
    start = _resolve(aliases, whole.operand(0))
    return _number(aliases, start.operand(element)) if start.instruction.opcode == "tuple" else None


def _caller(aliases: Aliases, computation: str) -> _Value | None:
    """Return the call, if any, that runs a computation whose instructions are steps of their own."""
    call = next((each for each in aliases.calls if each.computation == computation), None)
    if call is None:
        return None
    parent = aliases.module.computations[call.parent]
    return _Value(parent, aliases.instruction(call.instruction), _caller(aliases, call.parent))


def _increment(aliases: Aliases, loop: WhileLoop, element: int) -> int | None:
    made = _next(aliases, loop, element)
    update = None if made is None else _resolve(aliases, made)
    if update is None or update.instruction.opcode != "add":
        return None
    for counter in (0, 1):
        if _tuple_element(aliases, update.operand(counter)) == element:
            return _constant(aliases, update.operand(1 - counter), loop)
    return None

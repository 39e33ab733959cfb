"""How often the while loops of a scheduled module run, where counting shows it."""

import re

from mallocgame.workloads.hlo.aliases import Aliases, WhileLoop
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_FOLLOWED = frozenset({"copy", "bitcast", "reshape", "convert"})


def trip_count(aliases: Aliases, loop: WhileLoop) -> int | None:
    """Return how often the body runs, if the compiler annotated it or counting from a constant to a constant shows it.

    The condition must compare the counter with a constant, and the body add a constant to the counter.
    """
    instruction = aliases.instruction(loop.instruction)
    known = _KNOWN.search(instruction.attributes)
    if known:
        return int(known[1])
    condition = aliases.module.computations[loop.condition]
    test = condition.instructions[condition.root]
    direction = re.search(r"direction=(\w+)", test.attributes)
    if test.opcode != "compare" or direction is None:
        return None
    counter = _tuple_element(condition, test.operands[0])
    limit = _constant(aliases, condition, test.operands[1], loop)
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


def _resolve(computation: HloComputation, name: str) -> HloInstruction:
    """Follow copies; what they copy has the same value."""
    instruction = computation.instructions[name]
    while instruction.opcode in _FOLLOWED:
        instruction = computation.instructions[instruction.operands[0]]
    return instruction


def _tuple_element(computation: HloComputation, name: str) -> int | None:
    """Return which element of the computation's parameter ``name`` is."""
    instruction = _resolve(computation, name)
    if instruction.opcode != "get-tuple-element":
        return None
    if _resolve(computation, instruction.operands[0]).opcode != "parameter":
        return None
    return instruction.element


def _constant(aliases: Aliases, computation: HloComputation, name: str, loop: WhileLoop) -> int | None:
    instruction = _resolve(computation, name)
    if instruction.opcode == "constant":
        value = re.fullmatch(r"-?\d+", instruction.arguments.strip())
        return int(value[0]) if value else None
    element = _tuple_element(computation, name)
    if element is None or computation.name == loop.parent or not _invariant(aliases, loop, element):
        return None
    return _initial(aliases, loop, element)


def _invariant(aliases: Aliases, loop: WhileLoop, element: int) -> bool:
    body = aliases.module.computations[loop.body]
    root = body.instructions[body.root]
    return root.opcode == "tuple" and _tuple_element(body, root.operands[element]) == element


def _initial(aliases: Aliases, loop: WhileLoop, element: int) -> int | None:
    parent = aliases.module.computations[loop.parent]
    start = _resolve(parent, aliases.instruction(loop.instruction).operands[0])
    if start.opcode != "tuple":
        return None
    value = _resolve(parent, start.operands[element])
    if value.opcode != "constant":
        return None
    number = re.fullmatch(r"-?\d+", value.arguments.strip())
    return int(number[0]) if number else None


def _increment(aliases: Aliases, loop: WhileLoop, element: int) -> int | None:
    body = aliases.module.computations[loop.body]
    root = body.instructions[body.root]
    if root.opcode != "tuple":
        return None
    update = _resolve(body, root.operands[element])
    if update.opcode != "add":
        return None
    for counter, amount in (update.operands, update.operands[::-1]):
        if _tuple_element(body, counter) == element:
            return _constant(aliases, body, amount, loop)
    return None

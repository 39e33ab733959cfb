"""What loops are given: where a copy has to be asked for that is made once, before a loop, and stays through it.

XLA counts the operand of a ``while`` as the use that such a copy serves; what loop and body make of it shares the
buffer. ``prefetch`` and preferred times take that operand like any other, by the element of its tuple.
"""

from collections.abc import Collection, Mapping, Sequence

from mallocgame.program import Program, Use
from mallocgame.workloads.hlo.module import leaves
from mallocgame.workloads.xla.program import XlaProgram
from mallocgame.workloads.xla.records import Position

LoopOperands = Mapping[tuple[int, int], Position]  # tensor, and the step of the ``while``: its operand
NONE: LoopOperands = {}


def loop_operands(built: XlaProgram) -> dict[tuple[int, int], Position]:
    """Return for each tensor and each loop that is given it the operand of the ``while`` instruction."""
    found: dict[tuple[int, int], Position] = {}
    instructions = built.program.instructions
    for loop in built.program.loops:
        if loop.end_step >= len(instructions) or instructions[loop.end_step].opcode != "while":
            continue
        name = instructions[loop.end_step].name
        for index, _ in leaves(built.aliases.instruction(name).shape):
            tensor = built.tensor_of.get(built.aliases.find((name, index)))
            if tensor is not None:
                found.setdefault((tensor, loop.end_step), Position(instruction=name, operand=0, index=index))
    return found


def given_to_loops(operands: LoopOperands) -> Collection[int]:
    """Return the tensors of which a copy before a loop can be asked for."""
    return {tensor for tensor, _ in operands}


def place_of_copy(
    program: Program, operands: LoopOperands, tensor: int, filled: int, served: Sequence[Use]
) -> tuple[Position, int] | None:
    """Return the operand, and the step of its use, for which a copy is asked for; None where there is none.

    Args:
        program: the program.
        operands: what its loops are given.
        tensor: what is copied.
        filled: the boundary at which the copy is complete.
        served: the uses that it serves, in order.
    """
    first = served[0].step if served else -1
    entered = [x for x in program.loops if filled <= x.start_step <= first < x.end_step]
    for loop in sorted(entered, key=lambda x: x.start_step):
        if (tensor, loop.end_step) in operands:
            return operands[tensor, loop.end_step], loop.start_step
    use = next((use for use in served if use.operand >= 0), None)
    if use is None:
        return None
    name = program.instructions[use.step].name
    return Position(instruction=name, operand=use.operand, index=use.index), use.step

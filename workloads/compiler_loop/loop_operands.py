"""What loops and branches are given: where a copy has to be asked for that is made before them and stays inside.

XLA counts the operand of a ``while`` or ``conditional`` as the use that such a copy serves; what is inside shares the
buffer. ``prefetch`` and preferred times take that operand like any other, by the element of its tuple.
"""

from collections.abc import Collection, Mapping, Sequence

from mallocgame.program import Program, Use
from mallocgame.workloads.hlo.module import leaves
from mallocgame.workloads.xla.program import XlaProgram
from mallocgame.workloads.xla.records import Position

LoopOperands = Mapping[tuple[int, int], Position]  # tensor, step of the ``while`` or ``conditional``: its operand
NONE: LoopOperands = {}
WHILE = 0  # the only operand of a loop; of a conditional those from 1 on are given to branches


def loop_operands(built: XlaProgram) -> dict[tuple[int, int], Position]:
    """Return for each tensor and each loop or conditional that is given it the operand of that instruction."""
    found: dict[tuple[int, int], Position] = {}
    instructions = built.program.instructions
    for _, at in spans(built.program):
        if at >= len(instructions) or instructions[at].opcode not in ("while", "conditional"):
            continue
        name = instructions[at].name
        given = built.aliases.instruction(name).operands
        first = int(instructions[at].opcode == "conditional")  # operand 0 of which says the branch
        for number, operand in enumerate(given[first:], start=first):
            for index, _ in leaves(built.aliases.instruction(operand).shape):
                tensor = built.tensor_of.get(built.aliases.find((operand, index)))
                if tensor is not None:
                    found.setdefault((tensor, at), Position(instruction=name, operand=number, index=index))
    return found


def spans(program: Program) -> list[tuple[int, int]]:
    """Return the half-open spans of steps of loops and conditionals; their own instructions stand at the ends."""
    loops = [(loop.start_step, loop.end_step) for loop in program.loops]
    return loops + [(conditional.start_step, conditional.end_step) for conditional in program.conditionals]


def given_to_loops(operands: LoopOperands) -> Collection[int]:
    """Return the tensors of which a copy before a loop can be asked for."""
    return {tensor for (tensor, _), place in operands.items() if place.operand == WHILE}


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
    entered = [(start, end) for start, end in spans(program) if filled <= start <= first < end]
    for start, end in sorted(entered):
        if (tensor, end) in operands:
            return operands[tensor, end], start
    use = next((use for use in served if use.operand >= 0), None)
    if use is None:
        return None
    name = program.instructions[use.step].name
    return Position(instruction=name, operand=use.operand, index=use.index), use.step

"""Checks that make an HLO module safe to walk: whatever passes has no dangling name, cycle or impossible shape."""

from mallocgame.errors import TraceError
from mallocgame.workloads.hlo import asynchronous
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction, HloModule
from mallocgame.workloads.hlo.shapes import Shape, array, leaves, structure

MAX_BYTES = 2**50  # of one array: sums over a program stay exact in int64

_OPERANDS = {  # opcode: least number of operands
    "get-tuple-element": 1,
    "bitcast": 1,
    "optimization-barrier": 1,
    "while": 1,
    "copy": 1,
    "conditional": 2,
    "add-dependency": 1,
    "domain": 1,
    "convert": 1,
    "reshape": 1,
    "compare": 2,
    "add": 2,
    "dot": 2,
    "convolution": 2,
    "dynamic-update-slice": 2,
    "scatter": 3,
    "slice": 1,
    "dynamic-slice": 1,
    "gather": 2,
}
_ROLES = ("calls", "condition", "body", "to_apply", "called_computations", "true_computation", "false_computation")


def verify(module: HloModule, path: object) -> None:
    """Check a module.

    Raises:
        TraceError: an operand or computation that does not come before its use, shapes that do not fit the opcode, an
            array too large, parameters that are not numbered 0, 1, ….
    """
    seen: set[str] = set()
    for computation in module.computations.values():
        before: set[str] = set()
        numbers = []
        for instruction in computation.instructions.values():
            reason = _fault(module, computation, instruction, before, seen)
            if reason:
                raise TraceError(path, instruction.line or None, f"{computation.name}: {instruction.name}: {reason}")
            before.add(instruction.name)
            if instruction.opcode == "parameter":
                numbers.append(int(instruction.arguments))
        if sorted(numbers) != list(range(len(numbers))):
            raise TraceError(path, None, f"{computation.name}: parameters are numbered {sorted(numbers)[:10]}")
        if computation.root not in computation.instructions:
            raise TraceError(path, None, f"{computation.name}: no root")
        seen.add(computation.name)
    _check_donations(module, path)


def _fault(
    module: HloModule, computation: HloComputation, instruction: HloInstruction, before: set[str], seen: set[str]
) -> str:
    """Return what is wrong with an instruction, an empty string if nothing."""
    unknown = [name for name in instruction.operands if name not in before]
    if unknown:
        return f"operand {unknown[0]} is not defined before it"
    least = _OPERANDS.get(instruction.opcode, int(asynchronous.is_handed_on(instruction.opcode)))
    if len(instruction.operands) < least:
        return f"{instruction.opcode} needs {least} operands"
    called = [name for role in _ROLES for name in instruction.called(role)] + list(instruction.branches())
    missing = [name for name in called if name not in seen]
    if missing:
        return f"computation {missing[0]} is not defined before it"
    try:
        sizes = [array(text).laid_out_bytes for _, text in leaves(instruction.shape)]
    except ValueError as error:
        return str(error)
    try:
        number = int(instruction.arguments) if instruction.opcode == "parameter" else 0
    except ValueError:
        return "a number that cannot be read"
    if max(sizes, default=0) > MAX_BYTES or number < 0:
        return f"an array of more than {MAX_BYTES} bytes" if number >= 0 else "a negative parameter number"
    shapes = [computation.instructions[name].shape for name in instruction.operands]
    return _shape_fault(module, instruction, shapes)


def _shape_fault(module: HloModule, instruction: HloInstruction, shapes: list[Shape]) -> str:
    opcode = instruction.opcode
    if opcode == "get-tuple-element":
        index, source = instruction.element, shapes[0]
        if index is None or not isinstance(source, tuple) or not index < len(source):
            return "no such element"
        if structure(source[index]) != structure(instruction.shape):
            return "an element of another shape"
    elif opcode == "tuple":
        if tuple(map(structure, shapes)) != structure(instruction.shape):
            return "operands of other shapes"
    elif opcode in ("bitcast", "optimization-barrier"):
        if structure(shapes[0]) != structure(instruction.shape):
            return "an operand of another shape"
    elif opcode == "while":
        return _loop_fault(module, instruction, shapes[0])
    elif opcode == "conditional":
        return _branch_fault(module, instruction, shapes)
    elif opcode == "call":
        return _call_fault(module, instruction, shapes)
    elif asynchronous.is_start(opcode) or asynchronous.is_handed_on(opcode):
        return asynchronous.fault(instruction, shapes)
    elif opcode == "fusion":
        for name in instruction.called("calls"):
            if _num_parameters(module.computations[name]) != len(shapes):
                return f"{len(shapes)} operands for the parameters of {name}"
    return ""


def _loop_fault(module: HloModule, instruction: HloInstruction, shape: Shape) -> str:
    names = [*instruction.called("condition"), *instruction.called("body")]
    if len(names) != 2 or any(_num_parameters(module.computations[name]) != 1 for name in names):
        return "a while loop needs a condition and a body of one parameter"
    condition, body = (module.computations[name] for name in names)
    around = [shape, condition.parameter(0).shape, body.parameter(0).shape, body.instructions[body.root].shape]
    if any(structure(other) != structure(instruction.shape) for other in around):
        return "a while loop carries other shapes than it starts with"
    return ""


def _branch_fault(module: HloModule, instruction: HloInstruction, shapes: list[Shape]) -> str:
    branches = [module.computations[name] for name in instruction.branches()]
    if not branches or len(shapes) != len(branches) + 1:
        return f"a conditional of {len(branches)} branches has {len(shapes)} operands"
    for number, branch in enumerate(branches):
        if _num_parameters(branch) != 1:
            return f"branch {branch.name} needs one parameter"
        if structure(branch.parameter(0).shape) != structure(shapes[number + 1]):
            return f"branch {branch.name} takes another shape than it is given"
        if structure(branch.instructions[branch.root].shape) != structure(instruction.shape):
            return f"branch {branch.name} gives another shape"
    return ""


def _call_fault(module: HloModule, instruction: HloInstruction, shapes: list[Shape]) -> str:
    for callee in (module.computations[name] for name in instruction.called("to_apply")):
        if _num_parameters(callee) != len(shapes):
            return f"{len(shapes)} operands for the parameters of {callee.name}"
        taken = [structure(callee.parameter(number).shape) for number in range(len(shapes))]
        if taken != [structure(shape) for shape in shapes]:
            return f"{callee.name} takes other shapes than it is given"
        if structure(callee.instructions[callee.root].shape) != structure(instruction.shape):
            return f"{callee.name} gives another shape"
    return ""


def _num_parameters(computation: HloComputation) -> int:
    return sum(i.opcode == "parameter" for i in computation.instructions.values())


def _check_donations(module: HloModule, path: object) -> None:
    entry = module.computations[module.entry]
    outputs = dict(leaves(entry.instructions[entry.root].shape))
    for output, number, index in module.donations:
        exists = number < _num_parameters(entry) and index in dict(leaves(entry.parameter(number).shape))
        if not exists or output not in outputs:
            raise TraceError(path, 1, f"donates parameter {number} {index} to output {output}, one of which is missing")

"""How much an HLO instruction computes and touches, from its shapes alone."""

import math
import re

from mallocgame.workloads.hlo.module import (
    HloComputation,
    HloInstruction,
    HloModule,
    Shape,
    array_bytes,
    dimensions,
    leaves,
)

FREE = frozenset(
    {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "reshape", "copy", "transpose", "broadcast"}
    | {"slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad", "gather", "iota", "reverse", "convert"}
    | {"while", "after-all", "optimization-barrier", "partition-id", "replica-id"}
)
_SLICES = frozenset({"slice", "dynamic-slice", "gather"})


def operations(module: HloModule, computation: HloComputation, instruction: HloInstruction) -> int:
    """Return arithmetic operations of one execution; a multiply-add counts two."""
    opcode = instruction.opcode
    if opcode in ("fusion", "call"):
        names = instruction.called("calls") or instruction.called("to_apply")
        bodies = [module.computations[name] for name in names if name in module.computations]
        return sum(operations(module, body, i) for body in bodies for i in body.instructions.values())
    if opcode in FREE:
        return 0
    outputs = _elements(instruction.shape)
    shapes = [computation.instructions[name].shape for name in instruction.operands]
    if opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        sizes = dimensions(str(shapes[0]))
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2 * outputs * math.prod(sizes[axis] for axis in axes if axis < len(sizes))
    if opcode == "convolution":
        labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
        kernel = dimensions(str(shapes[1]))
        at = labels[1].find("o") if labels else -1
        features = kernel[at] if 0 <= at < len(kernel) else 1
        return 2 * outputs * math.prod(kernel) // max(features, 1)
    if opcode == "custom-call" and "gemm" in instruction.attributes and len(shapes) >= 2:
        return 2 * math.isqrt(_elements(shapes[0]) * _elements(shapes[1]) * outputs)
    return max([outputs, *(_elements(shape) for shape in shapes)])


def operand_bytes(module: HloModule, computation: HloComputation, instruction: HloInstruction, operand: int) -> int:
    """Return bytes read of an operand: of one that is only sliced, the slices; of one written in place, nothing."""
    shape = computation.instructions[instruction.operands[operand]].shape
    whole = _bytes(shape)
    if instruction.opcode in _SLICES and operand == 0:
        return min(whole, _bytes(instruction.shape))
    if instruction.opcode == "dynamic-update-slice" and operand == 0:
        return 0
    if instruction.opcode != "fusion":
        return whole
    names = [name for name in instruction.called("calls") if name in module.computations]
    return min(whole, _read_inside(module.computations[names[0]], operand, whole)) if names else whole


def _read_inside(fused: HloComputation, operand: int, whole: int) -> int:
    name = fused.parameter(operand).name
    touched = 0
    for user in fused.instructions.values():
        for position, source in enumerate(user.operands):
            if source != name:
                continue
            if user.opcode in _SLICES and position == 0:
                touched += _bytes(user.shape)
            elif user.opcode != "dynamic-update-slice" or position != 0:
                return whole
    return touched


def written_bytes(module: HloModule, computation: HloComputation, instruction: HloInstruction, text: str) -> int:
    """Return bytes written into one array of the result: of one written in place, the update."""
    if instruction.opcode == "dynamic-update-slice":
        return min(array_bytes(text), _bytes(computation.instructions[instruction.operands[1]].shape))
    if instruction.opcode == "fusion":
        for name in instruction.called("calls"):
            body = module.computations.get(name)
            updates = [i for i in body.instructions.values() if i.opcode == "dynamic-update-slice"] if body else []
            same = [i for i in updates if dimensions(str(i.shape)) == dimensions(text)]
            if body and same:
                return min(array_bytes(text), _bytes(body.instructions[same[0].operands[1]].shape))
    return array_bytes(text)


def _elements(shape: Shape) -> int:
    return sum(math.prod(dimensions(text)) for _, text in leaves(shape))


def _bytes(shape: Shape) -> int:
    return sum(array_bytes(text) for _, text in leaves(shape))

"""How much an HLO instruction computes and touches, from its shapes alone; bytes are as laid out, padding included."""

import math
import re

from mallocgame.workloads.hlo.asynchronous import is_handed_on
from mallocgame.workloads.hlo.module import HloComputation, HloInstruction, HloModule
from mallocgame.workloads.hlo.shapes import Shape, array, leaves

FREE = frozenset(
    {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "reshape", "copy", "transpose", "broadcast"}
    | {"slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad", "gather", "iota", "reverse", "convert"}
    | {"while", "conditional", "after-all", "add-dependency", "optimization-barrier", "partition-id", "replica-id"}
    | {
        "domain",
        "bitcast-convert",
        "copy-start",
        "slice-start",
        "send",
        "recv",
        "infeed",
        "outfeed",
        "get-dimension-size",
    }
)
_SLICES = frozenset({"slice", "dynamic-slice", "gather"})
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d{1,12})"\}')
_ASSUMED_TRIPS = 5


def operations(module: HloModule, computation: HloComputation, instruction: HloInstruction) -> int:
    """Return arithmetic operations of one execution; a multiply-add counts two."""
    opcode = instruction.opcode
    if opcode in FREE or is_handed_on(opcode):
        return 0
    inside = _opaque_bodies(module, instruction)
    if inside:
        return sum(_inside(module, body) for body in inside)
    outputs = _elements(instruction.shape)
    shapes = [computation.instructions[name].shape for name in instruction.operands]
    if opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        sizes = _dimensions(shapes[0])
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2 * outputs * math.prod(sizes[axis] for axis in axes if axis < len(sizes))
    if opcode == "convolution":
        labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
        kernel = _dimensions(shapes[1])
        at = labels[1].find("o") if labels else -1
        features = kernel[at] if 0 <= at < len(kernel) else 1
        return 2 * outputs * math.prod(kernel) // max(features, 1)
    if opcode == "custom-call" and "gemm" in instruction.attributes and len(shapes) >= 2:
        return 2 * math.isqrt(_elements(shapes[0]) * _elements(shapes[1]) * outputs)
    if opcode == "fft":
        length = re.search(r"fft_length=\{([\d,]*)\}", instruction.attributes)
        points = math.prod(int(size) for size in length[1].split(",") if size) if length else 1
        return round(5 * outputs * math.log2(max(points, 2)))  # Cooley and Tukey, radix 2
    return max([outputs, *(_elements(shape) for shape in shapes)])


def _opaque_bodies(module: HloModule, instruction: HloInstruction) -> list[HloComputation]:
    """Return the computations that an instruction runs without their instructions being steps."""
    if instruction.opcode in ("fusion", "call") or instruction.opcode.endswith("-start"):
        names = instruction.called("calls")
        if not names and instruction.opcode in ("call", "call-start", "async-start"):
            names = instruction.called("to_apply")
        return [module.computations[name] for name in names if name in module.computations]
    return []


def _inside(module: HloModule, body: HloComputation) -> int:
    total = 0
    for instruction in body.instructions.values():
        total += operations(module, body, instruction)
        if instruction.opcode == "while":
            known = _TRIPS.search(instruction.attributes)
            trips = int(known[1]) if known else _ASSUMED_TRIPS
            names = (*instruction.called("condition"), *instruction.called("body"))
            total += trips * sum(_inside(module, module.computations[name]) for name in names)
        elif instruction.opcode == "conditional":
            branches = instruction.branches()
            total += sum(_inside(module, module.computations[name]) for name in branches) // max(len(branches), 1)
    return total


def operand_bytes(module: HloModule, computation: HloComputation, instruction: HloInstruction, operand: int) -> int:
    """Return bytes read of an operand: of one that is only sliced, the slices; of one written in place, nothing."""
    shape = computation.instructions[instruction.operands[operand]].shape
    whole = _bytes(shape)
    if instruction.opcode in _SLICES and operand == 0:
        return min(whole, _bytes(instruction.shape))
    if instruction.opcode == "slice-start" and operand == 0 and isinstance(instruction.shape, tuple):
        return min(whole, _bytes(instruction.shape[1]) if len(instruction.shape) > 1 else whole)
    if instruction.opcode == "dynamic-update-slice" and operand == 0:
        return 0
    if instruction.opcode == "scatter" and operand == 0:  # reads what it changes
        return min(whole, _bytes(computation.instructions[instruction.operands[-1]].shape))
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
    """Return bytes written into one array of a result that is written in place: the updates."""
    whole = array(text).laid_out_bytes
    if instruction.opcode in ("dynamic-update-slice", "scatter"):
        return min(whole, _update_bytes(computation, instruction))
    if instruction.opcode == "fusion":
        for name in instruction.called("calls"):
            body = module.computations.get(name)
            inside = body.instructions.values() if body else ()
            updates = [i for i in inside if i.opcode in ("dynamic-update-slice", "scatter")]
            same = [i for i in updates if body and _dimensions(i.shape) == _dimensions(text)]
            if body and same:  # one after the other, as several updates of one operand are
                return min(whole, sum(_update_bytes(body, update) for update in same))
    return whole


def _update_bytes(computation: HloComputation, instruction: HloInstruction) -> int:
    update = instruction.operands[1 if instruction.opcode == "dynamic-update-slice" else -1]
    return _bytes(computation.instructions[update].shape)


def _dimensions(shape: Shape) -> tuple[int, ...]:
    return array(shape).dimensions if isinstance(shape, str) else ()


def _elements(shape: Shape) -> int:
    return sum(math.prod(array(text).dimensions) for _, text in leaves(shape))


def _bytes(shape: Shape) -> int:
    return sum(array(text).laid_out_bytes for _, text in leaves(shape))

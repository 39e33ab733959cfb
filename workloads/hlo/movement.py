"""Fusions that compute nothing: they cut, put together or rearrange what they read."""

from collections.abc import Iterator

from mallocgame.workloads.hlo.module import HloComputation, HloInstruction, HloModule
from mallocgame.workloads.hlo.shapes import array, leaves

# How each is told of, the most telling first; XLA:TPU writes a concatenation as pads that meet in a maximum.
MOVES = {
    "concatenate": "concatenate",
    "pad": "concatenate",
    "slice": "slice",
    "dynamic-slice": "slice",
    "transpose": "transpose",
    "copy": "copy",
    "reshape": "reshape",
    "dynamic-update-slice": "update",
}
DUPLICATE = "duplicate"  # a copy in the same layout
CHANGES_NOTHING = frozenset(("parameter", "constant", "bitcast", "tuple", "get-tuple-element", "broadcast", "fusion"))
JOINS = frozenset(("maximum", "or"))  # of pads; bfloat16 is widened for it, and narrowed again


def movement_of(module: HloModule, instruction: HloInstruction) -> str:
    """Return how a fusion only moves data (a value of ``MOVES``), empty where it computes something, or is none.

    Arithmetic of single numbers, such as the place of a slice, is no computing.
    """
    if instruction.opcode != "fusion":
        return ""
    opcodes = {i.opcode for i in inside(module, instruction) if i.opcode in MOVES or not _is_number(i)}
    joined = opcodes & JOINS if "pad" in opcodes else frozenset[str]()
    others = opcodes - MOVES.keys() - CHANGES_NOTHING - joined - ({"convert"} if joined else set())
    return "" if others else next((kind for opcode, kind in MOVES.items() if opcode in opcodes), "")


def inside(module: HloModule, instruction: HloInstruction) -> Iterator[HloInstruction]:
    """Yield the instructions of a fusion, those of fusions in it too."""
    for name in instruction.called("calls"):
        computation: HloComputation | None = module.computations.get(name)
        for inner in computation.instructions.values() if computation else ():
            yield inner
            if inner.opcode == "fusion":
                yield from inside(module, inner)


def _is_number(instruction: HloInstruction) -> bool:
    return all(not array(text).dimensions for _, text in leaves(instruction.shape))

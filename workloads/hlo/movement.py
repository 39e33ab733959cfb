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
}
CHANGES_NOTHING = frozenset(("parameter", "constant", "bitcast", "tuple", "get-tuple-element", "broadcast", "fusion"))
JOINS = frozenset(("maximum", "or"))


def movement_of(module: HloModule, instruction: HloInstruction) -> str:
    """Return how a fusion only moves data (a value of ``MOVES``), empty where it computes something, or is none.

    Arithmetic of single numbers, such as the place of a slice, is no computing.
    """
    found = set()
    for inner in _inside(module, instruction) if instruction.opcode == "fusion" else ():
        if inner.opcode in MOVES:
            found.add(MOVES[inner.opcode])
        elif inner.opcode in JOINS:
            found.add("")
        elif inner.opcode not in CHANGES_NOTHING and not _is_number(inner):
            return ""
    if "" in found and "concatenate" not in found:
        return ""
    return next((kind for kind in MOVES.values() if kind in found), "")


def _inside(module: HloModule, instruction: HloInstruction) -> Iterator[HloInstruction]:
    for name in instruction.called("calls"):
        computation: HloComputation | None = module.computations.get(name)
        for inner in computation.instructions.values() if computation else ():
            yield inner
            if inner.opcode == "fusion":
                yield from _inside(module, inner)


def _is_number(instruction: HloInstruction) -> bool:
    return all(not array(text).dimensions for _, text in leaves(instruction.shape))

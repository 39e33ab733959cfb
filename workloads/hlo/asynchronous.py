"""Asynchronous pairs: which parts of a start's result are its operands, and which the end hands on.

``X-start`` … ``X-done`` stand for one operation that is under way in between; ``X-update`` hands its state on. The
results follow XLA's conventions: ``copy-start`` gives (target, source, context), ``all-reduce-start`` the results
alone, ``send`` (operand, context, token), ``recv`` (result, context, token), every other start ((operands), results,
context …) or, with one operand, (operand, result, context …).
"""

from collections.abc import Iterator, Mapping

from mallocgame.workloads.hlo.module import HloInstruction
from mallocgame.workloads.hlo.shapes import Index, Shape, leaves, structure

_RESULTS_ONLY = frozenset({"all-reduce-start", "all-reduce-done"})


def is_start(opcode: str) -> bool:
    """Whether the instruction begins something that another ends."""
    return opcode.endswith("-start") or opcode in ("send", "recv")


def is_handed_on(opcode: str) -> bool:
    """Whether the instruction itself moves nothing: the end, or a step on the way, of an asynchronous pair."""
    return opcode.endswith(("-done", "-update"))


def result_index(opcode: str) -> Index:
    """Return where in a start's result the operation's result stands (also for the opcode of its end)."""
    if opcode in _RESULTS_ONLY:
        return ()
    return (0,) if opcode in ("copy-start", "copy-done", "recv", "recv-done") else (1,)


def source_index(opcode: str) -> Index | None:
    """Return where in a start's result its operands stand; None where they do not (also for the opcode of its end)."""
    if opcode in _RESULTS_ONLY or opcode in ("recv", "recv-done"):
        return None
    return (1,) if opcode in ("copy-start", "copy-done") else (0,)


def forwarded_pairs(instruction: HloInstruction) -> Iterator[tuple[Index, int, Index]]:
    """Yield (index in the result, operand, index in it) for each place that the pair's instruction hands on."""
    opcode = instruction.opcode
    if opcode.endswith("-update") and len(instruction.operands) > 1:  # a start without operands gets them here
        for number in range(len(instruction.operands) - 1):
            member = _member(instruction.shape, (0, number))
            yield from (((0, number, *index), number + 1, index) for index, _ in leaves(member))
    elif opcode.endswith("-update"):
        yield from ((index, 0, index) for index, _ in leaves(instruction.shape))
    elif opcode == "recv-done":
        yield from (((0, *index), 0, (0, *index)) for index, _ in leaves(_member(instruction.shape, (0,))))
    elif opcode.endswith("-done") and opcode != "send-done":
        where = result_index(opcode)
        yield from ((index, 0, (*where, *index)) for index, _ in leaves(instruction.shape))
    elif is_start(opcode):
        where_from = source_index(opcode)
        if where_from is not None:
            yield from _sources(instruction, where_from)


def results(instruction: HloInstruction) -> Iterator[tuple[Index, str]]:
    """Yield what an instruction writes; of an asynchronous start, its operands and its context are left out."""
    opcode = instruction.opcode
    if opcode == "send":
        return
    where = result_index(opcode) if is_start(opcode) else ()
    for index, text in leaves(instruction.shape):
        if index[: len(where)] == where:
            yield index, text


def touched(
    instruction: HloInstruction, around: Mapping[str, HloInstruction]
) -> Iterator[tuple[tuple[str, Index], bool]]:
    """Yield the places that an instruction reads, then those that it writes (True); ``around``: its computation."""
    for operand in instruction.operands:
        for index, _ in leaves(around[operand].shape):
            yield (operand, index), False
    for index, _ in results(instruction):
        yield (instruction.name, index), True


def _sources(instruction: HloInstruction, where: Index) -> Iterator[tuple[Index, int, Index]]:
    member = _member(instruction.shape, where)
    if (len(instruction.operands) == 1 or instruction.opcode == "send") and not isinstance(member, tuple):
        yield where, 0, ()
    elif isinstance(member, tuple):
        for number in range(min(len(instruction.operands), len(member))):
            yield from (((*where, number, *index), number, index) for index, _ in leaves(member[number]))


def _member(shape: Shape, index: Index) -> Shape:
    for position in index:
        if not isinstance(shape, tuple) or position >= len(shape):
            return ()
        shape = shape[position]
    return shape


def fault(instruction: HloInstruction, shapes: list[Shape]) -> str:
    """Return what is wrong with the shapes of an asynchronous instruction; an empty string if nothing."""
    opcode, shape = instruction.opcode, instruction.shape
    if opcode.endswith("-update") and len(shapes) > 1:
        given = _member(shape, (0,))
        fits = isinstance(given, tuple) and [structure(each) for each in given] == [structure(x) for x in shapes[1:]]
        return "" if fits else "it hands on other shapes than its operands"
    if opcode.endswith("-update"):
        return "" if structure(shapes[0]) == structure(shape) else "it hands on another shape"
    if is_handed_on(opcode) and opcode not in ("send-done", "recv-done"):
        given = _member(shapes[0], result_index(opcode))
        return "" if structure(given) == structure(shape) else f"the result of its start has another shape than {shape}"
    if opcode in ("copy-start", "send", "recv") and not (isinstance(shape, tuple) and len(shape) >= 2):
        return f"{opcode} gives a tuple"
    return ""

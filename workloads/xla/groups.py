"""Match the log's buffers with the module's alias groups, and find which groups are tensors of the program."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mallocgame.errors import TraceError
from mallocgame.workloads.hlo.aliases import FORWARDING, Aliases, Place, only_names
from mallocgame.workloads.hlo.module import HloInstruction, leaves, to_index
from mallocgame.workloads.xla.flight import flights, steps_on_the_way
from mallocgame.workloads.xla.records import BufferRow, Position, XlaLog

_VALUE = re.compile(r"(.*?)(?:\{([\d,]*)\})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One instruction touching one group; ``bytes`` is None where the log does not say how much."""

    step: int
    place: Position
    bytes: int | None
    writes: bool
    in_place: bool = False
    holds: bool = False  # touches nothing, but what is there must stay: something asynchronous is under way


def tensor_sizes(log: XlaLog, aliases: Aliases) -> dict[Place, int]:
    """Return the groups that XLA may place, with their sizes, in the order of the log.

    Joins groups of ``aliases`` where the log shows that a fusion writes in place.

    Raises:
        TraceError: the log names an instruction that the module lacks; one group has buffers of two sizes; a buffer
            that spans groups for no known reason.
    """
    donated = aliases.donated_pairs()
    sizes: dict[Place, int] = {}
    for row in log.buffers:
        groups = _groups(row, log, aliases)
        if len(groups) > 1 and frozenset(groups) not in donated:
            _join_in_place(row, groups, log, aliases)
            donated = aliases.donated_pairs()
    for row in log.buffers:
        for group in _groups(row, log, aliases):
            _record(sizes, group, row.size_bytes, log, row.line)
    for allocation in log.allocations:
        if allocation.offset_bytes is not None and allocation.size_bytes is not None:
            group = aliases.find(_place(allocation.defined_at, log, allocation.line, aliases))
            _record(sizes, group, allocation.size_bytes, log, allocation.line)
    return sizes


def _record(sizes: dict[Place, int], group: Place, size: int, log: XlaLog, line: int) -> None:
    if sizes.setdefault(group, size) != size:
        raise TraceError(log.path, line, f"{group[0]} has buffers of {sizes[group]} and {size} bytes")


def _groups(row: BufferRow, log: XlaLog, aliases: Aliases) -> list[Place]:
    found: dict[Place, None] = {}
    for use in row.uses:
        if use.instruction not in aliases.computation_of:
            raise TraceError(log.path, row.line, f"the HLO dump has no instruction {use.instruction}")
        found[aliases.operand_group(aliases.instruction(use.instruction), use.operand, use.index)] = None
    if not row.uses:
        value = _VALUE.fullmatch(row.name)
        place = Position(instruction=value[1] if value else row.name, index=to_index((value and value[2]) or ""))
        found[aliases.find(_place(place, log, row.line, aliases))] = None
    return list(found)


def _place(position: Position, log: XlaLog, line: int, aliases: Aliases) -> Place:
    if position.instruction not in aliases.computation_of:
        raise TraceError(log.path, line, f"the HLO dump has no instruction {position.instruction}")
    return position.instruction, position.index


def _join_in_place(row: BufferRow, groups: list[Place], log: XlaLog, aliases: Aliases) -> None:
    """Join the groups of a row that an instruction's operand and result connect (a fusion that scatters)."""
    for use in row.uses:
        instruction = aliases.instruction(use.instruction)
        source = aliases.operand_group(instruction, use.operand, use.index)
        for index, _ in leaves(instruction.shape):
            target = aliases.find((instruction.name, index))
            if target in groups and source != target and instruction.opcode not in FORWARDING:
                aliases.join(source, target)
                aliases.in_place[instruction.name, index] = use.operand
    if (
        len({aliases.find(group) for group in groups}) > 1
        and frozenset(aliases.find(group) for group in groups) not in aliases.donated_pairs()
    ):
        names = ", ".join(name for name, _ in groups)
        raise TraceError(log.path, row.line, f"one buffer holds values that should not share storage: {names}")


def accesses(log: XlaLog, aliases: Aliases, sizes: dict[Place, int]) -> Iterator[tuple[Place, Access]]:
    """Yield each scheduled instruction's accesses of the groups in ``sizes``, in schedule order, reads first."""
    held: dict[int, dict[Place, bool]] = {}
    sent: dict[int, set[Place]] = {}  # what is read all the while, though the log has it handed on as a result
    for flight in flights(log, aliases):
        for step in range(flight.start_step, flight.end_step + 1):
            sent.setdefault(step, set()).update(flight.read)
        for step in steps_on_the_way(flight, log, aliases):
            held.setdefault(step, {}).update(dict.fromkeys(flight.read, False) | dict.fromkeys(flight.written, True))
    for step, (_, name) in enumerate(log.schedule):
        instruction = aliases.instruction(name)
        own = {aliases.find((name, index)) for index, _ in leaves(instruction.shape)}
        for group, written in held.get(step, {}).items():
            if group in sizes and not (written and group in own and touches(instruction)):
                place = Position(instruction=name)
                yield group, Access(step=step, place=place, bytes=0, writes=written, in_place=written, holds=True)
        if not touches(instruction):
            continue
        shapes = aliases.module.computations[aliases.computation_of[name]].instructions
        for operand, source in enumerate(instruction.operands):
            for index, _ in leaves(shapes[source].shape):
                group = aliases.find((source, index))
                if group in sizes:
                    place = Position(instruction=name, operand=operand, index=index)
                    yield group, Access(step=step, place=place, bytes=log.accessed_bytes.get(place), writes=False)
        for index, _ in leaves(instruction.shape):
            group = aliases.find((name, index))
            if group in sizes:
                place = Position(instruction=name, index=index)
                shared = (name, index) in aliases.in_place
                touched = log.accessed_bytes.get(place)
                writes = group not in sent.get(step, ())
                if not writes and not shared:
                    continue  # an asynchronous start hands its operand on
                yield group, Access(step=step, place=place, bytes=touched, writes=writes, in_place=shared)


def touches(instruction: HloInstruction) -> bool:
    """Whether an instruction reads and writes anything itself, instead of handing it on."""
    hands_on = instruction.opcode in FORWARDING or instruction.opcode.endswith(("-done", "-update"))
    return not hands_on and not only_names(instruction)

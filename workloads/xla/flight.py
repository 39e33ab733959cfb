"""What asynchronous instructions have under way between their start and their end: collectives, host copies, sends.

The compiler keeps such buffers where they are meanwhile ("contiguous allocation"): what is written must not be copied
before it is complete, and what is read must stay. A program says so by uses of no bytes on the way.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mallocgame.workloads.hlo.aliases import FORWARDING, Aliases, Place
from mallocgame.workloads.hlo.module import HloInstruction, leaves
from mallocgame.workloads.xla.records import XlaLog

_SEMAPHORE = re.compile(r"S\(2\)\}")  # the memory space of synchronisation flags
_LEAST_SECONDS = 1e-8  # instructions below are no place where a copy could hide


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Groups that are written and read from ``start_step`` to ``end_step`` (the step that waits for the end)."""

    start_step: int
    end_step: int
    written: tuple[Place, ...]
    read: tuple[Place, ...]


def is_asynchronous(instruction: HloInstruction) -> bool:
    """Whether the instruction starts, continues or ends something that runs beside others."""
    return instruction.opcode.endswith(("-start", "-update", "-done")) or instruction.opcode in ("send", "recv")


def flights(log: XlaLog, aliases: Aliases) -> Iterator[Flight]:
    """Yield what is under way between two steps of the schedule."""
    step_of = {name: step for step, (_, name) in enumerate(log.schedule)}
    ends = _ends(log, aliases)
    for step, (_, name) in enumerate(log.schedule):
        instruction = aliases.instruction(name)
        if not _starts(instruction, aliases):
            continue
        end = ends.get(name) or _last_use(instruction, log, aliases, step)
        if end is None or step_of[end] <= step:
            continue
        given = dict.fromkeys(group for group, _ in _operand_leaves(instruction, aliases))
        results = ((aliases.find((name, index)), text) for index, text in leaves(instruction.shape))
        written = dict.fromkeys(group for group, text in results if group not in given and "S(" not in text)
        yield Flight(start_step=step, end_step=step_of[end], written=tuple(written), read=tuple(given))


def steps_on_the_way(flight: Flight, log: XlaLog, aliases: Aliases) -> Iterator[int]:
    """Yield the end of a flight, and the steps before it under which a copy could run."""
    for step in range(flight.start_step + 1, flight.end_step):
        works = log.home_seconds[step] > _LEAST_SECONDS
        if works and aliases.instruction(log.schedule[step][1]).opcode not in FORWARDING:
            yield step
    yield flight.end_step


def _starts(instruction: HloInstruction, aliases: Aliases) -> bool:
    if instruction.opcode.endswith("-start") or instruction.opcode in ("send", "recv"):
        return True
    return instruction.opcode == "fusion" and any(_semaphores(instruction, aliases))


def _semaphores(instruction: HloInstruction, aliases: Aliases) -> Iterator[Place]:
    """Yield the flags that a fusion makes: an asynchronous collective that is fused."""
    taken = {group for group, text in _operand_leaves(instruction, aliases) if _SEMAPHORE.search(text)}
    for index, text in leaves(instruction.shape):
        group = aliases.find((instruction.name, index))
        if _SEMAPHORE.search(text) and group not in taken:
            yield group


def _operand_leaves(instruction: HloInstruction, aliases: Aliases) -> Iterator[tuple[Place, str]]:
    computation = aliases.module.computations[aliases.computation_of[instruction.name]]
    for source in instruction.operands:
        for index, text in leaves(computation.instructions[source].shape):
            yield aliases.find((source, index)), text


def _ends(log: XlaLog, aliases: Aliases) -> dict[str, str]:
    """Return for each start instruction the last one that takes its result, through its updates."""
    start_of: dict[str, str] = {}
    ends: dict[str, str] = {}
    for _, name in log.schedule:
        instruction = aliases.instruction(name)
        if instruction.opcode.endswith("-start") or instruction.opcode in ("send", "recv"):
            start_of[name] = name
        elif instruction.opcode.endswith(("-update", "-done")) and instruction.operands:
            start = start_of.get(instruction.operands[0])
            if start is not None:
                ends[start], start_of[name] = name, start
    return ends


def _last_use(instruction: HloInstruction, log: XlaLog, aliases: Aliases, step: int) -> str | None:
    """Return the last instruction that takes a fused start's flags."""
    flags = set(_semaphores(instruction, aliases))
    if not flags:
        return None
    here = aliases.computation_of[instruction.name]
    last = None
    for computation, name in log.schedule[step + 1 :]:
        other = aliases.instruction(name)
        takes = (group in flags for group, _ in _operand_leaves(other, aliases))
        if computation == here and other.opcode not in FORWARDING and any(takes):
            last = name
    return last

"""Copies between memories that part from what they were copied from: values, and so tensors, of their own."""

from collections.abc import Container, Iterable
from typing import NamedTuple

from mallocgame.workloads.hlo import asynchronous
from mallocgame.workloads.hlo.aliases import FORWARDING, Aliases, Place
from mallocgame.workloads.hlo.schedule import Schedule


class Copy(NamedTuple):
    """From one allocation to another."""

    source: Place
    target: Place
    start_step: int


def diverging(
    aliases: Aliases, schedule: Schedule, copies: Iterable[Copy], *, held: Container[Place]
) -> frozenset[int]:
    """Return the start steps of copies that are changed in place while what they are copies of is still wanted.

    Args:
        aliases: of the module.
        schedule: its steps.
        copies: those between two memories.
        held: allocations that the next run finds as this one did.
    """
    copies = tuple(copies)
    changed = {aliases.find(place) for place in aliases.in_place}
    suspects = [copy for copy in copies if copy.target in changed]
    renewed = {copy.target for copy in copies}  # a source that is written back is the same value again
    if not suspects:
        return frozenset()
    reads, writes = _touched(aliases, schedule)
    return frozenset(
        copy.start_step
        for copy in suspects
        if copy.source not in renewed
        and (copy.source in held or _is_read_again(copy, schedule, reads.get(copy.source, []), writes))
    )


def _is_read_again(copy: Copy, schedule: Schedule, reads: list[int], writes: dict[Place, list[int]]) -> bool:
    written = writes.get(copy.source, [])
    later = min((step for step in reads if step > copy.start_step), default=None)
    if later is not None and not any(copy.start_step < step <= later for step in written):
        return True
    loops = (loop for loop in schedule.loops if loop.start_step <= copy.start_step < loop.end_step)
    return any(not any(loop.start_step <= step < loop.end_step for step in written) for loop in loops)


def _touched(aliases: Aliases, schedule: Schedule) -> tuple[dict[Place, list[int]], dict[Place, list[int]]]:
    """Return the steps that read, and that write, each allocation."""
    reads: dict[Place, list[int]] = {}
    writes: dict[Place, list[int]] = {}
    for step, (computation, name) in enumerate(schedule.steps):
        instruction = aliases.instruction(name)
        if instruction.opcode in FORWARDING or asynchronous.is_handed_on(instruction.opcode):
            continue
        around = aliases.module.computations[computation].instructions
        for place, is_written in asynchronous.touched(instruction, around):
            (writes if is_written else reads).setdefault(aliases.find(place), []).append(step)
    return reads, writes

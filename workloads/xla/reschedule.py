"""Synchronous copies and slices that the pass makes asynchronous, as steps where their asynchronous copies end.

XLA removes such an instruction and copies on its own schedule, often much later, just before the first use. The judge
keeps the instruction, so it must stand there too: at its old place its result would hold memory that XLA has given to
others. Moving it is what XLA does as well; only its hiding behind other instructions is lost.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from mallocgame.workloads.hlo.aliases import Aliases
from mallocgame.workloads.xla.records import AllocationRow, XlaLog

Move = tuple[int, int]  # a step, and the one behind which it goes; each as the moves before leave the schedule


def copy_moves(log: XlaLog, aliases: Aliases) -> tuple[Move, ...]:
    """Return the moves that bring each replaced instruction just before the first use of its copy."""
    moves: list[Move] = []
    for number, before in enumerate(log.allocations):
        row = log.allocations[number]
        if not before.replaces or not before.is_copy:
            continue
        old = next((step for step, (_, name) in enumerate(log.schedule) if name == row.replaces), None)
        new = None if old is None else _place(log, aliases, old, row)
        if old is not None and new is not None:
            moves.append((old, new))
            log = _moved(log, old, new)
    return tuple(moves)


def with_moves(log: XlaLog, moves: Iterable[Move]) -> XlaLog:
    """Return a log of the same schedule with its steps moved; times follow."""
    for old, new in moves:
        log = _moved(log, old, new)
    return log


def _place(log: XlaLog, aliases: Aliases, old: int, row: AllocationRow) -> int | None:
    """Return the latest step before the copy is due, and before its first use, in the same computation."""
    computation = log.schedule[old][0]
    result = aliases.find((row.replaces, ()))
    last = None
    for step in range(old + 1, min(row.done_before, len(log.schedule))):
        here, name = log.schedule[step]
        instruction = aliases.instruction(name)
        if any(aliases.find((source, ())) == result for source in instruction.operands):
            break
        if here == computation:
            last = step
    return last


def _moved(log: XlaLog, old: int, new: int) -> XlaLog:
    """Return the log with step ``old`` behind step ``new``; times follow."""

    def step(time: int) -> int:
        return time - 1 if old < time <= new else new if time == old else time

    def boundary(time: int) -> int:  # what begins, is issued after or is due before a step keeps its neighbours
        return time - 1 if old < time <= new else time

    schedule = [*log.schedule[:old], *log.schedule[old + 1 : new + 1], log.schedule[old], *log.schedule[new + 1 :]]
    return replace(
        log,
        schedule=schedule,
        home_seconds={step(time): seconds for time, seconds in log.home_seconds.items()},
        allocations=[_row(row, boundary) for row in log.allocations],
        intervals={(offset, boundary(start), boundary(end)) for offset, start, end in log.intervals},
        mirrored={(offset, boundary(start), boundary(end)) for offset, start, end in log.mirrored},
    )


def _row(row: AllocationRow, boundary: Callable[[int], int]) -> AllocationRow:
    return replace(
        row,
        start_time=boundary(row.start_time),
        end_time=boundary(row.end_time),
        start_after=boundary(row.start_after),
        done_before=boundary(row.done_before),
        slices=tuple(replace(part, start_after=boundary(part.start_after)) for part in row.slices),
    )

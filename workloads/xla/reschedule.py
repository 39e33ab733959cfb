"""Synchronous copies and slices that the pass makes asynchronous, as steps where our mapping can say so.

XLA removes such an instruction and copies on its own schedule. Where it copies from a tensor in default memory to
another one in the alternate memory, the program keeps the instruction, as a *replaceable* copy, before the first of the
transfers is issued, and the mapping has the transfers (``judge/replaced.py``). Other replaced instructions stay
synchronous; XLA often copies much later, just before the first use, so they are moved there where that is needed: at
their old place their results would hold memory that XLA has given to others.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

from mallocgame.workloads.hlo.aliases import Aliases, Place
from mallocgame.workloads.hlo.module import leaves
from mallocgame.workloads.xla.records import AllocationRow, XlaLog

Move = tuple[int, int]  # a step, and where it goes; each as the moves before leave the schedule


def transferred(log: XlaLog, aliases: Aliases, tensors: Container[Place]) -> frozenset[str]:
    """Return the replaced instructions that a mapping of ours can say by transfers."""
    found: dict[str, bool] = {}
    step_of = {name: step for step, (_, name) in enumerate(log.schedule)}
    for row in log.allocations:
        if row.replaces and row.replaces in step_of:
            is_plain = row.is_copy and row.offset_bytes is not None and row.source_offset_bytes is None
            is_plain = is_plain and _copies_one_tensor(row.replaces, aliases, tensors)
            is_plain = is_plain and _may_stand(log, step_of[row.replaces], row.start_after)
            found[row.replaces] = found.get(row.replaces, True) and is_plain
    return frozenset(name for name, is_plain in found.items() if is_plain)


def _copies_one_tensor(name: str, aliases: Aliases, tensors: Container[Place]) -> bool:
    instruction, result = aliases.instruction(name), aliases.find((name, ()))
    computation = aliases.module.computations[aliases.computation_of[name]]
    taken = [
        aliases.find((operand, index))
        for operand in instruction.operands
        for index, _ in leaves(computation.instructions[operand].shape)
    ]
    sources = [group for group in taken if group in tensors]
    return result in tensors and len(sources) == 1 and sources[0] != result


def _may_stand(log: XlaLog, old: int, start_after: int) -> bool:
    """Whether the instruction stands before its transfers, or may be moved there within its computation."""
    return old <= start_after or log.schedule[start_after + 1][0] == log.schedule[old][0]


def copy_moves(log: XlaLog, aliases: Aliases, early: Container[str], *, late: bool) -> tuple[Move, ...]:
    """Return the moves of replaced instructions.

    Those in ``early`` go before the first of their transfers; the others, if ``late``, just before the first use of
    their copy.
    """
    moves: list[Move] = []
    for number, before in enumerate(log.allocations):
        row = log.allocations[number]
        if not before.replaces or not before.is_copy:
            continue
        old = next((step for step, (_, name) in enumerate(log.schedule) if name == row.replaces), None)
        if old is None:
            continue
        new: int | None = None
        if row.replaces in early:
            new = row.start_after + 1 if row.start_after + 1 < old else None
        elif late:
            new = _place(log, aliases, old, row)
        if new is not None:
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
    """Return the log with step ``old`` at ``new``; times follow."""
    shift = _Shift(old, new)
    schedule = list(log.schedule)
    schedule.insert(new, schedule.pop(old))
    return replace(
        log,
        schedule=schedule,
        home_seconds={shift.step(time): seconds for time, seconds in log.home_seconds.items()},
        allocations=[shift.row(row) for row in log.allocations],
        intervals={(offset, shift.begin(start), shift.begin(end)) for offset, start, end in log.intervals},
        mirrored={(offset, shift.begin(start), shift.begin(end)) for offset, start, end in log.mirrored},
    )


@dataclass(frozen=True, slots=True)
class _Shift:
    """What becomes of XLA's times where a step moves: what begins, or is issued or due, keeps its neighbours."""

    old: int
    new: int

    def step(self, time: int) -> int:
        """Return where a step is now."""
        if time == self.old:
            return self.new
        return time - 1 if self.old < time <= self.new else time + 1 if self.new <= time < self.old else time

    def begin(self, time: int) -> int:
        """Return a moment that is told by the step before it."""
        return time - 1 if self.old < time <= self.new else time + 1 if self.new <= time < self.old else time

    def due(self, time: int) -> int:
        """Return a moment that is told by the step after it."""
        is_earlier = self.new < self.old and self.new <= time <= self.old
        return time - 1 if self.old < time <= self.new else time + 1 if is_earlier else time

    def row(self, row: AllocationRow) -> AllocationRow:
        """Return an allocation."""
        return replace(
            row,
            start_time=self.begin(row.start_time),
            end_time=self.begin(row.end_time),
            start_after=self.begin(row.start_after),
            done_before=self.due(row.done_before),
            slices=tuple(replace(part, start_after=self.begin(part.start_after)) for part in row.slices),
        )

"""What XLA:TPU can be brought to do: a mapping that it cannot be told is worth nothing to ``tune``.

The compiler takes no word about a copy back, none about what is held from run to run, and does not reach every stay.
``reachable`` returns what is left of a mapping when it is told; ``Reach`` is what one run has learned.
Found by experiment (docs/compiler_loop.md).
"""

from collections.abc import Mapping as Table
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.explanation.placement import Placements, TensorPlacement, put_together, take_apart
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Program, Tensor, UseKind

I64 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
Beginning = tuple[
    int, bool, int
]  # of a stay: its tensor, whether it is copied in, the row in Program.uses it serves first


CopyBack = tuple[int, int, int]  # its tensor, the boundary at which it begins, the last row that fast memory serves
MAX_WAIT = 8.0  # by default a value waits in fast memory from use to use for so many times as all of it takes to copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What the compiler does under some options, and what it was seen to do."""

    last_use: Table[Beginning, int] = field(default_factory=dict)  # the last row that a stay served; -1: none
    copy_back: Table[CopyBack, int] = field(default_factory=dict)  # the boundary at which it was waited for
    max_wait: float = MAX_WAIT

    def allows(self, beginning: Beginning, last_use: int) -> bool:
        """Whether a stay with this beginning may serve uses up to a row."""
        return last_use <= self.last_use.get(beginning, last_use)

    def __str__(self) -> str:
        """Return what names a solver's option: every reach is compiled alike."""
        return "True"


def elapsed_before(program: Program, hierarchy: Hierarchy) -> F64:
    """Return float64[T+1], seconds before each step with every operand in layer 0, each loop run once."""
    once = simulate(program, hierarchy, Mapping()).elapsed_seconds / program.trip_counts
    before: F64 = np.concatenate([[0.0], np.cumsum(once)])
    return before


def waits(program: Program, hierarchy: Hierarchy) -> F64:
    """Return float64[U], for each row of ``Program.uses`` how long a value in fast memory waits for it.

    That is the time of the instructions since the use before, in units of the time to copy all of fast memory; 0 for
    the first use of a tensor.
    """
    uses, before = program.uses, elapsed_before(program, hierarchy)
    found: F64 = np.zeros(len(uses.step))
    if len(found):
        found[1:] = np.maximum(before[uses.step[1:]] - before[uses.step[:-1] + 1], 0.0) * (np.diff(uses.tensor) == 0)
    link = hierarchy.links[hierarchy.link_index(0, 1)]
    return found * (link.bytes_per_second / hierarchy.layers[1].capacity_bytes)


def copy_back_due(before: F64, copy_seconds: float, begin: int, last_use: int) -> int:
    """Return the boundary at which the compiler waits for a copy back that begins at boundary ``begin``.

    That is once instructions (``elapsed_before``) take as long as the copy, but not before step ``last_use``, the last
    that fast memory serves.

    >>> copy_back_due(np.array([0.0, 1.0, 2.0, 3.0]), 1.5, 1, 0)
    3
    """
    return max(int(np.searchsorted(before, before[begin] + copy_seconds)), last_use)


@dataclass(frozen=True, slots=True)
class EarliestCopies:
    """Where copies toward fast memory may begin: after a parameter, and in the computation in which they end.

    A copy for a loop's body is not begun while its condition is evaluated, which stands before the body.
    """

    _of_boundary: I64
    _of_parameter: dict[int, int]

    @classmethod
    def of(cls, program: Program) -> "EarliestCopies":
        """Look at a program."""
        first: dict[str, int] = {}
        for step, instruction in enumerate(program.instructions):
            first.setdefault(instruction.computation, step)
        found: I64 = np.zeros(program.num_steps + 1, dtype=np.int64)
        for step, instruction in enumerate(program.instructions):
            begin = first[instruction.computation]
            found[step + 1] = begin + 1 if begin else 0  # after the computation's parameter
        steps = {instruction.name: step for step, instruction in enumerate(program.instructions)}
        parameters = {i: steps.get(t.name, -1) + 1 for i, t in enumerate(program.tensors) if t.is_parameter}
        return cls(found, parameters)

    def boundary(self, tensor: int, done: int) -> int:
        """Return the earliest boundary at which a copy of a tensor that is complete at boundary ``done`` may begin."""
        return max(int(self._of_boundary[done]), min(self._of_parameter.get(tensor, 0), done - 1))


def reachable(
    program: Program,
    hierarchy: Hierarchy,
    mapping: Mapping,
    own: Mapping | None = None,
    max_wait: float = MAX_WAIT,
) -> Mapping:
    """Return what the compiler would make of a valid mapping that it is told, as far as is known; it is valid, too.

    Copies stay within one computation; copies back are timed as the compiler times them. Nothing is held from run to
    run but what its ``own`` mapping holds, nothing waits in fast memory longer than it does (``max_wait``), nor is
    written there only to be copied back. A tensor for which that leaves no room stays in layer 0.

    Raises:
        InputError: not two layers, which is what XLA:TPU compiles for.
    """
    if hierarchy.num_layers != 2:
        raise InputError(f"{program.name}: XLA:TPU compiles for two layers of memory, not {hierarchy.num_layers}")
    before, wait, earliest = elapsed_before(program, hierarchy), waits(program, hierarchy), EarliestCopies.of(program)
    held = {r.tensor for r in (own or Mapping()).residencies if r.start_step == HELD}
    parts: Placements = {}
    for index, part in take_apart(mapping).items():
        kept = part if index in held else _without_held(program, part)
        short = _begun_in_time(_without_long(program, wait > max_wait, index, kept), earliest)
        parts[index] = _timed(program, hierarchy, before, index, short)
    while broken := {v.tensor for v in validate(program, hierarchy, put_together(parts))} & parts.keys():
        parts = {index: part for index, part in parts.items() if index not in broken}
    return put_together(parts)


def _without_held(program: Program, part: TensorPlacement) -> TensorPlacement:
    """Leave out what comes from the run before, and the copy that brings it there for the next one."""
    for number in reversed(range(len(part.residencies))):
        reload = any(x.target == number and x.done_before >= program.num_steps for x in part.transfers)
        if part.residencies[number].start_step == HELD or reload:
            part = part.without(number)
    return part


def _without_long(program: Program, is_long: B1, index: int, part: TensorPlacement) -> TensorPlacement:
    """Leave out stays in which the tensor waits too long, or is written only to be copied back."""
    tensor, first = program.tensors[index], int(program.uses.first[index])
    for number in reversed(range(len(part.residencies))):
        stay = part.residencies[number]
        filled = max([x.done_before for x in part.transfers if x.target == number], default=stay.start_step)
        rows = [first + i for i, use in enumerate(tensor.uses) if filled <= use.step < stay.end_step]
        steps = {int(program.uses.step[row]) for row in rows}
        leaves = any(x.source == number for x in part.transfers)
        for_nothing = leaves and not tensor.is_output and steps == {stay.start_step} and filled == stay.start_step
        if is_long[rows[1:]].any() or for_nothing:
            part = part.without(number)
    return part


def _begun_in_time(part: TensorPlacement, earliest: EarliestCopies) -> TensorPlacement:
    """Let copies toward fast memory begin no sooner than the compiler begins them."""
    stays = list(part.residencies)
    copies = [
        x
        if x.target == HOME
        else replace(x, start_after=max(x.start_after, earliest.boundary(x.tensor, x.done_before) - 1))
        for x in part.transfers
    ]
    for number, stay in enumerate(stays):
        begins = [x.start_after + 1 for x in copies if x.target == number]
        if begins and stay.start_step != HELD:
            stays[number] = replace(stay, start_step=max(stay.start_step, min(begins)))
    return TensorPlacement(residencies=tuple(stays), transfers=tuple(copies))


def _timed(program: Program, hierarchy: Hierarchy, before: F64, index: int, part: TensorPlacement) -> TensorPlacement:
    tensor = program.tensors[index]
    stays, copies = list(part.residencies), list(part.transfers)
    for at, copy in enumerate(copies):
        if copy.target != HOME:
            continue
        stay = stays[copy.source]
        copies[at] = _timed_copy(program, tensor, stay, copy, hierarchy, before)
        stays[copy.source] = replace(stay, end_step=max(stay.end_step, copies[at].done_before))
    return TensorPlacement(residencies=tuple(stays), transfers=tuple(copies))


def _timed_copy(
    program: Program, tensor: Tensor, stay: Residency, copy: Transfer, hierarchy: Hierarchy, before: F64
) -> Transfer:
    steps = [use.step for use in tensor.uses if stay.start_step <= use.step < stay.end_step]
    written = [use.step for use in tensor.uses if use.kind != UseKind.READ and use.step in steps]
    begin = max([step + 1 for step in written if step <= copy.start_after + 1], default=copy.start_after + 1)
    for start, end in _regions_around(program, begin):
        if not start < copy.done_before < end:  # written in a loop, copied back after it
            begin = max(begin, end)
    seconds = copy.size_bytes / hierarchy.links[hierarchy.link_index(0, stay.layer)].bytes_per_second
    last = max(steps, default=begin)
    due = min(copy_back_due(before, seconds, begin, last), len(before) - 1)
    for start, end in _regions_around(program, due):
        if not start < begin < end:  # a copy from before a loop is waited for before or after it, never inside
            due = start if start >= max(last, begin) else end
            break
    done = max(min(copy.done_before, due), last, begin)
    return replace(copy, start_after=min(begin - 1, copy.start_after), done_before=done)


def _regions_around(program: Program, boundary: int) -> list[tuple[int, int]]:
    """Return the spans of loops and conditionals inside which a boundary lies, the largest first."""
    spans = [(loop.start_step, loop.end_step) for loop in program.loops if loop.trip_count > 1]
    spans += [(c.start_step, c.end_step) for c in program.conditionals]
    return sorted((span for span in spans if span[0] < boundary < span[1]), key=lambda span: span[0] - span[1])

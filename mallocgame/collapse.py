"""A program without branches for solvers and the game, which plan straight schedules: a conditional is one step.

In the stretch that a conditional takes nothing begins or ends; what every branch defines may be born there. Every valid
mapping of the collapsed program is one of the program itself (tested), so a solver may be careless about branches; its
times are an estimate, which the judge replaces. Expected trip counts that are fractions are rounded up, and copies that
transfers may replace are charged whether or not they are.
"""

import math
from dataclasses import dataclass, replace

from mallocgame.mapping import HELD, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.regions import Conditional, Loop, nested


def is_straight(program: Program) -> bool:
    """Whether a program has no branches, fractions of counts and replaceable copies, as solvers and games want."""
    whole = all(float(loop.trip_count).is_integer() for loop in program.loops)
    return not program.conditionals and whole and not program.replaceable_copies


@dataclass(frozen=True, kw_only=True)
class Collapsed:
    """The straight program, and the way back."""

    program: Program
    boundaries: tuple[int, ...]  # of each boundary of it: the boundary of the original
    births: dict[tuple[int, int], int]  # (tensor, collapsed step): the original's step that defines it first

    @property
    def keeps_steps(self) -> bool:
        """Whether it has the original's steps, so that a mapping of the original is one of it."""
        return len(self.boundaries) == self.boundaries[-1] + 1

    def expand(self, mapping: Mapping) -> Mapping:
        """Return a mapping of the original program; valid if ``mapping`` is valid for the collapsed one."""
        filled = {x.target for x in mapping.transfers}
        residencies = tuple(
            self._residency(r, is_born=index not in filled) for index, r in enumerate(mapping.residencies)
        )
        return Mapping(residencies=residencies, transfers=tuple(self._transfer(x) for x in mapping.transfers))

    def _residency(self, r: Residency, *, is_born: bool) -> Residency:
        start = r.start_step if r.start_step == HELD else self.boundaries[r.start_step]
        if is_born and r.start_step != HELD:
            start = self.births.get((r.tensor, r.start_step), start)
        return replace(r, start_step=start, end_step=self.boundaries[r.end_step])

    def _transfer(self, x: Transfer) -> Transfer:
        issue, due = self.boundaries[x.start_after + 1], self.boundaries[x.done_before]
        return replace(x, start_after=issue - 1, done_before=due)


def collapse(program: Program) -> Collapsed:
    """Return ``program`` with each outermost conditional as one step."""
    outermost, end = [], 0
    for region in nested((), program.conditionals):
        if region.kind == "conditional" and region.start_step >= end:
            outermost.append(program.conditionals[region.number])
            end = region.end_step
    boundaries, step_of = _boundaries(program, outermost)
    loops = _loops(program, outermost, boundaries)
    work = _Collapsing(program, outermost, boundaries, step_of, loops)
    straight = Program(
        name=program.name,
        instructions=tuple(work.instruction(step) for step in range(len(boundaries) - 1)),
        tensors=tuple(work.tensor(index) for index in range(len(program.tensors))),
        loops=loops,
    )
    return Collapsed(program=straight, boundaries=boundaries, births=work.births)


def _boundaries(program: Program, outermost: list[Conditional]) -> tuple[tuple[int, ...], list[int]]:
    """Return the boundaries that remain, and for each step the new one that holds it."""
    gone = {b for c in outermost for b in range(c.start_step + 1, c.end_step)}
    boundaries = tuple(b for b in range(program.num_steps + 1) if b not in gone)
    step_of, new = [], -1
    for step in range(program.num_steps):
        new += step not in gone
        step_of.append(new)
    return boundaries, step_of


def _loops(program: Program, outermost: list[Conditional], boundaries: tuple[int, ...]) -> tuple[Loop, ...]:
    position = {boundary: i for i, boundary in enumerate(boundaries)}
    return tuple(
        Loop(
            start_step=position[loop.start_step],
            end_step=position[loop.end_step],
            trip_count=math.ceil(loop.trip_count),
        )
        for loop in program.loops
        if not any(_is_inside(loop, c) for c in outermost)
    )


def _is_inside(loop: Loop, conditional: Conditional) -> bool:
    """Whether a loop stands in a branch; one of the same steps as the conditional stands around it."""
    span, whole = (loop.start_step, loop.end_step), (conditional.start_step, conditional.end_step)
    return whole[0] <= span[0] and span[1] <= whole[1] and span != whole


class _Collapsing:
    def __init__(
        self,
        program: Program,
        outermost: list[Conditional],
        boundaries: tuple[int, ...],
        step_of: list[int],
        loops: tuple[Loop, ...],
    ) -> None:
        self.program, self.boundaries, self.step_of, self.loops = program, boundaries, step_of, loops
        self.conditional = {step_of[c.start_step]: c for c in outermost}
        self.births: dict[tuple[int, int], int] = {}

    def _executions(self, new: int) -> int:
        return math.prod(int(loop.trip_count) for loop in self.loops if loop.start_step <= new < loop.end_step)

    def _share(self, step: int) -> float:
        """Return how often an original step runs each time its new step does, as expected."""
        around = 1.0
        conditional = self.conditional.get(self.step_of[step])
        for loop in self.program.enclosing_loops(step):
            if conditional is None or not _is_inside(loop, conditional):
                around *= loop.trip_count
        return self.program.instructions[step].trip_count / around

    def instruction(self, new: int) -> Instruction:
        """Return a step of the straight program."""
        start, end = self.boundaries[new], self.boundaries[new + 1]
        first = self.program.instructions[start]
        if new not in self.conditional:
            return replace(first, trip_count=self._executions(new), is_replaceable=False)
        inside = [(self.program.instructions[step], self._share(step)) for step in range(start, end)]
        layers = max(len(i.fixed_bytes) for i, _ in inside)
        fixed = [sum(share * sum(i.fixed_bytes[k : k + 1]) for i, share in inside) for k in range(layers)]
        return Instruction(
            name=first.name,
            compute_seconds=sum(i.compute_seconds * share for i, share in inside),
            trip_count=self._executions(new),
            fixed_bytes=tuple(round(size) for size in fixed),
            opcode="conditional",
            computation=first.computation,
            source=first.source,
        )

    def tensor(self, index: int) -> Tensor:
        """Return a tensor of the straight program."""
        tensor = self.program.tensors[index]
        movable, uses = tensor.movable, []
        by_step: dict[int, list[Use]] = {}
        for use in tensor.uses:
            by_step.setdefault(self.step_of[use.step], []).append(use)
        is_there = tensor.is_parameter
        for new, inside in by_step.items():
            conditional = self.conditional.get(new)
            if conditional is None:
                uses += [replace(use, step=new) for use in inside]
            else:
                movable &= self._is_plain(tensor, inside, conditional)
                birth = _birth(inside, conditional, self.program)
                if birth is not None:
                    self.births[index, new] = birth
                movable &= birth is not None or is_there
                uses += self._merged(new, inside, defines=birth is not None or not is_there)
            is_there |= any(use.kind == UseKind.DEFINE for use in inside)
        return replace(tensor, uses=tuple(uses), movable=movable)

    def _is_plain(self, tensor: Tensor, inside: list[Use], conditional: Conditional) -> bool:
        """Whether nothing in the conditional forbids that the tensor is in fast memory all the while."""
        loops = [x for x in self.program.loops if x.trip_count > 1 and _is_inside(x, conditional)]
        repeated = any(x.start_step <= use.step < x.end_step for x in loops for use in inside)
        return (tensor.hoistable or not repeated) and not any(use.home_only for use in inside)

    def _merged(self, new: int, inside: list[Use], *, defines: bool) -> list[Use]:
        read = round(sum(use.bytes * self._share(use.step) for use in inside if use.kind == UseKind.READ))
        written = round(sum(use.bytes * self._share(use.step) for use in inside if use.kind != UseKind.READ))
        home_only = any(use.home_only for use in inside)
        if defines:
            return [Use(step=new, bytes=read + written, kind=UseKind.DEFINE, home_only=home_only)]
        found = []
        if any(use.kind == UseKind.READ for use in inside):
            found.append(Use(step=new, bytes=read, home_only=home_only))
        if any(use.kind != UseKind.READ for use in inside):
            found.append(Use(step=new, bytes=written, kind=UseKind.UPDATE, home_only=home_only))
        return found


def _birth(inside: list[Use], conditional: Conditional, program: Program) -> int | None:
    """Return the first definition of a tensor that every branch defines before it uses it; else None."""
    hidden = [c for c in program.conditionals if c is not conditional]
    births = []
    for start, end, _ in conditional.branches():
        here = [use for use in inside if start <= use.step < end]
        if not here or any(use.kind != UseKind.DEFINE for use in here if use.step == here[0].step):
            return None
        step = here[0].step
        if any(start <= c.start_step <= step < c.end_step <= end for c in hidden):
            return None  # defined only in some of a branch's own branches
        births.append(step)
    return births[0]

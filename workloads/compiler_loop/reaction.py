"""What the compiler makes of whole mappings that are suggested to it, learned from the evaluations of a run.

A stay in fast memory is known by its beginning (``explanation.reachable``). Where the compiler ended it sooner than
it was asked to, and that costs time, solvers are told how far such stays reach (``Reach``) and plan round it; so they
are when a copy back was waited for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mallocgame.explanation.placement import Placements, TensorPlacement, put_together, take_apart
from mallocgame.explanation.reachable import Beginning, CopyBack, Reach, waits
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import HOME, Mapping, Residency
from mallocgame.program import Program
from mallocgame.solver import Problem
from mallocgame.workloads.compiler_loop.flags import NEVER, ONE_SLICE, WAYS, max_wait
from mallocgame.workloads.compiler_loop.loop_operands import LoopOperands
from mallocgame.workloads.compiler_loop.overrides import (
    HOIST_LIMIT,
    MAX_IN_ORDER,
    Action,
    Override,
    definitions,
    overrides_of,
)
from mallocgame.workloads.compiler_loop.settings import LARGE
from mallocgame.workloads.xla.compiler import Options

MAX_LEARNED = 12  # deviations, those that cost most, that one evaluation tells of
WORTH_LEARNING = 2e-4  # of the time

F64 = npt.NDArray[np.float64]
Stays = dict[Beginning, int]  # to the last row of Program.uses that each serves


@dataclass(kw_only=True)
class Reaction:
    """What was learned so far; ``reach`` is for the solver, ``suggestion`` for the compiler."""

    problem: Problem
    operands: LoopOperands = field(default_factory=dict)
    reaches: Stays = field(default_factory=dict)
    copies_back: dict[CopyBack, int] = field(default_factory=dict)
    first_above: float = NEVER  # values that wait longer (``reachable.waits``) are placed before all others
    ahead: Sequence[int] = ()  # and these tensors before those, in this order, where they are wanted (``reorder``)

    def reach(self, flags: Options) -> Reach:
        """What the compiler was seen to do, and what it does under these flags, as a solver's option."""
        return Reach(last_use=dict(self.reaches), copy_back=dict(self.copies_back), max_wait=max_wait(flags))

    def suggestion(self, goal: Mapping) -> tuple[Override, ...]:
        """Return overrides for a whole mapping that are never refused.

        What is to stay in slow memory is kept there, copies are asked for at their time. What is left to the compiler
        is little, and its own choices for that fit. Of values that are to stay from their definition to their last use
        those that wait long (``first_above``) are placed before others, from the lowest address of ``goal`` up: each
        then finds the place that it has there. Of too many (``MAX_IN_ORDER``), and in long programs (``LARGE``),
        where no plan comes true as it is, the largest come first. What is ``ahead`` comes before all of these. Turns
        (``turns_of``) lead to the same places in fewer overrides.
        """
        program = self.problem.program
        found: list[Override] = []
        whole: dict[int, list[Override]] = {}
        longest = self.longest_waits
        for override in overrides_of(program, goal, self.operands):
            if override.action is Action.KEEP:
                found.append(override)
            elif override.action is Action.PREFETCH:
                found.append(replace(override, action=Action.PREFER))
            elif override.action is Action.PIN and longest[override.tensor] > self.first_above:
                whole[override.tensor] = definitions(program, override.tensor, Action.FIRST)
        place = {r.tensor: (r.offset_bytes, r.start_step) for r in goal.residencies}
        if sum(map(len, whole.values())) > MAX_IN_ORDER or program.num_steps >= LARGE:
            place = {tensor: (-program.tensors[tensor].size_bytes, 0) for tensor in place}
        ahead = [tensor for tensor in self.ahead if tensor in place]
        whole |= {tensor: definitions(program, tensor, Action.FIRST) for tensor in ahead}
        turns = turns_of(program, [*ahead, *sorted(whole.keys() - set(ahead), key=place.__getitem__)])
        order = sorted(turns, key=turns.__getitem__)
        return (*found, *(replace(first, turn=turns[tensor]) for tensor in order for first in whole[tensor]))

    def ways(self, goal: Mapping) -> Iterator[tuple[Options, tuple[Override, ...]]]:
        """Yield flags and overrides of each way to suggest a whole mapping (``flags.WAYS``), the same only once.

        ``first_above`` is meanwhile that of the way.
        """
        done: set[tuple[tuple[Override, ...], bool]] = set()
        for flags, self.first_above in WAYS:
            key = self.suggestion(goal), ONE_SLICE.items() <= flags.items()
            if key not in done:  # else nothing waits long
                done.add(key)
                yield flags, key[0]

    def ways_from(self, goal: Mapping, flags: Options) -> Iterator[tuple[Options, tuple[Override, ...]]]:
        """Yield the same with ``flags``, but for the flag for copies before loops: orders make them.

        With that flag the compiler takes no orders of what loops are given, so that way is the last.
        """
        plain = {key: value for key, value in flags.items() if key != HOIST_LIMIT}
        for more, overrides in self.ways(goal):
            yield {**plain, **more}, overrides
        if plain != flags:
            self.first_above = NEVER
            yield {**flags, **WAYS[0][0]}, self.suggestion(goal)

    @cached_property
    def longest_waits(self) -> F64:
        """float64[N], how long each tensor would wait if it were in fast memory from its first to its last use."""
        longest: F64 = np.zeros(len(self.problem.program.tensors))
        np.maximum.at(longest, self.problem.program.uses.tensor, waits(*self.problem))
        return longest

    def forget(self) -> bool:
        """Forget how far stays reached, and return whether there was anything to forget."""
        found = bool(self.reaches)
        self.reaches.clear()
        return found

    def lost(self, goal: Mapping, got: Mapping) -> list[int]:
        """Return the tensors of which a stay ended sooner than suggested, or never began, those that cost most first.

        Where there are none those of which a copy began later. What costs next to nothing is left out.
        """
        wanted, reached = stays(self.problem, goal), stays(self.problem, got)
        missed = {b[0] for b, last in wanted.items() if reached.get(b, -1) < last}
        asked, begun = beginnings(self.problem, goal), beginnings(self.problem, got)
        late = {b[0] for b, step in asked.items() if begun.get(b, step) > step}
        return self._costly(goal, got, missed) or self._costly(goal, got, late)

    def learn(self, goal: Mapping, got: Mapping) -> None:
        """Compare what was suggested with what the compiler did."""
        self.see(got)
        wanted, reached = stays(self.problem, goal), stays(self.problem, got)
        for beginning in (b for tensor in self.lost(goal, got) for b in wanted if b[0] == tensor):
            if reached.get(beginning, -1) < wanted[beginning]:
                self.reaches[beginning] = reached.get(beginning, -1)

    def see(self, got: Mapping) -> None:
        """Take note of what the compiler did."""
        for beginning, last in stays(self.problem, got).items():
            if last > self.reaches.get(beginning, last):
                self.reaches[beginning] = last
        for copy in got.transfers:
            if copy.target == HOME:
                stay = got.residencies[copy.source]
                served = _served(self.problem, stay, stay.start_step)
                if served:
                    self.copies_back[copy.tensor, copy.start_after + 1, served[-1]] = copy.done_before

    def _costly(self, goal: Mapping, got: Mapping, tensors: Iterable[int]) -> list[int]:
        """Return the tensors whose deviation alone makes ``goal`` slowest, in order."""
        wanted, done = take_apart(goal), take_apart(got)
        base = self._seconds(wanted)
        lost = [(self._seconds(wanted | {t: done.get(t, TensorPlacement())}) - base, t) for t in sorted(tensors)]
        return [t for seconds, t in sorted(lost, reverse=True) if seconds > WORTH_LEARNING * base][:MAX_LEARNED]

    def _seconds(self, parts: Placements) -> float:
        return simulate(*self.problem, put_together(parts)).total_seconds


def turns_of(program: Program, order: Sequence[int]) -> dict[int, int]:
    """Return the turn, from 0, in which each tensor is placed, so that all find the places that ``order`` gives them.

    A tensor comes after those before it that are live together with it, and only after these. What is of one turn can
    be one override, and the compiler compares each with every value, at each of its sorts.
    """
    turns: dict[int, int] = {}
    done: list[tuple[int, int, int]] = []
    for tensor in order:
        spans = program.live_steps[tensor] or ((0, program.num_steps),)
        start, end = spans[0][0], spans[-1][1]
        turns[tensor] = max((turn + 1 for since, until, turn in done if since < end and start < until), default=0)
        done.append((start, end, turns[tensor]))
    return turns


def stays(problem: Problem, mapping: Mapping) -> Stays:
    """Return each stay in fast memory by its beginning, with the last use that it serves."""
    return {beginning: last for beginning, last, _ in _stays(problem, mapping)}


def beginnings(problem: Problem, mapping: Mapping) -> dict[Beginning, int]:
    """Return each stay in fast memory by its beginning, with the step at which it, or the copy to it, begins."""
    return {beginning: step for beginning, _, step in _stays(problem, mapping)}


def _stays(problem: Problem, mapping: Mapping) -> Iterator[tuple[Beginning, int, int]]:
    fills = mapping.fill_boundaries
    copied = {x.target for x in mapping.transfers if x.target != HOME}
    for number, stay in enumerate(mapping.residencies):
        served = _served(problem, stay, int(fills[number]))
        if served:
            yield (stay.tensor, number in copied, served[0]), served[-1], stay.start_step


def _served(problem: Problem, stay: Residency, begin: int) -> list[int]:
    """Return the rows of ``Program.uses`` that a residency serves from step ``begin`` on."""
    uses = problem.program.uses
    rows = range(int(uses.first[stay.tensor]), int(uses.first[stay.tensor + 1]))
    return [row for row in rows if begin <= uses.step[row] < stay.end_step]

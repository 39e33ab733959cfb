"""What the compiler makes of whole mappings that are suggested to it, learned from the evaluations of a run.

A stay in fast memory is known by its beginning (``explanation.reachable``). Where the compiler ended it sooner than
it was asked to, and that costs time, it is first asked strictly; where that is refused or changes nothing, solvers are
told how far such stays reach (``Reach``) and plan round it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mallocgame.explanation.placement import Placements, TensorPlacement, put_together, take_apart
from mallocgame.explanation.reachable import Beginning, Reach
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import HOME, Mapping
from mallocgame.solver import Problem
from mallocgame.workloads.compiler_loop.overrides import Action, Override, definitions, overrides_of

MAX_LEARNED = 12  # deviations, those that cost most, that one evaluation tells of
MAX_STRICT = 4  # of those that are asked for strictly the next time
WORTH_LEARNING = 2e-4  # of the time

Stays = dict[Beginning, int]  # to the last row of Program.uses that each serves


@dataclass(kw_only=True)
class Reaction:
    """What was learned so far; ``reach`` is for the solver, ``suggestion`` for the compiler."""

    problem: Problem
    reaches: Stays = field(default_factory=dict)
    strict: set[Beginning] = field(default_factory=set)
    refused: set[Beginning] = field(default_factory=set)  # strictly, or it changed nothing

    @property
    def reach(self) -> Reach:
        """What the compiler was seen to do, as a solver's option."""
        return Reach(last_use=dict(self.reaches))

    def suggestion(self, goal: Mapping) -> tuple[Override, ...]:
        """Return overrides for a whole mapping: what is never refused, and strict ones where that did not help.

        What is to stay in slow memory is kept there, copies are asked for at their time. What is left to the compiler
        is little, and its own choices for that fit.
        """
        program = self.problem.program
        strict = {beginning[:2] for beginning in stays(self.problem, goal) if beginning in self.strict}
        found: list[Override] = []
        for override in overrides_of(program, goal):
            copied = override.action is Action.PREFETCH
            if override.action is Action.KEEP:
                found.append(override)
            elif (override.tensor, copied) in strict:
                found += [override] if copied else [*definitions(program, override.tensor, Action.FIRST), override]
            elif copied:
                found.append(replace(override, action=Action.PREFER))
        return tuple(found)

    def withdraw(self, overrides: Iterable[Override]) -> None:
        """Ask no more strictly for what a refusal names; if it names nothing, for nothing."""
        named = {override.tensor for override in overrides}
        gone = {b for b in self.strict if b[0] in named} or set(self.strict)
        self.strict -= gone
        self.refused |= gone

    def learn(self, goal: Mapping, got: Mapping) -> None:
        """Compare what was suggested with what the compiler did."""
        wanted, reached = stays(self.problem, goal), stays(self.problem, got)
        for beginning, last in reached.items():
            if last > self.reaches.get(beginning, last):
                self.reaches[beginning] = last
        costly = self._costly(goal, got, {b[0] for b, last in wanted.items() if reached.get(b, -1) < last})
        asked = 0
        for beginning in (b for tensor in costly for b in wanted if b[0] == tensor):
            if reached.get(beginning, -1) >= wanted[beginning]:
                continue
            if beginning in self.strict:
                self.strict.discard(beginning)
                self.refused.add(beginning)
            if beginning in self.refused or asked >= MAX_STRICT or not self._can_be_strict(beginning, goal):
                self.reaches[beginning] = reached.get(beginning, -1)
            else:
                self.strict.add(beginning)
                asked += 1

    def _costly(self, goal: Mapping, got: Mapping, tensors: Iterable[int]) -> list[int]:
        """Return the tensors whose deviation alone makes ``goal`` slowest, in order."""
        wanted, done = take_apart(goal), take_apart(got)
        base = self._seconds(wanted)
        lost = [(self._seconds(wanted | {t: done.get(t, TensorPlacement())}) - base, t) for t in sorted(tensors)]
        return [t for seconds, t in sorted(lost, reverse=True) if seconds > WORTH_LEARNING * base][:MAX_LEARNED]

    def _seconds(self, parts: Placements) -> float:
        return simulate(*self.problem, put_together(parts)).total_seconds

    def _can_be_strict(self, beginning: Beginning, goal: Mapping) -> bool:
        """Whether there is a strict override: to copy in at a time, or to stay from the definition to the last use."""
        tensor, copied, _ = beginning
        if copied:
            return True
        subject = self.problem.program.tensors[tensor]
        own = [r for r in goal.residencies if r.tensor == tensor]
        whole = len(own) == 1 and own[0].end_step > subject.uses[-1].step
        leaves = any(x.tensor == tensor for x in goal.transfers)
        return whole and not leaves and not subject.is_output


def stays(problem: Problem, mapping: Mapping) -> Stays:
    """Return each stay in fast memory by its beginning, with the last use that it serves."""
    uses, fills = problem.program.uses, mapping.fill_boundaries
    copied = {x.target for x in mapping.transfers if x.target != HOME}
    found: Stays = {}
    for number, stay in enumerate(mapping.residencies):
        rows = range(int(uses.first[stay.tensor]), int(uses.first[stay.tensor + 1]))
        served = [row for row in rows if fills[number] <= uses.step[row] < stay.end_step]
        if served:
            found[stay.tensor, number in copied, served[0]] = served[-1]
    return found

"""A scheduled module as one list of steps, with its loops and conditionals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mallocgame.errors import TraceError
from mallocgame.regions import Conditional, Loop
from mallocgame.workloads.hlo.aliases import Aliases, Branching, WhileLoop
from mallocgame.workloads.hlo.module import HloComputation
from mallocgame.workloads.xla.loops import trip_count

MAX_TRIP_COUNT = 2**40
ASSUMED_TRIP_COUNT = 5  # what XLA:TPU's memory-space assignment takes for a loop whose count it does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What the text cannot say about how a program runs.

    ``trip_counts`` maps a while instruction's name to its expected count, ``weights`` a conditional's to its branches'
    probabilities; the empty name is the default (of weights, for conditionals of as many branches).
    """

    trip_counts: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Schedule:
    """Steps are (computation, instruction); a loop or conditional stands after what it runs."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    conditionals: list[Conditional] = field(default_factory=list)
    assumed_loops: list[str] = field(default_factory=list)  # whose trip count the text does not give
    assumed_conditionals: list[str] = field(default_factory=list)  # whose weights nobody gave
    trips: list[float] = field(default_factory=list)  # expected executions, per step
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)  # while instruction: its loop's steps


def flatten(aliases: Aliases, expectations: Expectations, path: object) -> Schedule:
    """Return the steps of the entry and of all that it runs.

    Raises:
        TraceError: expectations of something that the program does not have, or that do not fit it.
    """
    return _Flattening(aliases, expectations, path).schedule()


class _Flattening:
    def __init__(self, aliases: Aliases, expectations: Expectations, path: object) -> None:
        self.aliases, self.expectations, self.path = aliases, expectations, path
        self.loops = {loop.instruction: loop for loop in aliases.loops}
        self.conditionals = {each.instruction: each for each in aliases.conditionals}
        self.calls = {call.instruction: call for call in aliases.calls}
        self.found = Schedule()

    def schedule(self) -> Schedule:
        known = {"", *self.loops, *self.conditionals}
        for name in (*self.expectations.trip_counts, *self.expectations.weights):
            if name not in known:
                raise TraceError(self.path, None, f"no loop or conditional is named {name}")
        self._run(self.aliases.module.entry, 1)
        return self.found

    def _run(self, computation: str, executions: float) -> None:
        found = self.found
        for name in self.aliases.module.computations[computation].instructions:
            if name in self.loops:
                self._loop(self.loops[name], executions)
            elif name in self.conditionals:
                self._conditional(self.conditionals[name], executions)
            elif name in self.calls:
                self._run(self.calls[name].computation, executions)
            found.steps.append((computation, name))
            found.trips.append(executions)

    def _loop(self, loop: WhileLoop, executions: float) -> None:
        start, place = len(self.found.steps), len(self.found.loops)
        count = self._count(loop)
        self._run(loop.condition, executions * count)
        self._run(loop.body, executions * count)
        end = len(self.found.steps)
        self.found.loops.insert(place, Loop(start_step=start, end_step=end, trip_count=count))
        self.found.spans[loop.instruction] = (start, end)

    def _count(self, loop: WhileLoop) -> float:
        given = self.expectations.trip_counts
        count = given[loop.instruction] if loop.instruction in given else trip_count(self.aliases, loop)
        if count is None:
            self.found.assumed_loops.append(loop.instruction)
            count = given.get("", ASSUMED_TRIP_COUNT)
        if not count <= MAX_TRIP_COUNT:
            raise TraceError(self.path, None, f"{loop.instruction} runs {count:g} times, more than {MAX_TRIP_COUNT:g}")
        return max(count, 1)  # a loop that never runs is charged for one iteration

    def _conditional(self, conditional: Branching, executions: float) -> None:
        place, edges = len(self.found.conditionals), [len(self.found.steps)]
        weights = self._weights(conditional)
        for branch, weight in zip(conditional.branches, weights, strict=True):
            self._run(branch, executions * weight)
            edges.append(len(self.found.steps))
        self.found.conditionals.insert(place, Conditional(edges=tuple(edges), weights=weights))

    def _weights(self, conditional: Branching) -> tuple[float, ...]:
        count = len(conditional.branches)
        given = self.expectations.weights.get(conditional.instruction)
        for_all = self.expectations.weights.get("", ())
        if given is None and len(for_all) == count:
            given = for_all
        if given is None:
            self.found.assumed_conditionals.append(conditional.instruction)
            return (1 / count,) * count
        if len(given) != count or not all(weight > 0 for weight in given) or not math.isfinite(sum(given)):
            reason = f"{conditional.instruction} has {count} branches, expected as many weights > 0, got {given}"
            raise TraceError(self.path, None, reason)
        return tuple(weight / sum(given) for weight in given)


def opaque_calls(computations: Mapping[str, HloComputation]) -> frozenset[str]:
    """Return the calls of which each does no more than one thing, such as a CPU program's work on several threads."""
    found = set()
    for computation in computations.values():
        for instruction in computation.instructions.values():
            called = instruction.called("to_apply") if instruction.opcode == "call" else ()
            body = computations.get(called[0]) if len(called) == 1 else None
            if body is not None and _is_one_thing(body):
                found.add(instruction.name)
    return frozenset(found)


_BESIDE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"})
_CONTROL_FLOW = frozenset({"while", "conditional", "call"})


def _is_one_thing(body: HloComputation) -> bool:
    real = [i for i in body.instructions.values() if i.opcode not in _BESIDE]
    return len(real) <= 1 and not any(i.opcode in _CONTROL_FLOW for i in real)

"""Loops and conditionals of a log's schedule: the steps they span, how often they run, how likely each branch is.

XLA flattens a loop's condition and body once, a conditional's branches one after the other, and what an asynchronous
or plain call runs where it is called.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from mallocgame.errors import TraceError
from mallocgame.regions import Conditional, Loop
from mallocgame.workloads.hlo.aliases import Aliases, Branching, WhileLoop
from mallocgame.workloads.hlo.schedule import ASSUMED_TRIP_COUNT, Expectations
from mallocgame.workloads.xla.loops import trip_count
from mallocgame.workloads.xla.records import XlaLog


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What the user expects of a run that the program does not say; what was taken of that, or guessed."""

    given: Expectations = field(default_factory=Expectations)
    trip_counts: dict[str, tuple[float, bool]] = field(default_factory=dict)  # loop: its count, whether it was given
    weights: dict[str, tuple[tuple[float, ...], bool]] = field(default_factory=dict)  # conditional: of its branches

    def count(self, loop: str, guess: float) -> float:
        """Return how often ``loop`` is taken to run, where XLA guesses ``guess``."""
        count = self.given.trip_counts.get(loop, self.given.trip_counts.get(""))
        self.trip_counts[loop] = (guess if count is None else count, count is not None)
        return self.trip_counts[loop][0]

    def weights_of(self, conditional: Branching, path: object) -> tuple[float, ...]:
        """Return how likely each branch is: as given, or all alike."""
        name, count = conditional.instruction, len(conditional.branches)
        given = self.given.weights.get(name)
        if given is None:
            given = self.given.weights.get("")
            given = None if given is None or len(given) != count else given
        elif len(given) != count:
            raise TraceError(
                path, None, f"--branch-weights {name}: {name} has {count} branches, got {len(given)} weights"
            )
        weights = given or (1.0,) * count
        if not all(weight > 0 for weight in weights) or not math.isfinite(sum(weights)):
            raise TraceError(path, None, f"--branch-weights {name}: expected weights > 0, got {weights}")
        self.weights[name] = (tuple(weight / sum(weights) for weight in weights), given is not None)
        return self.weights[name][0]

    def check(self, aliases: Aliases, path: object) -> None:
        """Refuse what is given for loops and conditionals that there are not, or for loops of constant count."""
        loops = {loop.instruction for loop in aliases.loops}
        for name in self.given.trip_counts:
            if name and name not in self.trip_counts:
                known = ", ".join(self.trip_counts) or "there is none"
                what = "has a constant trip count" if name in loops else "is no loop of the program"
                raise TraceError(path, None, f"--trip-count {name}: {what}; of unknown count: {known}")
        for name in self.given.weights:
            if name and name not in self.weights:
                known = ", ".join(self.weights) or "there is none"
                raise TraceError(
                    path, None, f"--branch-weights {name}: is no conditional of the program; those: {known}"
                )


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Of a schedule, what encloses before what is enclosed."""

    loops: tuple[Loop, ...] = ()
    conditionals: tuple[Conditional, ...] = ()

    def executions(self, step: int) -> float:
        """Return how often a step runs, expected."""
        count: float = math.prod(loop.trip_count for loop in self.loops if loop.start_step <= step < loop.end_step)
        for conditional in self.conditionals:
            for start, end, weight in conditional.branches():
                count *= weight if start <= step < end else 1
        return count


def find_regions(log: XlaLog, aliases: Aliases, assumed: Assumed | None = None) -> Regions:
    """Return the loops and conditionals over the steps of ``log.schedule``.

    A trip count that is no constant is taken from ``assumed``, else as XLA's simulator has it, which assumes 5.

    Raises:
        TraceError: a schedule that does not hold a loop or a branch in one piece, a computation that nothing runs,
            counts or weights of something that there is not.
    """
    return _Finding(log, aliases, assumed or Assumed()).regions()


class _Finding:
    def __init__(self, log: XlaLog, aliases: Aliases, assumed: Assumed) -> None:
        self.log, self.aliases, self.assumed = log, aliases, assumed
        self.trips = _simulated_trips(log)
        self.steps: dict[str, list[int]] = {}
        for step, (computation, _) in enumerate(log.schedule):
            self.steps.setdefault(computation, []).append(step)
        self.loops: list[Loop] = []
        self.conditionals: list[Conditional] = []

    def regions(self) -> Regions:
        reached = {self.aliases.module.entry}
        waiting: list[tuple[str, int]] = [(self.aliases.module.entry, 1)]  # with XLA's count of executions
        while waiting:
            parent, executions = waiting.pop(0)
            inside = list(self._run_by(parent, executions))
            reached |= {name for name, _ in inside}
            waiting += inside
        self.assumed.check(self.aliases, self.log.path)
        strangers = [name for name in self.steps if name not in reached]
        if strangers:
            raise TraceError(self.log.path, None, f"steps of computation {strangers[0]}, which nothing runs")
        return Regions(loops=tuple(self.loops), conditionals=tuple(self.conditionals))

    def _run_by(self, parent: str, executions: int) -> Iterator[tuple[str, int]]:
        """Yield the computations that a computation runs, with XLA's count of their executions."""
        for loop in self.aliases.loops:
            if loop.parent == parent:
                times = self._loop(loop, executions)
                yield from ((name, executions * times) for name in (loop.condition, loop.body))
        for conditional in self.aliases.conditionals:
            if conditional.parent == parent:
                self._conditional(conditional)
                yield from ((name, executions) for name in conditional.branches)
        for call in (*self.aliases.calls, *self.aliases.asynchronous):
            if call.parent == parent:
                yield call.computation, executions

    def _loop(self, loop: WhileLoop, executions: int) -> int:
        """Record a loop; return how often XLA takes its body to run."""
        count: float | None = trip_count(self.aliases, loop)
        simulated = self.trips.get(loop.body)
        theirs = count
        if count is None:
            theirs = max(simulated // executions, 1) if simulated else ASSUMED_TRIP_COUNT
            count = self.assumed.count(loop.instruction, theirs)
        elif simulated == ASSUMED_TRIP_COUNT * executions:  # XLA did not see it
            theirs = ASSUMED_TRIP_COUNT
        assert theirs is not None
        if simulated is not None and simulated != theirs * executions:
            reason = f"{loop.instruction} runs {count} times, XLA's simulator says {simulated / executions:g}"
            raise TraceError(self.log.path, None, reason)
        if count < 1:
            raise TraceError(self.log.path, None, f"{loop.instruction}: runs {count} times")
        start, end = self._span((loop.condition, loop.body), loop.instruction)
        self.loops.append(Loop(start_step=start, end_step=end, trip_count=count))
        return int(theirs)

    def _conditional(self, conditional: Branching) -> None:
        spans = [self._span((branch,), conditional.instruction) for branch in conditional.branches]
        edges = (spans[0][0], *(end for _, end in spans))
        if [start for start, _ in spans] != list(edges[:-1]):
            raise TraceError(self.log.path, None, f"{conditional.instruction}: its branches do not follow one another")
        weights = self.assumed.weights_of(conditional, self.log.path)
        self.conditionals.append(Conditional(edges=edges, weights=weights))

    def _span(self, computations: tuple[str, ...], what: str) -> tuple[int, int]:
        """Return the steps of computations and of all that they run."""
        inside = sorted(step for name in self._nested(computations) for step in self.steps.get(name, []))
        if not inside or inside != list(range(inside[0], inside[-1] + 1)):
            raise TraceError(self.log.path, None, f"{what}: its steps are not in one piece")
        return inside[0], inside[-1] + 1

    def _nested(self, computations: tuple[str, ...]) -> list[str]:
        names = list(computations)
        for name in names:  # grows on the way
            names += [c for x in self.aliases.loops if x.parent == name for c in (x.condition, x.body)]
            names += [c for x in self.aliases.conditionals if x.parent == name for c in x.branches]
            calls = (*self.aliases.calls, *self.aliases.asynchronous)
            names += [call.computation for call in calls if call.parent == name]
        return names


def _simulated_trips(log: XlaLog) -> dict[str, int]:
    """Return XLA's execution count per computation: what its instructions' lines agree on (0 and 1 are defaults)."""
    computation_of = {name: computation for computation, name in log.schedule}
    counts: dict[str, int] = {}
    for row in log.simulated:
        computation = computation_of.get(row.name)
        if computation is not None and row.trip_count:
            counts[computation] = max(counts.get(computation, 0), row.trip_count)
    return counts

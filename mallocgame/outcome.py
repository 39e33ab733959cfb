"""Turning mappings into a ``SolveResult``: the judge's clock, the history, and never worse than the start."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult


@dataclass(slots=True)
class Search:
    """The best mapping met so far, under a time limit."""

    program: Program
    hierarchy: Hierarchy
    limit_seconds: float
    progress: Progress | None = None
    best: Mapping | None = None
    best_seconds: float = float("inf")
    status: str = "feasible"
    _history: list[tuple[float, float]] = field(default_factory=list)
    _begin: float = field(default_factory=time.perf_counter)

    def judged(self, mapping: Mapping) -> float:
        """Return the judge's time of ``mapping``."""
        return simulate(self.program, self.hierarchy, mapping).total_seconds

    def offer(self, mapping: Mapping | None, seconds: float | None = None) -> None:
        """Keep a mapping if it is valid and the best so far; None is ignored."""
        if mapping is None:
            return
        seconds = self.judged(mapping) if seconds is None else seconds
        if self.best is None or (seconds < self.best_seconds and not validate(self.program, self.hierarchy, mapping)):
            self.best, self.best_seconds = mapping, seconds
            self._history.append((self.spent_seconds, seconds))

    @property
    def spent_seconds(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self._begin

    def out_of_time(self) -> bool:
        """Whether the limit is reached; also tells ``progress``."""
        spent = self.spent_seconds
        if self.progress is not None:
            self.progress(min(spent / self.limit_seconds, 1.0) if self.limit_seconds > 0 else 1.0)
        return spent >= self.limit_seconds

    def result(self, lower_bound_seconds: float = 0.0) -> SolveResult:
        """Return the best mapping; the one that leaves everything in layer 0 if none was offered."""
        if self.best is None:
            self.offer(Mapping())
        assert self.best is not None
        return SolveResult(
            mapping=self.best,
            seconds=self.best_seconds,
            lower_bound_seconds=lower_bound_seconds,
            status=self.status,
            solve_seconds=self.spent_seconds,
            history=tuple(self._history),
        )


def merged_history(
    histories: Iterable[Iterable[tuple[float, float]]], low: float = float("inf")
) -> list[tuple[float, float]]:
    """Return the improvements below ``low`` over several histories of one search, in the order of time.

    >>> merged_history([[(0.0, 9.0), (2.0, 5.0)], [(1.0, 7.0), (3.0, 6.0)]])
    [(0.0, 9.0), (1.0, 7.0), (2.0, 5.0)]
    """
    found = []
    for when, seconds in sorted(row for history in histories for row in history):
        if seconds < low:
            low = seconds
            found.append((when, seconds))
    return found

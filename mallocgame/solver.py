"""What every solver promises, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program

Progress = Callable[[float], None]  # called with the fraction of the time limit that is spent


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveResult:
    """A valid mapping and what is known about it. Judge it with ``simulate``; never trust ``seconds``.

    ``lower_bound_seconds`` is proved for *every* valid mapping (0.0: none known). ``status`` is ``optimal`` (proved),
    ``feasible``, or ``interrupted`` (Ctrl-C: the best so far). ``history`` holds (solve seconds, judged seconds) of
    each improvement.
    """

    mapping: Mapping
    seconds: float  # judged time of the mapping
    lower_bound_seconds: float
    status: str
    solve_seconds: float
    history: tuple[tuple[float, float], ...] = ()


class Solver(Protocol):
    """A solver is a callable; the mapping it returns always validates.

    Args:
        seconds: time limit; 0 returns the best known start.
        seed: the same seed and enough time give the same mapping.
        start: a valid mapping that the result is never worse than.
        progress: called now and then with the fraction of the time limit that is spent.
    """

    def __call__(
        self,
        program: Program,
        hierarchy: Hierarchy,
        *,
        seconds: float = 10.0,
        seed: int = 0,
        start: Mapping | None = None,
        progress: Progress | None = None,
    ) -> SolveResult:
        """Return the best mapping found."""
        ...

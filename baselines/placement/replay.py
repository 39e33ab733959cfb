"""The compiler's own mapping as a solver."""

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Progress, Solver, SolveResult


def replay(mapping: Mapping) -> Solver:
    """Return a solver that answers ``mapping``, whatever the limits; a better ``start`` is kept.

    The solver raises InputError where the mapping is not valid, naming the first rule that it breaks.
    """

    def solve(
        program: Program,
        hierarchy: Hierarchy,
        *,
        seconds: float = 10.0,
        seed: int = 0,
        start: Mapping | None = None,
        progress: Progress | None = None,
    ) -> SolveResult:
        from mallocgame.outcome import Search

        search = Search(program, hierarchy, seconds, progress)
        found = validate(program, hierarchy, mapping)
        if found:
            first = f"{found[0].rule}: {found[0].message}"
            raise InputError(f"{program.name}: the compiler's mapping breaks {len(found)} rules, first {first}")
        search.offer(start)
        search.offer(mapping, simulate(program, hierarchy, mapping).total_seconds)
        return search.result()

    return solve

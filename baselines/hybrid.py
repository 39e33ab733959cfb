"""Plan by integer programming, refine by annealing: the strongest of our solvers on real traces (docs/bounds.md).

The plan knows the whole program at once but only estimates when copies can run; annealing moves residencies, addresses
and copy times one by one under the judge itself. Each does what the other cannot.
"""

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds.bound import capacity_bound
from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.baselines.milp.planner import Planner, focus
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.outcome import Search
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

BOUND_SHARE, PLAN_SHARE = 0.2, 0.3  # of the time; annealing has the rest
CLOSED = 1e-6  # a mapping this close to the bound is optimal


def hybrid(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    """Return a mapping and a proved bound; see ``mallocgame.solver``. Without a plan, annealing begins at ``start``."""
    search = Search(program, hierarchy, seconds, progress)
    search.offer(start if start is not None else Mapping())
    bound = 0.0
    if seconds > 0:
        try:
            bound = capacity_bound(program, hierarchy, seconds=BOUND_SHARE * seconds).seconds
            if hierarchy.num_layers == 2 and not _closed(search, bound):
                _plan(search, seed)
            search.out_of_time()
            _anneal(search, bound, seed)
        except KeyboardInterrupt:
            search.status = "interrupted"
    if search.status == "feasible" and _closed(search, bound):
        search.status = "optimal"
    return search.result(min(bound, search.best_seconds))


def _closed(search: Search, bound: float) -> bool:
    return search.best_seconds <= bound * (1.0 + CLOSED)


def _plan(search: Search, seed: int) -> None:
    planner = Planner(relax(focus(search.program), search.hierarchy), search, seed)
    until = (BOUND_SHARE + PLAN_SHARE) * search.limit_seconds
    planner.plan(max(0.7 * (until - search.spent_seconds), 0.1))
    if search.spent_seconds < until:  # once more, with copies priced by the waiting they caused
        planner.plan(until - search.spent_seconds)


def _anneal(search: Search, bound: float, seed: int) -> None:
    left = search.limit_seconds - search.spent_seconds
    if left <= 0.0 or _closed(search, bound):
        return
    found = anneal(search.program, search.hierarchy, seconds=left, seed=seed, start=search.best)
    search.offer(found.mapping)
    if found.status == "interrupted":
        search.status = "interrupted"

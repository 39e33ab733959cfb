"""Large-neighbourhood search from any mapping: free a window of the schedule, keep the rest, solve, judge."""

import numpy as np

from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.baselines.milp.encode import encode
from mallocgame.baselines.milp.planner import Planner
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.outcome import Search
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

SLICE_SECONDS = 5.0  # of one window's integer program


def lns(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    """Improve ``start`` (none: a plan made first); see ``mallocgame.solver``. Two layers; else ``start`` returns."""
    search = Search(program, hierarchy, seconds, progress)
    search.offer(start if start is not None else Mapping())
    if seconds > 0 and hierarchy.num_layers == 2:
        try:
            _improve(search, seed, start)
        except KeyboardInterrupt:
            search.status = "interrupted"
    return search.result()


def _improve(search: Search, seed: int, start: Mapping | None) -> None:
    relaxation = relax(search.program, search.hierarchy)
    planner = Planner(relaxation, search, seed)
    if start is not None and start.residencies:
        planner.point, planner.point_seconds = encode(relaxation, start), search.judged(start)
    rng = np.random.default_rng(seed)
    while not search.out_of_time() and planner.spans.size:
        planner.improve(rng, min(SLICE_SECONDS, max(search.limit_seconds - search.spent_seconds, 0.1)))

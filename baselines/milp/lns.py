"""Large-neighbourhood search from any mapping: free a window of the schedule, keep the rest, solve, judge."""

import numpy as np

from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.baselines.milp.encode import encode
from mallocgame.baselines.milp.relaxation_search import SLICE_SECONDS, RelaxationSearch
from mallocgame.solver import Incumbent, solver


@solver
def lns(search: Incumbent) -> None:
    """Improve the start (none: a plan made first) window by window; two layers, else the start returns."""
    if search.hierarchy.num_layers != 2:
        return
    relaxation = relax(*search.problem)
    planner = RelaxationSearch(relaxation, search)
    if search.mapping is not None and search.mapping.residencies:
        planner.point, planner.point_seconds = encode(relaxation, search.mapping), search.seconds
    rng = np.random.default_rng(search.seed)
    while not search.out_of_time() and planner.spans.size:
        planner.improve(rng, min(SLICE_SECONDS, max(search.left_seconds, 0.1)))
        search.count()

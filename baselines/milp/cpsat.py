"""Exact and large-neighbourhood mapping: residencies and copies by integer programming, then addresses.

1. *Bound and plan.* The 0-1 relaxation of ``baselines/bounds`` decides who is where between which uses and what is
   copied, under capacity and link supply. CP-SAT solves it where it is small, HiGHS where it is not.
2. *Realise.* Stays get copy times, and addresses from ``baselines/packing``; what cannot be packed is given up and the
   plan is made again with less room. ``simulate`` judges what comes out: nothing else counts.
3. *Improve.* A window of the schedule is freed, everything else keeps its choice, and the same model is solved with
   copies priced by the waiting they caused; better mappings are kept (``mallocgame.baselines.milp.lns``).
"""

import time

import numpy as np

from mallocgame.baselines.bounds.bound import capacity_bound
from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.baselines.milp.engine import cpsat_point
from mallocgame.baselines.milp.planner import Planner, focus
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.outcome import Search
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

SMALL = 400  # 0-1 columns up to which CP-SAT is tried too
CLOSED = 1e-6  # a mapping this close to the bound is optimal


def cpsat(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    """Return a mapping and a proved bound; see ``mallocgame.solver``. Hierarchies of over two layers get the bound."""
    search = Search(program, hierarchy, seconds, progress)
    search.offer(start if start is not None else Mapping())
    bound = 0.0
    if seconds > 0:
        try:
            bound = _solve(search, seed)
        except KeyboardInterrupt:
            search.status = "interrupted"
    if search.status == "feasible" and search.best_seconds <= bound * (1.0 + CLOSED):
        search.status = "optimal"
    return search.result(min(bound, search.best_seconds))


def _solve(search: Search, seed: int) -> float:
    program, hierarchy = search.program, search.hierarchy
    limit = search.limit_seconds
    if hierarchy.num_layers > 2:
        return capacity_bound(program, hierarchy, seconds=limit).seconds
    relaxation = relax(focus(program), hierarchy)
    planner = Planner(relaxation, search, seed)
    bound = capacity_bound(program, hierarchy, seconds=max(0.3 * limit, 0.1)).seconds
    if relaxation.num_shares <= SMALL and relaxation.program is program:
        point = cpsat_point(relaxation, seconds=0.2 * limit, seed=seed, workers=2)
        bound = max(bound, point.bound_seconds)
        if point.columns is not None:
            planner.realise(point.columns)
    planner.plan(max(min(0.2 * limit, limit - search.spent_seconds), 0.1))
    rng = np.random.default_rng(seed)
    while not search.out_of_time() and search.best_seconds > bound * (1.0 + CLOSED):
        before = time.perf_counter()
        planner.improve(rng, min(5.0, max(limit - search.spent_seconds, 0.1)))
        if time.perf_counter() - before < 1e-4:
            break
    return bound

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
from mallocgame.baselines.milp.relaxation_search import SLICE_SECONDS, RelaxationSearch, focus
from mallocgame.solver import Incumbent, solver

SMALL = 400  # 0-1 columns up to which CP-SAT is tried too


@solver
def cpsat(search: Incumbent) -> None:
    """Prove a bound and plan by integer programming; with over two layers prove the bound. A window is a step."""
    program, hierarchy = search.problem
    limit = search.limits.seconds
    if hierarchy.num_layers > 2:
        search.prove(capacity_bound(program, hierarchy, seconds=limit).seconds)
        return
    relaxation = relax(focus(program), hierarchy)
    planner = RelaxationSearch(relaxation, search)
    search.prove(capacity_bound(program, hierarchy, seconds=max(0.3 * limit, 0.1)).seconds)
    if relaxation.num_shares <= SMALL and relaxation.program is program:
        point = cpsat_point(relaxation, seconds=0.2 * limit, seed=search.seed, workers=2)
        search.prove(point.bound_seconds)
        if point.columns is not None:
            planner.realise(point.columns)
    planner.plan(max(min(0.2 * limit, search.left_seconds), 0.1))
    rng = np.random.default_rng(search.seed)
    while not search.out_of_time():
        before = time.perf_counter()
        planner.improve(rng, min(SLICE_SECONDS, max(search.left_seconds, 0.1)))
        search.count()
        if time.perf_counter() - before < 1e-4:
            break

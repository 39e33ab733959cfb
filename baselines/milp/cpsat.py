"""Exact and large-neighbourhood mapping: residencies and copies by integer programming, then addresses.

1. *Bound and plan.* The 0-1 relaxation of ``baselines/bounds`` decides who is where between which uses and what is
   copied, under capacity and link supply. CP-SAT solves it where it is small, HiGHS where it is not.
2. *Realise.* Stays get copy times, and addresses from ``baselines/packing``; what cannot be packed is given up and the
   plan is made again with less room. ``simulate`` judges what comes out: nothing else counts.
3. *Improve.* A window of the schedule is freed, everything else keeps its choice, and the same model is solved with
   copies priced by the waiting they caused; better mappings are kept (``mallocgame.baselines.milp.lns``).
"""

from mallocgame.baselines import native
from mallocgame.baselines.bounds.bound import capacity_bound
from mallocgame.baselines.bounds.relaxation import OutOfTime, relax
from mallocgame.baselines.milp.engine import cpsat_point
from mallocgame.baselines.milp.relaxation_search import RelaxationSearch, compile_planning, focus
from mallocgame.solver import Incumbent, solver

SMALL = 400  # 0-1 columns up to which CP-SAT is tried too
BOUND_SHARE, PLAN_SHARE = 0.3, 0.2  # of the limit


@solver(warm_up=compile_planning, get_ready=native.start)
def cpsat(search: Incumbent) -> None:
    """Prove a bound and plan by integer programming; with over two layers prove the bound. A window is a step."""
    program, hierarchy = search.problem
    limit = search.limits.seconds
    if hierarchy.num_layers > 2:
        search.prove(capacity_bound(program, hierarchy, seconds=limit, search=search).seconds)
        return
    planned = focus(program)
    try:
        relaxation = relax(planned, hierarchy, stop=search.out_of_time)
    except OutOfTime:
        return
    if search.out_of_time():
        return
    planner = RelaxationSearch(relaxation, search)
    same = relaxation if planned is program else None
    share = max(BOUND_SHARE * limit, 0.1)
    search.prove(capacity_bound(program, hierarchy, seconds=share, relaxation=same, search=search).seconds)
    if relaxation.num_shares <= SMALL and planned is program:
        seconds = PLAN_SHARE * limit
        point = cpsat_point(relaxation, seconds=seconds, seed=search.seed, workers=2, stop=search.out_of_time)
        search.prove(point.bound_seconds)
        if point.columns is not None:
            planner.realise(point.columns)
    planner.plan(max(min(PLAN_SHARE * limit, search.left_seconds), 0.1))
    planner.improve_until(search.out_of_time)

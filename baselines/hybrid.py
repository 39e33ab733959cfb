"""Plan by integer programming, refine by annealing: the strongest of our solvers on real traces (docs/bounds.md).

The plan knows the whole program at once but only estimates when copies can run; annealing moves residencies, addresses
and copy times one by one under the judge itself. Each does what the other cannot.
"""

from contextlib import suppress

from mallocgame.baselines import native
from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds.bound import capacity_bound
from mallocgame.baselines.bounds.relaxation import OutOfTime, relax
from mallocgame.baselines.milp.relaxation_search import RelaxationSearch, compile_planning, focus
from mallocgame.solver import Incumbent, Problem, solver

BOUND_SHARE, PLAN_SHARE = 0.2, 0.3  # of the time; annealing has the rest


def _prepare(problem: Problem) -> None:
    anneal.prepare(problem)
    compile_planning(problem)


@solver(warm_up=_prepare, get_ready=native.start)
def hybrid(search: Incumbent) -> None:
    """Prove a bound, plan, anneal. Without a plan, annealing begins at the start."""
    plan_and_anneal(search, bound_share=BOUND_SHARE)


def plan_and_anneal(search: Incumbent, *, bound_share: float) -> None:
    """Prove a bound in that share of the limit (0: none), plan, and anneal in what is left."""
    program, hierarchy = search.problem
    planned = focus(program)

    def built() -> bool:
        return search.spent_share > bound_share + PLAN_SHARE / 2 or search.out_of_time()

    relaxation = None
    if hierarchy.num_layers == 2:
        with suppress(OutOfTime):
            relaxation = relax(planned, hierarchy, stop=built)
    left = bound_share * search.limits.seconds - search.spent_seconds
    if left > 0.0:
        same = relaxation if planned is program else None
        search.prove(capacity_bound(program, hierarchy, seconds=left, relaxation=same, search=search).seconds)
    if relaxation is not None and not search.out_of_time():
        _plan(search, RelaxationSearch(relaxation, search), bound_share + PLAN_SHARE)
    if not search.out_of_time():
        anneal.improve(search.part())


def _plan(search: Incumbent, planner: RelaxationSearch, share: float) -> None:
    until = share * search.limits.seconds
    planner.plan(max(0.7 * (until - search.spent_seconds), 0.1))
    if search.spent_seconds < until:  # once more, with copies priced by the waiting they caused
        planner.plan(until - search.spent_seconds)

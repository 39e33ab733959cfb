"""Plan by integer programming, refine by annealing: the strongest of our solvers on real traces (docs/bounds.md).

The plan knows the whole program at once but only estimates when copies can run; annealing moves residencies, addresses
and copy times one by one under the judge itself. Each does what the other cannot.
"""

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds.bound import capacity_bound
from mallocgame.baselines.bounds.relaxation import relax
from mallocgame.baselines.milp.relaxation_search import RelaxationSearch, focus
from mallocgame.solver import Incumbent, solver

BOUND_SHARE, PLAN_SHARE = 0.2, 0.3  # of the time; annealing has the rest


@solver(warm_up=anneal.prepare)
def hybrid(search: Incumbent) -> None:
    """Prove a bound, plan, anneal. Without a plan, annealing begins at the start."""
    bound = capacity_bound(*search.problem, seconds=BOUND_SHARE * search.limits.seconds)
    search.prove(bound.seconds)
    if search.hierarchy.num_layers == 2 and not search.is_closed:
        _plan(search)
    if not search.out_of_time():
        anneal.improve(search.part())


def _plan(search: Incumbent) -> None:
    planner = RelaxationSearch(relax(focus(search.program), search.hierarchy), search)
    until = (BOUND_SHARE + PLAN_SHARE) * search.limits.seconds
    planner.plan(max(0.7 * (until - search.spent_seconds), 0.1))
    if search.spent_seconds < until:  # once more, with copies priced by the waiting they caused
        planner.plan(until - search.spent_seconds)

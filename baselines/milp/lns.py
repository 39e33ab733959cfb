"""Large-neighbourhood search from any mapping: free a window of the schedule, keep the rest, solve, judge."""

from mallocgame.baselines import native
from mallocgame.baselines.bounds.relaxation import OutOfTime, relax
from mallocgame.baselines.milp.encode import encode
from mallocgame.baselines.milp.relaxation_search import RelaxationSearch, compile_planning
from mallocgame.solver import Incumbent, solver


@solver(warm_up=compile_planning, get_ready=native.start)
def lns(search: Incumbent) -> None:
    """Improve the start (none: a plan made first) window by window; two layers, else the start returns."""
    if search.hierarchy.num_layers != 2:
        return
    try:
        relaxation = relax(*search.problem, stop=search.out_of_time)
    except OutOfTime:
        return
    planner = RelaxationSearch(relaxation, search)
    if search.mapping is not None and search.mapping.residencies:
        planner.point, planner.point_seconds = encode(relaxation, search.mapping), search.seconds
    planner.improve_until(search.out_of_time)

"""Play: the greedy mapping (or the given start) played by the rules, then played again and again with moves changed.

Nothing is learned and nothing is searched by a tree: this is what a trained agent has to beat at equal time.
"""

from mallocgame.baselines.placement.greedy import greedy
from mallocgame.game import rules
from mallocgame.game.local_search import best_start, refine
from mallocgame.judge.simulation import home_seconds
from mallocgame.solver import Incumbent, Limits, Problem, solver
from mallocgame.warm_up import tiny_problem

FOCUS = 3e-3  # share of the traffic whose tensors stay in layer 0 until the end
START_SHARE = 0.3  # of the time, at most: for the greedy start


def _compile(_: Problem) -> None:
    play.improve(Incumbent(tiny_problem(), Limits(steps=100)))


@solver(warm_up=_compile)
def play(search: Incumbent) -> None:
    """Change the best game until the limit is reached: simulated annealing in the rules. A decision is a step."""
    focused = search.program.focused(FOCUS)
    if not focused.num_decisions or not home_seconds(*search.problem) > 0:
        return
    game, start = rules.make_game(focused, search.hierarchy), search.mapping
    part = search.part(START_SHARE, steps=None if search.limits.steps is None else 2**31)  # then it knows no clock
    greedy.improve(part)
    refine(search, game, best_start(game, start, part.mapping), seed=search.seed)

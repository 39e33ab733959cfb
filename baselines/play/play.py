"""Play: the greedy mapping (or the given start) played by the rules, then played again and again with moves changed.

What comes of it is annealed (``relay``). Nothing is learned and nothing is searched by a tree: this is what a trained
agent has to beat at equal time.
"""

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.game import rules
from mallocgame.game.local_search import best_start, refine
from mallocgame.game.relay import open_by_annealing, open_by_greed, relay
from mallocgame.judge.simulation import home_seconds
from mallocgame.solver import Incumbent, Limits, Problem, solver
from mallocgame.warm_up import tiny_problem

FOCUS = 3e-3  # share of the traffic whose tensors stay in layer 0 until the end


def _compile(problem: Problem, **_options: bool) -> None:
    anneal.prepare(problem)
    play.improve(Incumbent(tiny_problem(), Limits(steps=100)))


@solver(warm_up=_compile)
def play(search: Incumbent, *, annealing: bool = True) -> None:
    """Change the best game, as annealing does, then anneal its mapping. A decision is a step.

    Args:
        annealing: False: only the game, all the time.
    """
    focused = search.program.focused(FOCUS)
    if not focused.num_decisions or not home_seconds(*search.problem) > 0:
        return
    game = rules.make_game(focused, search.hierarchy)
    starts = [search.mapping, open_by_greed(search, greedy)]
    if annealing:
        starts.append(open_by_annealing(search, anneal))
        relay(search, game, best_start(search, game, *starts), anneal)
    elif (begin := best_start(search, game, *starts)) is not None:
        refine(search, game, begin, seed=search.seed)

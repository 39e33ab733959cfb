"""Following a network downhill over binary plans: where second stages are slow, before any is priced."""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.ascent import ascend
from mallocgame.baselines.neur2ro.linear import LinearSet
from mallocgame.baselines.neur2ro.neighbours import neighbours
from mallocgame.baselines.neur2ro.plan_search import PlanSearch

F64 = npt.NDArray[np.float64]
STEPS = 60  # at most
SWAPS = 200  # exchanges looked at in a step


def around(x: F64, stage: LinearSet, rng: np.random.Generator, swaps: int) -> F64:
    """Return the flips and some exchanges of a plan, float64[A, nx]."""
    exchanged = neighbours(x, stage, "swap")
    return np.vstack([neighbours(x, stage, "flip"), exchanged[rng.permutation(len(exchanged))[:swaps]]])


def feared(search: PlanSearch, x: F64, rng: np.random.Generator) -> F64:
    """Return the scenarios that the network finds worst for ``x``, float64[A, nxi]."""
    assert search.network is not None
    starts = np.array(search.pool[-4:]) if search.pool else None
    return ascend(search.network, search.problem, x, rng, starts=starts, clock=search.clock)


def guessed(search: PlanSearch, plans: F64) -> F64:
    """Return the worst cost of plans, float64[A], as the network prices the scenarios of hints and pool."""
    assert search.network is not None
    scenarios = np.array([*search.hints, *search.pool[-6:]])
    cost = plans @ search.problem.first_stage().cost
    return np.asarray(cost + search.network.predict(plans, scenarios).max(axis=1))


def walk(search: PlanSearch, x: F64, rng: np.random.Generator) -> F64:
    """Return all plans seen on a walk from ``x``, float64[A, nx]: each step to the neighbour guessed to cost least.

    Flips first; exchanges where no flip is better.
    """
    stage, best = search.problem.first_stage(), float(guessed(search, x[None])[0])
    seen, kinds = [x[None]], ["flip", "swap"]
    for _ in range(STEPS):
        search.clock.check()
        near = neighbours(x, stage, kinds[0])
        near = near[rng.permutation(len(near))[:SWAPS]]
        guess = guessed(search, near) if len(near) else np.array([np.inf])
        seen.append(near)
        k = int(np.argmin(guess))
        if guess[k] < best:
            best, x, kinds = float(guess[k]), near[k], ["flip", "swap"]
        elif len(kinds) == 1:
            break
        else:
            kinds = kinds[1:]
    return np.unique(np.vstack(seen), axis=0)

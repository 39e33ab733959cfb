"""Scenarios that a network finds bad for a plan, without an integer program: steps along its gradient, or samples."""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock
from mallocgame.baselines.neur2ro.network import BoundNetwork
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, corners_of

F64 = npt.NDArray[np.float64]
STEPS = 12  # Frank-Wolfe steps
LISTED = 512  # listed scenarios looked at


def ascend(
    network: BoundNetwork,
    problem: TwoStageProblem,
    x: F64,
    rng: np.random.Generator,
    *,
    starts: F64 | None = None,
    keep: int = 4,
    clock: Clock | None = None,
) -> F64:
    """Return the ``keep`` scenarios with the largest predictions for plan ``x``, worst first, float64[keep, nxi].

    Frank-Wolfe over Xi from samples and ``starts`` (float64[A, nxi]) where Xi is convex; the worst of the listed
    scenarios, or of a sample, where it is not.

    Raises:
        OutOfTimeError: ``clock`` ended.
    """
    clock = clock or Clock()
    box, listed = problem.uncertainty(), problem.scenarios()
    if listed is not None:
        found = listed[rng.permutation(len(listed))[:LISTED]]
    elif box.integer.any():
        found = problem.sample_scenarios(rng, 64)
    else:
        known = np.zeros((0, box.size)) if starts is None else starts
        found = np.vstack([problem.sample_scenarios(rng, 8), known])
        for step in range(STEPS):
            clock.check()
            corners = corners_of(box, -network.gradient(x, found))
            found = found + (corners - found) * 2.0 / (step + 3.0)
    predicted = network.predict(x[None], found)[0]
    return np.asarray(found[np.argsort(-predicted)[:keep]])

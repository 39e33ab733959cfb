"""Exact second stages of one instance under a deadline: its own fast ones if it has them, else warm programs."""

import time

import numpy as np
import numpy.typing as npt

from mallocgame import jit
from mallocgame.baselines.neur2ro.affine import recourse_at
from mallocgame.baselines.neur2ro.clock import Clock
from mallocgame.baselines.neur2ro.problem import Deterministic, TwoStageProblem, deterministic_by_milp
from mallocgame.baselines.neur2ro.recourse import GAP, Recourse, RecourseSolver, SecondStage
from mallocgame.baselines.neur2ro.solvers import import_highs
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
BLOCK_SECONDS = 0.1  # of values between two looks at the clock
REMEMBERED = 512  # recourses kept


def warm_up(problem: TwoStageProblem) -> None:
    """Load the MILP solver and compile the problem's kernels, so that no clock is charged for it."""
    import_highs()
    kind = type(problem)
    if kind.warm_up is not TwoStageProblem.warm_up:
        jit.warm_up(f"{kind.__module__}.{kind.__qualname__}", problem.warm_up)


class SecondStages:
    """Prices plans of one instance. ``clock`` may be replaced; every call obeys it."""

    def __init__(self, problem: TwoStageProblem, clock: Clock | None = None, *, gap: float = GAP) -> None:
        self.problem = problem
        self.clock = clock or Clock()
        self.solver = RecourseSolver(gap)
        self.pair_seconds = 0.0  # what one second stage takes, a running mean
        self._plan_size = problem.first_stage().size
        kind = type(problem)
        self._own_stage = kind.second_stage is not TwoStageProblem.second_stage
        self._own_values = kind.values is not TwoStageProblem.values
        self._own_plans = kind.deterministic is not TwoStageProblem.deterministic
        self._recourses: dict[bytes, Recourse] = {}

    @property
    def is_fast(self) -> bool:
        """Whether the problem prices pairs by a method of its own."""
        return self._own_values

    def recourse(self, xi: F64) -> Recourse:
        """Return the recourse at xi, from memory where it was asked for lately."""
        key = xi.tobytes()
        found = self._recourses.get(key)
        if found is None:
            if len(self._recourses) >= REMEMBERED:
                self._recourses.pop(next(iter(self._recourses)))
            found = self._recourses[key] = recourse_at(self.problem, xi, plan_size=self._plan_size)
        return found

    def solve(self, x: F64, xi: F64) -> SecondStage:
        """Return the second stage at (x, xi).

        Raises:
            OutOfTimeError: the deadline passed.
            InputError: its value is not a number, or it is unbounded.
        """
        self.clock.check()
        began = time.perf_counter()
        if self._own_stage:
            found = self.problem.second_stage(x, xi)
        else:
            found = self.solver.solve(self.recourse(xi), x, self.clock)
        self._note(time.perf_counter() - began, 1)
        self._require(np.array([found.value]), "second_stage")
        return found

    def values(self, xs: F64, xis: F64) -> F64:
        """Return second-stage values, float64[A, B], of every pair of xs[A, nx] and xis[B, nxi].

        Raises:
            OutOfTimeError: the deadline passed.
            InputError: a value is not a number, or the array has another shape.
        """
        if not self._own_values:
            rows = [[self.solve(x, xi).value for x in xs] for xi in xis]
            return np.array(rows).reshape(len(xis), len(xs)).T
        out = np.empty((len(xs), len(xis)))
        for a in range(0, len(xs), step := self._block(len(xis))):
            width = max(1, self._block(1) if len(xis) > self._block(1) else len(xis))
            for b in range(0, len(xis), width):
                out[a : a + step, b : b + width] = self._own(xs[a : a + step], xis[b : b + width])
        return out

    def _own(self, xs: F64, xis: F64) -> F64:
        self.clock.check()
        began = time.perf_counter()
        found = np.asarray(self.problem.values(xs, xis), float)
        if found.shape != (len(xs), len(xis)):
            raise InputError(
                f"{type(self.problem).__name__}.values has shape {found.shape}; expected {(len(xs), len(xis))}"
            )
        self._note(time.perf_counter() - began, found.size)
        self._require(found, "values")
        return found

    def _block(self, width: int) -> int:
        """Return how many rows of ``width`` pairs may be priced between two looks at the clock."""
        if self.pair_seconds == 0.0:
            return max(1, 64 // max(1, width))
        return max(1, int(BLOCK_SECONDS / (self.pair_seconds * max(1, width))))

    def _note(self, seconds: float, pairs: int) -> None:
        each = seconds / max(1, pairs)
        self.pair_seconds = each if self.pair_seconds == 0.0 else 0.8 * self.pair_seconds + 0.2 * each

    def _require(self, values: F64, name: str) -> None:
        if np.isnan(values).any() or np.isneginf(values).any():
            raise InputError(f"{type(self.problem).__name__}.{name} gives NaN or -inf; expected a cost, or inf")

    def answer(self, xi: F64, *, seconds: float = 60.0, gap: float = 1e-5) -> Deterministic:
        """Return the best plan for the known scenario xi within ``seconds`` and the deadline.

        ``gap`` is relative and of the MILP solver; a problem that answers by itself takes no notice of it.

        Raises:
            OutOfTimeError: no plan was found in time.
            InputError: no plan is feasible there, or the program is unbounded.
        """
        self.clock.check()
        if self._own_plans:
            return self.problem.deterministic(xi)
        return deterministic_by_milp(self.problem, xi, gap=gap, seconds=min(seconds, self.clock.left))

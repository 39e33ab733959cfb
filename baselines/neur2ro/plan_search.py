"""What the searches over plans share: a scenario pool that screens plans, exact worst cases for the promising ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.network import BoundNetwork
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import SecondStages
from mallocgame.baselines.neur2ro.worst_case import WorstCase, WorstCaseOracle
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]


class SearchLimits(Protocol):
    """What a search's settings hold."""

    @property
    def seconds(self) -> float:
        """Wall-clock limit."""
        ...

    @property
    def pool(self) -> int:
        """Scenarios kept for screening."""
        ...

    @property
    def tolerance(self) -> float:
        """Relative gap at which to stop."""
        ...


@dataclass(slots=True)
class PlanSearch:
    """The plans and scenarios that a search has seen, its best plan and its bound."""

    problem: TwoStageProblem
    network: BoundNetwork | None
    config: SearchLimits
    oracle: WorstCaseOracle
    stages: SecondStages
    clock: Clock
    on_iteration: Callable[[Iteration], None]
    best: float = np.inf
    best_x: F64 | None = None
    best_worst: WorstCase | None = None
    lower: float = -np.inf
    pool: list[F64] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    history: list[Iteration] = field(default_factory=list)
    hints: list[F64] = field(default_factory=list)  # scenarios that the network finds bad, unpriced

    @property
    def closed(self) -> bool:
        return self.best - self.lower <= self.config.tolerance * max(1.0, abs(self.best)) and np.isfinite(self.best)

    def add_scenario(self, xi: F64) -> None:
        """Keep xi as the newest scenario, dropping the oldest beyond the pool size."""
        others = [old for old in self.pool if np.abs(xi - old).sum() > 1e-6]
        self.pool = [*others, xi][-self.config.pool :]

    def screened(self, xs: F64) -> F64:
        """Return lower bounds on the worst cases of plans: their largest exact cost over the pool, newest first."""
        costs = xs @ self.problem.first_stage().cost
        bounds = np.full(len(xs), -np.inf)
        alive = np.arange(len(xs))
        for xi in reversed(self.pool):
            bounds[alive] = np.maximum(bounds[alive], costs[alive] + self.stages.values(xs[alive], xi[None])[:, 0])
            alive = alive[bounds[alive] < self.best]
            if not len(alive):
                break
        return bounds

    def try_best(self, xs: F64) -> bool:
        """Give plans exact worst cases, most promising first, until one improves; each scenario screens the rest."""
        costs = xs @ self.problem.first_stage().cost
        bounds = self.screened(xs)
        while True:
            alive = np.flatnonzero(bounds < self.best)
            if not len(alive):
                return False
            index = alive[np.argmin(bounds[alive])]
            if self.try_plan(xs[index]):
                return True
            bounds[index] = np.inf
            alive = alive[alive != index]
            if len(alive):
                fresh = self.stages.values(xs[alive], self.pool[-1][None])[:, 0]
                bounds[alive] = np.maximum(bounds[alive], costs[alive] + fresh)

    def is_seen(self, x: F64) -> bool:
        """Whether the plan was given an exact worst case (or was given up above the incumbent)."""
        return _key(x) in self.seen

    def try_plan(self, x: F64) -> bool:
        """Give a plan its exact worst case; keep it if it is the best. Returns whether it improved."""
        if self.is_seen(x):
            return False
        self.seen.add(_key(x))
        worst = self.oracle.worst_case(x, hints=np.array(self.pool[-4:]) if self.pool else None, stop_above=self.best)
        self.add_scenario(worst.xi)
        if self.best_x is None:
            self.best_x, self.best_worst = x.copy(), worst
        if self.clock.left <= 0 and not worst.exact:
            raise OutOfTimeError  # what was seen of it is no worst case
        if worst.value >= self.best - 1e-9 * max(1.0, abs(worst.value)):
            return False
        self.best, self.best_x, self.best_worst = worst.value, x.copy(), worst
        row = Iteration(seconds=self.clock.elapsed, main=self.best, adversary=self.lower, scenarios=len(self.pool))
        self.history.append(row)
        self.on_iteration(row)
        return True

    def mixed_answers(self, scenarios: F64, rng: np.random.Generator, *, share: float) -> F64:
        """Return the best plans for mixtures of each scenario with the mean one, float64[A, nx].

        As many as come within ``share`` of the time left, the first always.
        """
        mean, part = self.problem.mean_scenario(), self.clock.part(share)
        weights = rng.uniform(0.0, 1.0, (len(scenarios), 1))
        found: list[F64] = []
        for xi in weights * scenarios + (1 - weights) * mean:
            if found and part.left <= 0:
                break
            found.append(self.stages.answer(xi).x)
        return np.array(found)

    def result(self, method: str, stopped: str) -> RobustResult:
        """Return the best plan.

        Raises:
            InputError: there is none yet.
        """
        if self.best_x is None or self.best_worst is None:
            raise InputError(f"no plan within {self.config.seconds:g} s; raise --seconds")
        return RobustResult(
            method=method,
            x=self.best_x,
            worst_case=self.best_worst.value,
            worst_case_exact=self.best_worst.exact,
            worst_scenario=self.best_worst.xi,
            lower_bound=self.lower,
            seconds=self.clock.elapsed,
            evaluation_seconds=0.0,
            stopped=stopped,
            scenarios=np.array(self.pool),
            history=tuple(self.history),
            used_network=self.network is not None,
            device="" if self.network is None else self.network.device_name,
        )


def _key(x: F64) -> bytes:
    return (np.round(x, 6) + 0.0).tobytes()


def open_search(
    problem: TwoStageProblem,
    network: BoundNetwork | None,
    config: SearchLimits,
    on_iteration: Callable[[Iteration], None],
) -> PlanSearch:
    """Return an empty search whose clock starts now."""
    oracle = WorstCaseOracle(problem)
    clock = oracle.stages.clock = Clock(config.seconds)
    return PlanSearch(problem, network, config, oracle, oracle.stages, clock, on_iteration)

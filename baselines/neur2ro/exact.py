"""Column-and-constraint generation with an exact adversary: the reference that knows how good it is."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.linear import LinearModel
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, add_recourse
from mallocgame.baselines.neur2ro.references import Watch, no_watch, price
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import SecondStages, warm_up
from mallocgame.baselines.neur2ro.solvers import Backend, require, solve
from mallocgame.baselines.neur2ro.worst_case import WorstCase, WorstCaseOracle
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
TIGHTEST = 1e-9  # relative gap of the main program beyond which a repeated scenario ends the loop


def solve_exact(
    problem: TwoStageProblem,
    *,
    seconds: float = 600.0,
    gap: float = 1e-4,
    backend: Backend = "highs",
    threads: int = 1,
    on_iteration: Watch = no_watch,
) -> RobustResult:
    """Column-and-constraint generation: one exact copy of the second stage per scenario, exact worst cases.

    A plan without a feasible second stage costs inf; the scenario that shows it joins the main program, which then
    excludes the plan.

    Args:
        problem: with "objective" or "finite" uncertainty; "general" where the worst case can still be exact: a linear
            second stage with uncertainty in its right-hand side, or an Xi of few whole numbers.
        seconds: limit; the incumbent and its gap are returned when it is met.
        gap: relative gap at which to stop.
        backend: MILP solver of the main program.
        threads: of the MILP solver.
        on_iteration: called each round.

    Raises:
        InputError: no exact adversary for this uncertainty, or a robust problem that is infeasible or unbounded.

    Source: Zeng and Zhao, Operations Research Letters 41 (2013), doi:10.1016/j.orl.2013.05.003.
    """
    warm_up(problem)
    oracle = WorstCaseOracle(problem)
    if not oracle.exact:
        raise InputError(
            "exact CCG needs a worst case that can be proved: uncertainty in the costs only, a list of scenarios, or a "
            "linear second stage with uncertainty in the right-hand side over few vertices (or 0/1 ones and bounded "
            "duals); use method search for this problem"
        )
    clock = Clock(seconds)
    oracle.stages.clock = clock
    run = _Run(problem=problem, oracle=oracle, clock=clock, gap=gap, backend=backend, threads=threads)
    try:
        stopped = run.loop(on_iteration)
    except OutOfTimeError:
        stopped = f"time limit of {seconds:g} s"
    return run.result(stopped)


@dataclass(slots=True)
class _Run:
    """The state of one column-and-constraint generation."""

    problem: TwoStageProblem
    oracle: WorstCaseOracle
    clock: Clock
    gap: float
    backend: Backend
    threads: int
    x: F64 = field(default_factory=lambda: np.zeros(0))
    best_x: F64 = field(default_factory=lambda: np.zeros(0))
    best: WorstCase | None = None
    lower: float = -np.inf
    main_gap: float = 0.0
    scenarios: list[F64] = field(default_factory=list)
    history: list[Iteration] = field(default_factory=list)

    def loop(self, on_iteration: Watch) -> str:
        """Alternate main program and adversary; return why it stopped."""
        self.main_gap = self.gap / 2
        self.x = self.oracle.stages.answer(self.problem.mean_scenario()).x
        while True:
            worst = self.oracle.worst_case(self.x, hints=np.array(self.scenarios) if self.scenarios else None)
            self._keep(worst)
            row = Iteration(
                seconds=self.clock.elapsed, main=self._value(), adversary=self.lower, scenarios=len(self.scenarios)
            )
            self.history.append(row)
            on_iteration(row)
            if self._closed():
                return "optimal"
            self.clock.check()
            if any(np.abs(worst.xi - old).sum() <= 1e-9 for old in self.scenarios):
                if self.main_gap <= TIGHTEST:
                    return "the worst scenario repeats: what is left is the solvers' tolerance"
                self.main_gap = max(TIGHTEST, self.main_gap / 100)
            else:
                self.scenarios.append(worst.xi)
            bound, self.x = main_program(
                self.problem, self.scenarios, self.oracle.stages, self.clock, self.main_gap, self.backend, self.threads
            )
            self.lower = max(self.lower, bound)

    def _closed(self) -> bool:
        if self.best is None or not (self.best.exact and self.best.feasible):
            return False
        return self.best.value - self.lower <= self.gap * max(1e-9, abs(self.best.value))

    def _value(self) -> float:
        return np.inf if self.best is None else self.best.value

    def _keep(self, worst: WorstCase) -> None:
        """Keep the plan if its true worst case is the best; a worst case cut short proves nothing."""
        if self.best is None or (worst.exact and (worst.value < self.best.value or not self.best.exact)):
            self.best, self.best_x = worst, self.x

    def result(self, stopped: str) -> RobustResult:
        """Return the incumbent."""
        if self.best is None:
            raise InputError(f"no plan within {self.clock.seconds:g} s; raise --seconds")
        return RobustResult(
            method="exact",
            x=self.best_x,
            worst_case=self.best.value,
            worst_case_exact=self.best.exact,
            worst_scenario=self.best.xi,
            lower_bound=self.lower,
            seconds=self.clock.elapsed,
            evaluation_seconds=0.0,
            stopped=stopped,
            scenarios=np.array(self.scenarios).reshape(len(self.scenarios), self.best.xi.size),
            history=tuple(self.history),
        )


def main_program(
    problem: TwoStageProblem,
    scenarios: list[F64],
    stages: SecondStages,
    clock: Clock,
    gap: float,
    backend: Backend = "highs",
    threads: int = 1,
) -> tuple[float, F64]:
    """Return (proved bound, x) of the main program with one exact second stage per scenario.

    Raises:
        OutOfTimeError: no plan was found in time.
        InputError: no plan has a feasible second stage in all of the scenarios, or the program is unbounded.
    """
    clock.check()
    stage = problem.first_stage()
    model = LinearModel()
    x = model.add_set(stage, with_cost=True)
    theta = model.add_columns(1, lower=-np.inf, cost=1.0)
    for xi in scenarios:
        recourse = stages.recourse(xi)
        y = add_recourse(model, [recourse], x)
        price(model, theta, x, y, recourse)
    result = solve(model, backend=backend, seconds=clock.left, gap=gap, threads=threads)
    if result.status == "unknown":
        raise OutOfTimeError
    if result.status == "infeasible":
        raise InputError(
            f"the robust problem is infeasible: no plan has a second stage in all of {len(scenarios)} scenarios"
        )
    values = require(result, "the main program").values[x]
    return result.bound, np.where(stage.integer, np.round(values), values)

"""The paper's mode: column-and-constraint generation where the network finds and ranks scenarios.

Each round: the main program picks x, with one exact copy of the second stage under the stored scenario that the network
ranks worst (``arg_max``); the adversary, a MILP over the network, proposes the next scenario. The network never prices
the main objective. Source: Dumouchelle et al., Neur2RO, ICLR 2024, arXiv:2310.04345. With one stored scenario, the
network has no say in the main program, which is then ``problem.deterministic``. Two deviations: the first plan is the
one for the mean scenario, not the nominal one, and the plan returned is, of all rounds, the one that the network prices
least over all scenarios found, not the last (programs cut short are optimistic).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.arg_max import ArgMaxProgram, CcgConfig
from mallocgame.baselines.neur2ro.ascent import ascend
from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.embedding import adversary_model
from mallocgame.baselines.neur2ro.network import BoundNetwork, Network
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.references import judged, judging_share, known_scenario_plan
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.second_stages import warm_up
from mallocgame.baselines.neur2ro.solvers import require, solve
from mallocgame.baselines.neur2ro.worst_case import WorstCaseOracle

F64 = npt.NDArray[np.float64]


def solve_paper(
    problem: TwoStageProblem,
    network: Network,
    config: CcgConfig | None = None,
    *,
    on_iteration: Callable[[Iteration], None] = lambda row: None,
) -> RobustResult:
    """Return the paper's plan; its worst case is then evaluated with the exact second stage.

    Raises:
        InputError: a program is infeasible or unbounded; the message names it.
    """
    config = config or CcgConfig()
    warm_up(problem)
    bound = network.bind(problem)
    oracle = WorstCaseOracle(problem)
    clock = Clock(config.seconds)
    part = clock.part(1 - judging_share(oracle))
    first = known_scenario_plan(problem, problem.mean_scenario(), part, share=0.3)
    run = _Loop(problem, bound, config, part, ArgMaxProgram(bound, problem, config), first, on_iteration)
    try:
        stopped = run.loop()
    except OutOfTimeError:
        stopped = f"time limit of {config.seconds:g} s"
    return judged(
        "paper",
        oracle,
        run.best_plan(),
        clock,
        stopped=stopped,
        scenarios=run.main.scenarios,
        history=tuple(run.history),
        used_network=True,
    )


@dataclass(slots=True)
class _Loop:
    """The state of the published loop."""

    problem: TwoStageProblem
    network: BoundNetwork
    config: CcgConfig
    clock: Clock
    main: ArgMaxProgram
    x: F64
    on_iteration: Callable[[Iteration], None]
    plans: list[F64] = field(default_factory=list)  # of all rounds
    feared: list[F64] = field(default_factory=list)  # the adversary's scenario of each
    history: list[Iteration] = field(default_factory=list)

    def loop(self) -> str:
        """Alternate adversary and main program by the published stopping rules; return why it stopped."""
        config, main_value = self.config, -np.inf
        cost = self.problem.first_stage().cost
        while True:
            self.plans.append(self.x)
            seconds = min(self.clock.left, config.program_seconds)
            starts = np.array(self.feared[-4:]) if self.feared else None
            claim, xi = adversary(self.network, self.problem, self.x, seconds=seconds, config=config, starts=starts)
            claim += float(cost @ self.x)
            self.feared.append(xi)
            stored = len(self.main.branches)
            row = Iteration(seconds=self.clock.elapsed, main=main_value, adversary=claim, scenarios=stored)
            self.history.append(row)
            self.on_iteration(row)
            if abs(claim - main_value) <= config.tolerance * abs(claim):
                return "main and adversary agree"
            if any(np.abs(xi - branch.xi).sum() <= config.same_scenario for branch in self.main.branches):
                return "the adversary repeats a scenario"
            if stored >= config.max_scenarios:
                return f"{config.max_scenarios} scenarios"
            self.clock.check()
            seconds = min(self.clock.left, config.program_seconds)
            main_value, self.x = self.main.solve(xi, self.x, seconds=seconds)
            self.clock.check()

    def best_plan(self) -> F64:
        """Return the plan that costs least at the worst, as the network prices it, of the scenarios of all rounds."""
        if len(self.plans) < 2 or not self.feared:
            return self.x
        plans = np.array(self.plans)
        worst = self.network.predict(plans, np.array(self.feared)).max(axis=1)
        return np.asarray(plans[int(np.argmin(plans @ self.problem.first_stage().cost + worst))])


def adversary(
    network: BoundNetwork,
    problem: TwoStageProblem,
    x: F64,
    *,
    seconds: float,
    config: CcgConfig,
    starts: F64 | None = None,
) -> tuple[float, F64]:
    """Return the largest predicted second-stage value at plan ``x`` and its scenario: ascent, then a MILP."""
    box = problem.uncertainty()
    clock = Clock(seconds)
    climbed = ascend(network, problem, x, np.random.default_rng(0), starts=starts)[0]
    model, columns, _ = adversary_model(network, x, box, clock=clock.part(0.5))
    point = np.full(model.num_columns, np.nan)
    point[columns] = climbed
    result = solve(
        model,
        backend=config.backend,
        seconds=max(0.05, clock.left),
        gap=config.gap,
        start=point,
        threads=config.threads,
    )
    xis = climbed[None]
    if result.status != "unknown":
        xi = require(result, "the adversary's program").values[columns]
        xi = np.where(box.integer, np.round(xi), np.clip(xi, box.lower, box.upper))
        xis = np.vstack([xi, climbed])
    predicted = network.predict(x[None], xis)[0]
    best = int(np.argmax(predicted))
    return float(predicted[best]), xis[best]

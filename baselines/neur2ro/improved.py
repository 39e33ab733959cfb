"""The improved mode: the network proposes, the exact second stage decides.

1. Scenarios: adversarial MILPs over the network, from the nominal plan on; where only costs are uncertain also the
   concave maximisation of D(xi) = min over (x, y) of the cost, by cutting planes. Every xi gives the lower bound D(xi),
   and every cut a candidate plan.
2. Candidates are ranked by their worst exact cost over the scenario pool, and the best get their exact worst case; its
   scenario joins the pool.
3. Local search over flips and swaps of binary plans: neighbours are ranked by the network where exact values are slow,
   screened by exact values over the pool (a lower bound on their worst case), and only then given an exact worst case.
   Repeated from perturbed incumbents until the gap closes, the time ends or nothing has improved for a while.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.ccg import CcgConfig, adversary
from mallocgame.baselines.neur2ro.exact import static_plan
from mallocgame.baselines.neur2ro.network import BoundNetwork, Network
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, cost_basis
from mallocgame.baselines.neur2ro.result import Iteration, RobustResult
from mallocgame.baselines.neur2ro.worst_case import CutProgram, WorstCaseOracle, nominal_scenario
from mallocgame.errors import InputError

F64 = npt.NDArray[np.float64]
SLOW_SECONDS = 2e-3  # a second stage that takes longer is worth a static plan first


@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovedConfig:
    """Limits of the improved mode."""

    seconds: float = 20.0
    network_scenarios: int = 5  # adversarial MILPs at the start
    program_seconds: float = 5.0  # per MILP
    bound_cuts: int = 400  # cutting planes of the lower bound
    candidates: int = 12  # plans that get an exact worst case before the local search
    pool: int = 24  # scenarios kept for screening
    quiet_restarts: int = 25  # perturbed restarts without improvement before stopping
    tolerance: float = 1e-6  # relative gap at which to stop
    seed: int = 0


@dataclass(slots=True)
class _Search:
    """The state of one solve."""

    problem: TwoStageProblem
    network: BoundNetwork | None
    config: ImprovedConfig
    oracle: WorstCaseOracle
    began: float
    on_iteration: Callable[[Iteration], None]
    best: float = np.inf
    best_x: F64 = field(default_factory=lambda: np.zeros(0))
    best_xi: F64 = field(default_factory=lambda: np.zeros(0))
    lower: float = -np.inf
    pool: list[F64] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    history: list[Iteration] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.config.seconds - (time.perf_counter() - self.began)

    @property
    def closed(self) -> bool:
        return self.best - self.lower <= self.config.tolerance * max(1.0, abs(self.best))

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
            bounds[alive] = np.maximum(bounds[alive], costs[alive] + self.problem.values(xs[alive], xi[None])[:, 0])
            alive = alive[bounds[alive] < self.best]
            if not len(alive) or self.left <= 0:
                break
        return bounds

    def try_best(self, xs: F64) -> bool:
        """Give plans exact worst cases, most promising first, until one improves; each scenario screens the rest."""
        costs = xs @ self.problem.first_stage().cost
        bounds = self.screened(xs)
        while self.left > 0:
            alive = np.flatnonzero(bounds < self.best)
            if not len(alive):
                return False
            index = alive[np.argmin(bounds[alive])]
            if self.try_plan(xs[index]):
                return True
            bounds[index] = np.inf
            alive = alive[alive != index]
            if len(alive):
                fresh = self.problem.values(xs[alive], self.pool[-1][None])[:, 0]
                bounds[alive] = np.maximum(bounds[alive], costs[alive] + fresh)
        return False

    def try_plan(self, x: F64) -> bool:
        """Give a plan its exact worst case; keep it if it is the best. Returns whether it improved."""
        key = np.round(x).astype(np.int8).tobytes()
        if key in self.seen:
            return False
        self.seen.add(key)
        worst = self.oracle.worst_case(x, hints=np.array(self.pool[-4:]) if self.pool else None, stop_above=self.best)
        self.add_scenario(worst.xi)
        margin = 1e-9 * max(1.0, abs(worst.value))
        if worst.value >= self.best - margin:
            return False
        self.best, self.best_x, self.best_xi = worst.value, x.copy(), worst.xi
        row = Iteration(
            seconds=time.perf_counter() - self.began, main=self.best, adversary=self.lower, scenarios=len(self.pool)
        )
        self.history.append(row)
        self.on_iteration(row)
        return True


def solve_improved(
    problem: TwoStageProblem,
    network: Network | None,
    config: ImprovedConfig | None = None,
    *,
    start: F64 | None = None,
    on_iteration: Callable[[Iteration], None] = lambda row: None,
) -> RobustResult:
    """Return the best plan found within the limits.

    Args:
        problem: the instance; the local search needs a binary first stage, the rest does not.
        network: a trained network of the family, or None to do without it (an ablation).
        config: limits.
        start: a plan to begin from (float64[nx]), or None.
        on_iteration: called at every improvement.

    Raises:
        InputError: the problem is infeasible or unbounded at some scenario.
    """
    config = config or ImprovedConfig()
    began = time.perf_counter()
    bound = network.bind(problem) if network is not None else None
    search = _Search(problem, bound, config, WorstCaseOracle(problem), began, on_iteration)
    plans = [problem.deterministic(nominal_scenario(problem)).x]
    if start is not None:
        plans.append(start)
    if problem.uncertainty_kind == "general" or _second_stage_seconds(problem, plans[0]) > SLOW_SECONDS:
        plans += _static_plan(problem, 0.3 * search.left)
    _network_scenarios(search, plans)
    if problem.uncertainty_kind == "objective":
        _bound_by_cuts(search, plans)
    _evaluate_candidates(search, plans)
    stopped = "first stage is not binary: no local search"
    if problem.first_stage().is_binary:
        stopped = _local_search(search)
    return RobustResult(
        method="neur2ro-improved" if network is not None else "improved-without-network",
        x=search.best_x,
        worst_case=search.best,
        worst_case_exact=search.oracle.exact,
        worst_scenario=search.best_xi,
        lower_bound=search.lower,
        seconds=time.perf_counter() - began,
        evaluation_seconds=0.0,
        stopped=stopped,
        scenarios=np.array(search.pool),
        history=tuple(search.history),
    )


def _second_stage_seconds(problem: TwoStageProblem, x: F64) -> float:
    """Return what one exact second stage takes (the second call: the first may compile)."""
    xi = nominal_scenario(problem)[None]
    problem.values(x[None], xi)
    began = time.perf_counter()
    problem.values(x[None], xi)
    return time.perf_counter() - began


def _static_plan(problem: TwoStageProblem, seconds: float) -> list[F64]:
    """Return the static robust plan, if there is one: a start where pricing is dear or worst cases are searched."""
    try:
        return [static_plan(problem, seconds=seconds).x]
    except InputError:
        return []  # no recourse decision suits every scenario


def _network_scenarios(search: _Search, plans: list[F64]) -> None:
    """Alternate adversary (network) and answer (exact), as the paper's mode does with its last scenario alone."""
    if search.network is None:
        return
    limits = CcgConfig(gap=1e-2)
    deadline = 0.85 * search.left
    for _ in range(search.config.network_scenarios):
        if search.left <= deadline:
            return
        seconds = min(search.left - deadline, search.config.program_seconds)
        _, xi = adversary(search.network, search.problem, plans[-1], seconds=seconds, config=limits)
        known = len(search.pool)
        search.add_scenario(xi)
        if len(search.pool) == known:  # a repetition
            return
        plans.append(search.problem.deterministic(xi).x)


def _bound_by_cuts(search: _Search, plans: list[F64]) -> None:
    """Maximise D(xi) by cutting planes: a proved lower bound, and the plans of its cuts."""
    problem, basis = search.problem, cost_basis(search.problem)
    cost = problem.first_stage().cost
    program = CutProgram(problem)
    nominal = nominal_scenario(problem)
    queue = [nominal, *search.pool]
    best_xi = queue[0]
    deadline = 0.85 * search.left
    for _ in range(search.config.bound_cuts):
        if queue:
            xi = queue.pop()
        else:
            theta, xi = program.solve()
            if theta - search.lower <= search.config.tolerance * abs(theta):
                break
        if search.left < deadline:
            break
        answer = problem.deterministic(xi)
        if answer.bound > search.lower:
            search.lower, best_xi = answer.bound, xi
        cut = basis.cut(answer.x, answer.y)
        cut[0] += float(cost @ answer.x)
        program.add(cut)
        plans.append(answer.x)
    search.add_scenario(best_xi)
    plans += [problem.deterministic(nominal + share * (best_xi - nominal)).x for share in (0.2, 0.4, 0.6, 0.8)]


def _evaluate_candidates(search: _Search, plans: list[F64]) -> None:
    """Exact worst cases of the plans that look best over the pool, re-ranked as the pool grows."""
    distinct = {np.round(x, 6).tobytes(): x for x in plans}
    xs = np.array(list(distinct.values()))
    deadline = 0.75 * search.left
    search.try_plan(xs[0])
    bounds = search.screened(xs)
    for k, index in enumerate(np.argsort(bounds, kind="stable")):
        if search.left <= deadline or search.closed or k >= search.config.candidates:
            break
        if bounds[index] < search.best:
            search.try_plan(xs[index])


def _local_search(search: _Search) -> str:
    """Descend, then perturb and descend again, until a limit is met; returns the reason."""
    rng = np.random.default_rng(search.config.seed)
    breadth = _breadth(search)
    quiet = 0
    current = search.best_x
    while True:
        improved = _descend(search, current, breadth, rng)
        if search.closed:
            return "gap closed"
        if search.left <= 0:
            return f"time limit of {search.config.seconds:g} s"
        quiet = 0 if improved else quiet + 1
        if quiet > search.config.quiet_restarts:
            return f"no improvement in {quiet} restarts"
        current = _perturbed(search, rng)


def _breadth(search: _Search) -> int:
    """Return how many neighbours a round may price exactly within about a quarter of a second."""
    return int(np.clip(0.25 / max(1e-7, _second_stage_seconds(search.problem, search.best_x)), 8, 20_000))


def _neighbours(search: _Search, x: F64, kind: str) -> F64:
    """Return the feasible plans one flip (``kind`` "flip") or one exchange ("swap") away."""
    n = len(x)
    if kind == "flip":
        every = np.abs(np.eye(n) - x)
    else:
        on, off = np.flatnonzero(x > 0.5), np.flatnonzero(x < 0.5)
        every = np.repeat(x[None], len(on) * len(off), axis=0)
        index = np.arange(len(every))
        every[index, np.repeat(on, len(off))] = 0.0
        every[index, np.tile(off, len(on))] = 1.0
    stage = search.problem.first_stage()
    keep = np.all((every >= stage.lower) & (every <= stage.upper), axis=1)
    if len(stage.rows):
        activity = every @ stage.rows.T
        keep &= np.all((activity <= stage.row_upper + 1e-9) & (activity >= stage.row_lower - 1e-9), axis=1)
    return every[keep]


def _descend(search: _Search, x: F64, breadth: int, rng: np.random.Generator) -> bool:
    """First improvement over flips, then swaps, from ``x``; returns whether the incumbent improved."""
    improved = False
    kinds = ["flip", "swap"]
    while kinds and search.left > 0 and not search.closed:
        around = _shortlist(search, _neighbours(search, x, kinds[0]), breadth, rng)
        moved = search.try_best(around)
        if moved:
            x, improved = search.best_x, True
        kinds = ["flip", "swap"] if moved else kinds[1:]
    return improved


def _shortlist(search: _Search, plans: F64, breadth: int, rng: np.random.Generator) -> F64:
    """Return at most ``breadth`` of the plans: the best as the network sees them, or any without a network."""
    if len(plans) <= breadth:
        return plans
    if search.network is None:
        return plans[rng.permutation(len(plans))[:breadth]]
    cost = plans @ search.problem.first_stage().cost
    guess = cost + search.network.predict(plans, np.array(search.pool[-4:])).max(axis=1)
    return plans[np.argsort(guess, kind="stable")[:breadth]]


def _perturbed(search: _Search, rng: np.random.Generator) -> F64:
    """Return the incumbent with some items flipped."""
    stage = search.problem.first_stage()
    for _ in range(50):
        x = search.best_x.copy()
        count = int(rng.integers(2, max(3, len(x) // 10) + 1))
        picked = rng.choice(len(x), size=min(count, len(x)), replace=False)
        x[picked] = 1.0 - x[picked]
        if stage.violation(x) <= 1e-9:
            return x
    return search.best_x

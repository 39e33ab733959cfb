"""The main program of the paper's mode: the plan whose cost is least under the stored scenario that the network ranks
worst for it.

    min over x of  c.x + Q(x, xi_k(x))   with   k(x) = argmax over k of N(x, xi_k)

Solved scenario by scenario. In branch k the network must rank scenario k worst: cost and recourse are those of one
scenario, so neither costs nor ranks need a big-M with a selector. A branch starts from its deterministic optimum (no
ranks at all, a bound that holds in later rounds too); a row N(x, xi_k) >= N(x, xi_j) joins when a plan breaks it. The
incumbent comes from a local search over the same objective; as a cutoff it fixes plan entries and narrows neurons by
linear programs, and closes branches. Source of the program: Dumouchelle et al., Neur2RO, ICLR 2024, arXiv:2310.04345.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.embedding import embed_plan_values, fix_binaries, joined
from mallocgame.baselines.neur2ro.linear import LinearModel
from mallocgame.baselines.neur2ro.neighbours import neighbours
from mallocgame.baselines.neur2ro.network import BoundNetwork
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, add_recourse
from mallocgame.baselines.neur2ro.second_stages import SecondStages
from mallocgame.baselines.neur2ro.solvers import Backend, MilpResult, require, solve

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
DESCENT_SHARE = 0.4  # of the time, for the local search
BOUNDS_SHARE = 0.25  # of a branch's time, for linear programs that narrow it
BREADTH_SECONDS = 0.2  # of second stages in one look around a plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CcgConfig:
    """Caps and tolerances of the paper's mode; the defaults are the paper's, with shorter limits per program."""

    max_scenarios: int = 20
    seconds: float = 600.0
    program_seconds: float = 60.0  # per MILP
    tolerance: float = 1e-4  # relative difference of adversary and main at which to stop
    same_scenario: float = 1e-3  # L1 distance below which a scenario counts as stored already
    gap: float = 1e-3  # relative, of main and adversary programs
    backend: Backend = "highs"
    threads: int = 1


@dataclass(slots=True)
class RankedScenario:
    """One stored scenario and what is known of the plans for which the network ranks it worst."""

    xi: F64
    bound: float = -np.inf  # proved, on the cost of those plans
    rivals: list[int] = field(default_factory=list)  # branches whose ranks were asked for
    closed: bool = False  # whether ``bound`` is met by a plan, up to the gap


class ArgMaxProgram:
    """Grows by scenarios; each ``solve`` goes on from the incumbent plans and bounds of the last."""

    def __init__(self, network: BoundNetwork, problem: TwoStageProblem, config: CcgConfig) -> None:
        self.network = network
        self.problem = problem
        self.stage = problem.first_stage()
        self.stages = SecondStages(problem)
        self.config = config
        self._width = problem.uncertainty().size
        self.branches: list[RankedScenario] = []
        self.best = np.inf
        self.best_x = np.zeros(0)
        self._plans: list[F64] = []  # answers to the stored scenarios: starts of the local search
        self._rng = np.random.default_rng(0)

    @property
    def scenarios(self) -> F64:
        """The stored scenarios, float64[K, nxi]."""
        return np.array([branch.xi for branch in self.branches]).reshape(len(self.branches), self._width)

    @property
    def bound(self) -> float:
        """A proved lower bound on the objective (given exact solves of the branches)."""
        return min((branch.bound for branch in self.branches), default=-np.inf)

    def evaluate(self, xs: F64) -> F64:
        """Return the objective of plans, float64[A]: their cost under the scenario that the network ranks worst."""
        ranked = self.network.predict(xs, self.scenarios).argmax(axis=1)
        values = xs @ self.stage.cost
        for k in np.unique(ranked):
            mine = ranked == k
            values[mine] += self.stages.values(xs[mine], self.branches[k].xi[None])[:, 0]
        return values

    def solve(self, xi: F64, start: F64, *, seconds: float) -> tuple[float, F64]:
        """Add scenario ``xi`` and return (objective, plan), the best found; ``start`` is a plan to begin from.

        Raises:
            OutOfTimeError: the time did not suffice for one plan.
            InputError: no plan has a second stage at ``xi``.
        """
        clock = self.stages.clock = Clock(seconds)
        branch = RankedScenario(xi)
        self.branches.append(branch)
        for other in self.branches:
            other.closed = False  # ranked anew against one more
        self.best = np.inf
        answer = self.stages.answer(xi, seconds=0.5 * seconds)
        branch.bound = answer.bound
        self._plans.append(answer.x)
        known = [start] if not self.best_x.size else [start, self.best_x]
        self._offer(np.array([*self._plans, *known]))
        try:
            if self.stage.is_binary and len(self.branches) > 1:
                self._descend(clock.part(DESCENT_SHARE))
            while self._open() and clock.left > 0:
                self._bound(min(self._open(), key=lambda k: self.branches[k].bound), clock)
        except OutOfTimeError:
            pass
        if not self.best_x.size:
            self.best_x = start  # no plan seen has a second stage at the scenario ranked worst
        return self.best, self.best_x

    def _open(self) -> list[int]:
        """Return the branches that may hold a better plan."""
        limit = self.best - self._margin()
        return [k for k, branch in enumerate(self.branches) if not branch.closed and branch.bound < limit]

    def _margin(self) -> float:
        return self.config.gap * abs(self.best) if np.isfinite(self.best) else 0.0

    def _offer(self, xs: F64) -> bool:
        """Keep the best of the plans if it is better than the incumbent."""
        values = self.evaluate(xs)
        k = int(np.argmin(values))
        if not values[k] < self.best - 1e-9 * max(1.0, abs(values[k])):
            return False
        self.best, self.best_x = float(values[k]), xs[k].copy()
        return True

    def _descend(self, clock: Clock) -> None:
        """Walk to better plans by flips and exchanges until none is better, or ``clock`` ends."""
        kinds = ["flip", "swap"]
        while kinds and clock.left > 0:
            near = neighbours(self.best_x, self.stage, kinds[0])
            breadth = max(8, int(BREADTH_SECONDS / max(1e-7, self.stages.pair_seconds)))
            near = near[self._rng.permutation(len(near))[:breadth]]
            kinds = ["flip", "swap"] if len(near) and self._offer(near) else kinds[1:]

    def _bound(self, k: int, clock: Clock) -> None:
        """Raise the bound of branch k, and offer the plan that its program finds."""
        branch = self.branches[k]
        if len(self.branches) == 1:
            branch.closed = True  # the deterministic optimum, up to the solver's gap
            return
        result, columns = self._program(k, clock)
        if result.status == "infeasible":  # no plan of this branch beats the cutoff
            branch.bound, branch.closed = max(branch.bound, self.best - self._margin()), True
            return
        branch.bound = max(branch.bound, result.bound)
        if result.status == "unknown":
            raise OutOfTimeError
        found = require(result, "the main program").values[columns]
        plan = np.where(self.stage.integer, np.round(found), found)
        self._offer(plan[None])
        worst = int(self.network.predict(plan[None], self.scenarios)[0].argmax())
        if worst != k and worst not in branch.rivals:
            branch.rivals.append(worst)
        elif result.status == "optimal":
            branch.closed = True
        else:
            raise OutOfTimeError

    def _program(self, k: int, clock: Clock) -> tuple[MilpResult, I64]:
        """Solve branch k with the ranks asked for so far, below the cutoff; return also the plan's columns."""
        model = LinearModel()
        x = self._one_scenario(model, k)
        narrowing = Clock(BOUNDS_SHARE * clock.left)
        rivals = self.branches[k].rivals
        feasible = fix_binaries(model, x, narrowing)
        if feasible and rivals:
            scenarios = self.scenarios[[k, *rivals]]
            mine, *others = embed_plan_values(model, self.network, x, scenarios, tighten=True, clock=narrowing)
            for other in others:
                lead = joined([mine, other.times(-np.eye(1))])
                model.add_row(lead.columns, lead.weights[0], lower=-float(lead.constant[0]))
        if not feasible:
            return MilpResult(status="infeasible", objective=np.inf, bound=np.inf, values=np.zeros(0), seconds=0.0), x
        config, seconds = self.config, max(0.05, clock.left)
        return solve(model, backend=config.backend, seconds=seconds, gap=config.gap / 2, threads=config.threads), x

    def _one_scenario(self, model: LinearModel, k: int) -> I64:
        """Add plan, recourse and cost of scenario k, below the cutoff; return the plan's columns."""
        recourse = self.stages.recourse(self.branches[k].xi)
        x = model.add_set(self.stage)
        y = add_recourse(model, [recourse], x)
        cost = self.stage.cost + recourse.x_cost
        model.set_cost(x, cost)
        model.set_cost(y, recourse.y_cost)
        model.offset = recourse.constant
        if np.isfinite(self.best):
            cutoff = self.best - self._margin() - recourse.constant
            model.add_terms([(x, cost), (y, recourse.y_cost)], upper=cutoff)
        return x

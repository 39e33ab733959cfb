"""The worst case of a plan: exact by cutting planes where only costs are uncertain, by listing where scenarios are
finite, searched (a lower bound) otherwise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import Model
from mallocgame.baselines.neur2ro.problem import CostBasis, TwoStageProblem, cost_basis
from mallocgame.baselines.neur2ro.solvers import highs_program, optimise_over

F64 = npt.NDArray[np.float64]


REMEMBERED = 64  # recourse decisions kept between plans


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstCase:
    """The largest total cost (first stage included) of a plan over the uncertainty set."""

    value: float  # attained at xi
    upper: float  # proved upper bound on the worst case; inf when the search proves none
    xi: F64


class CutProgram:
    """max theta over xi in Xi with theta <= a_0 + a.xi for every cut, on a warm HiGHS simplex."""

    def __init__(self, problem: TwoStageProblem) -> None:
        model = Model()
        self.xi_columns = model.add_set(problem.uncertainty())
        self.theta = int(model.add_columns(1, lower=-1e12, upper=1e12, cost=-1.0)[0])
        self.program: Any = highs_program(model)

    def add(self, cut: F64) -> None:
        """Add theta <= cut[0] + cut[1:].xi."""
        used = np.flatnonzero(cut[1:])
        index = np.append(self.xi_columns[used], self.theta).astype(np.int32)
        values = np.append(-cut[1:][used], 1.0)
        self.program.addRow(-1e30, float(cut[0]), len(index), index, values)

    def solve(self) -> tuple[float, F64]:
        """Return (theta, xi)."""
        self.program.run()
        values = np.array(self.program.getSolution().col_value)
        return float(values[self.theta]), values[self.xi_columns]


class WorstCaseOracle:
    """Worst cases of many plans of one instance; recourse decisions seen once are reused as cuts for the next plan."""

    def __init__(self, problem: TwoStageProblem, *, tolerance: float = 1e-6) -> None:
        self.problem = problem
        self.tolerance = tolerance
        self.cost = problem.first_stage().cost
        self.kind = problem.uncertainty_kind
        self.calls = 0
        self.second_stage_solves = 0
        self._basis: CostBasis | None = cost_basis(problem) if self.kind == "objective" else None
        self._recourse = problem.recourse(np.zeros(problem.uncertainty().size)) if self._basis is not None else None
        self._listed = problem.scenarios()
        self._pool: list[F64] = []
        self._answers: list[F64] = []  # recourse decisions seen, newest last

    @property
    def exact(self) -> bool:
        """Whether the values returned are true worst cases."""
        return self.kind in ("objective", "finite")

    def worst_case(self, x: F64, *, hints: F64 | None = None, stop_above: float = np.inf) -> WorstCase:
        """Return the worst case of the plan ``x``.

        Args:
            x: float64[nx].
            hints: scenarios float64[K, nxi] to look at first, or None.
            stop_above: give up once some scenario costs at least this much (the plan is no better than the incumbent).
        """
        self.calls += 1
        first = float(self.cost @ x)
        if self._listed is not None:
            values = self.problem.values(x[None], self._listed)[0]
            self.second_stage_solves += len(self._listed)
            k = int(np.argmax(values))
            return WorstCase(value=first + values[k], upper=first + values[k], xi=self._listed[k])
        if self._basis is not None:
            return self._by_cuts(x, first, hints, stop_above)
        return self._searched(x, first, hints)

    def _by_cuts(self, x: F64, first: float, hints: F64 | None, stop_above: float) -> WorstCase:
        assert self._basis is not None
        best, best_xi = -np.inf, np.zeros(self.problem.uncertainty().size)
        program = CutProgram(self.problem)
        for y in self._usable_answers(x):
            program.add(self._basis.cut(x, y))
        queue = [] if hints is None else list(hints)
        theta = np.inf
        for _ in range(2000):
            xi = queue.pop() if queue else None
            if xi is None:
                theta, xi = program.solve()
                xi = np.clip(xi, 0.0, None) if (self.problem.uncertainty().lower >= 0).all() else xi
                if np.isfinite(best) and theta - best <= self.tolerance * max(1.0, abs(best + first)):
                    break
            answer = self.problem.second_stage(x, xi)
            self.second_stage_solves += 1
            if answer.value > best:
                best, best_xi = answer.value, xi
            if first + best >= stop_above:
                break
            program.add(self._basis.cut(x, answer.y))
            self._answers.append(answer.y)
        self._answers = self._answers[-REMEMBERED:]
        return WorstCase(value=first + best, upper=first + max(theta, best), xi=best_xi)

    def _usable_answers(self, x: F64) -> list[F64]:
        """Return remembered recourse decisions that are feasible for ``x``: each bounds its worst case from above."""
        if not self._answers:
            return []
        assert self._recourse is not None
        room = self._recourse.row_upper - self._recourse.x_rows @ x
        fits = np.all(np.array(self._answers) @ self._recourse.y_rows.T <= room + 1e-9, axis=1)
        return [self._answers[k] for k in np.flatnonzero(fits)]

    def _searched(self, x: F64, first: float, hints: F64 | None) -> WorstCase:
        """Samples, corners and pairwise mixtures of the worst scenarios so far, re-evaluated exactly."""
        rng = np.random.default_rng(self.calls)
        box = self.problem.uncertainty()
        if not self._pool:
            self._pool = list(self.problem.sample_scenarios(rng, 256))
        candidates = np.array(self._pool if hints is None else [*self._pool, *hints])
        values = self.problem.values(x[None], candidates)[0]
        whole = bool(box.integer.any())
        for _ in range(0 if whole else 12):
            elite = candidates[np.argsort(-values)[:8]]
            pairs = rng.integers(8, size=(2, 48)) % len(elite)
            step = rng.uniform(0.0, 1.0, size=(48, 1))
            mixed = elite[pairs[0]] * step + elite[pairs[1]] * (1 - step)
            corner = candidates[rng.integers(len(candidates), size=48)]
            pull = rng.uniform(0.0, 0.3, size=(48, 1))
            fresh = np.vstack([mixed, elite[pairs[0]] * (1 - pull) + corner * pull])
            candidates = np.vstack([candidates, fresh])
            values = np.concatenate([values, self.problem.values(x[None], fresh)[0]])
        self.second_stage_solves += len(candidates)
        best = int(np.argmax(values))
        self._pool.append(candidates[best])
        return WorstCase(value=first + float(values[best]), upper=np.inf, xi=candidates[best])


def linear_corner(problem: TwoStageProblem, direction: F64) -> F64:
    """Return the scenario furthest along ``direction`` (float64[nxi])."""
    return optimise_over(problem.uncertainty(), -direction, "the uncertainty set")


def nominal_scenario(problem: TwoStageProblem) -> F64:
    """Return the scenario of a planner who ignores uncertainty: the point of Xi nearest to 0 in the sum of sizes."""
    box = problem.uncertainty()
    zero = np.clip(np.zeros(box.size), box.lower, box.upper)
    if box.violation(zero) <= 1e-9:
        return zero
    return optimise_over(box, np.where(box.lower >= 0, 1.0, 0.0), "the uncertainty set")

"""The worst case of a plan: exact by cutting planes where only costs are uncertain, by listing where scenarios (or the
vertices of Xi) are few, by a dual program where Xi has 0/1 vertices; searched (a lower bound) otherwise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.affine import AffineRecourse, costs_only
from mallocgame.baselines.neur2ro.clock import Clock, OutOfTimeError
from mallocgame.baselines.neur2ro.dual import DualAdversary, is_right_hand_side
from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet, as_numbers
from mallocgame.baselines.neur2ro.problem import TwoStageProblem, nominal_scenario
from mallocgame.baselines.neur2ro.second_stages import SecondStages
from mallocgame.baselines.neur2ro.solvers import highs_program
from mallocgame.baselines.neur2ro.vertices import listed_points
from mallocgame.errors import InputError

__all__ = ["CutProgram", "WorstCase", "WorstCaseOracle", "nominal_scenario"]

F64 = npt.NDArray[np.float64]
REMEMBERED = 64  # recourse decisions kept between plans
SEARCH_ROUNDS = 12
AGREEMENT = 1e-4  # relative difference between a second stage's value and its price by the recourse that is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstCase:
    """The largest total cost (first stage included) of a plan over the uncertainty set; inf: infeasible at xi."""

    value: float  # attained at xi
    upper: float  # proved upper bound on the worst case; inf when none is proved
    xi: F64
    exact: bool  # whether ``value`` is the worst case, not only the worst seen

    @property
    def feasible(self) -> bool:
        """Whether the plan has a second stage in every scenario looked at."""
        return bool(np.isfinite(self.value))


class CutProgram:
    """max theta over xi in Xi with theta <= a_0 + a.xi for every cut, on a warm HiGHS simplex."""

    def __init__(self, problem: TwoStageProblem) -> None:
        model = LinearModel()
        box = problem.uncertainty()
        self.xi_columns = model.add_set(box)
        self.whole = box.integer
        self.lower, self.upper = box.lower, box.upper
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
        xi = np.clip(values[self.xi_columns], self.lower, self.upper)
        return float(values[self.theta]), np.where(self.whole, np.round(xi), xi)


def check_uncertainty(problem: TwoStageProblem) -> None:
    """Refuse sets that are none, an unbounded Xi, and a list of scenarios that is none.

    Raises:
        InputError: one of these.
    """
    name = type(problem).__name__
    for member, found in (("first_stage", problem.first_stage()), ("uncertainty", problem.uncertainty())):
        if not isinstance(found, LinearSet):
            raise InputError(f"{name}.{member}() returned {found!r:.60}, expected a LinearSet")
    box, listed = problem.uncertainty(), problem.scenarios()
    if problem.uncertainty_kind not in ("objective", "finite", "general"):
        raise InputError(
            f"{name}.uncertainty_kind is {problem.uncertainty_kind!r}; expected objective, finite, general"
        )
    if not np.isfinite([box.lower, box.upper]).all():
        raise InputError(f"{name}.uncertainty: expected finite bounds on every entry of xi")
    if problem.uncertainty_kind == "finite" and listed is None:
        raise InputError(f"{name}.uncertainty_kind is 'finite' but scenarios() lists none")
    if listed is not None:
        numbers = as_numbers(listed, f"{name}.scenarios")
        if numbers.ndim != 2 or numbers.shape[1] != box.size or not len(numbers) or not np.isfinite(numbers).all():
            raise InputError(f"{name}.scenarios has shape {numbers.shape}; expected at least one row of {box.size}")


class WorstCaseOracle:
    """Worst cases of many plans of one instance; recourse decisions seen once are reused as cuts for the next plan.

    Raises:
        InputError: the problem says that only costs are uncertain and that is not so, or Xi is unbounded.
    """

    def __init__(
        self,
        problem: TwoStageProblem,
        *,
        tolerance: float = 1e-6,
        clock: Clock | None = None,
        stages: SecondStages | None = None,
    ) -> None:
        check_uncertainty(problem)
        self.problem = problem
        self.stages = stages or SecondStages(problem, clock)
        self.tolerance = tolerance
        self.cost = problem.first_stage().cost
        self.calls = 0
        self.costs: AffineRecourse | None = None
        self._dual: DualAdversary | None = None
        self.listed: F64 | None = None
        self._pool: list[F64] = []
        self._answers: list[F64] = []  # recourse decisions seen, newest last
        self._choose(problem)

    def _choose(self, problem: TwoStageProblem) -> None:
        """Find the strongest way to the worst case that the problem admits."""
        listed = problem.scenarios()
        if problem.uncertainty_kind == "objective":
            self.costs = costs_only(problem)
        elif problem.uncertainty_kind == "finite":
            self.listed = None if listed is None else np.asarray(listed, float)
        else:
            affine = is_right_hand_side(problem)
            self.listed = listed_points(problem.uncertainty(), convex=affine is not None)
            if self.listed is None and affine is not None:
                self._dual = DualAdversary.build(affine)

    @property
    def exact(self) -> bool:
        """Whether true worst cases can be had (given time)."""
        return self.costs is not None or self.listed is not None or self._dual is not None

    @property
    def how(self) -> str:
        """What the adversary is, in words."""
        if self.costs is not None:
            return "cutting planes over the costs"
        if self.listed is not None:
            return f"{len(self.listed)} listed scenarios or vertices"
        return "dual program" if self._dual is not None else "search"

    def worst_case(self, x: F64, *, hints: F64 | None = None, stop_above: float = np.inf) -> WorstCase:
        """Return the worst case of the plan ``x``; when time runs out, the worst scenario seen, with exact False.

        Args:
            x: float64[nx].
            hints: scenarios float64[K, nxi] to look at first, or None.
            stop_above: give up once some scenario costs at least this much (the plan is no better than the incumbent).
        """
        self.calls += 1
        first = float(self.cost @ x)
        hints = np.zeros((0, self.problem.uncertainty().size)) if hints is None else hints
        if self.costs is not None:
            return self._by_cuts(x, first, hints, stop_above)
        seen = _Seen(first, hints[0] if len(hints) else nominal_scenario(self.problem))
        try:
            if self.listed is not None:
                return self._by_list(x, seen, hints, stop_above)
            return self._by_dual(x, seen, hints, stop_above) if self._dual else self._searched(x, seen, hints)
        except OutOfTimeError:
            return seen.worst(exact=seen.value == np.inf)

    def _by_list(self, x: F64, seen: "_Seen", hints: F64, stop_above: float) -> WorstCase:
        assert self.listed is not None
        known = [int(np.argmin(np.abs(self.listed - xi).sum(axis=1))) for xi in hints]
        order = list(dict.fromkeys([*reversed(known), *range(len(self.listed))]))
        block = 1 if not self.stages.is_fast else 64
        for at in range(0, len(order), block):
            rows = self.listed[order[at : at + block]]
            seen.add(self.stages.values(x[None], rows)[0], rows)
            if seen.value == np.inf:
                return seen.worst(exact=True)
            if seen.value >= stop_above:
                return seen.worst(exact=False)
        return seen.worst(exact=True, upper=seen.value)

    def _by_dual(self, x: F64, seen: "_Seen", hints: F64, stop_above: float) -> WorstCase:
        assert self._dual is not None
        for xi in reversed(hints):
            seen.add(self.stages.values(x[None], xi[None])[0], xi[None])
            if seen.value >= stop_above:
                return seen.worst(exact=seen.value == np.inf)
        found = self._dual.worst_scenario(x, self.stages.clock)
        seen.add(self.stages.values(x[None], found.xi[None])[0], found.xi[None])
        upper = seen.first + found.upper
        close = upper - seen.value <= 10 * self.tolerance * max(1.0, abs(seen.value))
        return seen.worst(exact=seen.value == np.inf or close, upper=max(upper, seen.value))

    def _by_cuts(self, x: F64, first: float, hints: F64, stop_above: float) -> WorstCase:
        assert self.costs is not None
        best, best_xi = -np.inf, nominal_scenario(self.problem)
        program = CutProgram(self.problem)
        queue = list(hints)
        theta = np.inf
        closed = False
        try:
            for y in self._usable_answers(x):
                program.add(self.costs.cost_cut(x, y))
            for _ in range(2000):
                xi = queue.pop() if queue else None
                if xi is None:
                    theta, xi = program.solve()
                    if np.isfinite(best) and theta - best <= self.tolerance * max(1.0, abs(best + first)):
                        closed = True
                        break
                answer = self.stages.solve(x, xi)
                if answer.value == np.inf:  # constraints do not depend on xi: infeasible everywhere
                    return WorstCase(value=np.inf, upper=np.inf, xi=xi, exact=True)
                if answer.value > best:
                    best, best_xi = answer.value, xi
                if first + best >= stop_above:
                    break
                program.add(self._checked_cut(x, answer.y, xi, answer.value))
                self._answers.append(answer.y)
        except OutOfTimeError:
            pass
        self._answers = self._answers[-REMEMBERED:]
        return WorstCase(value=first + best, upper=first + max(theta, best), xi=best_xi, exact=closed)

    def _checked_cut(self, x: F64, y: F64, xi: F64, value: float) -> F64:
        """Return the cost of (x, y) as a function of xi; it must agree with the second stage that gave y."""
        assert self.costs is not None
        cut = self.costs.cost_cut(x, y)
        priced = float(cut[0] + cut[1:] @ xi)
        if abs(priced - value) > AGREEMENT * max(1.0, abs(value)):
            raise InputError(
                f"{type(self.problem).__name__}.second_stage says {value:.6g} where recourse() prices its answer at "
                f"{priced:.6g}: the two must be the same problem"
            )
        return cut

    def _usable_answers(self, x: F64) -> list[F64]:
        """Return remembered recourse decisions that are feasible for ``x``: each bounds its worst case from above."""
        if not self._answers:
            return []
        assert self.costs is not None
        base = self.costs.base
        room = base.row_upper - base.x_rows @ x
        fits = np.all(np.array(self._answers) @ base.y_rows.T <= room + 1e-9, axis=1)
        return [self._answers[k] for k in np.flatnonzero(fits)]

    def _searched(self, x: F64, seen: "_Seen", hints: F64) -> WorstCase:
        """Samples, corners and pairwise mixtures of the worst scenarios so far, re-evaluated exactly."""
        rng = np.random.default_rng(self.calls)
        box = self.problem.uncertainty()
        if not self._pool:
            count = 256 if self.stages.is_fast else 64
            self._pool = list(self.problem.sample_scenarios(rng, count))
        if len(hints):
            seen.add(self.stages.values(x[None], hints)[0], hints)
        seen.add(self.stages.values(x[None], np.array(self._pool))[0], np.array(self._pool))
        for _ in range(0 if box.integer.any() else SEARCH_ROUNDS):
            if seen.value == np.inf:
                break
            elite = seen.elite(8)
            width = 48 if self.stages.is_fast else 8
            pairs = rng.integers(8, size=(2, width)) % len(elite)
            step = rng.uniform(0.0, 1.0, size=(width, 1))
            mixed = elite[pairs[0]] * step + elite[pairs[1]] * (1 - step)
            corner = np.array(self._pool)[rng.integers(len(self._pool), size=width)]
            pull = rng.uniform(0.0, 0.3, size=(width, 1))
            fresh = np.vstack([mixed, elite[pairs[0]] * (1 - pull) + corner * pull])
            seen.add(self.stages.values(x[None], fresh)[0], fresh)
        self._pool.append(seen.xi)
        return seen.worst(exact=seen.value == np.inf)


class _Seen:
    """The scenarios that a plan was priced at, and the worst of them."""

    def __init__(self, first: float, xi: F64) -> None:
        self.first = first
        self.value = -np.inf
        self.xi = xi
        self._values: list[F64] = []
        self._xis: list[F64] = []

    def add(self, second_stage: F64, xis: F64) -> None:
        """Note second-stage values float64[B] of scenarios float64[B, nxi]."""
        if not len(xis):
            return
        self._values.append(second_stage)
        self._xis.append(xis)
        k = int(np.argmax(second_stage))
        if self.first + second_stage[k] > self.value:
            self.value, self.xi = self.first + float(second_stage[k]), xis[k]

    def elite(self, count: int) -> F64:
        """Return the worst scenarios so far, float64[count, nxi]."""
        values = np.concatenate(self._values)
        return np.asarray(np.vstack(self._xis)[np.argsort(-values)[:count]])

    def worst(self, *, exact: bool, upper: float = np.inf) -> WorstCase:
        """Return what is known."""
        return WorstCase(value=self.value, upper=upper, xi=self.xi, exact=exact)

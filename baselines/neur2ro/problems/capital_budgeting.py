"""Two-stage robust capital budgeting: invest now at unknown cost and full profit, or later, once known, at 80 % of it.

    c_i(xi) = (1 + phi_i.xi / 2) cbar_i,  r_i(xi) = (1 + psi_i.xi / 2) rbar_i,  xi in [-1, 1]^4,
    min_x max_xi min_y -sum r_i(xi) (x_i + 0.8 y_i),  x + y <= 1,  c(xi).x <= B for all xi,  c(xi).(x + y) <= B, binary.

With loans, x0 and y0 each add a fixed amount to the budget of their stage and of what follows, at a cost. Rows of
phi and psi are nonnegative and sum to 1, so the dearest scenario for any x is xi = (1, 1, 1, 1) and "for all xi" is one
row, 1.5 cbar.x <= B. Budgets are not rounded. Source: Subramanyam, Gounaris and Wiesemann, Math. Prog. Comp. 12 (2020).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.choice_knapsack import late_values, solve_choice_knapsack
from mallocgame.baselines.neur2ro.linear import LinearSet, binary_set, check_figures
from mallocgame.baselines.neur2ro.problem import (
    AffineMap,
    Deterministic,
    Features,
    Recourse,
    SecondStage,
    TwoStageProblem,
    Uncertainty,
    deterministic_by_milp,
)

F64 = npt.NDArray[np.float64]
SIZES = (10, 20, 30, 40, 50)
LATE = 0.8  # share of the profit of a late investment
FACTORS = 4
RELATIVE_TOLERANCE = 1e-6  # of the total profit: real costs that differ by less are not told apart


@dataclass(frozen=True, kw_only=True, eq=False)
class CapitalBudgeting(TwoStageProblem):
    """One instance; arrays float64[n] or [n, 4]. Loans are off when ``loan`` is 0."""

    name: str
    cost: F64  # cbar
    profit: F64  # rbar
    phi: F64  # [n, 4]
    psi: F64  # [n, 4]
    budget: float
    loan: float = 0.0  # amount of each loan
    early_loan_cost: float = 0.12  # per unit lent
    late_loan_cost: float = 0.144
    uncertainty_kind: Uncertainty = "general"

    def __post_init__(self) -> None:
        amounts = ("budget", "loan", "early_loan_cost", "late_loan_cost")
        names = ("cost", "profit", "phi", "psi", *amounts)
        check_figures(self, names, length=len(np.atleast_1d(self.cost)), nonnegative=names)

    @property
    def size(self) -> int:
        return len(self.cost)

    def warm_up(self) -> None:
        x, xi = np.zeros((1, self.size + int(self.has_loans))), np.zeros((1, FACTORS))
        self.values(x, xi)
        self.second_stage(x[0], xi[0])

    @property
    def has_loans(self) -> bool:
        return self.loan > 0.0

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Return an instance of the published kind at a random published size."""
        return cls.generate(rng, n=int(rng.choice(SIZES)))

    @classmethod
    def generate(cls, rng: np.random.Generator, *, n: int, loans: bool = False) -> Self:
        """Return an instance with n projects; with loans, each lends a fifth of the budget."""
        cost = rng.uniform(1.0, 10.0, n)
        budget = float(cost.sum() / 2)
        return cls(
            name=f"CB_n{n}",
            cost=cost,
            profit=cost / 5,
            phi=rng.dirichlet(np.ones(FACTORS), n),
            psi=rng.dirichlet(np.ones(FACTORS), n),
            budget=budget,
            loan=budget / 5 if loans else 0.0,
        )

    def costs(self, xis: F64) -> F64:
        """Return c(xi), float64[..., n]."""
        return np.asarray((1 + xis @ self.phi.T / 2) * self.cost)

    def profits(self, xis: F64) -> F64:
        """Return r(xi), float64[..., n]."""
        return np.asarray((1 + xis @ self.psi.T / 2) * self.profit)

    def first_stage(self) -> LinearSet:
        row, cost = 1.5 * self.cost, np.zeros(self.size)
        if self.has_loans:
            row, cost = np.append(row, -self.loan), np.append(cost, self.early_loan_cost * self.loan)
        return binary_set(len(row), cost=cost, rows=row[None], row_upper=np.array([self.budget]))

    def uncertainty(self) -> LinearSet:
        return LinearSet(lower=-np.ones(FACTORS), upper=np.ones(FACTORS), integer=np.zeros(FACTORS, bool))

    def recourse(self, xi: F64) -> Recourse:
        """Columns: y (invest late), then y0 (loan) if any; rows: budget, x + y <= 1."""
        n, cost, profit = self.size, self.costs(xi), self.profits(xi)
        extra = 1 if self.has_loans else 0
        x_rows, y_rows = np.zeros((n + 1, n + extra)), np.zeros((n + 1, n + extra))
        x_rows[0, :n], y_rows[0, :n] = cost, cost
        x_rows[1:, :n], y_rows[1:, :n] = np.eye(n), np.eye(n)
        x_rows[0, n:], y_rows[0, n:] = -self.loan, -self.loan
        loan_cost = np.full(extra, self.late_loan_cost * self.loan)
        return Recourse(
            x_cost=np.concatenate([-profit, np.zeros(extra)]),
            y_cost=np.concatenate([-LATE * profit, loan_cost]),
            constant=0.0,
            x_rows=x_rows,
            y_rows=y_rows,
            row_upper=np.concatenate([[self.budget], np.ones(n)]),
            y_lower=np.zeros(n + extra),
            y_upper=np.ones(n + extra),
            y_integer=np.ones(n + extra, bool),
        )

    def features(self) -> Features:
        """Items are projects (and the loan, of cost -loan); scenarios enter as relative cost and profit."""
        mean = self.cost.mean()
        cost, profit = self.cost / mean, 5 * self.profit / mean
        phi, psi, kind = self.phi / 2, self.psi / 2, np.zeros(self.size)
        if self.has_loans:
            cost, profit = (
                np.append(cost, -self.loan / mean),
                np.append(profit, -5 * self.early_loan_cost * self.loan / mean),
            )
            phi, psi = np.vstack([phi, np.zeros(FACTORS)]), np.vstack([psi, np.zeros(FACTORS)])
            kind = np.append(kind, 1.0)
        items = np.stack([cost, profit, kind], axis=1)
        rows = np.stack([phi, psi], axis=1).reshape(-1, FACTORS)
        return Features(
            x_map=AffineMap(matrix=np.eye(len(cost)), offset=np.zeros(len(cost)), width=1),
            xi_map=AffineMap(matrix=rows, offset=np.ones(len(rows)), width=2),
            x_items=items,
            xi_items=items,
            label_scale=float(self.profit.sum()) / 2,
        )

    def second_stage(self, x: F64, xi: F64) -> SecondStage:
        """Solve exactly: a 0-1 knapsack over the projects left, with and without the late loan."""
        n, cost, profit = self.size, self.costs(xi), self.profits(xi)
        open_items = np.flatnonzero(x[:n] < 0.5)
        room = self.budget + (self.loan * x[n] if self.has_loans else 0.0) - float(cost @ x[:n])
        gain = np.stack([np.zeros(len(open_items)), LATE * profit[open_items]], axis=1)
        weight = np.stack([np.zeros(len(open_items)), cost[open_items]], axis=1)
        best = SecondStage(value=np.inf, y=np.zeros(n + int(self.has_loans)))
        for lent in (0.0, 1.0) if self.has_loans else (0.0,):
            space = room + lent * self.loan
            if space < -1e-9 * self.budget:
                continue
            tolerance = RELATIVE_TOLERANCE * float(self.profit.sum())
            value, choice = solve_choice_knapsack(gain, weight, max(space, 0.0), tolerance)
            total = -float(profit @ x[:n]) - value + lent * self.late_loan_cost * self.loan
            if total < best.value:
                y = np.zeros(n + int(self.has_loans))
                y[open_items], y[n:] = choice, lent
                best = SecondStage(value=total, y=y)
        return best

    def values(self, xs: F64, xis: F64) -> F64:
        n, tolerance = self.size, RELATIVE_TOLERANCE * float(self.profit.sum())
        profits, costs = np.ascontiguousarray(self.profits(xis)), np.ascontiguousarray(self.costs(xis))
        if not self.has_loans:
            return late_values(np.ascontiguousarray(xs), LATE * profits, profits, costs, self.budget, tolerance)
        out = np.empty((len(xs), len(xis)))
        for early in (0.0, 1.0):
            rows = np.flatnonzero(np.abs(xs[:, n] - early) < 0.5)
            plans = np.ascontiguousarray(xs[rows, :n])
            budget = self.budget + early * self.loan
            without = late_values(plans, LATE * profits, profits, costs, budget, tolerance)
            lent = late_values(plans, LATE * profits, profits, costs, budget + self.loan, tolerance)
            out[rows] = np.minimum(without, lent + self.late_loan_cost * self.loan)
        return out

    def deterministic(self, xi: F64) -> Deterministic:
        """A MILP within 0.1 %: two budgets over like items are slow to close, and nothing here needs more."""
        return deterministic_by_milp(self, xi, gap=1e-3, seconds=5.0)

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Random plans within the budget; every second one is filled up greedily in random order."""
        stage = self.first_stage()
        plans = np.zeros((count, stage.size))
        for k in range(count):
            if self.has_loans:
                plans[k, -1] = float(rng.integers(2))
            limit = rng.random() if k % 2 else 1.0
            for i in rng.permutation(self.size):
                plans[k, i] = 1.0
                if rng.random() > limit or stage.rows[0] @ plans[k] > stage.row_upper[0]:
                    plans[k, i] = 0.0
        return plans

    def sample_scenarios(self, rng: np.random.Generator, count: int) -> F64:
        """Uniform scenarios (as the published scoring draws them), a quarter of them pushed to the faces of the box."""
        xis = rng.uniform(-1.0, 1.0, (count, FACTORS))
        push = (rng.random((count, 1)) < 0.25) & (rng.random((count, FACTORS)) < 0.7)
        return np.where(push, np.sign(xis), xis)


def scoring_scenarios(seed: int = 10_000, count: int = 10_000) -> F64:
    """Return the uniform scenarios that plans are scored on, float64[count, 4]."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (count, FACTORS))

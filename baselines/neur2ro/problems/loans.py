"""Capital budgeting with loans as in the branch-and-price reference: certain costs, uncertain profits, binary loans.

    profit_i(xi) = pbar_i (1 + Q_i.xi / 2), xi in [-1, 1]^M;  x invest now, y later at a share f of it; x0, y0 loans
    min_x max_xi min_y  lambda x0 + lambda mu y0 - sum profit_i(xi) (x_i + f y_i)
    c.x <= B + C1 x0,   c.(x + y) <= B + C1 x0 + C2 y0,   x + y <= 1, binary

File: ``N B C1 C2 lambda lambda*mu f rho M``, then ``pbar c Q_1 ... Q_M`` per item; loan costs are absolute amounts.
Source: Arslan and Detienne, INFORMS J. Computing 34 (2022), doi:10.1287/ijoc.2021.1074.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.choice_knapsack import late_values, solve_choice_knapsack
from mallocgame.baselines.neur2ro.formats import read_number_table
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
from mallocgame.errors import TraceError

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoansProblem(TwoStageProblem):
    """One instance. The plan is (x_1 ... x_n, x0)."""

    name: str
    profit: F64  # [n]
    cost: F64  # [n]
    loadings: F64  # Q, [n, M]
    budget: float
    early_loan: float
    late_loan: float
    early_loan_cost: float
    late_loan_cost: float
    late_share: float  # f
    uncertainty_kind: Uncertainty = "objective"

    def __post_init__(self) -> None:
        amounts = ("budget", "early_loan", "late_loan", "early_loan_cost", "late_loan_cost", "late_share")
        names = ("profit", "cost", *amounts)
        check_figures(self, (*names, "loadings"), length=len(np.atleast_1d(self.profit)), nonnegative=names)

    @property
    def size(self) -> int:
        return len(self.profit)

    def warm_up(self) -> None:
        x, xi = np.zeros(self.size + 1), np.zeros(self.loadings.shape[1])
        self.second_stage(x, xi)
        self.values(x[None], xi[None])

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Return an instance of the published kind (R = 100, h/(H + 1) of the total cost as budget)."""
        n, factors = int(rng.choice((10, 20, 30, 40, 50))), int(rng.choice((4, 6, 8)))
        cost = rng.integers(1, 100, n, endpoint=True).astype(float)
        budget = float(max(1, round(float(rng.choice((20, 40, 60, 80))) / 101 * cost.sum())))
        signs = rng.choice((-1.0, 1.0), (n, factors))
        loan = float(max(1, round(0.2 * budget)))
        return cls(
            name=f"RC_n{n}",
            profit=cost / 5,
            cost=cost,
            loadings=signs * rng.dirichlet(np.ones(factors), n),
            budget=budget,
            early_loan=loan,
            late_loan=loan,
            early_loan_cost=0.024 * loan,
            late_loan_cost=0.0288 * loan,
            late_share=0.8,
        )

    def profits(self, xis: F64) -> F64:
        """Return profits, float64[..., n]."""
        return np.asarray((1 + xis @ self.loadings.T / 2) * self.profit)

    def first_stage(self) -> LinearSet:
        row, cost = np.append(self.cost, -self.early_loan), np.append(np.zeros(self.size), self.early_loan_cost)
        return binary_set(self.size + 1, cost=cost, rows=row[None], row_upper=np.array([self.budget]))

    def uncertainty(self) -> LinearSet:
        size = self.loadings.shape[1]
        return LinearSet(lower=-np.ones(size), upper=np.ones(size), integer=np.zeros(size, bool))

    def recourse(self, xi: F64) -> Recourse:
        """Columns: y (invest late), then y0 (loan); rows: budget, x + y <= 1."""
        n, profit = self.size, self.profits(xi)
        x_rows, y_rows = np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1))
        x_rows[0], y_rows[0] = np.append(self.cost, -self.early_loan), np.append(self.cost, -self.late_loan)
        x_rows[1:, :n], y_rows[1:, :n] = np.eye(n), np.eye(n)
        return Recourse(
            x_cost=np.append(-profit, 0.0),
            y_cost=np.append(-self.late_share * profit, self.late_loan_cost),
            constant=0.0,
            x_rows=x_rows,
            y_rows=y_rows,
            row_upper=np.concatenate([[self.budget], np.ones(n)]),
            y_lower=np.zeros(n + 1),
            y_upper=np.ones(n + 1),
            y_integer=np.ones(n + 1, bool),
        )

    def features(self) -> Features:
        """Items are projects and, last, the loan (negative cost and profit); a scenario enters as relative profit."""
        money, mass = self.profit.mean(), self.cost.mean()
        cost = np.append(self.cost, -self.early_loan) / mass
        profit = np.append(self.profit, -self.early_loan_cost) / money
        fill = np.full(self.size + 1, self.budget / self.cost.sum())
        items = np.stack([profit, cost, fill, np.append(np.zeros(self.size), 1.0)], axis=1)
        rows = np.vstack([self.loadings / 2, np.zeros(self.loadings.shape[1])])
        return Features(
            x_map=AffineMap(matrix=np.eye(len(cost)), offset=np.zeros(len(cost)), width=1),
            xi_map=AffineMap(matrix=rows, offset=np.ones(len(rows)), width=1),
            x_items=items,
            xi_items=items,
            label_scale=float(self.profit.sum()),
        )

    def second_stage(self, x: F64, xi: F64) -> SecondStage:
        """Solve exactly: a 0-1 knapsack over the projects left, with and without the late loan."""
        n, profit = self.size, self.profits(xi)
        open_items = np.flatnonzero(x[:n] < 0.5)
        room = self.budget + self.early_loan * x[n] - float(self.cost @ x[:n])
        gain = np.stack([np.zeros(len(open_items)), self.late_share * profit[open_items]], axis=1)
        weight = np.stack([np.zeros(len(open_items)), self.cost[open_items]], axis=1)
        best = SecondStage(value=np.inf, y=np.zeros(n + 1))
        for lent in (0.0, 1.0):
            space = room + lent * self.late_loan
            if space < -1e-9 * self.budget:
                continue
            value, choice = solve_choice_knapsack(gain, weight, max(space, 0.0), 0.0)
            total = -float(profit @ x[:n]) - value + lent * self.late_loan_cost
            if total < best.value:
                y = np.zeros(n + 1)
                y[open_items], y[n] = choice, lent
                best = SecondStage(value=total, y=y)
        return best

    def values(self, xs: F64, xis: F64) -> F64:
        profits = np.ascontiguousarray(self.profits(xis))
        weight = np.ascontiguousarray(np.broadcast_to(self.cost, profits.shape))
        out = np.empty((len(xs), len(xis)))
        for early in (0.0, 1.0):
            rows = np.flatnonzero(np.abs(xs[:, self.size] - early) < 0.5)
            plans = np.ascontiguousarray(xs[rows, : self.size])
            budget = self.budget + early * self.early_loan
            late = self.late_share * profits
            without = late_values(plans, late, profits, weight, budget, 0.0)
            lent = late_values(plans, late, profits, weight, budget + self.late_loan, 0.0)
            out[rows] = np.minimum(without, lent + self.late_loan_cost)
        return out

    def deterministic(self, xi: F64) -> Deterministic:
        """A MILP within 0.1 %: two budgets over like items are slow to close, and nothing here needs more."""
        return deterministic_by_milp(self, xi, gap=1e-3, seconds=3.0)

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Random plans within the budget, filled in random order to a random share of it, with and without the loan."""
        plans = np.zeros((count, self.size + 1))
        for plan in plans:
            plan[-1] = float(rng.integers(2))
            room = (self.budget + self.early_loan * plan[-1]) * rng.uniform(0.3, 1.0)
            for i in rng.permutation(self.size):
                if self.cost[i] <= room:
                    plan[i] = 1.0
                    room -= self.cost[i]
        return plans


def read_loans(path: str | Path) -> LoansProblem:
    """Read an instance file.

    Raises:
        TraceError: see ``formats.read_number_table``; a negative cost or amount, or a number of factors that disagrees.
    """
    header = ("N", "B", "C1", "C2", "lambda", "lambda*mu", "f", "rho", "M")
    table = read_number_table(path, header, None)
    _, budget, early, late, early_cost, late_cost, share, _, factors = table.header
    if factors != int(factors) or factors < 1 or table.items.shape[1] != 2 + factors:
        expected = f"expected pbar, c and {factors:g} factors an item"
        raise TraceError(path, 2, f"{table.items.shape[1]} numbers; {expected}")
    for value, name in ((budget, "B"), (early, "C1"), (late, "C2"), (early_cost, "lambda"), (late_cost, "lambda*mu")):
        if value < 0:
            raise TraceError(path, 1, f"{name} is {value:g}; expected >= 0")
    for row, (profit, cost) in enumerate(table.items[:, :2]):
        if profit < 0 or cost < 0:
            raise TraceError(path, row + 2, f"pbar is {profit:g} and c {cost:g}; expected both >= 0")
    return LoansProblem(
        name=Path(path).name,
        profit=table.items[:, 0].copy(),
        cost=table.items[:, 1].copy(),
        loadings=table.items[:, 2:].copy(),
        budget=budget,
        early_loan=early,
        late_loan=late,
        early_loan_cost=early_cost,
        late_loan_cost=late_cost,
        late_share=share,
    )

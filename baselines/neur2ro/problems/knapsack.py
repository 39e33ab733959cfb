"""Two-stage robust knapsack: profits fall by at most Gamma units of degradation; what was chosen is produced, repaired
(at extra weight, restoring its profit) or outsourced once the degradation is known.

    min_x sum (f - pbar) x + max_xi min_{y,r} sum (phat xi - f) y - phat xi r,   c.y + t.r <= C,  r <= y <= x, binary

Source: Arslan and Detienne, INFORMS J. Computing 34 (2022), doi:10.1287/ijoc.2021.1074. The repair term has the sign of
the paper. The published profit is the negated objective.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.choice_knapsack import repair_values, solve_choice_knapsack
from mallocgame.baselines.neur2ro.formats import read_number_table
from mallocgame.baselines.neur2ro.linear import LinearSet, binary_set, budget_set, check_figures
from mallocgame.baselines.neur2ro.problem import (
    Deterministic,
    Features,
    Recourse,
    SecondStage,
    TwoStageProblem,
    Uncertainty,
    per_item,
)
from mallocgame.errors import TraceError

F64 = npt.NDArray[np.float64]
SIZES = (20, 30, 40, 50, 60, 70, 80)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnapsackProblem(TwoStageProblem):
    """One instance; all arrays float64[n]."""

    name: str
    profit: F64  # pbar
    degradation: F64  # phat
    repair_weight: F64  # t
    weight: F64  # c
    outsourcing_cost: F64  # f
    capacity: float  # C
    budget: float  # Gamma
    uncertainty_kind: Uncertainty = "objective"

    def __post_init__(self) -> None:
        names = ("profit", "degradation", "repair_weight", "weight", "outsourcing_cost", "capacity", "budget")
        check_figures(self, names, length=len(np.atleast_1d(self.profit)), nonnegative=names)

    @property
    def size(self) -> int:
        return len(self.profit)

    def mean_scenario(self) -> F64:
        """The whole budget, spread evenly: Gamma / n."""
        return np.full(self.size, min(1.0, self.budget / self.size))

    def warm_up(self) -> None:
        xi = np.zeros(self.size)
        self.values(np.ones((1, self.size)), xi[None])
        self.second_stage(np.ones(self.size), xi)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Return an instance of the published kind: n, class, deviation, delta, capacity and budget at random."""
        n = int(rng.choice(SIZES))
        return cls.generate(
            rng,
            n=n,
            kind=str(rng.choice(("UN", "WC", "ASC", "SC"))),
            deviation=float(rng.choice((0.1, 0.15, 0.2))),
            delta=float(rng.choice((0.1, 0.5, 1.0))),
            fill=float(rng.choice((20, 40, 60, 80))) / 101,
        )

    @classmethod
    def generate(
        cls,
        rng: np.random.Generator,
        *,
        n: int,
        kind: str,
        deviation: float,
        delta: float,
        fill: float,
    ) -> Self:
        """Return an instance of class ``kind``, R = 1000 (rules inferred from the public instances' figures).

        Args:
            rng: the source of randomness.
            n: items.
            kind: UN (uncorrelated), WC (weakly correlated), ASC (almost strongly) or SC (strongly correlated).
            deviation: Gamma / n.
            delta: width of the relative degradation, centred at one half.
            fill: capacity over the total weight (published: h / 101).
        """
        top = 1000
        weight = rng.integers(1, top, n, endpoint=True).astype(float)
        noise = {"UN": 0, "WC": top // 20, "ASC": top // 1000, "SC": 0}[kind]
        if kind == "UN":
            profit = rng.integers(1, top, n, endpoint=True).astype(float)
        else:
            shift = 0 if kind == "WC" else top // 10
            profit = np.maximum(1.0, weight + shift + rng.integers(-noise, noise, n, endpoint=True))
        degradation = np.floor(profit * rng.uniform(0.5 - delta / 2, 0.5 + delta / 2, n))
        if kind == "UN":
            repair = np.floor(weight * rng.uniform(0.0, 1.0, n))
        elif kind == "WC":
            repair = np.floor(degradation / 2 + rng.uniform(-top / 40, top / 40, n))
        else:
            repair = np.floor(degradation / 2 + weight / 10 + rng.uniform(-noise, noise, n))
        return cls(
            name=f"{kind}_n{n}",
            profit=profit,
            degradation=degradation,
            repair_weight=np.maximum(1.0, repair),
            weight=weight,
            outsourcing_cost=np.floor(profit * rng.uniform(1.1, 1.5, n)),
            capacity=float(np.floor(fill * weight.sum())),
            budget=float(max(1, round(deviation * n))),
        )

    def first_stage(self) -> LinearSet:
        return binary_set(self.size, cost=self.outsourcing_cost - self.profit)

    def uncertainty(self) -> LinearSet:
        return budget_set(self.size, self.budget)

    def recourse(self, xi: F64) -> Recourse:
        """Columns: y (produce), then r (repair); rows: capacity, r <= y, y <= x."""
        n = self.size
        eye, zero = np.eye(n), np.zeros((n, n))
        return Recourse(
            x_cost=np.zeros(n),
            y_cost=np.concatenate([self.degradation * xi - self.outsourcing_cost, -self.degradation * xi]),
            constant=0.0,
            x_rows=np.vstack([np.zeros((1, n)), zero, -eye]),
            y_rows=np.vstack(
                [
                    np.concatenate([self.weight, self.repair_weight])[None],
                    np.hstack([-eye, eye]),
                    np.hstack([eye, zero]),
                ]
            ),
            row_upper=np.concatenate([[self.capacity], np.zeros(2 * n)]),
            y_lower=np.zeros(2 * n),
            y_upper=np.ones(2 * n),
            y_integer=np.ones(2 * n, bool),
        )

    def features(self) -> Features:
        """Money over the mean profit, weight over the mean weight; labels over the value of choosing all at xi = 0."""
        money, mass = self.profit.mean(), self.weight.mean()
        items = np.stack(
            [
                self.outsourcing_cost / money,
                self.profit / money,
                self.degradation / money,
                self.repair_weight / mass,
                self.weight / mass,
                np.full(self.size, self.capacity / self.weight.sum()),
            ],
            axis=1,
        )
        everything = self.values(np.ones((1, self.size)), np.zeros((1, self.size)))[0, 0]
        identity = per_item(self.size)
        return Features(
            x_map=identity, xi_map=identity, x_items=items, xi_items=items, label_scale=max(1.0, -float(everything))
        )

    def second_stage(self, x: F64, xi: F64) -> SecondStage:
        open_items = x > 0.5
        choice = np.zeros(self.size, np.int64)
        gain, weight = self._options(xi)
        value, choice[open_items] = solve_choice_knapsack(gain[open_items], weight[open_items], self.capacity, 0.0)
        return SecondStage(value=-value, y=np.concatenate([choice >= 1, choice == 2]).astype(float))

    def _options(self, xi: F64) -> tuple[F64, F64]:
        """Return gains and weights, float64[n, 3], of outsourcing, producing, producing and repairing."""
        none = np.zeros(self.size)
        gain = np.stack([none, self.outsourcing_cost - self.degradation * xi, self.outsourcing_cost], axis=1)
        return gain, np.stack([none, self.weight, self.weight + self.repair_weight], axis=1)

    def values(self, xs: F64, xis: F64) -> F64:
        xs, xis = np.ascontiguousarray(xs, float), np.ascontiguousarray(xis, float)
        arrays = (self.degradation, self.outsourcing_cost, self.weight, self.repair_weight)
        return repair_values(xs, xis, *arrays, self.capacity, 0.0)

    def deterministic(self, xi: F64) -> Deterministic:
        gain, weight = self._options(xi)
        taken_gain = gain + (self.profit - self.outsourcing_cost)[:, None]
        options = np.column_stack([np.zeros(self.size), taken_gain])
        _, choice = solve_choice_knapsack(options, np.column_stack([np.zeros(self.size), weight]), self.capacity, 0.0)
        x = (choice > 0).astype(float)
        y = np.concatenate([choice >= 2, choice == 3]).astype(float)
        value = float((self.outsourcing_cost - self.profit) @ x) + self.recourse_cost(xi, y)
        return Deterministic(value=value, bound=value, x=x, y=y)

    def recourse_cost(self, xi: F64, y: F64) -> float:
        """Return the second-stage cost of y (produce, repair) at xi."""
        produce, repair = y[: self.size], y[self.size :]
        return float((self.degradation * xi - self.outsourcing_cost) @ produce - (self.degradation * xi) @ repair)

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Half Bernoulli plans, half good plans for random scenarios with a few items flipped."""
        plans = (rng.random((count, self.size)) < rng.random((count, 1))).astype(float)
        for k, xi in enumerate(self.sample_scenarios(rng, count // 2)):
            good = self.deterministic(xi).x
            flips = rng.random(self.size) < rng.choice((0.0, 0.03, 0.1))
            plans[k] = np.where(flips, 1.0 - good, good)
        return plans

    def sample_scenarios(self, rng: np.random.Generator, count: int) -> F64:
        """Degradation spread at random over all or few items, or leaning to the large degradations; within [0, 1]."""
        share = rng.random((count, self.size))
        lean = rng.choice((0.0, 0.0, 0.5, 1.0, 2.0), size=(count, 1))
        share = share * (self.degradation / max(1.0, self.degradation.max())) ** lean
        share = np.where(
            rng.random((count, self.size)) < rng.choice((0.15, 0.3, 0.6, 1.0), size=(count, 1)), share, 1e-9
        )
        spent = np.where(rng.random(count) < 0.8, self.budget, rng.uniform(0, self.budget, count))
        return spread(share, np.minimum(spent, self.size))


def spread(share: F64, total: F64) -> F64:
    """Scale each row of positive shares to its total with every entry capped at 1, float64[count, n]."""
    capped = np.zeros_like(share)
    for _ in range(12):
        free = capped < 1.0
        left = total - np.where(free, 0.0, 1.0).sum(axis=1)
        weight = np.where(free, share, 0.0)
        scaled = weight * (left / np.maximum(weight.sum(axis=1), 1e-30))[:, None]
        new = np.where(free, np.minimum(scaled, 1.0), 1.0)
        if np.array_equal(new, capped):
            break
        capped = new
    return np.where(capped < 1e-6, 0.0, capped)


def read_knapsack(path: str | Path) -> KnapsackProblem:
    """Read an instance file: ``n C Gamma``, then ``pbar phat t c f`` per item.

    Raises:
        TraceError: see ``formats.read_number_table``; a negative number, or no capacity.
    """
    names = ("pbar", "phat", "t", "c", "f")
    table = read_number_table(path, ("n", "C", "Gamma"), names)
    _, capacity, budget = table.header
    if capacity < 0 or budget < 0:
        raise TraceError(path, 1, f"C is {capacity:g} and Gamma {budget:g}; expected both >= 0")
    for row, item in enumerate(table.items):
        for value, name in zip(item, names, strict=True):
            if value < 0:
                raise TraceError(path, row + 2, f"{name} is {value:g}; expected >= 0")
    profit, degradation, repair_weight, weight, cost = np.ascontiguousarray(table.items.T)
    return KnapsackProblem(
        name=Path(path).name,
        profit=profit,
        degradation=degradation,
        repair_weight=repair_weight,
        weight=weight,
        outsourcing_cost=cost,
        capacity=capacity,
        budget=budget,
    )

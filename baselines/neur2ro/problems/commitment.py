"""A unit-commitment-like problem: commit units for the day now; run them and shed load once demand is known.

    min sum_u a_u x_u + max_xi min sum_ut (b_u g_ut + n_u v_ut) + sum_kt (s_k w_kt) + sum_t p e_t
    sum_u g_ut + sum_k G_k w_kt + e_t >= D_t (1 + share xi_t),  L_u v_ut <= g_ut <= U_u v_ut,  v_ut <= x_u,
    v_u,t+1 + v_u,t-1 - v_ut <= 1 (a unit that stops stays down for two periods),  v, w and xi binary, sum xi <= Gamma

v_ut: a committed unit runs in period t (its least output makes running all the time dear); w_kt: a peaker runs at full
output. The second stage is a mixed-integer program over all periods; e_t (shed load) keeps it feasible.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import LinearSet, binary_set, budget_set, check_figures
from mallocgame.baselines.neur2ro.problem import Features, Recourse, TwoStageProblem, Uncertainty, per_item

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class CommitmentProblem(TwoStageProblem):
    """One instance with U units, K peakers and T periods."""

    commit_cost: F64  # a, [U]
    least: F64  # L, [U]
    most: F64  # U, [U]
    run_cost: F64  # n, per period, [U]
    fuel_cost: F64  # b, per unit of energy, [U]
    peaker_output: F64  # G, [K]
    peaker_cost: F64  # s, per period, [K]
    demand: F64  # D, [T]
    share: float = 0.3
    shed_cost: float = 20.0  # p
    budget: int = 2  # Gamma
    uncertainty_kind: Uncertainty = "general"

    def __post_init__(self) -> None:
        units = ("commit_cost", "least", "most", "run_cost", "fuel_cost")
        check_figures(self, units, length=len(np.atleast_1d(self.commit_cost)), nonnegative=units)
        peakers = ("peaker_output", "peaker_cost")
        check_figures(self, peakers, length=len(np.atleast_1d(self.peaker_cost)), nonnegative=peakers)
        check_figures(self, ("demand",), length=len(np.atleast_1d(self.demand)), nonnegative=("demand",))

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Return an instance with 10 to 16 units and 6 to 8 periods."""
        return cls.generate(rng, units=int(rng.integers(10, 17)), periods=int(rng.integers(6, 9)))

    @classmethod
    def generate(cls, rng: np.random.Generator, *, units: int, periods: int, budget: int = 2) -> Self:
        """Return units of random size under a load curve with two peaks; half of them cover the mean load."""
        most = rng.uniform(8.0, 20.0, units)
        hours = np.arange(periods) / periods
        curve = 1.0 + 0.25 * np.sin(2 * np.pi * hours) + 0.15 * np.sin(4 * np.pi * hours + 1.0)
        demand = 0.5 * most.sum() * curve * rng.uniform(0.95, 1.05, periods)
        fuel = rng.uniform(1.0, 2.5, units)
        return cls(
            commit_cost=most * rng.uniform(0.6, 1.4, units) * periods * 0.25,
            least=most * rng.uniform(0.3, 0.5, units),
            most=most,
            run_cost=most * rng.uniform(0.2, 0.5, units),
            fuel_cost=fuel,
            peaker_output=rng.uniform(3.0, 6.0, 3),
            peaker_cost=rng.uniform(25.0, 45.0, 3),
            demand=demand,
            budget=budget,
        )

    def first_stage(self) -> LinearSet:
        return binary_set(len(self.commit_cost), cost=self.commit_cost)

    def uncertainty(self) -> LinearSet:
        return budget_set(len(self.demand), self.budget, integer=True)

    def recourse(self, xi: F64) -> Recourse:
        """Columns: g_ut, v_ut (unit by unit), w_kt, e_t; rows: load, output limits, v <= x, two periods down."""
        units, peakers, periods = len(self.most), len(self.peaker_cost), len(self.demand)
        runs, peaks = units * periods, peakers * periods
        each, eye = np.eye(runs), np.eye(periods)
        zero = np.zeros
        load = np.hstack([np.tile(eye, units), zero((periods, runs)), np.kron(self.peaker_output[None], eye), eye])
        rest = zero((runs, peaks + periods))
        high = np.hstack([each, -np.diag(np.repeat(self.most, periods)), rest])
        low = np.hstack([-each, np.diag(np.repeat(self.least, periods)), rest])
        linked = np.hstack([zero((runs, runs)), each, rest])
        down = zero((periods - 2, periods))
        for t in range(periods - 2):
            down[t, t : t + 3] = (1.0, -1.0, 1.0)
        rows = units * (periods - 2)
        short = np.hstack([zero((rows, runs)), np.kron(np.eye(units), down), zero((rows, peaks + periods))])
        owner = np.repeat(np.eye(units), periods, axis=0)
        none = zero((periods + 2 * runs, units))
        count = 2 * runs + peaks + periods
        return Recourse(
            x_cost=zero(units),
            y_cost=np.concatenate(
                [
                    np.repeat(self.fuel_cost, periods),
                    np.repeat(self.run_cost, periods),
                    np.repeat(self.peaker_cost, periods),
                    np.full(periods, self.shed_cost),
                ]
            ),
            constant=0.0,
            x_rows=np.vstack([none, -owner, zero((rows, units))]),
            y_rows=np.vstack([-load, high, low, linked, short]),
            row_upper=np.concatenate([-self.demand * (1.0 + self.share * xi), zero(3 * runs), np.ones(rows)]),
            y_lower=zero(count),
            y_upper=np.concatenate([np.repeat(self.most, periods), np.ones(runs + peaks), self.demand * 2.0]),
            y_integer=np.concatenate([zero(runs, bool), np.ones(runs + peaks, bool), zero(periods, bool)]),
        )

    def features(self) -> Features:
        """Units by size, least output and costs; periods by their load."""
        mean = self.most.mean()
        units = np.stack(
            [
                self.commit_cost / self.commit_cost.mean(),
                self.most / mean,
                self.least / mean,
                self.run_cost / mean,
                self.fuel_cost,
                np.full(len(self.most), self.demand.mean() / self.most.sum()),
            ],
            axis=1,
        )
        load = self.demand / self.most.sum()
        periods = np.stack([load, np.full(len(load), load.max())], axis=1)
        return Features(
            x_map=per_item(len(self.most)),
            xi_map=per_item(len(load)),
            x_items=units,
            xi_items=periods,
            label_scale=float(self.fuel_cost.mean() * self.demand.sum() * 2.0),
        )

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Random commitments; one in two takes units in order of cost per output until a random share of the peak."""
        units = len(self.most)
        plans = (rng.random((count, units)) < rng.uniform(0.3, 0.9, (count, 1))).astype(float)
        price = (self.commit_cost / len(self.demand) + self.run_cost) / self.most + self.fuel_cost
        for plan in plans[::2]:
            order = np.argsort(price + rng.normal(0.0, 0.3, units))
            wanted = rng.uniform(0.8, 1.5) * self.demand.max()
            plan[:] = 0.0
            plan[order[: int(np.searchsorted(np.cumsum(self.most[order]), wanted)) + 1]] = 1.0
        return plans

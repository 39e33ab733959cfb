"""Two-stage facility location with binary recourse: open sites now; assign each customer once demand is known.

    min f.x + max_xi min sum_ij c_ij d_j(xi) y_ij + sum_j p_j d_j(xi) z_j,  sum_i y_ij + z_j = 1, y_ij <= x_i,
    sum_j d_j(xi) y_ij <= K_i x_i,  y, z binary;  d_j(xi) = dbar_j (1 + share xi_j),  xi binary, sum xi <= Gamma

Single sourcing makes the second stage a generalised assignment problem (NP-hard), demand stands in its matrix, and z_j
(serve customer j from outside) keeps it feasible. Xi holds whole numbers: worst cases are listed while they are few.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import LinearSet, binary_set, budget_set, check_figures
from mallocgame.baselines.neur2ro.problem import AffineMap, Features, Recourse, TwoStageProblem, Uncertainty, per_item

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FacilityProblem(TwoStageProblem):
    """One instance with I sites and J customers."""

    open_cost: F64  # f, [I]
    capacity: F64  # K, [I]
    ship_cost: F64  # c, [I, J], per unit of demand
    demand: F64  # dbar, [J]
    outside_cost: F64  # p, [J], per unit of demand
    share: float = 0.6  # by how much a demand may rise
    budget: int = 2  # customers whose demand rises at once
    uncertainty_kind: Uncertainty = "general"

    def __post_init__(self) -> None:
        sites, customers = ("open_cost", "capacity", "ship_cost"), ("demand", "outside_cost")
        check_figures(self, sites, length=len(np.atleast_1d(self.open_cost)), nonnegative=sites)
        check_figures(self, customers, length=len(np.atleast_1d(self.demand)), nonnegative=customers)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Return an instance with 10 to 16 sites and 8 to 12 customers."""
        return cls.generate(rng, sites=int(rng.integers(10, 17)), customers=int(rng.integers(8, 13)))

    @classmethod
    def generate(cls, rng: np.random.Generator, *, sites: int, customers: int, budget: int = 2) -> Self:
        """Return sites and customers at random in the unit square; four in ten sites cover the raised demand."""
        place, home = rng.random((sites, 2)), rng.random((customers, 2))
        distance = np.linalg.norm(place[:, None] - home[None], axis=2)
        demand = rng.uniform(5.0, 15.0, customers)
        capacity = rng.uniform(0.8, 1.2, sites) * demand.sum() / (0.4 * sites)
        return cls(
            open_cost=rng.uniform(0.7, 1.3, sites) * 0.35 * demand.sum() / (0.4 * sites),
            capacity=capacity,
            ship_cost=distance,
            demand=demand,
            outside_cost=np.full(customers, 2.5),
            budget=budget,
        )

    def demands(self, xi: F64) -> F64:
        """Return d(xi), float64[..., J]."""
        return np.asarray(self.demand * (1.0 + self.share * xi))

    def first_stage(self) -> LinearSet:
        return binary_set(len(self.open_cost), cost=self.open_cost)

    def uncertainty(self) -> LinearSet:
        return budget_set(len(self.demand), self.budget, integer=True)

    def recourse(self, xi: F64) -> Recourse:
        """Columns: y_ij row by row, then z_j; rows: capacities, y <= x, each customer served (as two rows)."""
        sites, customers = self.ship_cost.shape
        need = self.demands(xi)
        pairs = sites * customers
        of_site = np.repeat(np.eye(sites), customers, axis=1)  # [I, I J]
        of_customer = np.tile(np.eye(customers), sites)  # [J, I J]
        served = np.hstack([of_customer, np.eye(customers)])
        capacities = np.hstack([of_site * np.tile(need, sites), np.zeros((sites, customers))])
        linked = np.hstack([np.eye(pairs), np.zeros((pairs, customers))])
        return Recourse(
            x_cost=np.zeros(sites),
            y_cost=np.concatenate([(self.ship_cost * need).ravel(), self.outside_cost * need]),
            constant=0.0,
            x_rows=np.vstack([-np.diag(self.capacity), -of_site.T, np.zeros((2 * customers, sites))]),
            y_rows=np.vstack([capacities, linked, served, -served]),
            row_upper=np.concatenate([np.zeros(sites + pairs), np.ones(customers), -np.ones(customers)]),
            y_lower=np.zeros(pairs + customers),
            y_upper=np.ones(pairs + customers),
            y_integer=np.ones(pairs + customers, bool),
        )

    def features(self) -> Features:
        """Sites: cost, capacity, distances to demand; a scenario enters as each customer's relative demand."""
        share = self.demand / self.demand.sum()
        nearest = np.sort(self.ship_cost, axis=0)
        sites = np.stack(
            [
                self.open_cost / self.open_cost.mean(),
                self.capacity / self.demand.sum(),
                self.ship_cost @ share,
                np.exp(-4.0 * self.ship_cost) @ share,
            ],
            axis=1,
        )
        customers = np.stack(
            [self.demand / self.demand.mean(), nearest[0], nearest[: max(2, len(nearest) // 3)].mean(0)], 1
        )
        return Features(
            x_map=per_item(len(self.open_cost)),
            xi_map=AffineMap(matrix=np.eye(len(share)), offset=np.zeros(len(share)), width=1),
            x_items=sites,
            xi_items=customers,
            label_scale=float(self.outside_cost @ self.demand),
        )

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Bernoulli plans at random rates; one plan in two opens cheap and near sites first."""
        sites = len(self.open_cost)
        plans = (rng.random((count, sites)) < rng.uniform(0.2, 0.8, (count, 1))).astype(float)
        score = (
            self.open_cost / self.open_cost.mean()
            + self.ship_cost @ self.demand / (self.ship_cost @ self.demand).mean()
        )
        for plan in plans[::2]:
            order = np.argsort(score + rng.normal(0.0, 0.3, sites))
            plan[:] = 0.0
            plan[order[: int(rng.integers(max(1, sites // 4), max(2, 3 * sites // 4) + 1))]] = 1.0
        return plans

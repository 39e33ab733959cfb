"""The published example of Zeng and Zhao (2013), section 2.4: open warehouses with capacities, ship at known demand.

Their column-and-constraint generation ends at 33,680.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from mallocgame.baselines.neur2ro.linear import LinearSet
from mallocgame.baselines.neur2ro.problem import Recourse, TwoStageProblem, Uncertainty


@dataclass(frozen=True, kw_only=True, eq=False)
class LocationTransportation(TwoStageProblem):
    """x = (open_i, capacity_i); y_ij shipped; demand_j = base_j + 40 xi_j."""

    total_capacity: float = 772.0  # demanded of the first stage; 0 leaves feasibility to the adversary
    uncertainty_kind: Uncertainty = "general"

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        return cls()

    def first_stage(self) -> LinearSet:
        return LinearSet(
            lower=np.zeros(6),
            upper=np.array([1.0, 1, 1, 800, 800, 800]),
            integer=np.arange(6) < 3,
            cost=np.array([400.0, 414, 326, 18, 25, 20]),
            rows=np.vstack([np.hstack([-800.0 * np.eye(3), np.eye(3)]), [0, 0, 0, -1, -1, -1]]),
            row_upper=np.array([0.0, 0, 0, -self.total_capacity]),
        )

    def uncertainty(self) -> LinearSet:
        rows = np.array([[1.0, 1, 1], [1, 1, 0]])
        return LinearSet(
            lower=np.zeros(3), upper=np.ones(3), integer=np.zeros(3, bool), rows=rows, row_upper=np.array([1.8, 1.2])
        )

    def recourse(self, xi: np.ndarray) -> Recourse:
        ship = np.array([22.0, 33, 24, 33, 23, 30, 20, 25, 27])
        demand = np.array([206.0, 274, 220]) + 40 * xi
        return Recourse(
            x_cost=np.zeros(6),
            y_cost=ship,
            constant=0.0,
            x_rows=np.vstack([np.hstack([np.zeros((3, 3)), -np.eye(3)]), np.zeros((3, 6))]),
            y_rows=np.vstack([np.repeat(np.eye(3), 3, axis=1), -np.tile(np.eye(3), 3)]),
            row_upper=np.concatenate([np.zeros(3), -demand]),
            y_lower=np.zeros(9),
            y_upper=np.full(9, np.inf),
            y_integer=np.zeros(9, bool),
        )

"""The user example of docs/neur2ro.md: reserve machines now, rent or lose orders once demand is known."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from mallocgame.baselines.neur2ro.linear import LinearSet, binary_set, budget_set
from mallocgame.baselines.neur2ro.problem import Features, Recourse, TwoStageProblem, Uncertainty, per_item


@dataclass(frozen=True, kw_only=True, eq=False)
class Reservation(TwoStageProblem):
    """x_i: reserve machine i; demand d_i + e_i xi_i; y_i: units rented late, z_i: units lost."""

    reserve_cost: np.ndarray
    demand: np.ndarray
    extra: np.ndarray
    capacity: float = 6.0  # units a reserved machine makes
    rent: float = 3.0
    loss: float = 8.0
    rentable: float = 10.0  # units in all
    uncertainty_kind: Uncertainty = "general"  # demand is in the constraints

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        n = int(rng.integers(4, 8))
        return cls(reserve_cost=rng.uniform(8, 16, n), demand=rng.uniform(2, 5, n), extra=rng.uniform(0, 4, n))

    def first_stage(self) -> LinearSet:
        return binary_set(len(self.demand), cost=self.reserve_cost)

    def uncertainty(self) -> LinearSet:
        return budget_set(len(self.demand), 2.0)

    def recourse(self, xi: np.ndarray) -> Recourse:
        n = len(self.demand)
        eye, rented = np.eye(n), np.concatenate([np.ones(n), np.zeros(n)])
        return Recourse(
            x_cost=np.zeros(n),
            y_cost=np.concatenate([np.full(n, self.rent), np.full(n, self.loss)]),
            constant=0.0,
            x_rows=np.vstack([-self.capacity * eye, np.zeros((1, n))]),  # supply >= demand, rent <= rentable
            y_rows=np.vstack([np.hstack([-eye, -eye]), rented[None]]),
            row_upper=np.append(-(self.demand + self.extra * xi), self.rentable),
            y_lower=np.zeros(2 * n),
            y_upper=np.full(2 * n, 20.0),
            y_integer=np.zeros(2 * n, bool),
        )

    def features(self) -> Features:
        items = np.stack([self.reserve_cost / 10, self.demand / 5, self.extra / 5], axis=1)
        identity = per_item(len(self.demand))
        return Features(
            x_map=identity,
            xi_map=identity,
            x_items=items,
            xi_items=items,
            label_scale=float(self.loss * (self.demand + self.extra).sum()),
        )

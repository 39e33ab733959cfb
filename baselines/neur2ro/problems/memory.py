"""Memory mapping under uncertainty: which tensors to pin in fast memory before sizes and DMA contention are known.

Tensors i are used at steps U_i. A gap g = (i, a, b) lies between consecutive uses; the first gap of a parameter starts
before the program (a = -1), that of any other tensor at its definition. First stage: x_i, the tensor's first gap may be
spent in fast memory (a parameter is loaded at start-up for kappa_i; a temporary is produced there). Recourse, with xi
known: keep k_g, demote d_i, and stream an overflow o_t at penalty pi, so that recourse is always feasible.

    min_x kappa.x + max_xi min sum_g [tau_g(xi)(1 - k_g) + h_i k_g] + sum rho_i d_i + pi sum_t o_t
    k_g >= x_i - d_i;  k_first(i) <= x_i;  d_i <= x_i
    sum_{i: t in U_i} w_i(xi) + sum_{g: a < t < b} w_i(xi) k_g <= C + o_t  for all t
    tau_g(xi) = w_i(xi) beta (1 + theta xi^b_i),  w_i(xi) = wbar_i + what_i xi^w_i

Variants of xi: "bandwidth" (xi^b in [0, 1]^n, sum <= Gamma: uncertain costs only), "size" (xi^w binary, sum <= Gamma:
the value grows with every size, so exactly Gamma raised sizes are listed), "bucket" (one number scales all sizes:
batch or sequence-length buckets, finitely many). Sizes in MiB, times in microseconds.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import LinearSet, binary_set, budget_set, check_figures
from mallocgame.baselines.neur2ro.problem import AffineMap, Features, Recourse, TwoStageProblem, Uncertainty, per_item
from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Variant = Literal["bandwidth", "size", "bucket"]
MAX_LISTED = 5000
MIB, MICROSECOND = float(2**20), 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryProblem(TwoStageProblem):
    """One instance with n tensors, G gaps and T steps."""

    name: str
    variant: Variant
    size: F64  # wbar, MiB, [n]
    growth: F64  # what, MiB, [n]
    load_cost: F64  # kappa, us, [n]
    hold_cost: F64  # h, us a kept gap, [n]
    demote_cost: F64  # rho, us, [n]
    gaps: I64  # (tensor, a, b), [G, 3]; each tensor's first gap is its first row
    used: npt.NDArray[np.bool_]  # [T, n]: tensor used at step
    capacity: float  # C, MiB
    transfer: float  # beta, us a MiB
    contention: float  # theta
    overflow_cost: float  # pi, us a MiB
    budget: int  # Gamma
    buckets: F64  # values of the single number of variant "bucket", each in [0, 1]
    tensor_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.size))
        amounts = ("capacity", "transfer", "contention", "overflow_cost", "budget")
        names = ("size", "growth", "load_cost", "hold_cost", "demote_cost", *amounts)
        check_figures(self, (*names, "buckets"), length=n, nonnegative=names, free=("buckets",))
        if n == 0 or self.capacity <= 0 or not np.isfinite(self.size).all():
            raise InputError(f"{self.name}: need at least one tensor and a positive capacity")
        if self.variant == "size" and math.comb(n, min(n, self.budget)) > MAX_LISTED:
            raise InputError(f"{self.name}: {n} tensors with budget {self.budget} give over {MAX_LISTED} worst cases")

    @property
    def uncertainty_kind(self) -> Uncertainty:  # type: ignore[override]
        """Costs only for contention; a list otherwise."""
        return "objective" if self.variant == "bandwidth" else "finite"

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Return a random program-like instance with contention (see ``random``)."""
        return cls.random(rng, tensors=int(rng.integers(8, 17)), steps=int(rng.integers(10, 25)))

    @classmethod
    def random(
        cls, rng: np.random.Generator, *, tensors: int, steps: int, variant: Variant = "bandwidth", budget: int = 2
    ) -> Self:
        """Return an instance whose tensors are used at random steps, half of them parameters."""
        sizes = np.exp(rng.uniform(0.0, 3.0, tensors))
        uses = [np.sort(rng.choice(steps, size=int(rng.integers(2, 5)), replace=False)) for _ in range(tensors)]
        parameter = rng.random(tensors) < 0.5
        return cls._build("random", variant, sizes, parameter, uses, steps, float(sizes.sum()) * 0.4, 1.4, budget)

    @classmethod
    def from_program(
        cls,
        program: Program,
        hierarchy: Hierarchy,
        *,
        variant: Variant = "bandwidth",
        tensors: int = 16,
        steps: int = 24,
        budget: int = 2,
        pressure: float = 0.3,
    ) -> Self:
        """Return the instance of a program's ``tensors`` most used tensors.

        Args:
            program: a scheduled program.
            hierarchy: layer 0 and the fast layer 1 are taken.
            variant: what is uncertain.
            tensors: at most so many, half parameters and half temporaries where there are enough of both, the largest
                by bytes read and written that fit.
            steps: the steps that use them are merged to at most so many.
            budget: Gamma.
            pressure: capacity as a share of the tensors' total size (at most the fast layer's capacity); the rest of
                fast memory is left to all other tensors.

        Raises:
            InputError: no movable tensor is used twice and fits.
        """
        limit = hierarchy.layers[1].capacity_bytes
        fitting = [t for t in program.tensors if t.movable and 0 < t.size_bytes <= limit * pressure]
        fitting = [t for t in fitting if len({use.step for use in t.uses}) + t.is_parameter >= 2]
        fitting.sort(key=lambda t: (-sum(use.bytes for use in t.uses), t.name))
        weights = [tensor for tensor in fitting if tensor.is_parameter][: tensors // 2]
        chosen = [tensor for tensor in fitting if not tensor.is_parameter][: tensors - len(weights)]
        chosen += [tensor for tensor in fitting if tensor.is_parameter][: tensors - len(chosen)]
        if not chosen:
            raise InputError(f"{program.name}: no movable tensor that fits is used twice; nothing to pin")
        moments = sorted({use.step for tensor in chosen for use in tensor.uses})
        group = max(1, math.ceil(len(moments) / steps))
        place = {step: rank // group for rank, step in enumerate(moments)}
        uses = [np.unique([place[use.step] for use in tensor.uses]) for tensor in chosen]
        sizes = np.array([tensor.size_bytes / MIB for tensor in chosen])
        link = hierarchy.links[hierarchy.link_index(0, 1)]
        beta = MIB / link.bytes_per_second / MICROSECOND
        parameter = np.array([tensor.is_parameter for tensor in chosen])
        capacity = min(limit / MIB, max(pressure * float(sizes.sum()), float(sizes.max())))
        last = max(int(steps_of.max()) for steps_of in uses) + 1
        built = cls._build(program.name, variant, sizes, parameter, uses, last, capacity, beta, budget)
        names = tuple(tensor.name for tensor in chosen)
        return cls(**{**built.__dict__, "tensor_names": names})

    @classmethod
    def _build(  # noqa: PLR0913 (its options, by name)
        cls,
        name: str,
        variant: Variant,
        sizes: F64,
        parameter: npt.NDArray[np.bool_],
        uses: list[I64],
        steps: int,
        capacity: float,
        beta: float,
        budget: int,
    ) -> Self:
        gaps = []
        used = np.zeros((steps, len(sizes)), bool)
        for i, moments in enumerate(uses):
            used[moments, i] = True
            ends = [-1, *moments.tolist()] if parameter[i] else moments.tolist()
            gaps += [(i, a, b) for a, b in itertools.pairwise(ends)] or [(i, int(moments[0]), int(moments[0]))]
        once = sizes * beta
        return cls(
            name=name,
            variant=variant,
            size=sizes,
            growth=np.where(parameter, 0.1, 0.5) * sizes,
            load_cost=np.where(parameter, 0.7, 0.0) * once,
            hold_cost=0.01 * once,
            demote_cost=0.3 * once,
            gaps=np.array(gaps, np.int64),
            used=used,
            capacity=capacity,
            transfer=beta,
            contention=1.5,
            overflow_cost=3.0 * beta,
            budget=budget,
            buckets=np.linspace(0.0, 1.0, 5),
        )

    @property
    def num_tensors(self) -> int:
        return len(self.size)

    def with_budget(self, budget: int) -> Self:
        """Return the same instance under another uncertainty budget."""
        return type(self)(**{**self.__dict__, "budget": budget})

    def sizes(self, xi: F64) -> F64:
        """Return w(xi), MiB, float64[n]."""
        return self.size if self.variant == "bandwidth" else np.asarray(self.size + self.growth * xi)

    def first_stage(self) -> LinearSet:
        return binary_set(self.num_tensors, cost=self.load_cost)

    def uncertainty(self) -> LinearSet:
        if self.variant == "bucket":
            return LinearSet(lower=np.zeros(1), upper=np.ones(1), integer=np.zeros(1, bool))
        return budget_set(self.num_tensors, self.budget, integer=self.variant == "size")

    def scenarios(self) -> F64 | None:
        if self.variant == "bandwidth":
            return None
        if self.variant == "bucket":
            return self.buckets[:, None].copy()
        raised = itertools.combinations(range(self.num_tensors), min(self.num_tensors, self.budget))
        rows = [np.isin(np.arange(self.num_tensors), picked).astype(float) for picked in raised]
        return np.array(rows)

    def recourse(self, xi: F64) -> Recourse:
        """Columns: keep k_g, demote d_i, overflow o_t; rows: pinned gaps, first gaps, demotions, capacity."""
        n, num_gaps, steps = self.num_tensors, len(self.gaps), len(self.used)
        tensor, start, end = self.gaps.T
        weight = self.sizes(xi)
        slowdown = 1.0 + self.contention * (xi if self.variant == "bandwidth" else np.zeros(n))
        tau = (weight * self.transfer * slowdown)[tensor]
        owner = np.eye(n)[tensor]  # [G, n]
        first = np.searchsorted(tensor, np.arange(n))
        moments = np.arange(steps)[:, None]
        spans = (start < moments) & (moments < end)  # [T, G]
        zero = np.zeros
        x_rows = np.vstack([owner, -np.eye(n), -np.eye(n), zero((steps, n))])
        y_rows = np.vstack(
            [
                np.hstack([-np.eye(num_gaps), -owner, zero((num_gaps, steps))]),
                np.hstack([np.eye(num_gaps)[first], zero((n, n)), zero((n, steps))]),
                np.hstack([zero((n, num_gaps)), np.eye(n), zero((n, steps))]),
                np.hstack([spans * weight[tensor], zero((steps, n)), -np.eye(steps)]),
            ]
        )
        room = self.capacity - self.used @ weight
        top = np.maximum(0.0, (spans * weight[tensor]).sum(axis=1) - room)
        return Recourse(
            x_cost=zero(n),
            y_cost=np.concatenate([self.hold_cost[tensor] - tau, self.demote_cost, np.full(steps, self.overflow_cost)]),
            constant=float(tau.sum()),
            x_rows=x_rows,
            y_rows=y_rows,
            row_upper=np.concatenate([zero(num_gaps + 2 * n), room]),
            y_lower=zero(num_gaps + n + steps),
            y_upper=np.concatenate([np.ones(num_gaps + n), top + 1.0]),
            y_integer=np.arange(num_gaps + n + steps) < num_gaps + n,
        )

    def features(self) -> Features:
        """Relative sizes and costs, numbers of uses and how crowded the tensor's gaps are."""
        tensor, start, end = self.gaps.T
        n, mean = self.num_tensors, float(self.size.mean())
        moments = np.arange(len(self.used))[:, None]
        crowd = (self.used @ self.size + ((start < moments) & (moments < end)) @ self.size[tensor]) / self.capacity
        pressure = np.array([crowd[self.used[:, i]].mean() for i in range(n)])
        items = np.stack(
            [
                self.size / mean,
                self.growth / mean,
                np.bincount(tensor, minlength=n) / 4.0,
                self.used.sum(axis=0) / 4.0,
                (self.load_cost > 0).astype(float),
                pressure,
            ],
            axis=1,
        )
        shared = AffineMap(matrix=np.ones((n, 1)), offset=np.zeros(n), width=1)
        cost = float((self.size[tensor] * self.transfer).sum())
        return Features(
            x_map=per_item(n),
            xi_map=shared if self.variant == "bucket" else per_item(n),
            x_items=items,
            xi_items=items,
            label_scale=max(cost, 1e-9),
        )

    def sample_first_stage(self, rng: np.random.Generator, count: int) -> F64:
        """Bernoulli plans at random rates, every second one thinned to the tensors that fit together."""
        plans = (rng.random((count, self.num_tensors)) < rng.random((count, 1))).astype(float)
        for plan in plans[::2]:
            for i in rng.permutation(self.num_tensors):
                if plan @ self.size > self.capacity:
                    plan[i] = 0.0
        return plans

    def sample_scenarios(self, rng: np.random.Generator, count: int) -> F64:
        """Contention spread at random over all or few tensors; listed scenarios otherwise."""
        listed = self.scenarios()
        if listed is not None:
            return listed[rng.integers(len(listed), size=count)]
        share = rng.random((count, self.num_tensors)) ** rng.choice((1.0, 6.0), size=(count, 1))
        total = np.where(rng.random((count, 1)) < 0.7, self.budget, rng.uniform(0, self.budget, (count, 1)))
        return np.asarray(np.minimum(1.0, share / share.sum(axis=1, keepdims=True) * total))

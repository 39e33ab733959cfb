"""Packing with gaps, windows and conflict lists: first fit and hill climbing on clearances, the exact search, CP-SAT.

The exact search knows gaps and conflict lists, but no windows. With the gaps that have them filled the problem is
harder, never easier, so what the search finds is a packing, and what it excludes is not excluded; then proofs come from
CP-SAT and from what is live at once.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mallocgame.baselines.packing.budget import Budget, run_workers
from mallocgame.baselines.packing.clearances import FAR, Clearances, climb, place_in_order
from mallocgame.baselines.packing.gapped import GappedSearch
from mallocgame.baselines.packing.problem import I64
from mallocgame.baselines.packing.search import INFEASIBLE, SOLVED
from mallocgame.baselines.packing.types import Buffer

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

_CPSAT_CLEARANCES = 500_000  # above this a model takes too long to build
_MOVES = 200  # of a climb before it looks at the clock


class GeneralRun:
    """What is known about one problem: heights, bounds and offsets in bytes.

    Attributes:
        offsets: int64[n] of the lowest packing found; there is always one.
        lower_bound: proved, bytes.
    """

    def __init__(self, buffers: Sequence[Buffer], seed: int, workers: int) -> None:
        self.buffers, self.seed, self.workers = buffers, seed, workers
        self.clear = Clearances.of(buffers)
        self.lower_bound = self.clear.lower_bound * self.clear.unit
        self.offsets: I64 = np.zeros(0, np.int64)
        self.height = FAR
        self.orders = self.clear.orders(buffers)
        first = next(iter(self.orders.values()))
        climb(first.copy(), self.clear.table, 0, 0, 0, np.zeros(1, np.int64))  # compiled before a clock runs
        self.construct(first)

    def construct(self, order: I64) -> None:
        """Try first fit in one order."""
        c = self.clear
        self.offer(*place_in_order(order, c.table, FAR))

    def offer(self, offsets: I64, height: int) -> None:
        """Keep a packing (in units) if it is lower than what is known."""
        if height * self.clear.unit < self.height:
            self.height, self.offsets = height * self.clear.unit, offsets * self.clear.unit

    def climb(self, target: int, budget: Budget) -> None:
        """Climb from every static order in turn until ``target`` bytes are reached or time is up."""
        c = self.clear
        for number, order in enumerate(itertools.cycle([order.copy() for order in self.orders.values()])):
            if self.height <= target or budget.spent():
                return
            self.offer(*climb(order, c.table, target // c.unit, _MOVES, self.seed + number, budget.flag))

    def search(self, capacity: int, minimise: bool, budget: Budget) -> None:
        """Search within ``capacity`` bytes, or for the lowest packing, at one height after another.

        Slices of time double as long as nothing is found or proved.
        """
        if not self.buffers:
            return
        clear = self.clear
        found = GappedSearch.of(self.buffers, clear, self.orders, self.seed)
        is_whole = found is not None
        if found is None:
            filled = [_without_windows(b) for b in self.buffers]
            clear = Clearances.of(filled)
            found = GappedSearch.of(filled, clear, self.orders, self.seed)
            assert found is not None
        else:
            found.offer(self.offsets // clear.unit)
        seconds, fraction = 0.5, 0.0
        while not budget.spent():
            goal = self.lower_bound if minimise else capacity
            if self.height <= goal or self.lower_bound > capacity:
                return
            target = goal
            if minimise:
                target = min(self.height - 1, capacity, goal + int(fraction * (self.height - goal)))
            status = found.search(target // clear.unit, budget.slice(seconds), self.workers)
            if found.height < FAR:
                self.offer(found.offsets * clear.unit // self.clear.unit, found.height * clear.unit // self.clear.unit)
            if status == INFEASIBLE and not is_whole:
                return
            if status == INFEASIBLE:
                self.lower_bound = max(self.lower_bound, (target // clear.unit + 1) * clear.unit)
            elif status != SOLVED:
                seconds *= 2
                fraction = (1 + fraction) / 2 if fraction < 0.9 else 0.0

    def cpsat(self, capacity: int, minimise: bool, budget: Budget) -> None:
        """Prove or find a packing within ``capacity`` bytes, the lowest if ``minimise``."""
        if self.clear.table.other.size > _CPSAT_CLEARANCES or budget.spent():
            return
        from ortools.sat.python import cp_model

        most = min(capacity, self.height - 1) // self.clear.unit
        if most < self.clear.lower_bound:
            return
        model, starts, height = _model(self.clear, most)
        if minimise:
            model.minimize(height)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = self.workers
        solver.parameters.random_seed = self.seed
        solver.parameters.max_time_in_seconds = max(0.01, budget.left())
        keeper = _keeper(self, starts)
        status: list[object] = []
        run_workers([lambda: status.append(solver.solve(model, keeper))], budget, solver.stop_search)
        if status == [cp_model.INFEASIBLE]:
            self.lower_bound = max(self.lower_bound, (most + 1) * self.clear.unit)
        elif status == [cp_model.OPTIMAL] and minimise:
            self.lower_bound = max(self.lower_bound, round(solver.objective_value) * self.clear.unit)


def _without_windows(b: Buffer) -> Buffer:
    """Return the buffer with those gaps filled in which it holds some of its bytes."""
    return replace(b, gaps=tuple(gap for gap in b.gaps if gap.window[0] == gap.window[1]))


def _model(c: Clearances, most: int) -> "tuple[cp_model.CpModel, list[cp_model.LinearExprT], cp_model.IntVar]":
    """Return (model, each buffer's offset, the height), all in units; no end is above ``most``."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    height = model.new_int_var(c.lower_bound, most, "height")
    starts: list[cp_model.LinearExprT] = []
    for i, (size, step, fixed) in enumerate(zip(*(a.tolist() for a in c.table[:3]), strict=True)):
        if fixed >= 0:
            starts.append(fixed)
        elif size > most:
            starts.append(model.new_int_var_from_domain(cp_model.Domain.from_values([]), f"o{i}"))
        else:
            starts.append(step * model.new_int_var(0, (most - size) // step, f"o{i}"))
        model.add(starts[-1] + size <= height)
    for clique in c.cliques:
        model.add_no_overlap(
            [
                model.new_fixed_size_interval_var(starts[i] + bottom, top - bottom, f"p{i}.{bottom}")
                for i, bottom, top in clique.tolist()
            ]
        )
    return model, starts, height


def _keeper(run: GeneralRun, starts: "list[cp_model.LinearExprT]") -> "cp_model.CpSolverSolutionCallback":
    from ortools.sat.python import cp_model

    class Keeper(cp_model.CpSolverSolutionCallback):
        """Offers every packing that CP-SAT meets."""

        def on_solution_callback(self) -> None:
            offsets = np.array([self.value(start) for start in starts], np.int64)
            run.offer(offsets, int((offsets + run.clear.table.size).max()))

    return Keeper()

"""The decision as a mixed-integer linear program for HiGHS: its relaxation is close, so large problems end soon.

Without memory and copies the rows are those of a closure problem, whose relaxation is whole; a few rows on top of that
leave few fractions. The bound is HiGHS's own, lowered by its tolerance. CP-SAT on the same rows proved nothing in ten
seconds where HiGHS takes half a second (393 to 631 nodes).
"""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from mallocgame.checkpointing import CheckpointProblem, Choice

TOLERANCE = 1e-6  # of the objective: what HiGHS may be wrong by


class _Rows:
    """Rows ``low <= row`` of a matrix, as they come."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.low: list[float] = []

    def add(self, low: float, *terms: tuple[int, float]) -> None:
        """Demand that a sum of (column, factor) is at least ``low``."""
        for column, factor in terms:
            self.rows.append(len(self.low))
            self.columns.append(column)
            self.values.append(factor)
        self.low.append(low)


class CheckpointModel:
    """Columns: node i runs again (3 i), is kept (3 i + 1), is offloaded (3 i + 2); then names; then waits."""

    def __init__(self, problem: CheckpointProblem, budget_bytes: int) -> None:
        self.problem = problem
        self.names = sorted({name for name, count in _counts(problem).items() if count > 1})
        self.first_name = 3 * len(problem.nodes)
        self.first_wait = self.first_name + 2 * len(self.names)
        self.num_columns = self.first_wait + 2 * problem.num_streams
        self.rows = _Rows()
        self._add_chains()
        self._add_memory(budget_bytes)
        self._add_copies()

    def _ways(self, i: int) -> list[tuple[int, float]]:
        node = self.problem.nodes[i]
        if not node.name:
            return [(3 * i, 1.0)]
        return [(3 * i, 1.0), (3 * i + 2, 1.0)] + ([] if node.is_entry else [(3 * i + 1, 1.0)])

    def _add_chains(self) -> None:
        for i, node in enumerate(self.problem.nodes):
            if node.is_needed:
                self.rows.add(1.0, *self._ways(i))
            for j in node.inputs:
                self.rows.add(0.0, *self._ways(j), (3 * i, -1.0))
            if node.name in self.names:
                kept = self.first_name + 2 * self.names.index(node.name)
                self.rows.add(-1.0, (3 * i, -1.0), (kept, -1.0), (kept + 1, -1.0))
                self.rows.add(0.0, (kept, 1.0), (3 * i + 1, -1.0))
                self.rows.add(0.0, (kept + 1, 1.0), (3 * i + 2, -1.0))

    def _add_memory(self, budget_bytes: int) -> None:
        before: list[tuple[int, float]] = []
        freed = 0
        for r, region in enumerate(self.problem.regions):
            members = [(i, node) for i, node in enumerate(self.problem.nodes) if node.region == r and node.name]
            own = [(3 * i + (0 if node.is_entry else 1), float(node.size_bytes)) for i, node in members]
            freed_here = sum(node.size_bytes for _, node in members if node.is_entry)
            terms = [*before, *own] if region.is_loop else before
            spare = budget_bytes - region.peak_bytes + freed + (freed_here if region.is_loop else 0)
            unit = max(budget_bytes, 1)
            self.rows.add(-spare / unit, *((column, -size / unit) for column, size in terms))
            before, freed = [*before, *own], freed + freed_here

    def _add_copies(self) -> None:
        problem = self.problem
        for stream, hidden in enumerate(problem.hiding_seconds()):
            members = [
                (3 * i + 2, node.size_bytes)
                for i, node in enumerate(problem.nodes)
                if node.name and problem.regions[node.region].stream == stream
            ]
            for way, rate in enumerate((problem.out_bytes_per_second, problem.in_bytes_per_second)):
                wait = self.first_wait + 2 * stream + way
                unit = self.unit
                terms = ((column, -size / rate / unit) for column, size in members)
                self.rows.add(-hidden[way] / unit, (wait, 1.0), *terms)

    @property
    def unit(self) -> float:
        """The seconds that the objective counts in."""
        return max(self.problem.base_seconds, 1e-12)

    def solve(self, seconds: float) -> tuple[list[int] | None, float, bool]:
        """Return (choices or None, proved bound in seconds, whether it is proved optimal)."""
        cost = np.zeros(self.num_columns)
        low, high = np.zeros(self.num_columns), np.ones(self.num_columns)
        for i, node in enumerate(self.problem.nodes):
            cost[3 * i : 3 * i + 3] = node.seconds, node.keep_seconds, node.offload_seconds
            high[3 * i + 1] = bool(node.name) and not node.is_entry
            high[3 * i + 2] = bool(node.name)
        cost /= self.unit
        cost[self.first_wait :], high[self.first_wait :] = 1.0, np.inf
        rows = self.rows
        matrix = coo_array((rows.values, (rows.rows, rows.columns)), shape=(len(rows.low), self.num_columns)).tocsr()
        found = milp(
            cost,
            integrality=(np.arange(self.num_columns) < self.first_wait).astype(int),
            bounds=Bounds(low, high),
            constraints=LinearConstraint(matrix, np.array(rows.low), np.inf),
            options={"time_limit": seconds, "mip_rel_gap": 1e-5},
        )
        lower = found.mip_dual_bound if found.mip_dual_bound is not None else 0.0
        bound = (self.problem.base_seconds + lower * self.unit) * (1 - TOLERANCE)
        if found.x is None:
            return None, max(bound, 0.0), False
        table = found.x[: self.first_name].reshape(-1, 3)
        choices = np.where(table[:, 1] > 0.5, int(Choice.KEEP), np.where(table[:, 2] > 0.5, int(Choice.OFFLOAD), 0))
        return [int(choice) for choice in choices], max(bound, 0.0), found.status == 0


def _counts(problem: CheckpointProblem) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in problem.nodes:
        if node.name:
            found[node.name] = found.get(node.name, 0) + 1
    return found

"""Keep, offload, recompute, decided exactly: a 0-1 program by CP-SAT, with a proved bound.

A node that is wanted is run again, kept or fetched (one of three columns); running it again wants its inputs. Memory is
one row per region, copies that nothing hides one column per stream and direction. Times are rounded to a
billionth of the step, and the bound is lowered by what rounding can hide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mallocgame.baselines.native import call
from mallocgame.checkpointing import CheckpointPlan, CheckpointProblem, Choice

UNITS = 10**9  # of time in a step
GAP = 1e-4  # a proof this close ends the search


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    choices: tuple[int, ...] | None
    bound_seconds: float
    is_optimal: bool


def decide(
    problem: CheckpointProblem,
    budget_bytes: int,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    workers: int = 1,
    hint: Sequence[Choice] | None = None,
) -> CheckpointPlan | None:
    """Return the best choices within the budget, None where there are none (or none was found in time).

    Args:
        problem: what may be kept.
        budget_bytes: device memory for the whole step.
        seconds: limit; the answer then carries the bound that was proved.
        seed, workers: of CP-SAT.
        hint: choices to start from.
    """
    arguments = (problem, budget_bytes, max(seconds, 0.05), seed, workers, None if hint is None else tuple(hint))
    answer = call(_solve, *arguments, seconds=seconds + 2.0)
    if answer is None or answer.choices is None:
        return None
    choices = prune(problem, [Choice(value) for value in answer.choices])
    total = problem.seconds(choices)
    return CheckpointPlan(
        choices=tuple(choices),
        seconds=total,
        peak_bytes=problem.peak_bytes(choices),
        bound_seconds=min(answer.bound_seconds, total),
        is_optimal=answer.is_optimal,
    )


def prune(problem: CheckpointProblem, choices: Sequence[Choice]) -> list[Choice]:
    """Drop what saves nothing: kept values that neither the backward pass nor a recomputation reads."""
    found = list(choices)
    wanted = [node.is_needed for node in problem.nodes]
    for i in reversed(range(len(found))):
        if not wanted[i]:
            found[i] = Choice.RECOMPUTE
        elif found[i] == Choice.RECOMPUTE:
            for j in problem.nodes[i].inputs:
                wanted[j] = True
    return found


def _solve(
    problem: CheckpointProblem,
    budget_bytes: int,
    seconds: float,
    seed: int,
    workers: int,
    hint: tuple[Choice, ...] | None,
) -> _Answer:
    from ortools.sat.python import cp_model

    scale = UNITS / max(problem.base_seconds + sum(node.seconds for node in problem.nodes), 1e-12)
    model = cp_model.CpModel()
    columns = _Columns(model, problem)
    columns.add_chains()
    columns.add_memory(budget_bytes)
    cost = columns.cost(scale)
    model.minimize(sum(cost))
    if hint is not None:
        columns.hint(hint)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.num_workers = workers
    solver.parameters.relative_gap_limit = GAP
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return _Answer(choices=None, bound_seconds=math.inf if status == cp_model.INFEASIBLE else 0.0, is_optimal=False)
    lost = (len(problem.nodes) * 3 + 2 * problem.num_streams + 1) / scale
    bound = problem.base_seconds + solver.best_objective_bound / scale - lost
    return _Answer(
        choices=tuple(columns.read(solver)), bound_seconds=max(bound, 0.0), is_optimal=status == cp_model.OPTIMAL
    )


class _Columns:
    """The 0-1 columns of a problem: per node run again, kept, offloaded."""

    def __init__(self, model: Any, problem: CheckpointProblem) -> None:
        self.model, self.problem = model, problem
        self.again: list[Any] = [model.new_bool_var("") for _ in problem.nodes]
        self.kept: list[Any] = [
            model.new_bool_var("") if node.name and not node.is_entry else None for node in problem.nodes
        ]
        self.off: list[Any] = [model.new_bool_var("") if node.name else None for node in problem.nodes]
        self.groups()

    def groups(self) -> None:
        """Tie values of one name: where it is kept or offloaded, none of them is run again."""
        members: dict[str, list[int]] = {}
        for i, node in enumerate(self.problem.nodes):
            if node.name:
                members.setdefault(node.name, []).append(i)
        for group in members.values():
            if len(group) < 2:
                continue
            is_kept, is_off = self.model.new_bool_var(""), self.model.new_bool_var("")
            for i in group:
                self.model.add_at_most_one([self.again[i], is_kept, is_off])
                self.model.add_implication(self.off[i], is_off)
                if self.kept[i] is not None:
                    self.model.add_implication(self.kept[i], is_kept)

    def add_chains(self) -> None:
        """What is wanted is run again, kept or fetched."""
        for i, node in enumerate(self.problem.nodes):
            ways = self._ways(i)
            if node.is_needed:
                self.model.add_bool_or(ways)
            for j in node.inputs:
                self.model.add_bool_or([*self._ways(j), self.again[i].negated()])
            if len(ways) == 3:
                self.model.add_at_most_one(ways[1:])

    def _ways(self, i: int) -> list[Any]:
        return [column for column in (self.again[i], self.kept[i], self.off[i]) if column is not None]

    def add_memory(self, budget_bytes: int) -> None:
        """One row per region: its own peak, and what is kept of the regions up to it."""
        before: list[tuple[Any, int]] = []
        for r, region in enumerate(self.problem.regions):
            own: list[tuple[Any, int]] = []
            for i, node in enumerate(self.problem.nodes):
                if node.region == r and node.is_entry:
                    own.append((self.again[i].negated(), -node.size_bytes))
                elif node.region == r and node.name:
                    own.append((self.kept[i], node.size_bytes))
            row = [*before, *own] if region.is_loop else before
            self.model.add(sum(c * size for c, size in row) <= budget_bytes - region.peak_bytes)
            before = [*before, *own]
        if self.problem.floor_bytes > budget_bytes:
            self.model.add_bool_or([])

    def cost(self, scale: float) -> list[Any]:
        """Return the terms of the time, in units."""
        terms: list[Any] = []
        for i, node in enumerate(self.problem.nodes):
            terms.append(self.again[i] * round(node.seconds * scale))
            if self.kept[i] is not None:
                terms.append(self.kept[i] * round(node.keep_seconds * scale))
            if self.off[i] is not None:
                terms.append(self.off[i] * round(node.offload_seconds * scale))
        problem = self.problem
        for stream, (hides_out, hides_back) in enumerate(problem.hiding_seconds()):
            members = [
                (self.off[i], node.size_bytes)
                for i, node in enumerate(problem.nodes)
                if self.off[i] is not None and problem.regions[node.region].stream == stream
            ]
            for rate, hidden in (
                (problem.out_bytes_per_second, hides_out),
                (problem.in_bytes_per_second, hides_back),
            ):
                most = math.ceil(sum(size for _, size in members) / rate * scale) + 1
                waits = self.model.new_int_var(0, most + len(members), "")
                copies = sum(c * round(size / rate * scale) for c, size in members)
                self.model.add(waits >= copies - math.ceil(hidden * scale))
                terms.append(waits)
        return terms

    def hint(self, choices: Sequence[Choice]) -> None:
        """Suggest choices."""
        for i, (choice, again) in enumerate(zip(choices, self.problem.recomputed(choices), strict=True)):
            self.model.add_hint(self.again[i], again)
            for column, meant in ((self.kept, Choice.KEEP), (self.off, Choice.OFFLOAD)):
                found = column[i]
                if found is not None:
                    self.model.add_hint(found, choice == meant)

    def read(self, solver: Any) -> list[int]:
        """Return the choice of each node."""
        found = []
        for kept, off in zip(self.kept, self.off, strict=True):
            if kept is not None and solver.value(kept):
                found.append(int(Choice.KEEP))
            elif off is not None and solver.value(off):
                found.append(int(Choice.OFFLOAD))
            else:
                found.append(int(Choice.RECOMPUTE))
        return found

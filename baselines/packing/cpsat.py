"""CP-SAT on one part: a one-dimensional no-overlap per section, and a portfolio of static search orders in slices."""

import itertools
import threading
from collections.abc import Iterator

import numpy as np
from ortools.sat.python import cp_model

from mallocgame.baselines.packing import search as native
from mallocgame.baselines.packing.budget import Budget, run_workers
from mallocgame.baselines.packing.part import Part
from mallocgame.baselines.packing.problem import I64


def _model(part: Part, capacity: int) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    s, p = part.scaled, part.problem
    highest = s.max_offsets(capacity)
    model = cp_model.CpModel()
    variables, intervals = [], []
    for i in range(p.size.size):
        step, size = int(s.alignment[i]), int(s.size[i])
        if s.fixed[i] >= 0:
            variable, start = model.new_constant(int(s.fixed[i])), int(s.fixed[i])
            intervals.append(model.new_fixed_size_interval_var(start, size, f"b{i}"))
        else:
            variable = model.new_int_var(0, int(highest[i]) // step, f"o{i}")
            intervals.append(model.new_fixed_size_interval_var(step * variable, size, f"b{i}"))
        variables.append(variable)
    members: list[list[int]] = [[] for _ in range(p.num_sections)]
    for i in range(p.size.size):
        for section in range(int(p.first[i]), int(p.last[i])):
            members[section].append(i)
    for live in members:
        model.add_no_overlap([intervals[i] for i in live])
    return model, variables


def _schedule(part: Part) -> Iterator[tuple[I64 | None, float]]:
    for seconds in (2.0 * 3.0**k for k in itertools.count()):
        for order in part.orders.values():
            yield order, seconds
        yield None, seconds


def cpsat(part: Part, capacity: int, budget: Budget, workers: int) -> int:
    """Search for a packing within ``capacity`` bytes; return a status of ``search.py``.

    Each worker runs single-threaded CP-SAT with one order (FIXED_SEARCH: lowest start first, smallest value) or
    CP-SAT's own search; slices last 2, 6, 18, … seconds because run times are heavy-tailed in the order.
    """
    if part.lower_bound > capacity or bool((part.scaled.max_offsets(capacity) < part.scaled.fixed.clip(0)).any()):
        return native.INFEASIBLE
    model, variables = _model(part, capacity)
    jobs = _schedule(part)
    lock = threading.Lock()
    active: set[cp_model.CpSolver] = set()
    outcome: list[int] = []

    def stop_all() -> None:
        with lock:
            for solver in active:
                solver.stop_search()

    def work() -> None:
        while not budget.spent():
            with lock:
                order, seconds = next(jobs)
                own = model.clone()
                seed = int(part.rng.integers(1 << 30))
            solver = cp_model.CpSolver()
            solver.parameters.num_workers = 1
            solver.parameters.random_seed = seed
            solver.parameters.linearization_level = 0
            solver.parameters.max_time_in_seconds = max(0.01, min(seconds, budget.left()))
            if order is not None:
                own.add_decision_strategy(
                    [own.get_int_var_from_proto_index(variables[int(i)].index) for i in order],
                    cp_model.CHOOSE_LOWEST_MIN,
                    cp_model.SELECT_MIN_VALUE,
                )
                solver.parameters.search_branching = cp_model.FIXED_SEARCH
            with lock:
                active.add(solver)
            status = solver.solve(own)
            with lock:
                active.discard(solver)
            if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
                values = np.array([solver.value(v) for v in variables], np.int64)
                offsets = np.where(part.scaled.fixed >= 0, part.scaled.fixed, values * part.scaled.alignment)
                part.offer(part.scaled.bytes_of(offsets))
                outcome.append(native.SOLVED)
            elif status == cp_model.INFEASIBLE:
                outcome.append(native.INFEASIBLE)
            if outcome:
                budget.flag[0] = 1
                stop_all()

    run_workers([work] * workers, budget, stop_all)
    if native.SOLVED in outcome:
        return native.SOLVED
    if native.INFEASIBLE in outcome:
        part.exclude(capacity)
        return native.INFEASIBLE
    return native.LIMIT

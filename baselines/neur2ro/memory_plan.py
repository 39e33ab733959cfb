"""A robust memory plan: which stays in fast memory to keep, by claim, before sizes and bandwidth are known.

First stage: a list of stays (a tensor's residency with its copies), the most claimed first. Second stage, once the
scenario is known: the stays are placed in that order, first fit, and what no longer fits is streamed from layer 0. So a
plan is a valid ``Mapping`` in every scenario, and its cost there is the judge's time. A ``static`` plan has no second
stage: it is made for the largest sizes and used as it is.

Candidates are the lists of the mappings that a solver finds for each scenario, each followed by each other (what the
first leaves free the second may fill); a local search reorders, drops and adds stays. The best by the worst scenario
wins, ties by the mean over the scenarios.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mallocgame.baselines.neur2ro.clock import Clock
from mallocgame.baselines.neur2ro.memory_scenarios import NOMINAL, MemoryScenario, MemoryUncertainty
from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Program
from mallocgame.solver import Solver

SOLVING = 0.6  # share of the time that solvers get, the rest is the local search's
EQUAL = 1e-6  # relative difference of worst cases that counts as none


@dataclass(frozen=True, slots=True)
class Claim:
    """One stay: residencies of one tensor that belong together, and their copies (indices into ``residencies``)."""

    residencies: tuple[Residency, ...]
    transfers: tuple[Transfer, ...]

    @property
    def tensor(self) -> int:
        return self.residencies[0].tensor


Plan = tuple[Claim, ...]  # the most claimed first


def claims(mapping: Mapping) -> Plan:
    """Return the stays of a mapping, by the bytes they occupy over time, the shortest and smallest first."""
    group = list(range(len(mapping.residencies)))

    def root(k: int) -> int:
        while group[k] != k:
            k = group[k]
        return k

    for transfer in mapping.transfers:
        if HOME not in (transfer.source, transfer.target):
            group[root(transfer.source)] = root(transfer.target)
    held = {r.tensor for r in mapping.residencies if r.start_step == HELD}
    for tensor in held:  # held at the start and loaded again at the end: one stay
        mine = [k for k, r in enumerate(mapping.residencies) if r.tensor == tensor]
        for k in mine[1:]:
            group[root(k)] = root(mine[0])
    members: dict[int, list[int]] = {}
    for k in range(len(mapping.residencies)):
        members.setdefault(root(k), []).append(k)
    return tuple(_claim(mapping, rows) for rows in members.values())


def _claim(mapping: Mapping, rows: list[int]) -> Claim:
    place = {row: k for k, row in enumerate(rows)} | {HOME: HOME}
    mine = [x for x in mapping.transfers if x.source in place and x.target in place]
    mine = [x for x in mine if (x.source, x.target) != (HOME, HOME)]
    moved = tuple(replace(x, source=place[x.source], target=place[x.target]) for x in mine)
    return Claim(tuple(mapping.residencies[row] for row in rows), moved)


def carried_out(program: Program, hierarchy: Hierarchy, plan: Sequence[Claim]) -> Mapping:
    """Return the second stage: stays placed first fit in the order of claim, without those that do not fit.

    Args:
        program: at the scenario's sizes.
        hierarchy: of the scenario.
        plan: the stays; offsets are tried as they are first.
    """
    left = list(plan)
    while True:
        mapping, kept = _placed(program, hierarchy, left)
        broken = {violation.tensor for violation in validate(program, hierarchy, mapping)}
        if not broken:
            return mapping
        worst = [k for k, claim in enumerate(kept) if claim.tensor in broken]
        if not worst:
            return Mapping()
        drop = {id(kept[worst[-1]])} if len(worst) <= 3 else {id(kept[k]) for k in worst[len(worst) // 2 :]}
        left = [claim for claim in kept if id(claim) not in drop]


def _placed(program: Program, hierarchy: Hierarchy, plan: Sequence[Claim]) -> tuple[Mapping, list[Claim]]:
    taken: dict[int, list[tuple[int, int, int, int]]] = {}  # layer -> (start, end, offset, end of the bytes)
    spans: dict[int, list[tuple[int, int]]] = {}  # tensor -> steps
    residencies: list[Residency] = []
    transfers: list[Transfer] = []
    kept = []
    for claim in plan:
        mine = [(r.start_step, r.end_step) for r in claim.residencies]
        if any(a < d and c < b for a, b in mine for c, d in spans.get(claim.tensor, [])):
            continue  # the tensor is there already
        offsets = _offsets(program, hierarchy, claim, taken)
        if offsets is None:
            continue
        first = len(residencies)
        size = program.tensors[claim.tensor].size_bytes
        for r, offset in zip(claim.residencies, offsets, strict=True):
            residencies.append(replace(r, offset_bytes=offset))
            taken.setdefault(r.layer, []).append((r.start_step, r.end_step, offset, offset + size))
        spans.setdefault(claim.tensor, []).extend(mine)
        for x in _copies(claim, size):
            source, target = (HOME if k == HOME else first + k for k in (x.source, x.target))
            transfers.append(replace(x, source=source, target=target))
        kept.append(claim)
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers)), kept


def _offsets(
    program: Program, hierarchy: Hierarchy, claim: Claim, taken: dict[int, list[tuple[int, int, int, int]]]
) -> list[int] | None:
    """Return an offset for each residency (one for all in a layer: held ones must come back to it), or None."""
    size = program.tensors[claim.tensor].size_bytes
    found: dict[int, int] = {}
    for layer in {r.layer for r in claim.residencies}:
        own = [r for r in claim.residencies if r.layer == layer]
        busy = sorted(
            (low, high)
            for start, end, low, high in taken.get(layer, [])
            if any(r.start_step < end and start < r.end_step for r in own)
        )
        memory = hierarchy.layers[layer]
        offset = _first_fit(busy, size, memory.capacity_bytes, memory.alignment_bytes, own[0].offset_bytes)
        if offset is None:
            return None
        found[layer] = offset
    return [found[r.layer] for r in claim.residencies]


def _first_fit(busy: list[tuple[int, int]], size: int, capacity: int, alignment: int, wanted: int) -> int | None:
    if wanted + size <= capacity and all(high <= wanted or wanted + size <= low for low, high in busy):
        return wanted
    at = 0
    for low, high in busy:
        if at + size <= low:
            break
        at = max(at, -(-high // alignment) * alignment)
    return at if at + size <= capacity else None


def _copies(claim: Claim, size: int) -> list[Transfer]:
    """Return the copies at the tensor's size; slices of a tensor that has changed its size become one whole copy."""
    by_place: dict[tuple[int, int], list[Transfer]] = {}
    for x in claim.transfers:
        by_place.setdefault((x.source, x.target), []).append(x)
    out: list[Transfer] = []
    for rows in by_place.values():
        into = rows[0].target != HOME
        sliced = into and len(rows) > 1
        if sliced and sum(x.size_bytes for x in rows) != size:
            start, due = min(x.start_after for x in rows), max(x.done_before for x in rows)
            out.append(replace(rows[0], start_after=start, done_before=due, size_bytes=size, slice_offset_bytes=0))
        elif sliced:
            out += rows
        else:
            out += [replace(x, size_bytes=size) for x in rows]
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCosts:
    """A plan's judged seconds."""

    seconds: tuple[float, ...]  # of each scenario of the grid
    nominal: float

    @property
    def worst(self) -> float:
        return max(self.seconds)

    @property
    def mean(self) -> float:
        return float(np.mean(self.seconds))


class ScenarioJudge:
    """Prices plans in every scenario of a grid by ``simulate``."""

    def __init__(self, program: Program, hierarchy: Hierarchy, uncertainty: MemoryUncertainty) -> None:
        self.uncertainty = uncertainty
        self.base = (program, hierarchy)
        self.grid = uncertainty.grid()
        self._cases = {scenario: uncertainty.apply(program, hierarchy, scenario) for scenario in self.grid}

    def case(self, scenario: MemoryScenario) -> tuple[Program, Hierarchy]:
        """Return program and hierarchy of a scenario, of the grid or not."""
        return self._cases.get(scenario) or self.uncertainty.apply(*self.base, scenario)

    def seconds(self, plan: Plan, scenario: MemoryScenario, *, recourse: bool = True) -> float:
        """Return the judged time of the plan; without recourse a plan that breaks a rule costs inf."""
        program, hierarchy = self.case(scenario)
        if recourse:
            return simulate(program, hierarchy, carried_out(program, hierarchy, plan)).total_seconds
        mapping, kept = _placed(program, hierarchy, plan)
        if len(kept) < len(plan) or validate(program, hierarchy, mapping):
            return float("inf")
        return simulate(program, hierarchy, mapping).total_seconds

    def costs(self, plan: Plan, *, recourse: bool = True) -> PlanCosts:
        """Return the plan's cost in every scenario of the grid."""
        found = tuple(self.seconds(plan, scenario, recourse=recourse) for scenario in self.grid)
        return PlanCosts(seconds=found, nominal=found[self.grid.index(NOMINAL)])


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlans:
    """The three plans of one program, and what each costs."""

    nominal: Plan
    static: Plan
    robust: Plan
    costs: dict[str, PlanCosts]  # by name
    mapping: Mapping  # the robust plan at the compiled program's sizes: a file for ``inject``
    evaluations: int

    @property
    def robust_is_static(self) -> bool:
        """Whether recourse bought nothing: worst case and mean are those of the static plan."""
        robust, static = self.costs["robust"], self.costs["static"]
        return abs(robust.worst - static.worst) <= EQUAL * static.worst and robust.mean >= static.mean * (1 - EQUAL)

    @property
    def price(self) -> float:
        """What robustness costs where nothing goes wrong: nominal cost over the nominal plan's, minus 1."""
        return self.costs["robust"].nominal / self.costs["nominal"].nominal - 1.0


def plan_memory(
    program: Program,
    hierarchy: Hierarchy,
    uncertainty: MemoryUncertainty,
    *,
    solver: Solver,
    seconds: float = 60.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> MemoryPlans:
    """Return nominal, static and robust plans.

    Args:
        program: as compiled.
        hierarchy: of the chip.
        uncertainty: what may happen.
        solver: makes a mapping for one scenario (any of ``mallocgame.baselines``).
        seconds: limit; 60 % for the solver, spread over the scenarios, the rest for the local search.
        seed: of both.
        start: a mapping to begin with (the compiler's), or None.
        progress: called with the seconds spent.

    Raises:
        InputError: ``start`` is not a valid mapping of the program.
    """
    if start is not None and (broken := validate(program, hierarchy, start)):
        raise InputError(f"the start mapping is not valid: {broken[0].message}")
    judge = ScenarioJudge(program, hierarchy, uncertainty)
    clock = Clock(seconds)
    found: dict[MemoryScenario, Plan] = {}
    for k, scenario in enumerate(judge.grid):
        part = max(0.1, (SOLVING * seconds - clock.elapsed) / (len(judge.grid) - k))
        begin = None if start is None else carried_out(*judge.case(scenario), claims(start))
        result = solver(*judge.case(scenario), seconds=part, seed=seed, start=begin)
        found[scenario] = claims(result.mapping)
        progress(clock.elapsed)
    static, static_costs = _best_static(judge, list(found.values()))
    pairs = [(*first, *second) for first, second in itertools.product(found.values(), repeat=2) if first is not second]
    lists = [found[NOMINAL], static, *found.values(), *pairs]
    search = _LocalSearch(judge, clock, np.random.default_rng(seed), progress)
    robust, robust_costs = search.run(lists, [claim for plan in found.values() for claim in plan])
    costs = {"nominal": judge.costs(found[NOMINAL]), "static": static_costs, "robust": robust_costs}
    return MemoryPlans(
        nominal=found[NOMINAL],
        static=static,
        robust=robust,
        costs=costs,
        mapping=carried_out(program, hierarchy, robust),
        evaluations=search.evaluations,
    )


def _best_static(judge: ScenarioJudge, plans: list[Plan]) -> tuple[Plan, PlanCosts]:
    """Return the plan that needs no recourse in any scenario and is best in the worst one; the empty plan always is."""
    priced = [(plan, judge.costs(plan, recourse=False)) for plan in [(), *plans]]
    return min(priced, key=lambda row: (row[1].worst, row[1].mean))


class _LocalSearch:
    """Reorders, drops and adds stays while time lasts."""

    def __init__(
        self, judge: ScenarioJudge, clock: Clock, rng: np.random.Generator, progress: Callable[[float], None]
    ) -> None:
        self.judge, self.clock, self.rng, self.progress = judge, clock, rng, progress
        self.evaluations = 0

    def run(self, lists: list[Plan], extra: list[Claim]) -> tuple[Plan, PlanCosts]:
        """Return the best plan found and its costs, from the candidates on (the first two are always priced)."""
        best, costs = lists[0], self._price(lists[0])
        for k, plan in enumerate(dict.fromkeys(lists[1:])):
            if k and self.clock.left <= 0:
                break
            best, costs = self._better(best, costs, plan)
        while self.clock.left > 0 and (best or extra):
            best, costs = self._better(best, costs, self._moved(best, extra))
            self.progress(self.clock.elapsed)
        return best, costs

    def _price(self, plan: Plan) -> PlanCosts:
        self.evaluations += 1
        return self.judge.costs(plan)

    def _better(self, best: Plan, costs: PlanCosts, plan: Plan) -> tuple[Plan, PlanCosts]:
        found = self._price(plan)
        if (found.worst, found.mean) < (costs.worst * (1 + 1e-9), costs.mean) or found.worst < costs.worst * (1 - 1e-9):
            return plan, found
        return best, costs

    def _moved(self, plan: Plan, extra: list[Claim]) -> Plan:
        rows = list(plan)
        for _ in range(int(self.rng.integers(1, 4))):
            kind = self.rng.integers(3) if rows else 2
            if kind == 0:
                rows.insert(int(self.rng.integers(len(rows))), rows.pop(int(self.rng.integers(len(rows)))))
            elif kind == 1:
                rows.pop(int(self.rng.integers(len(rows))))
            elif extra:
                rows.insert(int(self.rng.integers(len(rows) + 1)), extra[int(self.rng.integers(len(extra)))])
        return tuple(rows)

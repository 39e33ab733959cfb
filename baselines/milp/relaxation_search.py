"""Plan, realise, learn: the loop between the 0-1 relaxation and the judge."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines import native
from mallocgame.baselines.anneal.construction import compile_on_top, on_top
from mallocgame.baselines.bounds.bound import compile_bound
from mallocgame.baselines.bounds.relaxation import Relaxation, relax, work_seconds
from mallocgame.baselines.milp.engine import highs_point
from mallocgame.baselines.milp.place import place
from mallocgame.baselines.milp.spans import column_spans
from mallocgame.baselines.milp.stays import Stay, stays
from mallocgame.baselines.packing import pack
from mallocgame.baselines.packing.buffers import Buffer
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import HOME, Mapping
from mallocgame.program import Program
from mallocgame.solver import Incumbent, Limits, Problem
from mallocgame.warm_up import tiny_problem

F64 = npt.NDArray[np.float64]
Generator = np.random.Generator

COPY_PRICE = 0.02  # of a copy's link time: among equals, the plan that copies less waits less
TIGHTER = 0.985  # the room left to the next plan after one that could not be packed
LEARN = 0.5  # of the waiting at a copy becomes its price
SLICE_SECONDS = 5.0  # of one window's integer program


MANY = 800  # decisions above which the plan leaves the least tensors in layer 0
LEAST = 0.002  # of all bytes: what those tensors move together


def compile_planning(problem: Problem, **_options: Any) -> None:
    """Compile what planning calls, and have a child for the native solvers ready."""
    native.start()
    compile_on_top(problem)
    compile_bound()
    search = Incumbent(tiny_problem(), Limits(seconds=30.0))
    RelaxationSearch(relax(*search.problem), search).plan(10.0)
    buffers = [Buffer(name=str(i), lower=i % 3, upper=3 + i % 4, size_bytes=1 + i % 3) for i in range(9)]
    pack(buffers, 10, seconds=0.2)  # too little room, so that the exact search runs too


def focus(program: Program) -> Program:
    """Return the program to plan for: that of few enough decisions, with hardly less to win."""
    return program.focused(LEAST) if program.num_decisions > MANY else program


class RelaxationSearch:
    """Proposes points of the relaxation, turns them into mappings, and prices copies by the waiting they caused."""

    def __init__(self, relaxation: Relaxation, search: Incumbent) -> None:
        self.relaxation, self.search = relaxation, search
        linear = relaxation.linear
        self.low, self.high = np.array(linear.low), np.array(linear.high)
        self.cost = np.array(linear.cost)
        for flow in relaxation.flows:
            for move in flow.moves:
                self.cost[move.column] += COPY_PRICE * work_seconds(relaxation, move)[1]
        self.spans = column_spans(relaxation)
        self.room = 1.0
        self.point: F64 | None = None  # the point behind the best mapping that came from here
        self.point_seconds = float("inf")

    def plan(self, seconds: float) -> None:
        """Solve the whole program and realise the point."""
        found = highs_point(self.relaxation, self.cost, self.low, self.high, seconds=seconds, stop=self._stop)
        if found.columns is not None:
            self.realise(found.columns)

    def improve(self, rng: Generator, seconds: float) -> None:
        """Free a window of the schedule, keep the other choices, solve and realise."""
        if self.point is None:
            self.plan(seconds)
            return
        num_steps = self.relaxation.program.num_steps
        width = max(int(num_steps * rng.choice([0.1, 0.2, 0.35, 0.6, 1.0])), 4)
        first = int(rng.integers(-width // 2, max(num_steps - width // 2, 1)))
        fixed = (self.spans[:, 1] <= first) | (self.spans[:, 0] >= first + width)
        low, high = self.low.copy(), self.high.copy()
        fixed[self.relaxation.num_shares :] = False
        low[fixed] = high[fixed] = np.round(self.point[fixed])
        found = highs_point(self.relaxation, self.cost, low, high, seconds=seconds, stop=self._stop)
        if found.columns is not None:
            self.realise(found.columns)
        elif fixed.any():  # the choices outside the window are no point of the relaxation: plan anew
            self.point = None

    def improve_until(self, out_of_time: Callable[[], bool]) -> None:
        """Improve window by window; each counts as a step of the search."""
        rng = np.random.default_rng(self.search.seed)
        while self.spans.size and not out_of_time():
            before = time.perf_counter()
            self.improve(rng, min(SLICE_SECONDS, max(self.search.left_seconds, 0.1)))
            self.search.count()
            if time.perf_counter() - before < 1e-4:  # nothing to free
                break

    def _stop(self) -> bool:
        return self.search.should_stop

    def realise(self, columns: F64) -> None:
        """Turn a point into a mapping, offer it, and learn from how it fared."""
        chosen = stays(self.relaxation, columns)
        program, hierarchy = self.relaxation.program, self.relaxation.hierarchy
        left = max(self.search.left_seconds, 0.2)
        budget, seed = min(3.0, left), self.search.seed
        found = place(program, hierarchy, chosen, seconds=budget, seed=seed, stop=self._stop)
        if found is None:
            return
        mapping, given_up = found
        judged = self.search.judged(mapping)
        self.search.offer(mapping, judged)
        if given_up:
            self._fill_up(mapping)
        if judged < self.point_seconds:
            self.point, self.point_seconds = columns, judged
        if given_up:
            self._give_less_room()
        self._price(mapping, chosen)

    def _fill_up(self, mapping: Mapping) -> None:
        """Offer it with what was given up where that goes in two slices, or shorter, and with what else fits."""
        if self.search.hierarchy.num_layers == 2 and not self.search.should_stop:
            on_top(self.search, mapping)

    def _give_less_room(self) -> None:
        self.room = max(self.room * TIGHTER, 0.85)
        for row in self.relaxation.capacity_rows:
            self.relaxation.linear.row_bound[row] = -self.room

    def _price(self, mapping: Mapping, chosen: list[Stay]) -> None:
        """Add the waiting before a boundary to the price of the copies due there."""
        stall = simulate(self.relaxation.program, self.relaxation.hierarchy, mapping).stall_seconds
        unit = self.relaxation.unit_seconds
        fills = {(stay.tensor, stay.start): stay.fill_column for stay in chosen if stay.fill is not None}
        backs = {(stay.tensor, back.issue): back.column for stay in chosen for back in stay.back}
        for x in mapping.transfers:
            waited = float(stall[x.done_before]) / unit
            if waited <= 1e-6:
                continue
            if x.source == HOME:
                column = fills.get((x.tensor, x.done_before), -1)
            else:
                earlier = [issue for tensor, issue in backs if tensor == x.tensor and issue <= x.start_after + 1]
                column = backs[x.tensor, max(earlier)] if earlier else -1
            if column >= 0:
                self.cost[column] += LEARN * waited

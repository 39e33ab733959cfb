"""One call for the best bound in a given time."""

import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines import native
from mallocgame.baselines.bounds.ascent import Ascent
from mallocgame.baselines.bounds.coarse import may_coarsen, without
from mallocgame.baselines.bounds.covers import add_covers, knapsacks
from mallocgame.baselines.bounds.integer import MARGIN, solve_integer
from mallocgame.baselines.bounds.linear import LinearSolution, boxes_below, solve
from mallocgame.baselines.bounds.prices import market
from mallocgame.baselines.bounds.relaxation import OutOfTime, Relaxation, placed_tensors, relax
from mallocgame.baselines.bounds.stretches import stretch_bound
from mallocgame.collapse import is_straight
from mallocgame.hierarchy import Hierarchy
from mallocgame.jit import warm_up
from mallocgame.judge.replaced import with_free_copies
from mallocgame.judge.simulation import lower_bound
from mallocgame.program import Program
from mallocgame.solver import Incumbent, Problem
from mallocgame.warm_up import tiny_problem

MANY = 800  # decisions above which a linear program may not finish: it gets only a part of the time
FIRST_SHARE, LINEAR_SHARE = 0.25, 0.6  # of the time: prices first; of what is left then: such a linear program
SLOTS = ((1000, 256), (1500, 128))  # decisions up to which a linear program with so many slots of time is small
FEWEST_SLOTS = 64
FINER = 2  # times as many, where whole shares are solved in time
ROUNDS = 8  # of cover rows
ENOUGH = 1.5  # times what a linear program took: what must be left for another one
LITTLE = 2e-4  # a round that raises the bound by less is the last
COARSE_SIZES = (0.1, 0.03, 0.01, 0.003, 0.001)  # of the layer: what may be left out as smaller, the most at first,
LOST = 1e-3  # where the linear bound loses no more than this
FEWER = 0.6  # of the shares: what must be gone, or it is not worth it
COARSE_SHARE = 0.6  # of the time that is left then
STRETCHED_SHARE = 0.6  # of the time that is left after the linear program: for stretches of the schedule
ROWS = 700  # of the least stretch; then twice as many, and so on,
STALE = 2  # until so many lengths in a row have raised nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Seconds that no valid mapping can beat, and what each method gave; ``seconds`` is the best of them.

    ``priced_seconds`` comes from prices, ``linear_seconds`` from the duals of a linear program: both are evaluated by
    ourselves with their rounding error taken off, so they hold whatever a solver's tolerances. ``integer_seconds``
    (0.0: not tried) rests on HiGHS's branch and bound, less a margin.
    """

    seconds: float
    simple_seconds: float
    priced_seconds: float
    linear_seconds: float
    integer_seconds: float
    solve_seconds: float


def capacity_bound(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 20.0,
    integer: bool = True,
    num_slots: int = 0,
    relaxation: Relaxation | None = None,
    search: Incumbent | None = None,
) -> Bound:
    """Return the best bound proved within ``seconds`` (0: the simple bound alone).

    Args:
        program: the program, with its loops and flags.
        hierarchy: any number of layers.
        seconds: time limit, of building the relaxation too.
        integer: keep 0-1 decisions whole in the time that is left.
        num_slots: into how many slots of time the schedule is cut to see when copies can happen (0: by its size).
        relaxation: of this problem, if it is built already; cover rows are added to it.
        search: is told of each bound as soon as it is proved, and ends the work when it stops; what cannot beat its
            incumbent need not be looked at.
    """
    if seconds > 0:
        native.start()
        warm_up("bound", compile_bound)
    program = with_free_copies(program)
    work = _Proof(Problem(program, hierarchy), seconds, search)
    simple = lower_bound(program, hierarchy)
    speeds = [layer.bytes_per_second for layer in hierarchy.layers]
    if max(speeds[1:]) >= speeds[0] or seconds == 0:  # else it counts some traffic twice
        work.note(simple)
    if seconds > 0 and is_straight(program):  # the relaxation knows no branches
        work.run(relaxation, num_slots or slots_for(program), integer)
    return Bound(
        seconds=work.best,
        simple_seconds=simple,
        priced_seconds=work.priced_seconds,
        linear_seconds=work.linear_seconds,
        integer_seconds=work.integer_seconds,
        solve_seconds=time.perf_counter() - work.begun,
    )


def slots_for(program: Program) -> int:
    """Return into how many slots of time the schedule of a program is cut at first."""
    return next((slots for most, slots in SLOTS if program.num_decisions <= most), FEWEST_SLOTS)


def compile_bound() -> None:
    """Compile what bounds call."""
    goods = market(*tiny_problem())
    Ascent(goods).step(float("inf"))
    relax(*tiny_problem())


class _Proof:
    """One call's clock, and what is proved so far."""

    def __init__(self, problem: Problem, seconds: float, search: Incumbent | None) -> None:
        self.problem, self.seconds, self.search = problem, seconds, search
        self.begun = time.perf_counter()
        self.best = self.priced_seconds = self.linear_seconds = self.integer_seconds = 0.0

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.begun)

    def note(self, bound_seconds: float) -> None:
        if bound_seconds > self.best:
            self.best = bound_seconds
            if self.search is not None:
                self.search.prove(bound_seconds)

    def stop(self) -> bool:
        return self.search is not None and self.search.should_stop

    def is_over(self) -> bool:
        return self.left <= 0.0 or self.stop()

    def run(self, relaxation: Relaxation | None, num_slots: int, integer: bool) -> None:
        """Solve the linear program, with cover rows, and then with whole shares; prices where it may not finish."""
        program, hierarchy = self.problem
        is_large = program.num_decisions > MANY or hierarchy.num_layers > 2
        ascent = Ascent(market(program, hierarchy), self.is_over) if is_large and not self.is_over() else None
        if ascent is not None:
            self.climb(ascent, FIRST_SHARE * self.left)
        if not self.is_over():
            with suppress(OutOfTime):
                share = LINEAR_SHARE if is_large else 1.0
                self.solve_relaxation(relaxation, num_slots, integer, share * self.left)
        if ascent is not None:
            self.climb(ascent, self.left)

    def climb(self, ascent: Ascent, seconds: float) -> None:
        """Raise prices for at most so long, and note the bound now and then."""
        until, unit = time.perf_counter() + seconds, ascent.goods.unit_seconds
        longest = 0.0  # step: of a hundred thousand decisions it takes seconds
        while not ascent.is_over and (begun := time.perf_counter()) + longest < until and not self.is_over():
            cutoff = self.search.seconds if self.search is not None else float("inf")
            ascent.step(cutoff / unit)
            longest = max(longest, time.perf_counter() - begun)
            if ascent.best * unit > self.best * (1.0 + LITTLE):
                self.note(ascent.best * unit)
        self.priced_seconds = max(ascent.best * unit, 0.0)
        self.note(self.priced_seconds)

    def solve_relaxation(self, relaxation: Relaxation | None, num_slots: int, integer: bool, seconds: float) -> None:
        """Solve the linear program in at most so long, add cover rows, keep shares whole: few at first, then all."""
        if relaxation is None:
            relaxation = relax(*self.problem, num_slots=num_slots, stop=self.is_over)
        solution = self.tighten(relaxation, seconds)
        if not integer or solution is None:
            return
        self.branch_stretches(relaxation, solution, STRETCHED_SHARE * self.left)
        smaller = self.coarser(relaxation, solution, num_slots)
        if smaller is not None:
            self.branch(*smaller, COARSE_SHARE * self.left)
        is_solved = self.branch(relaxation, solution, self.left)
        if is_solved and len(relaxation.edges) > num_slots and not self.is_over():  # all slots that there may be
            self.solve_relaxation(None, FINER * num_slots, integer, self.left)

    def coarser(
        self, relaxation: Relaxation, solution: LinearSolution, num_slots: int
    ) -> tuple[Relaxation, LinearSolution] | None:
        """Return the relaxation without as many small tensors as its linear bound lets go; None: all are needed."""
        program, hierarchy = self.problem
        if hierarchy.num_layers > 2 or not may_coarsen(hierarchy):
            return None
        placed, enough = placed_tensors(program, hierarchy), solution.bound * relaxation.unit_seconds * (1.0 - LOST)
        sizes, before = program.sizes_bytes / hierarchy.layers[1].capacity_bytes, relaxation.num_shares
        for size in COARSE_SIZES:
            is_small = placed & (sizes < size)
            if (placed & ~is_small).any() and not self.is_over():
                rest = relax(without(program, hierarchy, is_small), hierarchy, num_slots=num_slots, stop=self.is_over)
                if rest.num_shares > FEWER * before:
                    break
                found = self.tighten(rest, self.left, enough)
                if found is not None and found.bound * rest.unit_seconds >= enough:
                    return rest, found
        return None

    def branch(self, relaxation: Relaxation, solution: LinearSolution, seconds: float) -> bool:
        """Keep shares whole for at most so long: HiGHS's branch and bound, below the incumbent. Return if it ended."""
        if self.left <= 0.1 or self.stop():
            return False
        cutoff, boxes = self.boxes(relaxation, solution)
        seconds = min(seconds, self.left)
        found = solve_integer(relaxation, seconds=seconds, boxes=boxes, stop=self.stop)
        self.note_integer(found.bound_seconds, cutoff)
        return found.is_optimal

    def branch_stretches(self, relaxation: Relaxation, solution: LinearSolution, seconds: float) -> None:
        """The same in stretches of the schedule, each on its own: many short ones, then fewer while that gains."""
        until, stale = time.perf_counter() + seconds, 0
        count = len(relaxation.linear.row_bound) // ROWS
        while count > 1 and stale < STALE and not self.is_over() and time.perf_counter() < until:
            before = self.best * (1.0 + LITTLE)
            cutoff, boxes = self.boxes(relaxation, solution)
            spend = (until - time.perf_counter()) / count.bit_length()  # counts to come: this one, its half, ... 2
            found = stretch_bound(relaxation, solution.duals, count, seconds=spend, boxes=boxes, stop=self.stop)
            self.note_integer(found, cutoff)
            stale = 0 if self.best > before else stale + 1
            count //= 2

    def boxes(self, relaxation: Relaxation, solution: LinearSolution) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the incumbent's seconds, and boxes (float64[2, columns]) that hold every point that beats it."""
        linear = relaxation.linear
        cutoff = self.search.seconds if self.search is not None else float("inf")
        if cutoff == float("inf"):
            return cutoff, np.array([linear.low, linear.high])
        return cutoff, boxes_below(linear, solution.duals, cutoff / relaxation.unit_seconds)

    def note_integer(self, found: float, cutoff: float) -> None:
        """Note a bound on what beats the cutoff; what costs more was left out."""
        self.integer_seconds = max(self.integer_seconds, min(found, cutoff * (1.0 - MARGIN)))
        self.note(self.integer_seconds)

    def solve(self, relaxation: Relaxation, seconds: float) -> LinearSolution | None:
        """Solve a linear program and note its bound; None where there is no time."""
        if self.is_over():
            return None
        method = "highs" if self.problem.hierarchy.num_layers == 2 else "highs-ipm"  # two to four times as fast there
        solution = solve(relaxation.linear, seconds=min(seconds, self.left), method=method, stop=self.stop)
        self.linear_seconds = max(self.linear_seconds, solution.bound * relaxation.unit_seconds)
        self.note(self.linear_seconds)
        return solution if solution.is_solved else None

    def tighten(self, relaxation: Relaxation, seconds: float, enough: float = float("inf")) -> LinearSolution | None:
        """Solve, add the cover rows that it breaks, and so on while that raises the bound, up to ``enough`` seconds."""
        begun = time.perf_counter()
        solution = self.solve(relaxation, seconds)
        took = time.perf_counter() - begun
        if solution is None or self.left < ENOUGH * took:
            return solution
        found = knapsacks(relaxation, self.is_over)
        for _ in range(ROUNDS):
            before = solution.bound
            if before * relaxation.unit_seconds >= enough or not add_covers(relaxation, found, solution.columns):
                break
            solution = self.solve(relaxation, self.left)
            if solution is None:  # its duals have no word about the new rows
                break
            if solution.bound < before * (1.0 + LITTLE) or self.left < ENOUGH * took:
                break
        return solution

"""``pack``: one call for every packing solver, with honest status words."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from mallocgame.baselines.packing import search as native
from mallocgame.baselines.packing.budget import Budget
from mallocgame.baselines.packing.buffers import MAX_BYTES, Buffer, packing_height, validate_packing
from mallocgame.baselines.packing.climb import hill_climb
from mallocgame.baselines.packing.general import GeneralRun
from mallocgame.baselines.packing.part import Part
from mallocgame.baselines.packing.problem import I64, PackingProblem
from mallocgame.baselines.packing.result import SOLVERS, PackResult, SolverName, status_of
from mallocgame.baselines.packing.types import conflict_pairs
from mallocgame.errors import InputError
from mallocgame.system import num_cores

_CPSAT_BUFFERS = 3000  # above this a model takes too long to build for one slice


def pack(  # noqa: PLR0913 (its options, by name)
    buffers: Sequence[Buffer],
    capacity_bytes: int | None = None,
    *,
    solver: SolverName = "best",
    seconds: float = 60.0,
    seed: int = 0,
    workers: int | None = None,
    minimise: bool = False,
    start: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackResult:
    """Give every buffer an offset so that no two share a byte at any step.

    Args:
        buffers: the problem; those with ``fixed_offset`` stay where they are, those that need no memory get offset 0.
        capacity_bytes: the greatest end address allowed; None means none, and minimises.
        solver: ``best`` races the others; ``search`` and ``cpsat`` are exact; the rest are heuristics.
        seconds: wall-clock limit; 0 returns ``start``, or the first heuristic's packing where there is none. The first
            call on a machine also compiles the kernels (10 to 30 s), which the limit does not count.
        seed: of the random orders; with one worker and no time limit met, a seed gives the same answer each time.
        workers: threads; None for one per core.
        minimise: go on after the capacity is met, for the lowest packing.
        start: offsets of a valid packing to improve on.
        progress: called with (height, lower bound) in bytes when either changes.

    Raises:
        InputError: fixed buffers overlap, ``start`` is not valid, or an argument is out of range.

    >>> blocks = [Buffer(name="a", lower=0, upper=2, size_bytes=4), Buffer(name="b", lower=1, upper=3, size_bytes=4)]
    >>> result = pack(blocks, 8, solver="first-fit")
    >>> result.status, result.height_bytes, sorted(result.offsets.tolist())
    ('optimal', 8, [0, 4])
    """
    conflict_pairs(buffers)  # raises where a list names no buffer
    _check_pinned(buffers)
    if start is not None:
        wrong = validate_packing(buffers, start, limit=1)
        if wrong:
            raise InputError(f"start is not a valid packing: {wrong[0]}")
    live = np.array([i for i, b in enumerate(buffers) if b.needs_memory], np.int64)
    some = _keep_conflicts([buffers[i] for i in live])
    result = (_pack_general if any(b.gaps or b.conflicts for b in some) else _pack_plain)(
        some,
        capacity_bytes,
        solver=solver,
        seconds=seconds,
        seed=seed,
        workers=workers,
        minimise=minimise,
        start=None if start is None else np.array(start, np.int64)[live],
        progress=progress,
    )
    offsets = np.array([b.fixed_offset or 0 for b in buffers], np.int64)
    offsets[live] = result.offsets
    return replace(result, offsets=offsets)


def _check_pinned(buffers: Sequence[Buffer]) -> None:
    pinned = _keep_conflicts([b for b in buffers if b.fixed_offset is not None])
    clash = validate_packing(pinned, [b.fixed_offset or 0 for b in pinned], limit=1)
    if clash:
        raise InputError(f"fixed offsets clash: {clash[0]}")


def _keep_conflicts(buffers: list[Buffer]) -> list[Buffer]:
    """Return the buffers with only those conflicts that are among them."""
    if not any(b.conflicts for b in buffers):
        return buffers
    names = {b.name for b in buffers}
    return [replace(b, conflicts=tuple(name for name in b.conflicts if name in names)) for b in buffers]


def _pack_plain(buffers: Sequence[Buffer], capacity_bytes: int | None, **options: Any) -> PackResult:
    return pack_problem(PackingProblem.from_buffers(buffers), capacity_bytes, **options)


def _pack_general(  # noqa: PLR0913 (its options, by name)
    buffers: Sequence[Buffer],
    capacity_bytes: int | None,
    *,
    solver: SolverName,
    seconds: float,
    seed: int,
    workers: int | None,
    minimise: bool,
    start: I64 | None,
    progress: Callable[[int, int], None] | None,
) -> PackResult:
    """``pack_problem`` for buffers with gaps, windows or conflict lists."""
    _check_options(capacity_bytes, solver, seconds, workers)
    run = GeneralRun(buffers, seed, workers or num_cores())
    began = time.monotonic()
    if start is not None:
        run.offer(start // run.clear.unit, packing_height(buffers, start.tolist()) // run.clear.unit)
    least = minimise or capacity_bytes is None
    capacity = MAX_BYTES * 2 if capacity_bytes is None else capacity_bytes
    budget = Budget.of(seconds)
    interrupted = False
    try:
        for step in _general_steps(run, solver, capacity, least, budget):
            if progress is not None:
                progress(run.height, run.lower_bound)
            if budget.spent() or run.lower_bound > capacity:
                break
            if run.height <= (run.lower_bound if least else capacity):
                break
            step()
        if progress is not None:
            progress(run.height, run.lower_bound)
    except KeyboardInterrupt:
        interrupted = True
    return PackResult(
        offsets=run.offsets,
        height_bytes=run.height,
        lower_bound_bytes=run.lower_bound,
        status=status_of(run.height, run.lower_bound, capacity),
        seconds=time.monotonic() - began,
        interrupted=interrupted,
    )


def _general_steps(
    run: GeneralRun, solver: SolverName, capacity: int, least: bool, budget: Budget
) -> Iterator[Callable[[], None]]:
    """Yield what to do next, cheap things first."""
    goal = run.lower_bound if least else capacity
    for order in run.orders.values():
        yield partial(run.construct, order)
    if solver == "hill-climb":
        yield partial(run.climb, goal, budget)
    if solver == "best":
        yield partial(run.climb, goal, budget.slice(min(2.0, 0.1 * budget.left())))
    if solver in ("best", "search"):
        before = time.monotonic()
        compile_kernels("search")
        budget.deadline += time.monotonic() - before
        has_windows = any(gap.window[0] < gap.window[1] for b in run.buffers for gap in b.gaps)
        share = budget.left() if solver == "search" else (0.3 if has_windows else 0.7) * budget.left()
        yield partial(run.search, capacity, least, budget.slice(share))
    if solver in ("best", "cpsat"):
        yield partial(run.cpsat, capacity, least, budget)


def pack_problem(  # noqa: PLR0913 (its options, by name)
    problem: PackingProblem,
    capacity_bytes: int | None = None,
    *,
    solver: SolverName = "best",
    seconds: float = 60.0,
    seed: int = 0,
    workers: int | None = None,
    minimise: bool = False,
    start: I64 | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackResult:
    """Do what ``pack`` does for a problem given as arrays; fixed buffers and ``start`` are taken to be valid."""
    _check_options(capacity_bytes, solver, seconds, workers)
    run = _Run(
        problem,
        MAX_BYTES * 2 if capacity_bytes is None else capacity_bytes,
        minimise or capacity_bytes is None,
        seconds,
        seed,
        workers or num_cores(),
        progress,
    )
    return run.result(solver, start)


def _check_options(capacity_bytes: int | None, solver: str, seconds: float, workers: int | None) -> None:
    if solver not in SOLVERS:
        raise InputError(f"unknown packing solver {solver!r}; expected one of {', '.join(SOLVERS)}")
    if not 0 <= seconds <= 1e9:
        raise InputError(f"seconds must be a number from 0 to 1e9, got {seconds}")
    if capacity_bytes is not None and not 0 <= capacity_bytes <= MAX_BYTES:
        raise InputError(f"capacity must lie within 0 and 2**53 bytes, got {capacity_bytes}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")


@cache
def compile_kernels(solver: SolverName) -> None:
    """Compile (or load) the kernels on two buffers, so that the time limit does not count it."""
    two = np.array([0, 0]), np.array([2, 2]), np.array([2, 1])
    part = Part(PackingProblem.of(*two), np.array([0, 1]), 0)
    part.construct(best_fit=(False,), target=0, budget=Budget.of(0.0), at_least_one=True)
    if solver in ("best", "search"):
        part.search(3, Budget.of(1e9), 1)
    if solver in ("best", "hill-climb"):
        hill_climb(part, 0, Budget.of(1e9), 1, tries=1)


class _Run:
    """One call of ``pack``: its parts, its budget, and the race between the solvers."""

    def __init__(
        self,
        problem: PackingProblem,
        capacity: int,
        minimise: bool,
        seconds: float,
        seed: int,
        workers: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.problem, self.capacity, self.minimise = problem, capacity, minimise
        self.seconds, self.workers, self.progress = seconds, workers, progress
        self.budget = Budget.of(seconds)
        self.parts = [Part(problem, index, seed) for index in problem.parts()]
        self.told: tuple[int, int] | None = None

    @property
    def lower_bound(self) -> int:
        return max((part.lower_bound for part in self.parts), default=0)

    @property
    def height(self) -> int:
        return max((part.height for part in self.parts), default=0)

    @property
    def goal(self) -> int:
        """The height at which nothing is left to do."""
        return min(self.lower_bound, self.capacity) if self.minimise else self.capacity

    def done(self) -> bool:
        """Tell whether the question is answered or time is up."""
        state = (self.height, self.lower_bound)
        if self.progress is not None and state != self.told:
            self.told = state
            self.progress(*state)
        return self.budget.spent() or self.height <= self.goal or self.lower_bound > self.capacity

    def result(self, solver: SolverName, start: I64 | None) -> PackResult:
        interrupted = False
        began = time.monotonic()
        try:
            if self.seconds > 0:
                compile_kernels(solver)
                self.budget = Budget.of(self.seconds)
                began = time.monotonic()
            self.run(solver, start)
        except KeyboardInterrupt:
            interrupted = True
        for part in self.parts:  # those an early Ctrl-C left without a packing
            part.construct(best_fit=(False,), target=self.capacity, budget=Budget.of(0.0), at_least_one=True)
        offsets = np.zeros(self.problem.size.size, np.int64)
        for part in self.parts:
            assert part.offsets is not None
            offsets[part.index] = part.offsets
        return PackResult(
            offsets=offsets,
            height_bytes=self.height,
            lower_bound_bytes=self.lower_bound,
            status=status_of(self.height, self.lower_bound, self.capacity),
            seconds=time.monotonic() - began,
            interrupted=interrupted,
        )

    def run(self, solver: SolverName, start: I64 | None) -> None:
        for part in self.parts:
            if start is not None:
                part.offer(start[part.index])
            part.construct(
                best_fit={"first-fit": (False,), "best-fit": (True,)}.get(solver, (False, True)),
                target=self.goal,
                budget=self.budget,
                at_least_one=start is None,
            )
        if self.done() or solver in ("first-fit", "best-fit"):
            return
        if solver == "hill-climb":
            for count, part in enumerate(sorted(self.parts, key=lambda part: part.height)):
                if part.height > self.goal and not self.done():
                    share = self.budget.left() / (len(self.parts) - count)
                    hill_climb(part, self.goal, self.budget.slice(share), self.workers)
            return
        self.race(solver)

    def race(self, solver: SolverName) -> None:
        """Search at one height after another, in slices of time that double as long as nothing is found or proved."""
        seconds = 0.5 if self.minimise else 1.0
        fraction = 0.0
        while not self.done():
            target = self.goal
            if self.minimise and self.height > self.capacity:
                target = self.capacity
            elif self.minimise:
                target = min(self.height - 1, target + int(fraction * (self.height - target)))
            moved = True
            for part in sorted(self.parts, key=lambda part: part.index.size):
                if part.height > target and not self.budget.spent():
                    moved = self.attempt(part, target, solver, seconds) and moved
                if self.lower_bound > target:
                    break
            if not moved:
                seconds *= 2
                fraction = (1 + fraction) / 2 if fraction < 0.9 else 0.0

    def attempt(self, part: Part, target: int, solver: SolverName, seconds: float) -> bool:
        """Give each method one slice on one part; return whether ``target`` was reached or excluded."""
        methods: list[Callable[[Part, int, Budget, int], int]] = []
        if solver in ("best", "search"):
            methods.append(Part.search)
        if solver == "best" and (self.minimise or seconds >= 2):
            methods.append(_climb)
        if solver == "cpsat" or (solver == "best" and seconds >= 4 and part.index.size <= _CPSAT_BUFFERS):
            from mallocgame.baselines.packing.cpsat import cpsat  # importing OR-Tools takes longer than most searches

            methods.append(cpsat)
        alone = len(methods) == 1 and solver != "best" and not self.minimise and len(self.parts) == 1
        for method in methods:
            share = self.budget.slice(self.budget.left() if alone else seconds)
            if share.spent():
                return False
            if method(part, target, share, self.workers) != native.LIMIT:
                return True
        return False


def _climb(part: Part, target: int, budget: Budget, workers: int) -> int:
    hill_climb(part, target, budget, workers)
    return native.SOLVED if part.height <= target else native.LIMIT

"""The portfolio: solvers race on two threads, the best mapping is refined, and the best proved bound goes with it.

One thread plans by integer programming and proves the bound (``cpsat`` where that is exact, else ``hybrid``); the other
plays, evolves and anneals from the best start. After ``RACE`` of the time both threads anneal near the winner. Kernels
and integer programs release the GIL, so threads run in parallel.
"""

import threading
from collections.abc import Callable, Iterator

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.hybrid import hybrid
from mallocgame.baselines.milp.cpsat import cpsat
from mallocgame.baselines.play.evolution import evolution
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import lower_bound
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.outcome import Search, merged_history
from mallocgame.program import Program
from mallocgame.solver import Progress, Solver, SolveResult

RACE = 0.75  # of the time; the rest refines the winner
FEW_DECISIONS = 150  # up to which the exact model is small and evolution is worth a try
CLOSED = 1e-6  # a mapping this close to the bound is optimal


def best(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    """Return the best mapping of all solvers and the best proved bound; see ``mallocgame.solver.Solver``."""
    race = _Race(program, hierarchy, seconds, seed, start, progress)
    if seconds > 0:
        try:
            race.run()
        except KeyboardInterrupt:
            race.search.status = "interrupted"
        finally:
            race.stopped.set()
    return race.result()


def from_mapping(mapping: Mapping | None) -> Solver:
    """Return ``best`` with ``mapping`` (a compiler's, say) as a further start wherever it is valid."""

    def solve(
        program: Program,
        hierarchy: Hierarchy,
        *,
        seconds: float = 10.0,
        seed: int = 0,
        start: Mapping | None = None,
        progress: Progress | None = None,
    ) -> SolveResult:
        starts = Search(program, hierarchy, 0.0)
        starts.offer(start)
        if mapping is not None and not validate(program, hierarchy, mapping):
            starts.offer(mapping)
        return best(program, hierarchy, seconds=seconds, seed=seed, start=starts.best, progress=progress)

    return solve


class _Race:
    """Two lanes, the best mapping of both and the best bound."""

    def __init__(
        self,
        program: Program,
        hierarchy: Hierarchy,
        seconds: float,
        seed: int,
        start: Mapping | None,
        progress: Progress | None,
    ) -> None:
        self.program, self.hierarchy, self.seconds, self.seed = program, hierarchy, seconds, seed
        self.search = Search(program, hierarchy, seconds, progress)
        self.search.offer(start if start is not None else Mapping())
        self.start = self.search.best
        self.bound = lower_bound(program, hierarchy)
        self.histories: list[list[tuple[float, float]]] = [[(0.0, self.search.best_seconds)]]
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds until the race ends and refining begins."""
        return RACE * self.seconds - self.search.spent_seconds

    @property
    def closed(self) -> bool:
        """Whether the best mapping is proved optimal."""
        return self.search.best_seconds <= self.bound * (1.0 + CLOSED)

    def run(self) -> None:
        """Race, then refine."""
        planning = threading.Thread(target=self._plan, daemon=True)  # never keeps the process alive after Ctrl-C
        planning.start()
        for solve in self._lane():
            if self.closed:
                break
            self._take(solve)
        while planning.is_alive() and self.search.spent_seconds < (RACE + 0.05) * self.seconds:
            planning.join(0.02)
            self.search.out_of_time()
        workers = 1 if planning.is_alive() else 2
        left = self.seconds - self.search.spent_seconds
        if left > 0 and not self.closed:
            self._take(lambda: self._anneal(left, self.seed + 2, workers=workers, refine=True))

    def result(self) -> SolveResult:
        """Return the best mapping with the history of all solvers."""
        with self.lock:
            if self.search.status == "feasible" and self.closed:
                self.search.status = "optimal"
            found = self.search.result(min(self.bound, self.search.best_seconds))
        history = merged_history([*self.histories, [(found.solve_seconds, found.seconds)]])
        return SolveResult(
            mapping=found.mapping,
            seconds=found.seconds,
            lower_bound_seconds=found.lower_bound_seconds,
            status=found.status,
            solve_seconds=found.solve_seconds,
            history=tuple(history),
        )

    def _plan(self) -> None:
        solver: Solver = cpsat if self.program.num_decisions <= FEW_DECISIONS else hybrid
        limit = max(self.left, 0.05)
        self._take(
            lambda: solver(
                self.program, self.hierarchy, seconds=limit, seed=self.seed, start=self.start, progress=self._heed
            )
        )

    def _lane(self) -> Iterator[Callable[[], SolveResult]]:
        if self.program.num_decisions <= FEW_DECISIONS:
            yield lambda: self._anneal(0.3 * self.left, self.seed)
            yield self._evolve
        elif self.start is not None and self.start.residencies:  # large: a good start first, hot chains if time is left
            yield lambda: self._anneal(0.5 * self.left, self.seed, refine=True)
        yield lambda: self._anneal(self.left, self.seed + 1)

    def _anneal(self, seconds: float, seed: int, *, workers: int = 1, refine: bool = False) -> SolveResult:
        return anneal(
            self.program,
            self.hierarchy,
            seconds=max(seconds, 0.0),
            seed=seed,
            start=self.search.best if refine else self.start,
            progress=lambda _: self._tell(),
            workers=workers,
            refine=refine,
        )

    def _evolve(self) -> SolveResult:
        limit = max(0.2 * self.left, 0.0)
        program, hierarchy = self.program, self.hierarchy
        return evolution(
            program,
            hierarchy,
            seconds=limit,
            seed=self.seed,
            start=self.start,
            progress=lambda _: self._tell(),
            workers=1,
        )

    def _take(self, solve: Callable[[], SolveResult]) -> None:
        """Run a solver and keep what it found."""
        begun = self.search.spent_seconds
        found = solve()
        with self.lock:
            self.histories.append([(begun + when, judged) for when, judged in found.history])
            self.search.offer(found.mapping)
            self.bound = max(self.bound, found.lower_bound_seconds)
        if found.status == "interrupted" and not self.stopped.is_set():
            raise KeyboardInterrupt

    def _tell(self) -> None:
        self.search.out_of_time()

    def _heed(self, _: float) -> None:
        """End the planning thread's solver, which treats this as Ctrl-C."""
        if self.stopped.is_set():
            raise KeyboardInterrupt

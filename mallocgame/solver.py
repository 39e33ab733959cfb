"""The solver frame: a problem, the incumbent that a solver improves under its limits, and ``@solver``.

A solver is one function that improves an ``Incumbent`` until ``out_of_time()``. The decorator makes the public callable
of it: kernels are compiled before the clock starts, the start and the mapping that leaves everything in layer 0 are
offered first, every mapping is validated and timed by the judge, Ctrl-C keeps the incumbent, and the result says what
is proved. ``docs/architecture.md`` shows how to add one.
"""

import inspect
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

from mallocgame.collapse import collapse, is_straight
from mallocgame.errors import InputError, is_interrupt
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.text import seconds_text

Progress = Callable[[float], None]  # called with the fraction of the limit that is spent
CLOSED = 1e-6  # relative gap below which a mapping counts as proved optimal: bounds are floating-point sums


class Problem(NamedTuple):
    """What to place, and where: ``program, hierarchy = problem``."""

    program: Program
    hierarchy: Hierarchy


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveResult:
    """A valid mapping and what is known about it.

    ``lower_bound_seconds`` is proved for *every* valid mapping. ``status`` is ``optimal`` (proved), ``feasible``, or
    ``interrupted`` (Ctrl-C: the best so far). ``history`` holds (solve seconds, judged seconds) of each improvement.
    """

    mapping: Mapping
    seconds: float  # judged time of the mapping
    lower_bound_seconds: float
    status: str
    solve_seconds: float
    history: tuple[tuple[float, float], ...] = ()

    def __repr__(self) -> str:
        times = f"{seconds_text(self.seconds)}, at least {seconds_text(self.lower_bound_seconds)}"
        return f"<SolveResult {self.status}: {times}, after {self.solve_seconds:.1f} s>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a solver stops: the first of these, or a proof that nothing better exists.

    ``steps`` counts what the solver itself calls a step (moves, nodes, games). It takes the place of the time limit, so
    that the same seed gives the same answer on every machine.
    """

    seconds: float = 10.0
    steps: int | None = None
    target_seconds: float = 0.0  # a judged time that is good enough

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf"):
            raise InputError(f"a time limit must be a number of seconds >= 0, got {self.seconds}")
        if self.steps is not None and self.steps < 0:
            raise InputError(f"a limit in steps must be a number >= 0, got {self.steps}")


class Incumbent:
    """The best valid mapping met so far of one problem, what is proved, and when to stop.

    Threads may share one. A solver that calls others hands them a ``part``: what a part finds or proves belongs to the
    whole at once.
    """

    def __init__(
        self,
        problem: Problem,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        whole: "Incumbent | None" = None,
    ) -> None:
        """Start the clock. ``whole`` is the incumbent that this one is a part of."""
        self.problem = problem
        self.limits = limits if limits is not None else Limits()
        self.seed = seed
        self.mapping: Mapping | None = None
        self.seconds = float("inf")
        self.bound_seconds = 0.0
        self.status = "feasible"
        self.steps = 0
        self.parts: list[Incumbent] = []  # what ``part`` made
        self._progress, self._whole = progress, whole
        self._history: list[tuple[float, float]] = []
        self._stopped = threading.Event()
        self._lock = threading.RLock()
        self._begin = time.perf_counter()

    @property
    def program(self) -> Program:
        """The program of the problem."""
        return self.problem.program

    @property
    def hierarchy(self) -> Hierarchy:
        """The memory of the problem."""
        return self.problem.hierarchy

    @property
    def spent_seconds(self) -> float:
        """Seconds since the clock started."""
        return time.perf_counter() - self._begin

    @property
    def left_seconds(self) -> float:
        """Seconds until the deadline, at least 0; infinite where the limit is in steps."""
        if self.limits.steps is not None:
            return float("inf") if self.steps < self.limits.steps else 0.0
        return max(self.limits.seconds - self.spent_seconds, 0.0)

    @property
    def spent_share(self) -> float:
        """The fraction of the limit that is spent, in [0, 1]: what temperatures and phases go by."""
        if self.limits.steps is not None:
            return min(self.steps / self.limits.steps, 1.0) if self.limits.steps else 1.0
        return min(self.spent_seconds / self.limits.seconds, 1.0) if self.limits.seconds > 0 else 1.0

    @property
    def is_closed(self) -> bool:
        """Whether the incumbent is proved optimal."""
        return self.seconds <= self.bound_seconds * (1.0 + CLOSED)

    def judged(self, mapping: Mapping) -> float:
        """Return the judge's time of a mapping, in seconds."""
        return simulate(self.program, self.hierarchy, mapping).total_seconds

    def offer(self, mapping: Mapping | None, seconds: float | None = None) -> bool:
        """Keep a mapping if it is valid and better than the incumbent; return whether it was kept.

        Args:
            mapping: None is never kept.
            seconds: the judge's time of it, if it is known already.
        """
        if mapping is None:
            return False
        if seconds is not None and seconds >= self.seconds:
            return False
        if validate(self.program, self.hierarchy, mapping):  # first: the judge takes a mapping as it is
            return False
        return self._take(mapping, self.judged(mapping) if seconds is None else seconds)

    def _take(self, mapping: Mapping, seconds: float) -> bool:
        """Keep a mapping that is known to be valid, here and in the whole, if it is better."""
        with self._lock:
            if seconds >= self.seconds:
                return False
            self.mapping, self.seconds = mapping, seconds
            self._history.append((self.spent_seconds, seconds))
        if self._whole is not None:
            self._whole._take(mapping, seconds)
        return True

    def prove(self, bound_seconds: float) -> None:
        """Note seconds that no valid mapping can beat."""
        with self._lock:
            self.bound_seconds = max(self.bound_seconds, bound_seconds)
        if self._whole is not None:
            self._whole.prove(bound_seconds)

    def count(self, steps: int = 1) -> None:
        """Count steps against a limit in steps."""
        self.steps += steps

    def met(self, history: Iterable[tuple[float, float]]) -> None:
        """Note improvements (solve seconds, judged seconds) that kernels made before their mapping was offered."""
        rows = list(history)
        with self._lock:
            self._history = merged_history([self._history, rows])
        if self._whole is not None:
            later = self._begin - self._whole._begin
            self._whole.met((later + when, seconds) for when, seconds in rows)

    def stop(self) -> None:
        """Make ``out_of_time`` true here and in every part."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether this or the whole was told to stop."""
        return self._stopped.is_set() or (self._whole is not None and self._whole.is_stopped)

    def out_of_time(self) -> bool:
        """Return ``should_stop``, and tell the progress."""
        self._tell()
        return self.should_stop

    @property
    def should_stop(self) -> bool:
        """Whether to stop: told to, limit reached, good enough, or proved optimal."""
        if self.is_stopped or self.is_closed or self.seconds <= self.limits.target_seconds:
            return True
        return self.left_seconds <= 0.0 or (self._whole is not None and self._whole.left_seconds <= 0.0)

    def part(
        self, share: float = 1.0, *, seed: int | None = None, start: Mapping | None = None, steps: int | None = None
    ) -> "Incumbent":
        """Return an incumbent for another solver: a share of what is left, from ``start`` (None: the incumbent)."""
        if self.limits.steps is not None:
            left = max(self.limits.steps - self.steps, 0)
            limits = Limits(steps=int(share * left) if steps is None else steps)
        else:
            limits = Limits(seconds=share * self.left_seconds, steps=steps)
        limits = replace(limits, target_seconds=self.limits.target_seconds)
        seed = self.seed if seed is None else seed
        part = Incumbent(self.problem, limits, seed=seed, progress=lambda _: self._tell(), whole=self)
        part.bound_seconds = self.bound_seconds
        if start is None:
            part.mapping, part.seconds = self.mapping, self.seconds
        else:
            part.mapping, part.seconds = start, self.judged(start)
        self.parts.append(part)
        return part

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.spent_share)

    def result(self) -> SolveResult:
        """Return the incumbent and what is proved.

        Raises:
            InputError: nothing valid was offered.
        """
        if self.mapping is None:
            raise InputError(_nothing_fits(self.problem))
        status = "optimal" if self.status == "feasible" and self.is_closed else self.status
        return SolveResult(
            mapping=self.mapping,
            seconds=self.seconds,
            lower_bound_seconds=min(self.bound_seconds, self.seconds),
            status=status,
            solve_seconds=self.spent_seconds,
            history=tuple(self._history),
        )


def _nothing_fits(problem: Problem) -> str:
    program, hierarchy = problem
    first = next(iter(validate(program, hierarchy, Mapping())), None)
    why = f"; even with everything in {hierarchy.layers[0].name}: {first.message}" if first is not None else ""
    return f"{program.name}: no valid mapping was found{why}"


def merged_history(histories: Iterable[Iterable[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the improvements over several histories of one search, in the order of time.

    >>> merged_history([[(0.0, 9.0), (2.0, 5.0)], [(1.0, 7.0), (3.0, 6.0)]])
    [(0.0, 9.0), (1.0, 7.0), (2.0, 5.0)]
    """
    found, low = [], float("inf")
    for when, seconds in sorted(row for history in histories for row in history):
        if seconds < low:
            low = seconds
            found.append((when, seconds))
    return found


SolverFunction = Callable[..., None]  # improve(search, **options): improves ``search`` until ``search.out_of_time()``


class Solver:
    """A solver as everyone calls it; made by ``@solver``."""

    def __init__(
        self,
        improve: SolverFunction,
        *,
        warm_up: Callable[..., None] | None,
        get_ready: Callable[[], None] | None,
        is_constructive: bool,
        argument: str | None,
    ) -> None:
        """See ``solver``."""
        self.improve, self.is_constructive, self.argument = improve, is_constructive, argument
        self.__name__, self.__doc__, self.__module__ = improve.__name__, improve.__doc__, improve.__module__
        self.__wrapped__ = improve
        self._warm_up, self._get_ready = warm_up, get_ready

    @property
    def name(self) -> str:
        """The name on the command line, unless it is registered under another."""
        return self.__name__.strip("_").replace("_", "-")

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that this solver takes."""
        return tuple(inspect.signature(self.improve).parameters)[1:]

    def check_options(self, options: Iterable[str]) -> None:
        """Refuse options that this solver does not have.

        Raises:
            InputError: naming the first one.
        """
        for name in options:
            if name not in self.options:
                has = ", ".join(self.options) or "none"
                raise InputError(f"solver {self.name} has no option {name!r}; its options: {has}")

    def prepare(self, problem: Problem, **options: Any) -> None:
        """Compile, or load, what solving this problem with these options will call: done before a clock starts."""
        from mallocgame.jit import warm_up

        warm_up("judge", lambda: simulate(problem.program, problem.hierarchy, Mapping()))
        if self._warm_up is not None:
            compile_all = self._warm_up
            layers = f"layers={min(problem.hierarchy.num_layers, 3)}"  # kernels tell two from more
            name = " ".join([self.name, layers, *(f"{key}={value}" for key, value in sorted(options.items()))])
            warm_up(name, lambda: compile_all(problem, **options))
        if self._get_ready is not None:
            self._get_ready()

    def __call__(
        self,
        program: Program,
        hierarchy: Hierarchy,
        *,
        seconds: float = 10.0,
        seed: int = 0,
        start: Mapping | None = None,
        progress: Progress | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> SolveResult:
        """Return the best mapping found.

        Args:
            program: what to place.
            hierarchy: where.
            seconds: time limit, from when the kernels are ready; 0 returns the best known start.
            seed: the same seed and the same ``steps`` give the same mapping.
            start: a valid mapping that the result is never worse than.
            progress: called now and then with the fraction of the limit that is spent.
            steps: a limit in the solver's own steps in the place of ``seconds``.
            options: the solver's own, by name.

        Raises:
            InputError: a limit below 0, an option that the solver does not have, a start that is not valid.
        """
        problem, limits = Problem(program, hierarchy), Limits(seconds=seconds, steps=steps)
        self.check_options(options)
        if not is_straight(program):
            return self._solve_collapsed(problem, limits, seed, start, progress, options)
        is_due = limits.steps != 0 and limits.seconds > 0
        try:
            if is_due:
                self.prepare(problem, **options)
            search = Incumbent(problem, limits, seed=seed, progress=progress)
            search.offer(Mapping())
            search.prove(lower_bound(program, hierarchy))
            _offer_start(search, start)
        except (KeyboardInterrupt, SystemError) as error:  # before the clock: what is known at once, if anything is
            if not is_interrupt(error):
                raise
            search = Incumbent(problem, limits, seed=seed)
            search.offer(start if start is not None else Mapping())
            search.status = "interrupted"
            return search.result()
        if is_due and not search.is_closed:
            try:
                self.improve(search, **options)
            except (KeyboardInterrupt, SystemError) as error:
                if not is_interrupt(error):
                    raise
                search.status = "interrupted"
            finally:
                search.stop()
        return search.result()

    def _solve_collapsed(
        self,
        problem: Problem,
        limits: Limits,
        seed: int,
        start: Mapping | None,
        progress: Progress | None,
        options: dict[str, Any],
    ) -> SolveResult:
        """Plan with each conditional as one step, and judge what comes of it in the program as it is."""
        view = collapse(problem.program)
        search = Incumbent(problem, limits, seed=seed)
        search.offer(Mapping())
        search.prove(lower_bound(*problem))
        _offer_start(search, start)
        found = self(
            view.program,
            problem.hierarchy,
            seconds=limits.seconds,
            seed=seed,
            start=start if view.keeps_steps else None,
            progress=progress,
            steps=limits.steps,
            **options,
        )
        search.offer(view.expand(found.mapping))
        search.status = found.status if found.status != "optimal" else "feasible"
        return search.result()


def _offer_start(search: Incumbent, start: Mapping | None) -> None:
    if start is None:
        return
    found = validate(search.program, search.hierarchy, start)
    if found:
        first = f"{found[0].rule}: {found[0].message}"
        raise InputError(f"{search.program.name}: the start breaks {len(found)} rules, first {first}")
    search._take(start, search.judged(start))


@overload
def solver(improve: SolverFunction, /) -> Solver: ...
@overload
def solver(
    *,
    warm_up: Callable[..., None] | None = None,
    get_ready: Callable[[], None] | None = None,
    is_constructive: bool = False,
    argument: str | None = None,
) -> Callable[[SolverFunction], Solver]: ...
def solver(
    improve: SolverFunction | None = None,
    /,
    *,
    warm_up: Callable[..., None] | None = None,
    get_ready: Callable[[], None] | None = None,
    is_constructive: bool = False,
    argument: str | None = None,
) -> Solver | Callable[[SolverFunction], Solver]:
    """Make a solver of a function that improves an ``Incumbent``.

    Args:
        improve: ``improve(search, **options)``.
        warm_up: ``warm_up(problem, **options)`` compiles what the solver calls on a problem, once a process and set of
            options; without it the judge's kernels alone are compiled first.
        get_ready: called before every clock starts: what the solver before may have used up, such as a child process.
        is_constructive: the solver builds its mapping from nothing: the command line gives it no start, so that its
            answer is its own.
        argument: the option that ``NAME:TEXT`` on the command line fills with ``TEXT``.
    """

    def make(function: SolverFunction) -> Solver:
        return Solver(
            function, warm_up=warm_up, get_ready=get_ready, is_constructive=is_constructive, argument=argument
        )

    return make if improve is None else make(improve)

"""Running solvers on traces and judging what they return: what ``evaluate``, ``compare`` and ``solve`` do."""

import inspect
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline, lower_bound, simulate
from mallocgame.judge.validation import Violation, validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.registry import SOLVERS, load, registered
from mallocgame.solver import Limits, Problem, Progress, Solver, SolveResult, solver
from mallocgame.text import counted, seconds_text

XLA = "xla"  # names the compiler's own mapping where a solver is asked for
ALL_STEPS = 2**31
START_SHARE = 0.2  # of a solver's limit: at most this goes into its start


class Compiled(Protocol):
    """What is known of one compilation; ``workloads.trace.Trace`` is one."""

    @property
    def name(self) -> str:
        """How rows call it."""
        ...

    @property
    def program(self) -> Program:
        """The scheduled program."""
        ...

    @property
    def hierarchy(self) -> Hierarchy:
        """The chip's memory."""
        ...

    @property
    def mapping(self) -> Mapping | None:
        """The compiler's own mapping."""
        ...


@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem to solve, with what every row about it needs."""

    name: str
    problem: Problem
    chip: str = ""
    compiler_mapping: Mapping | None = None  # None: unknown, or not valid for this problem
    lower_bound_seconds: float = 0.0
    for_compiler: bool = False  # what counts of a mapping is what XLA:TPU can be brought to do
    starts: dict[str, "Start"] = field(default_factory=dict)  # made once, used by every solver

    @property
    def program(self) -> Program:
        """The program of the problem."""
        return self.problem.program

    @property
    def hierarchy(self) -> Hierarchy:
        """The memory of the problem."""
        return self.problem.hierarchy

    @property
    def xla_judged_seconds(self) -> float | None:
        """The judge's time of the compiler's mapping."""
        if self.compiler_mapping is None:
            return None
        return simulate(*self.problem, self.compiler_mapping).total_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The mapping that solvers begin with, and the seconds it took to make."""

    mapping: Mapping | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One mapping of one case, judged. ``timeline`` is None iff the mapping is invalid: then it has no time."""

    case: Case
    solver: str
    mapping: Mapping
    violations: tuple[Violation, ...]
    timeline: Timeline | None
    lower_bound_seconds: float
    xla_judged_seconds: float | None
    solve_seconds: float | None  # None: the mapping came from a file
    status: str
    history: tuple[tuple[float, float], ...] = ()  # (solve seconds, judged seconds) of each improvement

    @property
    def judged_seconds(self) -> float | None:
        """The judge's time of one run."""
        return None if self.timeline is None else self.timeline.total_seconds

    @property
    def speedup_over_xla(self) -> float | None:
        """The compiler's judged time over this one's."""
        seconds, xla = self.judged_seconds, self.xla_judged_seconds
        return None if not seconds or xla is None else xla / seconds

    def __repr__(self) -> str:
        of = f"<Judged {self.case.name} by {self.solver}:"
        if self.violations:
            return f"{of} invalid, {counted(len(self.violations), 'rule')} broken>"
        speedup = self.speedup_over_xla
        times = f"{seconds_text(self.judged_seconds)}, at least {seconds_text(self.lower_bound_seconds)}"
        return f"{of} {times}{f', {speedup:.3f} times as fast as XLA' if speedup else ''}, {self.status}>"

    def row(self, lower_bound_seconds: float | None = None) -> dict[str, Any]:
        """Return the row that ``--json`` prints, with the best bound of the run if that is sharper than this one's."""
        bound = max(self.lower_bound_seconds, lower_bound_seconds or 0.0)
        seconds = self.judged_seconds
        return {
            "trace": self.case.name,
            "chip": self.case.chip,
            "solver": self.solver,
            "valid": not self.violations,
            "status": self.status,
            "judged_seconds": seconds,
            "xla_judged_seconds": self.xla_judged_seconds,
            "speedup_over_xla": self.speedup_over_xla,
            "lower_bound_seconds": bound,
            "gap": None if not seconds else 1.0 - bound / seconds,
            "solve_seconds": self.solve_seconds,
        }


def as_hoisted(program: Program, hierarchy: Hierarchy, *mappings: Mapping | None, but: Collection[int] = ()) -> Program:
    """Return the program in which only ``but``, and what one of ``mappings`` copies in before a loop, may be so."""
    plain = program.without_hoisting()
    broken = (violation for mapping in mappings if mapping for violation in validate(plain, hierarchy, mapping))
    return program.without_hoisting({*but, *(violation.tensor for violation in broken if violation.rule == "hoist")})


def make_case(
    compiled: Compiled,
    *,
    hoist: bool = True,
    chip: str = "",
    lower_bound_seconds: float | None = None,
    for_compiler: bool = False,
) -> Case:
    """Return the case of a compilation; its mapping counts where it is valid.

    Args:
        compiled: a trace.
        hoist: whether any copy may be made before a loop and stay through it; without, only the compiler's own.
        chip: what rows call the chip.
        lower_bound_seconds: proved already; None: the simple bound.
        for_compiler: solvers that can plan within what XLA:TPU can be brought to do; of every mapping but the
            compiler's own, what is left when it is told counts (``explanation.reachable``).
    """
    program = compiled.program
    if not hoist:
        program = as_hoisted(program, compiled.hierarchy, compiled.mapping)
    problem, mapping = Problem(program, compiled.hierarchy), compiled.mapping
    if mapping is not None and validate(*problem, mapping):
        mapping = None
    bound = lower_bound(*problem) if lower_bound_seconds is None else lower_bound_seconds
    return Case(
        name=compiled.name,
        problem=problem,
        chip=chip,
        compiler_mapping=mapping,
        lower_bound_seconds=bound,
        for_compiler=for_compiler,
    )


def judge(
    case: Case,
    mapping: Mapping,
    *,
    solver: str,
    solve_seconds: float | None = None,
    bound_seconds: float = 0.0,
    status: str = "feasible",
    history: tuple[tuple[float, float], ...] = (),
) -> Judged:
    """Validate a mapping and, if it is one, simulate it, or what the compiler would make of it."""
    violations = tuple(validate(*case.problem, mapping))
    if case.for_compiler and not violations and mapping is not case.compiler_mapping:
        from mallocgame.explanation.reachable import reachable

        mapping = reachable(*case.problem, mapping, case.compiler_mapping)
    return Judged(
        case=case,
        solver=solver,
        mapping=mapping,
        violations=violations,
        timeline=None if violations else simulate(*case.problem, mapping),
        lower_bound_seconds=max(bound_seconds, case.lower_bound_seconds),
        xla_judged_seconds=case.xla_judged_seconds,
        solve_seconds=solve_seconds,
        status="invalid" if violations else status,
        history=history,
    )


def solver_names() -> list[str]:
    """Return what can be asked for by name: every registered solver, and the compiler's own mapping."""
    return [XLA, *sorted(registered(SOLVERS))]


def find_solver(text: str) -> tuple[Solver, dict[str, Any]]:
    """Return the solver called ``text`` and the option that ``NAME:ARGUMENT`` sets.

    Raises:
        InputError: no such solver, an argument where none is taken, something that is not a solver.
    """
    found, argument = load(SOLVERS, text, "solver")
    if not isinstance(found, Solver):
        found = _foreign(text, found)
    if argument and found.argument is None:
        raise InputError(f"solver {text.partition(':')[0]} takes no argument, got {argument!r}")
    return found, {found.argument: argument} if argument and found.argument is not None else {}


def _foreign(text: str, call: Any) -> Solver:
    """Wrap a callable that has a solver's public signature: what it returns is judged like any other mapping."""
    if not callable(call):
        raise InputError(f"solver {text!r} is not callable; see docs/architecture.md for how to write one")
    try:
        inspect.signature(call).bind(None, None, seconds=1.0, seed=0, start=None)
    except TypeError as error:
        wanted = "(program, hierarchy, *, seconds, seed, start), or be decorated with @solver"
        raise InputError(f"solver {text!r}: {error}; it must take {wanted}") from None
    except ValueError:  # no signature to be seen: a builtin
        pass

    @solver
    def foreign(search: Any) -> None:
        found = call(*search.problem, seconds=search.left_seconds, seed=search.seed, start=search.mapping)
        mapping = found.mapping if isinstance(found, SolveResult) else found
        if not isinstance(mapping, Mapping):
            raise InputError(f"solver {text!r} returned {found!r:.60}, expected a Mapping or a SolveResult")
        search.offer(mapping)

    return foreign


def find_start(case: Case, wanted: str | Mapping, *, limits: Limits, seed: int = 0) -> Start:
    """Return the start that is ``wanted``, made once a case.

    Args:
        case: what to solve.
        wanted: ``auto`` (the best of the compiler's mapping and ``greedy``), ``none``, a solver's name, or a mapping.
        limits: of the solver that will use it; making the start takes ``START_SHARE`` of them at most.
        seed: of a solver that makes it.

    Raises:
        InputError: no such solver, or a mapping that is not valid.
    """
    if isinstance(wanted, Mapping):
        return Start(mapping=wanted, seconds=0.0)
    if wanted not in case.starts:
        case.starts[wanted] = _start(case, wanted, limits, seed)
    return case.starts[wanted]


def _start(case: Case, name: str, limits: Limits, seed: int) -> Start:
    if name in ("none", XLA):
        return Start(mapping=None if name == "none" else compiler_mapping(case), seconds=0.0)
    made_by, options = find_solver("greedy" if name == "auto" else name)
    own = case.compiler_mapping if name == "auto" else None
    steps = None if limits.steps is None else ALL_STEPS  # then no clock may change the answer
    seconds = START_SHARE * limits.seconds
    found = made_by(*case.problem, seconds=seconds, steps=steps, seed=seed, start=own, **options)
    return Start(mapping=found.mapping, seconds=found.solve_seconds)


def compiler_mapping(case: Case) -> Mapping:
    """Return the compiler's own mapping.

    Raises:
        InputError: the trace has none that is valid for this problem.
    """
    if case.compiler_mapping is None:
        raise InputError(f"trace {case.name} holds no compiler mapping that is valid here, for {XLA!r} to replay")
    return case.compiler_mapping


def run(
    case: Case,
    name: str,
    *,
    limits: Limits,
    seed: int = 0,
    start: str | Mapping = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Judged:
    """Run a solver by name and judge its mapping.

    The seconds that the start took are taken off the limit, so that all solvers have the same. Constructive solvers
    get no ``auto`` start: their answer is their own.

    Args:
        case: what to solve.
        name: of the solver, or ``xla``.
        limits: of the solver.
        seed: of the solver.
        start: see ``find_start``.
        progress: called with the fraction of the limit that is spent.
        options: the solver's own; those that are None are not given.

    Raises:
        InputError: no such solver or start, an option that the solver does not have.
    """
    if name == XLA:
        return judge(case, compiler_mapping(case), solver=name, solve_seconds=0.0, status="compiler")
    solve_it, own = find_solver(name)
    own |= {key: value for key, value in options.items() if value is not None}
    if case.for_compiler and "for_compiler" in solve_it.options:
        own["for_compiler"] = True
    solve_it.check_options(own)
    first = Start(mapping=None, seconds=0.0)
    if not (start == "auto" and solve_it.is_constructive):
        first = find_start(case, start, limits=limits, seed=seed)
    solve_it.prepare(case.problem, **own)
    begun = time.perf_counter()
    result = solve_it(
        *case.problem,
        seconds=max(limits.seconds - first.seconds, 0.0),
        seed=seed,
        start=first.mapping,
        progress=progress,
        steps=limits.steps,
        **own,
    )
    about: dict[str, Any] = {
        "solver": name,
        "solve_seconds": first.seconds + time.perf_counter() - begun,
        "bound_seconds": result.lower_bound_seconds,
        "status": result.status,
        "history": result.history,
    }
    found = judge(case, result.mapping, **about)
    may_keep = start == "auto" and not solve_it.is_constructive
    if case.for_compiler and may_keep and (found.speedup_over_xla or 1.0) < 1.0:
        return judge(case, compiler_mapping(case), **about)  # what is left of the plan when it is told is worse
    return found


def solve(
    problem: "Compiled | Problem | tuple[Program, Hierarchy]",
    *,
    solver: str = "best",
    seconds: float = 10.0,
    seed: int = 0,
    start: str | Mapping = "auto",
    steps: int | None = None,
    **options: Any,
) -> Judged:
    """Solve a trace, or a (program, hierarchy), and judge the mapping.

    Args:
        problem: ``load_trace(...)``, or a program with its hierarchy.
        solver: a registered name (``solver_names()``), or ``package.module:name``.
        seconds: time limit.
        seed: of the solver.
        start: ``auto``, ``none``, a solver's name or a mapping; see ``find_start``.
        steps: a limit in the solver's own steps instead.
        options: the solver's own.

    Raises:
        InputError: no such solver or start, a limit below 0.
    """
    if isinstance(problem, tuple):
        program, hierarchy = problem
        case = Case(
            name=program.name, problem=Problem(program, hierarchy), lower_bound_seconds=lower_bound(program, hierarchy)
        )
    else:
        case = make_case(problem)
    return run(case, solver, limits=Limits(seconds=seconds, steps=steps), seed=seed, start=start, **options)

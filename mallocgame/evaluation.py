"""Running a solver on a trace and judging what it returns: the rows that ``evaluate`` and ``compare`` print."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.hierarchy import Hierarchy
    from mallocgame.judge.simulation import Timeline
    from mallocgame.judge.validation import Violation
    from mallocgame.mapping import Mapping
    from mallocgame.program import Program
    from mallocgame.workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A trace to solve, with what every row about it needs."""

    trace: "Trace"
    program: "Program"  # the trace's, or the same without hoisting
    chip: str
    xla_judged_seconds: float | None  # None: the trace has no compiler mapping that is valid here
    lower_bound_seconds: float

    @property
    def hierarchy(self) -> "Hierarchy":
        """The memory of the trace."""
        return self.trace.hierarchy


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One mapping of one case, judged. ``timeline`` is None iff the mapping is invalid: then it has no time."""

    case: Case
    solver: str
    mapping: "Mapping"
    violations: "tuple[Violation, ...]"
    timeline: "Timeline | None"
    lower_bound_seconds: float
    solve_seconds: float | None  # None: the mapping came from a file
    status: str

    @property
    def judged_seconds(self) -> float | None:
        """The judge's time of one run."""
        return None if self.timeline is None else self.timeline.total_seconds

    @property
    def speedup_over_xla(self) -> float | None:
        """The compiler's judged time over this one's."""
        seconds, xla = self.judged_seconds, self.case.xla_judged_seconds
        return None if not seconds or xla is None else xla / seconds

    def row(self, lower_bound_seconds: float | None = None) -> dict[str, Any]:
        """Return the row that ``--json`` prints, with the best bound of the run if that is sharper than this one's."""
        bound = max(self.lower_bound_seconds, lower_bound_seconds or 0.0)
        seconds = self.judged_seconds
        return {
            "trace": self.case.trace.name,
            "chip": self.case.chip,
            "solver": self.solver,
            "valid": not self.violations,
            "judged_seconds": seconds,
            "xla_judged_seconds": self.case.xla_judged_seconds,
            "speedup_over_xla": self.speedup_over_xla,
            "lower_bound_seconds": bound,
            "gap": None if not seconds else 1.0 - bound / seconds,
            "solve_seconds": self.solve_seconds,
        }


def open_case(text: str, *, hoist: bool = True, bound_seconds: float = 0.0) -> Case:
    """Read a trace (file or shipped name), judge the compiler's own mapping and prove a bound in about that time."""
    from mallocgame.cli.traces import chip_of, open_trace
    from mallocgame.judge.simulation import simulate
    from mallocgame.judge.validation import validate

    trace = open_trace(text)
    program = trace.program if hoist else trace.program.without_hoisting()
    xla = None
    if trace.mapping is not None and not validate(program, trace.hierarchy, trace.mapping):
        xla = simulate(program, trace.hierarchy, trace.mapping).total_seconds
    bound = prove_bound(program, trace.hierarchy, bound_seconds)
    return Case(trace=trace, program=program, chip=chip_of(trace), xla_judged_seconds=xla, lower_bound_seconds=bound)


def prove_bound(program: "Program", hierarchy: "Hierarchy", seconds: float) -> float:
    """Return seconds that no mapping can beat, the best proved in about ``seconds`` (0: what takes no time)."""
    if not 0 <= seconds < float("inf"):
        raise InputError(f"--bound-seconds must be a number >= 0, got {seconds}")
    if seconds == 0:
        from mallocgame.judge.simulation import lower_bound

        return lower_bound(program, hierarchy)
    from mallocgame.baselines.bounds import capacity_bound

    return capacity_bound(program, hierarchy, seconds=seconds, integer=False).seconds


def judge(
    case: Case,
    mapping: "Mapping",
    *,
    solver: str,
    solve_seconds: float | None = None,
    bound: float = 0.0,
    status: str = "feasible",
) -> Judged:
    """Validate a mapping and, if it is one, simulate it."""
    from mallocgame.judge.simulation import simulate
    from mallocgame.judge.validation import validate

    violations = tuple(validate(case.program, case.hierarchy, mapping))
    return Judged(
        case=case,
        solver=solver,
        mapping=mapping,
        violations=violations,
        timeline=None if violations else simulate(case.program, case.hierarchy, mapping),
        lower_bound_seconds=max(bound, case.lower_bound_seconds),
        solve_seconds=solve_seconds,
        status=status,
    )


def solve(
    case: Case,
    name: str,
    *,
    seconds: float,
    seed: int,
    advance: Callable[[float], None],
    simulations: int | None = None,
) -> Judged:
    """Run a solver by name and judge its mapping.

    Args:
        advance: called with the fraction of the time limit that is spent.
        simulations: per move, of a trained agent; None: as trained.

    Raises:
        InputError: no such solver, or a time limit that is not a number >= 0.
    """
    from mallocgame.cli.solvers import make_solver

    if not 0 <= seconds < float("inf"):
        raise InputError(f"--seconds must be a number >= 0, got {seconds}")
    solver = make_solver(name, case.trace, simulations=simulations)
    begin = time.perf_counter()
    result = solver(case.program, case.hierarchy, seconds=seconds, seed=seed, progress=advance)
    spent = time.perf_counter() - begin
    bound, status = result.lower_bound_seconds, result.status
    return judge(case, result.mapping, solver=name, solve_seconds=spent, bound=bound, status=status)

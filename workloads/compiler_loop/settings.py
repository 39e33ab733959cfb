"""What ``tune`` is given, and what it returns."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from mallocgame.errors import InputError
from mallocgame.mapping import Mapping
from mallocgame.solver import SolveResult

if TYPE_CHECKING:
    from mallocgame.workloads.trace import Trace

Say = Callable[[str], None]

# Instructions: with more, plans begin near what the compiler does, which hot chains lose in a few seconds, and no plan
# comes true as it is.
LARGE = 600


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best that was found. ``options`` is empty iff nothing beats the compiler's default."""

    options: dict[str, str | bool]
    trace: "Trace"  # of the default compilation, with its mapping
    mapping: Mapping  # what the compiler does under ``options``
    default_seconds: float  # judged
    judged_seconds: float
    default_xla_seconds: float  # the compiler's own estimates
    xla_seconds: float
    default_cycles: int | None  # sums of estimated_cycles; None: not asked for, not done in time, or no estimates
    cycles: int | None
    goal_seconds: float  # judged time of the best mapping on paper
    realised_share: float  # of that mapping's overrides, those that the compiler carries out exactly
    full_compile_seconds: float | None  # of the default; None: not known
    evaluations: int
    seconds_per_evaluation: float
    history: tuple[tuple[float, float], ...] = ()  # of what was best: seconds since the beginning, judged seconds
    unchecked: str = ""  # why ``options`` were not compiled to the end; empty: they were, or there are none
    interrupted: bool = False
    lowers_alike: bool | None = None  # in a process of its own: the same program; None: not known

    def figures(self) -> dict[str, Any]:
        """Return everything but trace, mapping and history, for a table or a line of JSON."""
        left_out = ("trace", "mapping", "history", "lowers_alike")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How ``tune`` goes about it. Times count everything that the user waits for."""

    solve: Callable[..., SolveResult]  # a ``mallocgame.solver.Solver``: finds mappings on paper
    seconds: float = 120.0  # for everything, compilations to the end included
    begin: float | None = None  # when that began, on time.monotonic's clock; None: with the call
    solver_seconds: float = 10.0  # for each mapping on paper
    evaluations: int | None = None  # no more than so many: a limit that means the same on a busy machine
    folder: str | os.PathLike[str] | None = None  # where the best is kept, and gone on from; None: nowhere
    seed: int = 0  # of the solver
    workers: int = 1  # compilations at a time
    lanes: int = 1  # that plan and compile in turn, while whole mappings are suggested: as many as there are processors
    full: bool = True  # compile the best to its end, which finds what is illegal only then
    say: Say = field(default=lambda text: None)  # told what was found, one line a time
    phase: Say = field(default=lambda text: None)  # told what is being done

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf") or not 0 <= self.solver_seconds < float("inf"):
            got = f"{self.seconds} and {self.solver_seconds}"
            raise InputError(f"need a budget > 0 and a solver's time >= 0 in seconds, got {got}")

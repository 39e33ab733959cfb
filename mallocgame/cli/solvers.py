"""Solvers by name. Nothing is imported until a solver is asked for."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.solver import Solver
    from mallocgame.workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a solver lives. ``maker`` says what the attribute is: the solver, or a function that returns one."""

    module: str
    attribute: str
    maker: str  # "solver", "mapping" or "start" (called with the trace's mapping) or "folder" (with the path after ':')
    about: str


_ENTRIES: dict[str, Entry] = {
    "xla": Entry(
        "mallocgame.baselines.placement.replay", "replay", "mapping", "the compiler's own mapping, from the trace"
    ),
    "none": Entry("mallocgame.baselines.placement.trivial", "none", "solver", "everything in layer 0"),
    "random": Entry(
        "mallocgame.baselines.placement.trivial", "random", "solver", "random plans that fit, the best of many"
    ),
    "greedy": Entry(
        "mallocgame.baselines.placement.greedy", "greedy", "solver", "plans by benefit density, best-fit addresses"
    ),
    "xla-heuristic": Entry(
        "mallocgame.baselines.placement.xla_heuristic", "xla_heuristic", "solver", "the published compiler heuristic"
    ),
    "anneal": Entry(
        "mallocgame.baselines.anneal", "anneal", "solver", "simulated annealing with the judge in the loop"
    ),
    "gorp": Entry("mallocgame.baselines.play.gorp", "gorp", "solver", "greedy play of the game over random roll-outs"),
    "evolution": Entry(
        "mallocgame.baselines.play.evolution", "evolution", "solver", "evolutionary search, decoded by the rules"
    ),
    "cpsat": Entry("mallocgame.baselines.milp.cpsat", "cpsat", "solver", "integer programming with a proved bound"),
    "lns": Entry("mallocgame.baselines.milp.lns", "lns", "solver", "integer programming over windows of the schedule"),
    "hybrid": Entry(
        "mallocgame.baselines.hybrid", "hybrid", "solver", "a plan by integer programming, refined by annealing"
    ),
    "best": Entry(
        "mallocgame.baselines.portfolio", "from_mapping", "start", "all of them in a race, from the compiler's mapping"
    ),
    "muzero": Entry(
        "mallocgame.agents.muzero.solver", "make_solver", "folder", "a trained agent: muzero or muzero:RUN"
    ),
}


def known_solvers() -> dict[str, str]:
    """Return the solvers of this installation and what each is."""
    return {name: entry.about for name, entry in _ENTRIES.items() if _exists(entry.module)}


def make_solver(text: str, trace: "Trace", *, simulations: int | None = None) -> "Solver":
    """Return the solver called ``text`` (``NAME`` or ``NAME:ARGUMENT``) for a trace.

    Raises:
        InputError: no such solver, an argument where none is taken, or ``xla`` on a trace without a compiler mapping.
    """
    name, colon, argument = text.partition(":")
    known = known_solvers()
    if name not in known:
        raise InputError(f"unknown solver {name!r}, expected one of {', '.join(known)}")
    entry = _ENTRIES[name]
    found: Any = getattr(import_module(entry.module), entry.attribute)
    if entry.maker == "folder":
        settings = {"simulations": simulations}
        return cast("Solver", found(Path(argument), **settings) if argument else found(**settings))
    if simulations is not None:
        raise InputError(f"--simulations is for trained agents (muzero), not for solver {name!r}")
    if colon:
        raise InputError(f"solver {name} takes no argument, got {argument!r}")
    if entry.maker == "start":
        return cast("Solver", found(trace.mapping))
    if entry.maker == "mapping":
        if trace.mapping is None:
            raise InputError(f"trace {trace.name} holds no compiler mapping for solver {name!r} to replay")
        return cast("Solver", found(trace.mapping))
    return cast("Solver", found)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False

"""The loop with the compiler: capture, solve, give the orders, judge what the compiler makes of them, improve.

What is better is what the judge says of the mapping that the compiler really chose. The best options are written to
disk as soon as they are found, and a later run goes on from them.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallocgame.compiler_options import save_compiler_options
from mallocgame.errors import InputError, TraceError
from mallocgame.files import write_text
from mallocgame.mapping import Mapping
from mallocgame.workloads.compiler_loop.flags import NOTHING_HELD, OTHERS, hoist_limits_kib
from mallocgame.workloads.compiler_loop.overrides import HOIST_LIMIT

if TYPE_CHECKING:
    from mallocgame.workloads.compiler_loop.overrides import Decision
    from mallocgame.workloads.compiler_loop.realise import Search
    from mallocgame.workloads.compiler_loop.verify import CompilesPrograms, Target
    from mallocgame.workloads.xla.compiler import Options

STATE = "state.json"
OPTIONS = "options.json"
STATE_VERSION = 1
MAX_STALE = 3  # rounds without improvement
LEAST_HEADROOM = 0.005  # of the time: with less to win on paper the search ends

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The best that was found. ``options`` is empty iff nothing beats the compiler's default."""

    options: dict[str, str | bool]
    default_seconds: float  # judged
    judged_seconds: float
    default_xla_seconds: float  # the compiler's own estimates
    xla_seconds: float
    default_cycles: int | None  # sums of estimated_cycles; None: not asked for, or no estimates
    cycles: int | None
    goal_seconds: float  # judged time of the best mapping on paper
    realised_share: float  # of that mapping's decisions, those that the compiler carries out exactly
    full_compile_seconds: float | None  # of the default; None: not asked for
    evaluations: int
    seconds_per_evaluation: float


def tune(
    function: str,
    arguments: str = "",
    *,
    chip: str,
    seconds: float = 120.0,
    solve_seconds: float = 10.0,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    full: bool = True,
    compiler: "CompilesPrograms | None" = None,
    note: Note | None = None,
) -> Tuned:
    """Search compiler options for a function until the time is over.

    Args:
        function: ``package.module:function``.
        arguments: its shapes, as ``mallocgame.workloads.capture.capture`` takes them.
        chip: ``v4``, ``v5e``, ``v5p`` or ``v6e``.
        seconds: for everything but the final full compilations.
        solve_seconds: for each mapping on paper.
        folder: where the best is kept, and gone on from; None: nowhere.
        seed: of the solver.
        full: compile the best to its end, which finds what is illegal only then, and sum the cycle estimates.
        compiler: a warm ``mallocgame.workloads.xla.compiler.Compiler``; without one, one is started and ended.
        note: told about each step, one line a time.

    Raises:
        InputError: no such function or chip, a budget that is not a number > 0, a folder of another program.
        TraceError: the program does not compile by default, or a trace cannot express it.
    """
    from mallocgame.workloads.compiler_loop.verify import Target
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.xla.compiler import Compiler

    if not 0 < seconds < float("inf") or not 0 <= solve_seconds < float("inf"):
        raise InputError(f"need a budget > 0 and a solver's time >= 0 in seconds, got {seconds} and {solve_seconds}")
    reference = parse_reference(function, arguments)
    deadline = time.monotonic() + seconds
    if compiler is None:
        with Compiler() as own:
            target = Target.of(reference, chip, own)
            return _Tuning(target, deadline, solve_seconds, folder, seed, note).run(full)
    target = Target.of(reference, chip, compiler)
    return _Tuning(target, deadline, solve_seconds, folder, seed, note).run(full)


class _Tuning:
    """One search over orders for each set of flags; the best of all is kept."""

    def __init__(
        self,
        target: "Target",
        deadline: float,
        solve_seconds: float,
        folder: str | os.PathLike[str] | None,
        seed: int,
        note: Note | None,
    ) -> None:
        self.target, self.deadline, self.solve_seconds, self.seed = target, deadline, solve_seconds, seed
        self.folder = None if folder is None else Path(folder)
        self.note: Note = note or (lambda text: None)
        self.rounds = 0
        self.goal_seconds = float("inf")
        self.goal: Mapping | None = None
        self.evaluation_seconds: list[float] = []
        self.default = target.default()
        self.program = target.trace.program.without_hoisting()
        self.flags: Options = {}
        self.search = self._new_search({})  # the best

    def run(self, full: bool) -> Tuned:
        self._resume()
        self.note(f"default: judged {1e3 * self.default.judged_seconds:.4f} ms")
        try:
            self._rounds()
        except KeyboardInterrupt:
            self.note("interrupted: the best so far")
        return self._finish(full)

    def _rounds(self) -> None:
        """Solve and give orders in turn, first with the best flags, then with others, then where it helped."""
        from mallocgame.workloads.compiler_loop.realise import improve, realise

        self._try_flags([{HOIST_LIMIT: str(limit)} for limit in self._hoist_limits()])
        if any(HOIST_LIMIT in flags for flags in (self.flags, self.search.best.options)):
            self.program = self.target.trace.program  # the flag hoists parameters, which orders cannot
        goal = self._solve()
        if goal is not None:
            self._try_flags([NOTHING_HELD])
        others = [] if NOTHING_HELD.items() <= self.flags.items() else [{**self.flags, **NOTHING_HELD}]
        stale = 0
        while goal is not None and stale < MAX_STALE and time.monotonic() < self.deadline:
            before = self.search.best.judged_seconds
            search = self.search
            if self.rounds and others:
                search = self._new_search(others.pop())
                search.deadline = (time.monotonic() + self.deadline) / 2
                search.best = replace(self.default, mapping=None, judged_seconds=float("inf"))
                search.try_out(())
            if search.best.mapping is not None:
                improve(search, self.program, self.target.trace.hierarchy, goal)
                if not search.is_over():
                    realise(search, self.program, goal)
                improve(search, self.program, self.target.trace.hierarchy, goal)
            self.rounds += 1
            if search.best.judged_seconds < self.search.best.judged_seconds:
                self._take(search)
            if not others:
                self._try_flags(OTHERS)
            stale = 0 if self.search.best.judged_seconds < before else stale + 1
            self._save()
            goal = self._solve() if stale < MAX_STALE else None

    def _new_search(self, flags: "Options") -> "Search":
        from mallocgame.workloads.compiler_loop.realise import Search

        def evaluate(decisions: Any) -> Any:
            found = self.target.evaluate(decisions, flags)
            self.evaluation_seconds.append(found.seconds)
            return found

        def better(search: "Search") -> None:
            if search.best.judged_seconds < min(self.default.judged_seconds, self.search.best.judged_seconds) or (
                search is self.search
            ):
                self._take(search)

        return Search(evaluate=evaluate, deadline=self.deadline, best=self.default, flags=flags, on_better=better)

    def _take(self, search: "Search") -> None:
        self.search, self.flags = search, search.flags
        gain = self.default.judged_seconds / search.best.judged_seconds
        orders = f"{len(search.decisions)} orders" + "".join(f", {k}={v}" for k, v in self.flags.items())
        self.note(f"judged {1e3 * search.best.judged_seconds:.4f} ms, {gain:.3f} times faster ({orders})")
        self._save()

    def _hoist_limits(self) -> list[int]:
        trace = self.target.trace
        return hoist_limits_kib(trace.program, trace.hierarchy.layers[1].capacity_bytes)

    def _try_flags(self, candidates: "Iterable[Options]") -> None:
        """Try flags with the orders that there are, one after the other; what helps stays."""
        for flag in candidates:
            if time.monotonic() >= self.deadline:
                return
            if not flag.items() <= self.flags.items():
                other = self._new_search({**self.flags, **flag})
                other.best = replace(self.search.best, judged_seconds=self.search.best.judged_seconds * (1 - 1e-4))
                other.try_out(self.search.decisions)

    def _solve(self) -> Mapping | None:
        """Return the next mapping to give to the compiler, None if no better one is known than what it does."""
        from mallocgame.baselines.anneal import anneal

        left = max(self.deadline - time.monotonic(), 0.0)
        result = anneal(
            self.program,
            self.target.trace.hierarchy,
            seconds=min(self.solve_seconds, left / 4),
            seed=self.seed + self.rounds,
            start=self.search.best.mapping,
        )
        if result.seconds < self.goal_seconds:
            self.goal_seconds, self.goal = result.seconds, result.mapping
        self.note(f"on paper: {1e3 * result.seconds:.4f} ms")
        if self.search.best.judged_seconds - self.goal_seconds < LEAST_HEADROOM * self.default.judged_seconds:
            self.note(f"less than {100 * LEAST_HEADROOM:g} % left to win on paper: the search ends")
            return None
        return result.mapping if result.seconds < self.search.best.judged_seconds * (1 - 1e-4) else self.goal

    def _finish(self, full: bool) -> Tuned:
        best, default = self.search.best, self.default
        cycles = default_cycles = full_seconds = None
        if full:
            reference = self.target.compile_fully({})
            default_cycles, full_seconds = reference.cycles, reference.compile_seconds
            if best.options:
                done = self.target.compile_fully(best.options)
                cycles = done.cycles
                if done.error:
                    self.note(f"the best options are illegal in a full compilation and are dropped: {done.error[:200]}")
                    self.search = self._new_search({})
                    best, cycles = default, default_cycles
            else:
                cycles = default_cycles
        self._save()
        times = self.evaluation_seconds
        return Tuned(
            options=dict(best.options),
            default_seconds=default.judged_seconds,
            judged_seconds=best.judged_seconds,
            default_xla_seconds=default.xla_seconds,
            xla_seconds=best.xla_seconds,
            default_cycles=default_cycles,
            cycles=cycles,
            goal_seconds=min(self.goal_seconds, best.judged_seconds),
            realised_share=self._realised_share(),
            full_compile_seconds=full_seconds,
            evaluations=len(times),
            seconds_per_evaluation=sum(times) / len(times) if times else 0.0,
        )

    def _realised_share(self) -> float:
        from mallocgame.workloads.compiler_loop.overrides import decisions_of
        from mallocgame.workloads.compiler_loop.verify import Fate, fate_of

        if self.goal is None:
            return 1.0
        fates = [fate_of(d, self.program, self.search.best.mapping) for d in decisions_of(self.program, self.goal)]
        return sum(fate is Fate.REALISED for fate in fates) / max(len(fates), 1)

    def _identity(self) -> dict[str, Any]:
        facts = self.target.trace.provenance
        keys = ("program", "arguments", "chip", "jax", "jaxlib", "libtpu")
        return {"version": STATE_VERSION, **{key: facts.get(key) for key in keys}}

    def _save(self) -> None:
        if self.folder is None:
            return
        best = self.search.best
        about = {
            **{key: value for key, value in self._identity().items() if key != "version"},
            "default_judged_seconds": self.default.judged_seconds,
            "judged_seconds": best.judged_seconds,
        }
        state = {
            **self._identity(),
            "rounds": self.rounds,
            "judged_seconds": best.judged_seconds,
            "flags": {k: v for k, v in self.flags.items() if k in best.options},
            "decisions": [asdict(d) for d in self.search.decisions],
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / STATE, json.dumps(state) + "\n")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write: {error.strerror or error}") from None
        if best.options:
            save_compiler_options(self.folder / OPTIONS, best.options, about)
        else:
            (self.folder / OPTIONS).unlink(missing_ok=True)

    def _resume(self) -> None:
        if self.folder is None or not (self.folder / STATE).exists():
            return
        path = self.folder / STATE
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            decisions = tuple(_decision(row) for row in state["decisions"])
            flags, rounds = dict(state["flags"]), int(state["rounds"])
            identity = {key: state[key] for key in self._identity()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceError(path, None, f"is not the state of a tuning run: {error}") from error
        different = [f"{k} {identity[k]!r}, not {v!r}" for k, v in self._identity().items() if identity[k] != v]
        if different:
            raise InputError(f"{path}: belongs to another run ({'; '.join(different)}); name another folder")
        self.rounds = rounds
        found = self._new_search(flags).try_out(decisions)
        if found.error:
            self.note(f"what {path} holds is refused now: {found.error[:200]}")
        else:
            self.note(f"going on from {path}: judged {1e3 * found.judged_seconds:.4f} ms after {rounds} rounds")


def _decision(row: dict[str, Any]) -> "Decision":
    from mallocgame.workloads.compiler_loop.overrides import Action, Decision
    from mallocgame.workloads.xla.records import Position

    place = row["place"]
    where = Position(instruction=str(place["instruction"]), operand=int(place["operand"]), index=tuple(place["index"]))
    return Decision(
        action=Action(row["action"]),
        tensor=int(row["tensor"]),
        place=where,
        step=int(row["step"]),
        start_after=int(row["start_after"]),
    )

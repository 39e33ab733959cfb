"""The loop with the compiler: capture, solve, give the overrides, judge what the compiler makes of them, improve.

What is better is what the judge says of the mapping that the compiler really chose. The best options are written to
disk as soon as they are found, and a later run goes on from them.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from mallocgame.evaluation import as_hoisted
from mallocgame.mapping import HELD, Mapping
from mallocgame.program import Program
from mallocgame.solver import Problem, SolveResult
from mallocgame.workloads.compiler_loop.flags import (
    CANDIDATE_FLAGS,
    LONG_WAITS,
    NEVER,
    NOTHING_HELD,
    hoist_limits_kib,
    max_wait,
)
from mallocgame.workloads.compiler_loop.kernels import Kernels
from mallocgame.workloads.compiler_loop.loop_operands import given_to_loops
from mallocgame.workloads.compiler_loop.overrides import HOIST_LIMIT
from mallocgame.workloads.compiler_loop.settings import LARGE, Settings, Tuned

if TYPE_CHECKING:
    from mallocgame.explanation.reachable import Reach
    from mallocgame.workloads.capture import Assumptions
    from mallocgame.workloads.compiler_loop.final_check import Checked, FinalCheck
    from mallocgame.workloads.compiler_loop.overrides import Override
    from mallocgame.workloads.compiler_loop.realise import OverrideSearch
    from mallocgame.workloads.compiler_loop.tuning_folder import TuningFolder
    from mallocgame.workloads.compiler_loop.verify import CompilesPrograms, Evaluation, Target
    from mallocgame.workloads.program_reference import ProgramReference
    from mallocgame.workloads.xla.compiler import Options

MAX_STALE = 3  # rounds without improvement
FEW_MOVES = 5  # that bring next to nothing, until a large program is planned as a whole again
LEAST_PLANNING_SECONDS = 1.0  # or twice as long as an evaluation takes
LEAST_SOLVER_SECONDS = 4.0  # of a short run: with less a busy machine finds nothing, and the search would end
LEAST_HEADROOM = 0.005  # of the time: with less to win on paper the search ends

NEARBY = 5e-3  # of the judged time: so far the scheduled module may lead elsewhere, for the search to begin with it
SHARE_TO_REPEAT = 0.2  # of all the time, to see in the end what the compiler does from the program on; else no guesses
LEAST_SEARCH = 0.5  # as long as the default compilation: with less time left nothing more can be tried
ENOUGH_TIMES = 12  # as long as that, for a first run
LEAST_EVALUATIONS = 8  # that there is time for, for another way to suggest a mapping to be tried


def tune(
    reference: "ProgramReference | str",
    *,
    chip: str,
    settings: Settings,
    assumptions: "Assumptions | None" = None,
    compiler: "CompilesPrograms | None" = None,
) -> Tuned:
    """Search compiler options for a function until the time is over.

    Ctrl-C ends the search; what is best by then is returned.

    Args:
        reference: ``package.module:function``, or what ``parse_reference`` made of it, with arguments and a mesh.
        chip: ``v4``, ``v5e``, ``v5p`` or ``v6e``; several chips: ``v5e:2x2``.
        settings: the solver, times in seconds, the folder, whom to tell.
        assumptions: trip counts, weights of branches and the network's speed, as ``capture`` takes them.
        compiler: a warm ``mallocgame.workloads.xla.compiler.Compiler``; without one, one is started and ended.

    Raises:
        InputError: no such function or chip, a folder of another program or in which another run works.
        TraceError: the program does not compile by default, or a trace cannot express it.
    """
    from mallocgame.workloads.compiler_loop.final_check import FinalCheck
    from mallocgame.workloads.compiler_loop.same_program import SameProgram
    from mallocgame.workloads.compiler_loop.tuning_folder import TuningFolder, identity_of
    from mallocgame.workloads.compiler_loop.verify import Target
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.xla.compiler import Compiler

    begin = time.monotonic() if settings.begin is None else settings.begin
    if isinstance(reference, str):
        reference = parse_reference(reference)
    with ExitStack() as stack:
        if compiler is None:
            compiler = stack.enter_context(Compiler(ready=max(settings.workers, settings.lanes)))
        settings.phase(f"compiling {reference} by default")
        kernels = Kernels(settings.solve, settings.say)
        target = Target.of(reference, chip, compiler, assumptions=assumptions, nearby=NEARBY)
        begin += kernels.wait()
        if target.is_near and target.seconds_to_repeat() > SHARE_TO_REPEAT * settings.seconds:
            target = replace(target, scheduled=None, is_near=False)
        folder = None
        if settings.folder is not None:
            identity = identity_of(target.trace.provenance, target.trace.program)
            folder = stack.enter_context(TuningFolder.open_for(settings.folder, identity))
        final = stack.enter_context(FinalCheck(target, begin, settings.seconds, settings.full))
        same = stack.enter_context(SameProgram(target, final.deadline, settings.say))
        found = _Tuning(target, settings, final, folder, begin).run()
        try:
            same.wait(final.deadline if found.options and not found.interrupted else 0.0)
        except KeyboardInterrupt:
            found = replace(found, interrupted=True)
        return replace(found, lowers_alike=same.lowers_alike)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incumbent:
    """What was the best at some moment."""

    evaluation: "Evaluation"
    overrides: tuple["Override", ...]
    flags: "Options"


class _Tuning:
    """One search over overrides for each set of flags; the best of all is kept."""

    def __init__(
        self, target: "Target", settings: Settings, final: "FinalCheck", folder: "TuningFolder | None", begin: float
    ) -> None:
        self.target, self.settings, self.final, self.folder, self.begin = target, settings, final, folder, begin
        self.history: list[tuple[float, float]] = []
        self.rounds = 0
        self.plans = count(1)
        self.lock = threading.Lock()  # of the goal
        self.first_above = NEVER  # what is placed first, as ``Reaction`` has it
        self.ahead: Sequence[int] = ()
        self.goal_seconds = float("inf")
        self.goal: Mapping | None = None
        self.is_proved = False  # that the last mapping on paper, the default's time, is the best there is
        self.evaluation_seconds: list[float] = []
        self.default = target.default()
        self.flags: Options = {}
        self.incumbents: list[_Incumbent] = []
        self.search = self._new_search({})  # the best

    def run(self) -> Tuned:
        self.settings.say(f"default: judged {1e3 * self.default.judged_seconds:.4f} ms")
        try:
            self._resume()
            self._rounds()
            checked = self._check()
            if self.folder is not None:
                self.folder.save_default(self._about(self.default.judged_seconds, "yes"))
            return self._result(checked, interrupted=False)
        except KeyboardInterrupt:
            return self._result(None, interrupted=True)

    def is_over(self) -> bool:
        """Whether the time to search is spent."""
        return time.monotonic() >= self._deadline()

    def _deadline(self) -> float:
        most = self.settings.evaluations
        is_spent = most is not None and len(self.evaluation_seconds) >= most
        return float("-inf") if is_spent else self.final.search_deadline()

    def _rounds(self) -> None:
        """Solve and give overrides in turn, first with the best flags, then with others, then where it helped."""
        self._try_flags([{HOIST_LIMIT: str(limit)} for limit in self._hoist_limits()])
        goal = self._solve()
        holds = self._holds_something()
        if goal is not None and holds:
            self._try_flags([NOTHING_HELD])
        others = [{**self.flags, **NOTHING_HELD}] if holds and not NOTHING_HELD.items() <= self.flags.items() else []
        stale = 0
        while goal is not None and stale < MAX_STALE and not self.is_over():
            before = self.search.best.judged_seconds
            self._round(goal, others)
            self.rounds += 1
            if not others and (self.rounds > 1 or self.target.trace.program.num_steps < LARGE):
                self._try_flags(CANDIDATE_FLAGS)
            stale = 0 if self.search.best.judged_seconds < before else stale + 1
            self._save()
            goal = self._solve() if stale < MAX_STALE else None

    def _round(self, goal: Mapping, others: "list[Options]") -> None:
        """Improve the best, or what other flags give, toward ``goal``."""
        from mallocgame.workloads.compiler_loop.reaction import Reaction
        from mallocgame.workloads.compiler_loop.realise import NEXT_TO_NOTHING, improve, realise
        from mallocgame.workloads.compiler_loop.replan import replan
        from mallocgame.workloads.compiler_loop.ways import in_the_best_way

        search = self.search
        if self.rounds and others:
            search = self._new_search(others.pop())
            half = (time.monotonic() + self.final.search_deadline()) / 2
            search.deadline = lambda: min(half, self._deadline())
            search.best = replace(self.default, mapping=None, judged_seconds=float("inf"))
            search.try_out(())
        if search.best.mapping is not None:
            program = self._program_for(search.best.mapping, search.best.options)
            hierarchy = self.target.trace.hierarchy
            reaction = Reaction(
                problem=Problem(program, hierarchy),
                operands=self.target.loop_operands,
                first_above=self.first_above,
                ahead=self.ahead,
            )
            if self.target.trace.mapping is not None:
                reaction.see(self.target.trace.mapping)
            if not self.rounds:
                search = in_the_best_way(search, self._new_search, goal, reaction, self._is_time_for_more)
                self.first_above = reaction.first_above
            replan(
                search, reaction, partial(self._plan, search.flags), [goal] if self.rounds else [], self.settings.lanes
            )
            self.ahead = reaction.ahead
            is_large = program.num_steps >= LARGE
            improve(search, program, hierarchy, goal, patience=FEW_MOVES if is_large else None)
            is_reached = search.best.judged_seconds <= self.goal_seconds * (1 + NEXT_TO_NOTHING)
            if not is_large and not is_reached and not search.is_over():
                realise(search, program, goal)
                improve(search, program, hierarchy, goal)
        if search.best.judged_seconds < self.search.best.judged_seconds:
            self._take(search)

    def _is_time_for_more(self) -> bool:
        return self._deadline() - time.monotonic() >= LEAST_EVALUATIONS * self.search.last_seconds

    def _plan(self, flags: "Options", start: Mapping, reach: "Reach") -> Mapping:
        """Return a mapping near ``start`` that the compiler may reach; each call has a seed of its own."""
        options = getattr(self.settings.solve, "options", ())
        wanted = {"for_compiler": reach, "refine": True}
        seconds = max(2 * self.search.last_seconds, LEAST_PLANNING_SECONDS)
        program = self._program_for(start, flags)
        chosen = {k: v for k, v in wanted.items() if k in options}
        return self._solve_for(program, start, seconds, chosen, plan=next(self.plans)).mapping

    def _new_search(self, flags: "Options") -> "OverrideSearch":
        from mallocgame.workloads.compiler_loop.realise import OverrideSearch

        def evaluate(overrides: Any) -> Any:
            found = self.target.evaluate(overrides, flags, deadline=self.final.deadline)
            self.evaluation_seconds.append(found.seconds)
            self._tell()
            return found

        def better(search: "OverrideSearch") -> None:
            if search.best.judged_seconds < min(self.default.judged_seconds, self.search.best.judged_seconds) or (
                search is self.search
            ):
                self._take(search)

        return OverrideSearch(
            evaluate=evaluate,
            deadline=self._deadline,
            best=self.default,
            flags=flags,
            operands=self.target.loop_operands,
            on_better=better,
            workers=self.settings.workers,
        )

    def _program_for(self, start: Mapping, options: "Options") -> Program:
        """Return the program for solvers: copies before loops only where a flag, orders or ``start`` make them."""
        trace = self.target.trace
        if HOIST_LIMIT in options:
            return trace.program
        ordered = given_to_loops(self.target.loop_operands)
        return as_hoisted(trace.program, trace.hierarchy, trace.mapping, start, but=ordered)

    def _take(self, search: "OverrideSearch") -> None:
        self.search, self.flags, self.final.best = search, search.flags, search.best
        self.incumbents.append(_Incumbent(evaluation=search.best, overrides=search.overrides, flags=dict(search.flags)))
        self.history.append((time.monotonic() - self.begin, search.best.judged_seconds))
        gain = self.default.judged_seconds / search.best.judged_seconds
        given = f"{len(search.overrides)} overrides" + "".join(f", {k}={v}" for k, v in self.flags.items())
        self.settings.say(f"judged {1e3 * search.best.judged_seconds:.4f} ms, {gain:.3f} times faster ({given})")
        self._save()

    def _tell(self) -> None:
        gain = self.default.judged_seconds / self.search.best.judged_seconds
        self.settings.phase(f"searching: {len(self.evaluation_seconds)} compilations, {gain:.3f} times faster")

    def _holds_something(self) -> bool:
        """Whether by default something is there from the run before, or is copied as soon as one begins."""
        mapping = self.target.trace.mapping or Mapping()
        held = any(r.start_step == HELD for r in mapping.residencies)
        return held or any(x.start_after < 0 for x in mapping.transfers)

    def _hoist_limits(self) -> list[int]:
        trace = self.target.trace
        return hoist_limits_kib(trace.program, trace.hierarchy.layers[1].capacity_bytes)

    def _try_flags(self, candidates: "Iterable[Options]") -> None:
        """Try flags with the overrides that there are, one after the other; what helps stays."""
        for flag in candidates:
            if self.is_over():
                return
            if not flag.items() <= self.flags.items():
                other = self._new_search({**self.flags, **flag})
                other.best = replace(self.search.best, judged_seconds=self.search.best.judged_seconds * (1 - 1e-4))
                other.try_out(self.search.overrides)

    def _solve(self) -> Mapping | None:
        """Return the next mapping to give to the compiler, None if no better one is known than what it does.

        In turn it is one of what the compiler can be brought to do, and of all that the hardware can.
        """
        from mallocgame.explanation.reachable import Reach

        options = getattr(self.settings.solve, "options", ())
        near = {"refine": True} if "refine" in options and self.target.trace.program.num_steps >= LARGE else {}
        told = Reach(max_wait=max_wait({**LONG_WAITS, **self.flags}))
        kinds: list[dict[str, Any]] = [{"for_compiler": told, **near}] if "for_compiler" in options else []
        kinds.append(near)
        if "refine" in options and not near:
            kinds.append({"refine": True})  # where hot chains find nothing in the time
        for given in kinds if self.rounds % 2 == 0 else kinds[1:] or kinds:
            goal = self._solve_with(given)
            if self.goal_seconds <= (1 - LEAST_HEADROOM) * self.search.best.judged_seconds:
                return goal
        left = self.final.search_deadline() - time.monotonic()
        if left < LEAST_SEARCH * self.target.usual_seconds and not self.is_proved:
            self.settings.say(f"no time is left to search in{self._what_took_it()}")
        else:
            self.settings.say(f"nothing found on paper is {100 * LEAST_HEADROOM:g} % better: the search ends")
        return None

    def _what_took_it(self) -> str:
        """Say what the time went into, and how much would do, where nothing has been tried yet."""
        if self.evaluation_seconds:
            return ""
        usual, given = self.target.usual_seconds, self.settings.seconds
        enough = 60 * max(round(ENOUGH_TIMES * usual / 60), 1)
        return f": compiling by default took {usual:.0f} of {given:g} s; --seconds {enough} would do"

    def _solve_with(self, options: dict[str, Any]) -> Mapping | None:
        best = self.search.best
        assert best.mapping is not None
        program = self._program_for(best.mapping, best.options)
        result = self._solve_for(program, best.mapping, self.settings.solver_seconds, options)
        self.settings.say(f"on paper: {1e3 * result.seconds:.4f} ms")
        return result.mapping if result.seconds < best.judged_seconds * (1 - 1e-4) else self.goal

    def _solve_for(
        self, program: Program, start: Mapping, seconds: float, options: dict[str, Any], plan: int = 0
    ) -> SolveResult:
        self.settings.phase("solving on paper")
        left = max(self.final.search_deadline() - time.monotonic(), 0.0)
        result = self.settings.solve(
            program,
            self.target.trace.hierarchy,
            seconds=min(self.settings.solver_seconds, seconds, max(left / 8, min(LEAST_SOLVER_SECONDS, left / 3))),
            seed=self.settings.seed + self.rounds + 1000 * plan,
            start=start,
            **options,
        )
        if result.status == "interrupted":
            raise KeyboardInterrupt
        with self.lock:
            self.is_proved = result.status == "optimal" and result.seconds >= self.default.judged_seconds
            if result.seconds < self.goal_seconds:
                self.goal_seconds, self.goal = result.seconds, result.mapping
        return result

    def _check(self) -> "Checked | None":
        """Compile the best to its end; where it is refused, take what stands instead. None: there is nothing."""
        found = sorted(self.incumbents, key=lambda i: i.evaluation.judged_seconds)
        found = [i for i in found if i.evaluation.judged_seconds < self.default.judged_seconds]
        if not found:
            return None
        checked = self.final.check([i.evaluation for i in found], self.settings.phase)
        if checked.index:
            self.settings.say("the best options do not stand in a full compilation and are dropped")
            if self.folder is not None:
                self.folder.set_aside(found[0].evaluation.judged_seconds)
            self.search = self._new_search({})
            if checked.index < len(found):
                stands = found[checked.index]
                self.search = self._new_search(stands.flags)
                self.search.best, self.search.overrides = stands.evaluation, stands.overrides
            self.flags = self.search.flags
        compiled = "" if checked.index == len(found) else checked.why_not or "yes"
        if checked.stands is not None and checked.stands is not found[checked.index].evaluation:
            was, self.search.best = self.search.best.judged_seconds, checked.stands
            if self.folder is not None:
                about = self._about(checked.stands.judged_seconds, compiled)
                self.folder.correct(was, checked.stands.options, about)
        self._save(compiled)
        return checked

    def _result(self, checked: "Checked | None", interrupted: bool) -> Tuned:
        best, default, times = self.search.best, self.default, self.evaluation_seconds
        if best.mapping is None or best.judged_seconds >= default.judged_seconds:
            best = default
        reference = self.final.default
        done = checked.done if checked is not None else None
        default_cycles = reference.cycles if reference else None
        assert best.mapping is not None
        return Tuned(
            options=dict(best.options),
            trace=self.target.trace,
            mapping=best.mapping,
            default_seconds=default.judged_seconds,
            judged_seconds=best.judged_seconds,
            default_xla_seconds=default.xla_seconds,
            xla_seconds=best.xla_seconds,
            default_cycles=default_cycles,
            cycles=done.cycles if done is not None else (default_cycles if not best.options else None),
            goal_seconds=min(self.goal_seconds, best.judged_seconds),
            realised_share=self._realised_share(),
            full_compile_seconds=reference.compile_seconds if reference else None,
            evaluations=len(times),
            seconds_per_evaluation=sum(times) / len(times) if times else 0.0,
            history=tuple(self.history),
            unchecked=("interrupted" if interrupted else checked.why_not if checked else "") if best.options else "",
            interrupted=interrupted,
        )

    def _realised_share(self) -> float:
        from mallocgame.workloads.compiler_loop.overrides import overrides_of
        from mallocgame.workloads.compiler_loop.verify import OverrideOutcome, outcome_of

        if self.goal is None:
            return 1.0
        program = self.target.trace.program
        wanted = overrides_of(program, self.goal, self.target.loop_operands)
        outcomes = [outcome_of(d, program, self.search.best.mapping) for d in wanted]
        return sum(outcome is OverrideOutcome.REALISED for outcome in outcomes) / max(len(outcomes), 1)

    def _save(self, compiled_to_its_end: str = "not yet") -> None:
        from mallocgame.workloads.compiler_loop.tuning_folder import SavedSearch

        if self.folder is None:
            return
        best = self.search.best
        state = SavedSearch(
            rounds=self.rounds,
            judged_seconds=best.judged_seconds,
            flags=self.flags,
            overrides=self.search.overrides,
            lowering=self.target.lowering,
        )
        self.folder.save(state, best.options, self._about(best.judged_seconds, compiled_to_its_end))

    def _about(self, judged_seconds: float, compiled_to_its_end: str) -> dict[str, str | float | None]:
        return {
            "default_judged_seconds": self.default.judged_seconds,
            "judged_seconds": judged_seconds,
            "compiled_to_its_end": compiled_to_its_end,
        }

    def _resume(self) -> None:
        state = self.folder.load() if self.folder is not None else None
        if self.folder is None or state is None:
            return
        path = self.folder.path
        if "" not in (state.lowering, self.target.lowering) and state.lowering != self.target.lowering:
            self.settings.say(f"warning: the program has changed since {path} was made; its schedule is the same")
        self.rounds = state.rounds
        found = self._new_search(state.flags).try_out(state.overrides)
        if found.inconclusive:
            self.settings.say(f"what {path} holds could not be evaluated now, and is kept: {found.error[:200]}")
        elif found.error:
            self.settings.say(f"what {path} holds is refused now: {found.error[:200]}")
            self.folder.set_aside()
        else:
            ms = 1e3 * found.judged_seconds
            self.settings.say(f"going on from {path}: judged {ms:.4f} ms after {self.rounds} rounds")

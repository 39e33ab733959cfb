"""One mapping, given to the compiler and verified: what became of each override, and whether it was worth it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.solver import Problem
from mallocgame.workloads.compiler_loop.final_check import FinalCheck
from mallocgame.workloads.compiler_loop.flags import flags_for
from mallocgame.workloads.compiler_loop.overrides import Override, overrides_of
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.realise import (
    NEXT_TO_NOTHING,
    OnBetter,
    OverrideSearch,
    complete,
    improve,
    realise,
)
from mallocgame.workloads.compiler_loop.reorder import reorder
from mallocgame.workloads.compiler_loop.settings import Say
from mallocgame.workloads.compiler_loop.verify import Evaluation, FullCompile, OverrideOutcome, Target, outcome_of
from mallocgame.workloads.xla.compiler import Options


@dataclass(frozen=True, kw_only=True)
class InjectionResult:
    """What the compiler did with a mapping. ``options`` is empty iff nothing beats the compiler's default."""

    options: Options
    outcomes: tuple[tuple[Override, OverrideOutcome], ...]  # of the mapping's overrides, under ``options``
    wanted_seconds: float  # judged: the mapping as it was meant
    default_seconds: float  # judged: the compiler's own
    judged_seconds: float  # judged: what the compiler did under ``options``
    default_xla_seconds: float  # the compiler's own estimates
    xla_seconds: float
    default_full: FullCompile | None  # None: not asked for, or not done in time
    full: FullCompile | None  # of ``options``; None: not compiled to its end
    why_not_full: str
    interrupted: bool
    evaluations: int
    refusals: int

    @property
    def counts(self) -> dict[str, int]:
        """How many overrides were realised, changed and refused."""
        found = Counter(outcome for _, outcome in self.outcomes)
        return {outcome.value: found[outcome] for outcome in OverrideOutcome}


def inject(
    target: Target,
    mapping: Mapping,
    *,
    seconds: float = 60.0,
    begin: float | None = None,
    full: bool = True,
    flags: Options | None = None,
    on_better: OnBetter | None = None,
    say: Say = lambda text: None,
) -> InjectionResult:
    """Give ``mapping`` (of ``target.trace.program``) to the compiler and keep what makes the program faster.

    Args:
        target: the program.
        mapping: what is wanted; ``carry_over`` brings it from an older trace of the program.
        seconds: for everything from ``begin`` on, the final compilation included; the first compilation is always made.
        begin: on ``time.monotonic``'s clock; None: now.
        full: also compile the result to its end. What is illegal only there is dropped for what was best before.
        flags: further compiler options, given with all overrides. Flags that ``mapping`` needs are tried besides.
        on_better: told about each improvement.
        say: told about the phases.
    """
    default, base = target.default(), dict(flags or {})
    with FinalCheck(target, time.monotonic() if begin is None else begin, seconds, full) as final:
        say("searching for overrides that the compiler takes")
        searches: list[OverrideSearch] = []
        interrupted = _search_all(searches, target, mapping, final, base, on_better)
        chosen = min(searches, key=lambda s: s.best.judged_seconds)
        found = [(chosen.best, chosen.overrides), *reversed(chosen.history)]
        found = [row for row in found if row[0].options and row[0].judged_seconds < default.judged_seconds]
        checked = final.check([row[0] for row in found], say) if found and not interrupted else None
        default_full = final.default
    number = checked.index if checked is not None else 0
    stands = number < len(found)
    promised = found[number][0] if stands else default
    best = promised if checked is None else checked.stands or default
    refused = {d for s in searches for d in s.refused}
    if number:
        refused |= set(found[0][1]) - (set(found[number][1]) if stands else set())
    wanted = overrides_of(target.trace.program, mapping, target.loop_operands)
    done = checked.done if checked is not None and stands else None
    return InjectionResult(
        options=best.options,
        outcomes=tuple((d, outcome_of(d, target.trace.program, best.mapping, d in refused)) for d in wanted),
        wanted_seconds=simulate(target.trace.program, target.trace.hierarchy, mapping).total_seconds,
        default_seconds=default.judged_seconds,
        judged_seconds=best.judged_seconds,
        default_xla_seconds=default.xla_seconds,
        xla_seconds=best.xla_seconds,
        default_full=default_full,
        full=done,
        why_not_full="interrupted" if interrupted else checked.why_not if checked is not None else "",
        interrupted=interrupted,
        evaluations=sum(s.evaluations for s in searches),
        refusals=len(refused),
    )


def _search_all(
    searches: list[OverrideSearch],
    target: Target,
    mapping: Mapping,
    final: FinalCheck,
    flags: Options,
    on_better: OnBetter | None,
) -> bool:
    """Search with each set of flags that the mapping may need, and share the time; return whether Ctrl-C ended it.

    First the whole mapping is suggested in every way (``flags.WAYS``), then it is asked for override by override.
    """
    program, hierarchy, default = target.trace.program, target.trace.hierarchy, target.default()
    sets = [{**flags, **more} for more in flags_for(program, hierarchy.layers[1].capacity_bytes, mapping)]

    def started(given: Options, until: float) -> OverrideSearch:
        searches.append(
            OverrideSearch(
                evaluate=partial(target.evaluate, flags=given, deadline=final.deadline),
                deadline=lambda: min(until, final.search_deadline()),
                best=default,
                flags=given,
                operands=target.loop_operands,
                on_better=on_better,
            )
        )
        return searches[-1]

    def time_for(part: float) -> float:
        return time.monotonic() + part * max(final.search_deadline() - time.monotonic(), 0.0)

    try:
        reaction = Reaction(problem=Problem(program, hierarchy), operands=target.loop_operands)
        half = time_for(0.5)  # for suggestions, and for what was lost placed first
        _suggest(lambda given: started(given, half), reaction, mapping, sets, time_for(0.3))
        if searches:
            best = min(searches, key=lambda s: s.best.judged_seconds)
            until = time_for(1 / (len(sets) + 1))
            best.deadline = lambda: min(until, final.search_deadline())
            if best.overrides:
                improve(best, program, hierarchy, mapping)
        for number, given in enumerate(sets):
            if searches and time.monotonic() >= final.search_deadline():
                break
            search = started(given, time_for(1 / (len(sets) - number)))
            if given:
                search.best = replace(default, mapping=None, judged_seconds=float("inf"))
                search.try_out(())
            if search.best.mapping is not None:
                realise(search, program, mapping)
                improve(search, program, hierarchy, mapping)
        complete(min(searches, key=lambda s: s.best.judged_seconds), program, mapping)
    except KeyboardInterrupt:
        return True
    return False


def _suggest(
    started: Callable[[Options], OverrideSearch],
    reaction: Reaction,
    mapping: Mapping,
    sets: list[Options],
    until: float,
) -> None:
    """Suggest the whole mapping in every way with every set of flags, until it comes true or ``until`` is reached.

    Where it does not come true, what lost its place in the best way is then placed first.
    """
    wanted = simulate(*reaction.problem, mapping).total_seconds * (1 + NEXT_TO_NOTHING)
    done: list[tuple[Evaluation, OverrideSearch, float]] = []
    for flags in sets:
        for more, overrides in reaction.ways(mapping):
            if time.monotonic() < until:
                search = started({**flags, **more})
                done.append((search.try_out(overrides), search, reaction.first_above))
                if done[-1][0].judged_seconds <= wanted:
                    return
    if done:
        found, search, reaction.first_above = min(done, key=lambda row: row[0].judged_seconds)
        reorder(search, reaction, mapping, found)

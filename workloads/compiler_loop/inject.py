"""One mapping, given to the compiler and verified: what became of each decision, and whether it was worth it."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.workloads.compiler_loop.flags import flags_for
from mallocgame.workloads.compiler_loop.overrides import Decision, decisions_of
from mallocgame.workloads.compiler_loop.realise import Report, Search, complete, improve, realise
from mallocgame.workloads.compiler_loop.verify import Fate, FullCompile, Target, fate_of
from mallocgame.workloads.xla.compiler import Options


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the compiler did with a mapping. ``options`` is empty iff nothing beats the compiler's default."""

    options: Options
    fates: tuple[tuple[Decision, Fate], ...]  # of the mapping's decisions, under ``options``
    wanted_seconds: float  # judged: the mapping as it was meant
    default_seconds: float  # judged: the compiler's own
    judged_seconds: float  # judged: what the compiler did under ``options``
    default_xla_seconds: float  # the compiler's own estimates
    xla_seconds: float
    default_full: FullCompile | None  # None: not asked for
    full: FullCompile | None
    evaluations: int
    refusals: int

    @property
    def counts(self) -> dict[str, int]:
        """How many decisions were realised, changed and refused."""
        found = Counter(fate for _, fate in self.fates)
        return {fate.value: found[fate] for fate in Fate}

    @property
    def realised_share(self) -> float:
        """Of the decisions, those that the compiler carried out exactly."""
        return self.counts[Fate.REALISED.value] / len(self.fates) if self.fates else 1.0


def inject(
    target: Target,
    mapping: Mapping,
    *,
    seconds: float = 60.0,
    full: bool = True,
    flags: Options | None = None,
    on_better: Report | None = None,
) -> Verdict:
    """Give ``mapping`` (of ``target.trace.program``) to the compiler and keep what makes the program faster.

    Args:
        target: the program.
        mapping: what is wanted; ``carry_over`` brings it from an older trace of the program.
        seconds: for the search over orders; the first compilation is always made.
        full: also compile default and result to their end. An illegal result is dropped.
        flags: further compiler options, given with all orders. Flags that ``mapping`` needs are tried besides.
        on_better: told about each improvement.
    """
    program, hierarchy, default = target.trace.program, target.trace.hierarchy, target.default()
    until = time.monotonic() + seconds
    sets = [{**(flags or {}), **more} for more in flags_for(program, hierarchy.layers[1].capacity_bytes, mapping)]
    searches: list[Search] = []
    for number, given in enumerate(sets):
        left = max(until - time.monotonic(), 0.0)
        if searches and not left:
            break
        search = Search(
            evaluate=partial(target.evaluate, flags=given),
            deadline=time.monotonic() + left / (len(sets) - number),
            best=default,
            flags=given,
            on_better=on_better,
        )
        if given:
            search.best = replace(default, mapping=None, judged_seconds=float("inf"))
            search.try_out(())
        if search.best.mapping is not None:
            realise(search, program, mapping)
            improve(search, program, hierarchy, mapping)
        searches.append(search)
    chosen = min(searches, key=lambda s: s.best.judged_seconds)
    complete(chosen, program, mapping)
    best = chosen.best if chosen.best.judged_seconds < default.judged_seconds else default
    refused = {d: why for s in searches for d, why in s.refused.items()}
    default_full = target.compile_fully({}) if full else None
    done = target.compile_fully(best.options) if full and best.options else default_full
    if done is not None and done.error:
        refused |= dict.fromkeys(chosen.decisions, done.error)
        best = default
    wanted = decisions_of(program, mapping)
    return Verdict(
        options=best.options,
        fates=tuple((d, fate_of(d, program, best.mapping, d in refused)) for d in wanted),
        wanted_seconds=simulate(program, target.trace.hierarchy, mapping).total_seconds,
        default_seconds=default.judged_seconds,
        judged_seconds=best.judged_seconds,
        default_xla_seconds=default.xla_seconds,
        xla_seconds=best.xla_seconds,
        default_full=default_full,
        full=done,
        evaluations=sum(s.evaluations for s in searches),
        refusals=len(refused),
    )

"""One mapping, given to the compiler and verified: what became of each decision, and whether it was worth it."""

import time
from collections import Counter
from dataclasses import dataclass

from mallocgame.mapping import Mapping
from mallocgame.simulate import simulate
from workloads.compiler import Options
from workloads.overrides import Decision, decisions_of
from workloads.realise import Report, Search, improve, realise
from workloads.verify import Fate, FullCompile, Target, fate_of


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
        flags: further compiler options, given with all orders.
        on_better: told about each improvement.
    """
    program, default = target.trace.program, target.default()
    search = Search(
        evaluate=lambda decisions: target.evaluate(decisions, flags),
        deadline=time.monotonic() + seconds,
        best=default,
        on_better=on_better,
    )
    realise(search, program, mapping)
    improve(search, program, target.trace.hierarchy, mapping)
    best, refused = search.best, search.refused
    default_full = target.compile_fully({}) if full else None
    done = target.compile_fully(best.options) if full and best.options else default_full
    if done is not None and done.error:
        best, refused = default, dict.fromkeys(search.decisions, done.error)
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
        evaluations=search.evaluations,
        refusals=len(refused),
    )

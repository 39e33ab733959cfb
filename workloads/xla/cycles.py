"""The cycles that libtpu estimates for compiled code, beside the judge's times: the fixed cost of a step shows there.

The judge repeats memory-space assignment's cost model, which charges a step for its bytes and operations alone. The
code that comes out has a start-up cost of about a thousand cycles a step; a loop of tiny steps consists of it.
"""

import re
from dataclasses import dataclass

from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.workloads.trace import Trace, Value
from mallocgame.workloads.xla.records import XlaLog

_CYCLES = re.compile(r'^\s*(?:ROOT )?%?(\S+) = [^\n]*"estimated_cycles":"(\d{1,15})"', re.MULTILINE)
WORTH_SAYING = 2.0  # times the judged time
_TINY_SECONDS, _MANY = 1e-7, 100  # mean of an execution, a tenth of its fixed cost or less; executions


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleGap:
    """An instruction for which the compiled code's estimate and the judge part; seconds are of the whole run."""

    instruction: str
    source: str
    executions: float
    judged_seconds: float
    estimated_seconds: float


def cycle_estimates(log: XlaLog, final_hlo: str) -> dict[str, Value]:
    """Return the estimates that a full compilation adds to a trace: cycles of one execution by step, and their length.

    The length of a cycle is the least time that the log charges: what an instruction takes that does nothing.
    """
    cycles = {name: int(number) for name, number in _CYCLES.findall(final_hlo)}
    known = tuple(cycles.get(name) for _, name in log.schedule)
    shortest = min((seconds for seconds in log.home_seconds.values() if seconds > 0), default=0.0)
    if not shortest or not any(known):
        return {}
    return {"estimated_cycles": known, "cycle_seconds": shortest}


def cycle_gaps(trace: Trace, mapping: Mapping | None = None) -> list[CycleGap]:
    """Return the instructions with an estimate in cycles, those first where it exceeds the judged time by most.

    ``mapping`` is judged, by default the compiler's own. Empty without estimates: ``capture --full`` keeps them.
    """
    cycles, length = trace.estimates.get("estimated_cycles"), trace.estimates.get("cycle_seconds")
    if not isinstance(cycles, tuple) or not isinstance(length, float) or len(cycles) != trace.program.num_steps:
        return []
    judged = simulate(trace.program, trace.hierarchy, mapping or trace.mapping or Mapping()).elapsed_seconds
    gaps = [
        CycleGap(
            instruction=instruction.name,
            source=instruction.source,
            executions=instruction.trip_count,
            judged_seconds=float(seconds),
            estimated_seconds=count * length * instruction.trip_count,
        )
        for instruction, count, seconds in zip(trace.program.instructions, cycles, judged, strict=True)
        if isinstance(count, int)
    ]
    return sorted(gaps, key=lambda gap: gap.judged_seconds - gap.estimated_seconds)


def cycle_sentence(trace: Trace, mapping: Mapping | None = None) -> str:
    """Return a sentence where the compiled code's estimate is far above the judged time, else an empty string."""
    gaps = cycle_gaps(trace, mapping)
    judged, estimated = sum(g.judged_seconds for g in gaps), sum(g.estimated_seconds for g in gaps)
    if not gaps or estimated < WORTH_SAYING * judged:
        return ""
    first = gaps[0]
    place = f"{first.instruction}{f' ({first.source})' if first.source else ''}"
    times = f"{1e6 * estimated:.4g} µs, judged {1e6 * judged:.4g}"
    most = f"most in {place}, {first.executions:g} times {1e6 * first.estimated_seconds / first.executions:.3g} µs"
    unsaid = "the fixed cost of a step is not in the judge's model"
    return f"by libtpu's estimated cycles {len(gaps)} instructions take {times}: {unsaid}; {most}"


def tiny_steps_sentence(trace: Trace, mapping: Mapping | None = None) -> str:
    """Return a sentence where many executions are far shorter than a step's fixed cost, else an empty string."""
    judged = simulate(trace.program, trace.hierarchy, mapping or trace.mapping or Mapping()).elapsed_seconds
    times = [(i.trip_count, float(t)) for i, t in zip(trace.program.instructions, judged, strict=True) if t > 0]
    executions = sum(count for count, _ in times)
    mean = sum(seconds for _, seconds in times) / max(executions, 1)
    if executions < _MANY or mean >= _TINY_SECONDS:
        return ""
    steps = f"{executions:g} executions take {1e6 * mean:.2g} µs each as judged"
    return f"{steps}: the fixed cost of a step, about a thousand cycles, is not in the judge's model (capture --full)"

"""What ``mallocgame capture`` tells of a trace that it made."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mallocgame.workloads.trace import Trace

BOUND_SECONDS = 2.0  # about as long as a compilation


def remarks_of(trace: "Trace") -> list[str]:
    """Return what a reader of the trace should know, in sentences."""
    from mallocgame.workloads.hlo_trace import remarks
    from mallocgame.workloads.xla.remarks import sentences

    return [*sentences(trace), *remarks(trace)]


def row_of(trace: "Trace") -> dict[str, Any]:
    """Return what is printed of a trace, with a bound proved in ``BOUND_SECONDS``."""
    from mallocgame.cli.cases import prove_bound
    from mallocgame.judge.simulation import home_seconds, simulate
    from mallocgame.solver import Problem

    program, hierarchy = trace.program, trace.hierarchy
    return {
        "trace": trace.name,
        "chip": trace.provenance.get("chip") or trace.hierarchy.name,
        "instructions": program.num_steps,
        "decisions": program.num_decisions,
        "tensors": len(program.tensors),
        "capacity_bytes": hierarchy.layers[1].capacity_bytes,
        "xla_judged_seconds": simulate(program, hierarchy, trace.mapping).total_seconds if trace.mapping else None,
        "xla_estimate_seconds": trace.estimates.get("xla_seconds"),
        "none_judged_seconds": home_seconds(program, hierarchy),
        "lower_bound_seconds": prove_bound(Problem(program, hierarchy), BOUND_SECONDS),
    }

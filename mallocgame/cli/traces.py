"""A trace argument of a command: a file, or the name of a shipped trace."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mallocgame.workloads.trace import Trace

TraceArgument = Annotated[
    str, typer.Argument(metavar="TRACE", help="A trace file, or the name of a shipped trace (see: mallocgame suite).")
]
TracesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TRACE]...", help="Trace files or names of shipped traces; none: the whole shipped suite."),
]


def open_trace(text: str) -> "Trace":
    """Return the trace in file ``text``, or the shipped trace of that name.

    Raises:
        InputError: neither exists, or the file is not a trace.
    """
    from mallocgame.workloads.find import load_trace

    return load_trace(text)


def trace_names(given: list[str] | None) -> list[str]:
    """Return the traces to work on: those given, else every shipped one."""
    if given:
        return given
    from mallocgame.workloads import suite

    return list(suite.names())


def chip_of(trace: "Trace") -> str:
    """Return the chip that the trace was compiled for, else the name of its hierarchy."""
    return str(trace.provenance.get("chip") or trace.hierarchy.name)

"""The options of commands that compile: for which chips, and what the program does not say."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.workloads.capture import Assumptions
    from mallocgame.workloads.trace import Trace

ChipOption = Annotated[
    str, typer.Option("--chip", "--topology", help="v4, v5e, v5p or v6e; several chips: v5e:2x2, v4:2x2x1, ….")
]
ChipOfTraceOption = Annotated[
    str, typer.Option("--chip", "--topology", help="v4, v5e, v5p, v6e, or several: v5e:2x2; none: the trace's.")
]
MeshOption = Annotated[
    str, typer.Option("--mesh", help="Axes over several chips, e.g. data=2,model=2, for example_args(mesh).")
]
ArgsOption = Annotated[
    str,
    typer.Option("--args", help="Its arguments, e.g. 'bf16[8,128],f32[]'; none: its or its module's example_args."),
]
TripCountOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trip-count", metavar="[LOOP=]N", help="How often loops run whose count is no constant; repeatable."
    ),
]
BranchWeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--branch-weights",
        metavar="[CONDITIONAL=]W,W,…",
        help="How likely branches are (of lax.cond: false,true); repeatable.",
    ),
]
IciOption = Annotated[
    float | None,
    typer.Option("--ici-gbps", help="GB/s that each chip sends to others: adds the network's time by arithmetic."),
]


def target_of(trace: "Trace", chip: str = "", mesh: str = "") -> tuple[str, str]:
    """Return for which chips, and over which mesh, to compile a trace's program again; what is given goes first."""
    about = trace.provenance
    own = about.get("topology") or about.get("chip") or trace.hierarchy.name
    return chip or str(own), mesh or ("" if chip else str(about.get("mesh") or ""))


def assumptions_in(trace: "Trace") -> "Assumptions":
    """Return what a trace was captured with, for compiling its program again."""
    about = trace.provenance
    speed = about.get("ici_bytes_per_second")
    return assumptions_of(
        _texts(about.get("given_trip_counts")),
        _texts(about.get("given_branch_weights")),
        speed / 1e9 if isinstance(speed, (int, float)) else None,
    )


def _texts(value: object) -> list[str]:
    return [str(text) for text in value] if isinstance(value, tuple) else []


def assumptions_of(
    trip_count: list[str] | None, branch_weights: list[str] | None, ici_gbps: float | None
) -> "Assumptions":
    """Read what is known of loops, branches and the network.

    Raises:
        InputError: not of the options' form.
    """
    from mallocgame.workloads.capture import Assumptions

    counts: dict[str, float] = {}
    for text in trip_count or ():
        loop, _, number = text.rpartition("=")
        count = _number(number)
        if count is None or count < 1 or loop in counts:
            raise InputError(f"--trip-count {text}: expected N or LOOP=N with N >= 1, each loop once")
        counts[loop] = int(count) if count == int(count) else count
    weights: dict[str, tuple[float, ...]] = {}
    for text in branch_weights or ():
        name, _, numbers = text.rpartition("=")
        shares = [_number(word) for word in numbers.split(",")]
        if name in weights or any(share is None or share <= 0 for share in shares):
            raise InputError(
                f"--branch-weights {text}: expected W,W,… or CONDITIONAL=W,W,… with weights > 0, each once"
            )
        weights[name] = tuple(share for share in shares if share is not None)
    if ici_gbps is not None and not 0 < ici_gbps < math.inf:
        raise InputError(f"--ici-gbps {ici_gbps}: expected GB/s > 0")
    speed = None if ici_gbps is None else 1e9 * ici_gbps
    return Assumptions(trip_counts=counts, branch_weights=weights, ici_bytes_per_second=speed)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value < 2**40 else None

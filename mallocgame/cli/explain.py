"""``mallocgame explain``: the stalls of a mapping in order of cost, and what would mend them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, say
from mallocgame.cli.traces import TraceArgument, open_trace
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.explanation import Stall


def explain(
    trace: TraceArgument,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="Explain this mapping file; none: the compiler's own.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Show so many stalls.")] = 15,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page (all stalls that were looked at).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say where a program waits for copies, which source line that is, and what would mend it.

    Example: mallocgame explain lstm-v5e --html lstm.html
    """
    from dataclasses import asdict

    from mallocgame.explanation import explain as run
    from mallocgame.files import write_text
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.trace import load_mapping

    if limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")
    found = open_trace(trace)
    own = found.mapping if mapping is None else load_mapping(mapping, found.program, found.hierarchy)
    if own is None:
        raise InputError(f"{trace}: holds no compiler mapping; give --mapping")
    broken = validate(found.program, found.hierarchy, own)
    if broken:
        raise InputError(f"{mapping or trace}: not a valid mapping: {broken[0].message}")
    explanation = run(found.program, found.hierarchy, own, limit=limit)
    if html is not None:
        from mallocgame.report.explanation import page

        try:
            write_text(html, page(explanation, found.name))
        except OSError as error:
            raise InputError(f"{html}: cannot write: {error.strerror or error}") from None
    if json:
        print_json({"trace": found.name, "kind": "stall", **asdict(stall)} for stall in explanation.stalls[:limit])
        print_json({"trace": found.name, "kind": "invariant", **asdict(p)} for p in explanation.invariants)
        return
    total, stalled = explanation.total_seconds, explanation.stalled_seconds
    share = 100 * stalled / total if total else 0.0
    title = f"{found.name}: {1e6 * total:.1f} µs judged, {1e6 * stalled:.1f} µs ({share:.1f} %) waiting for copies"
    columns = ("tensor", "waits µs", "times", "MiB", "way", "before", "source", "idle MiB", "best remedy", "saves µs")
    print_table(title, columns, [_cells(stall) for stall in explanation.stalls[:limit]])
    for p in explanation.invariants[:limit]:
        cost = f"{1e6 * p.repeated_seconds:.1f} µs of bandwidth"
        say(f"loop-invariant: {p.tensor} moves {p.iterations} times ({cost}), though it never changes: {p.source}")
    if explanation.invariants:
        say("`mallocgame tune` tries the compiler flag that copies them once; mallocgame.hoist rewrites the program.")
    if html is not None:
        say(f"saved {html}")


def _cells(stall: "Stall") -> tuple[str, ...]:
    remedy = stall.remedies[0] if stall.remedies else None
    return (
        stall.tensor + ("*" if stall.is_loop_invariant else ""),
        f"{1e6 * stall.waited_seconds:.1f}",
        str(stall.executions),
        f"{stall.copied_bytes / 2**20:.2f}",
        "in" if stall.toward_fast else "out",
        stall.due_before or "(end)",
        stall.source,
        f"{stall.idle_bytes / 2**20:.1f}",
        remedy.action if remedy else "–",
        f"{1e6 * remedy.saved_seconds:.1f}" if remedy else "",
    )

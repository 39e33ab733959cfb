"""``mallocgame explain``: where the time of a mapping goes, what would mend it, and what fills the memories."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, say
from mallocgame.cli.compiling import ArgsOption, assumptions_in, target_of
from mallocgame.cli.status import status
from mallocgame.cli.traces import TraceArgument, open_trace
from mallocgame.errors import InputError
from mallocgame.text import bytes_text, counted

if TYPE_CHECKING:
    from mallocgame.explanation import Explanation, Stall
    from mallocgame.mapping import Mapping
    from mallocgame.workloads.compiler_loop.try_remedies import Tried
    from mallocgame.workloads.trace import Trace

TOLD_SHARE = 0.7  # of the solver's time, for mappings that the compiler can be told
LEAST_TOLD = 0.25  # of what any mapping saves; where the compiler can be told less, the others are shown
WORTH_TELLING = 5e-3  # of the time


def explain(
    trace: TraceArgument,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="Explain this mapping file; none: the compiler's own.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Show so many rows of each table.")] = 15,
    solver_seconds: Annotated[
        float, typer.Option("--solver-seconds", help="Look so long for a better mapping; 0: do not.")
    ] = 8.0,
    hoist: Annotated[
        bool, typer.Option("--hoist/--no-hoist", help="Allow copies before loops, which XLA makes when told.")
    ] = True,
    program: Annotated[
        str,
        typer.Option(
            "--program", metavar="PACKAGE.MODULE:FUNCTION", help="Also try the remedies in the real compiler."
        ),
    ] = "",
    args: ArgsOption = "",
    seconds: Annotated[float, typer.Option("--seconds", help="With --program: try so long.")] = 60.0,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page (everything that was looked at).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say where a program waits or reads slowly, which source lines that is, what would mend it, and what fills memory.

    Example: mallocgame explain lstm-v5e --html lstm.html
    """
    from mallocgame.explanation import explain as run
    from mallocgame.files import check_writable
    from mallocgame.workloads.compiler_loop.flags import LONG_WAITS, max_wait

    if limit < 1:
        raise InputError(f"--limit must be at least 1, got {limit}")
    if not 0 <= solver_seconds < float("inf"):
        raise InputError(f"--solver-seconds must be a number >= 0, got {solver_seconds}")
    if not 0 <= seconds < float("inf"):
        raise InputError(f"--seconds must be a number >= 0, got {seconds}")
    if html is not None:
        check_writable(html)
    found = open_trace(trace)
    own = _own_mapping(found, trace, mapping)
    with status(solver_seconds + seconds * bool(program)) as shown:
        if solver_seconds:
            shown.phase("looking for a better mapping")
        longest = max_wait(LONG_WAITS)
        better = _better(found, own, solver_seconds, hoist, longest)
        shown.phase("trying remedies")
        padding = found.padding_bytes
        explanation = run(
            found.program,
            found.hierarchy,
            own,
            better=better.mapping,
            limit=limit,
            padding_bytes=padding,
            moving=found.moving_fusions,
            max_wait=longest,
        )
        if program:
            shown.phase("compiling")
        compiled = _compile(found, explanation, better.mapping, (program, args, seconds)) if program else _Compiled()
    if html is not None:
        _save_page(html, explanation, found.name)
    if json:
        print_json({"trace": found.name, **row} for row in _rows(explanation, compiled))
        return
    _print(explanation, compiled, found.name, limit)
    if better.is_proved_none:
        say("no mapping is faster: that is proved")
    elif solver_seconds and explanation.combination is None:
        say(f"no better mapping was found in {solver_seconds:g} s (--solver-seconds)")
    if better.on_paper_seconds:
        least = f"{_micros(explanation.total_seconds - better.on_paper_seconds)} µs less"
        say(f"a mapping that the compiler can not be told would bring {least} (mallocgame evaluate --solver best)")
    if unsaid := _fixed_cost(found, own):
        say(unsaid)
    if html is not None:
        say(f"saved {html}")


def _fixed_cost(found: "Trace", own: "Mapping") -> str:
    """Return where compiled code and judge part: by cycles (traces of ``capture --full`` have them), or tiny steps."""
    from mallocgame.workloads.xla.cycles import cycle_sentence, tiny_steps_sentence

    return cycle_sentence(found, own) or tiny_steps_sentence(found, own)


def _own_mapping(found: "Trace", name: str, path: Path | None) -> "Mapping":
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.trace import load_mapping

    own = found.mapping if path is None else load_mapping(path, found.program, found.hierarchy)
    if own is None:
        raise InputError(f"{name}: holds no compiler mapping; give --mapping")
    broken = validate(found.program, found.hierarchy, own)
    if broken:
        raise InputError(f"{path or name}: not a valid mapping: {broken[0].message}")
    return own


@dataclass(frozen=True, slots=True, kw_only=True)
class _Better:
    """A better mapping, if possible one that ``tune`` can ask for."""

    mapping: "Mapping | None" = None
    on_paper_seconds: float = 0.0  # of a yet better one that it cannot ask for; 0: there is none
    is_proved_none: bool = False  # the one that is explained is the best there is


def _better(found: "Trace", own: "Mapping", seconds: float, hoist: bool, longest: float) -> _Better:
    """Look for a better mapping; ``longest`` is how long a value may wait (``reachable.Reach``)."""
    if not seconds:
        return _Better()
    from mallocgame.baselines.anneal import anneal
    from mallocgame.evaluation import as_hoisted
    from mallocgame.explanation.reachable import Reach
    from mallocgame.judge.simulation import simulate
    from mallocgame.workloads.compiler_loop.settings import LARGE

    program, hierarchy = found.program if hoist else as_hoisted(found.program, found.hierarchy, own), found.hierarchy
    if hierarchy.num_layers != 2:  # XLA:TPU compiles for two
        return _Better(mapping=anneal(program, hierarchy, seconds=seconds, start=own).mapping)
    reach = Reach(max_wait=longest)
    near = program.num_steps >= LARGE
    told = anneal(program, hierarchy, seconds=TOLD_SHARE * seconds, start=own, for_compiler=reach, refine=near)
    free = anneal(program, hierarchy, seconds=(1 - TOLD_SHARE) * seconds, start=told.mapping)
    now = simulate(program, hierarchy, own).total_seconds
    if free.status == "optimal" and free.seconds >= now:
        return _Better(is_proved_none=True)
    if now - told.seconds < LEAST_TOLD * (now - free.seconds):
        return _Better(mapping=free.mapping)
    on_paper = free.seconds if free.seconds < told.seconds * (1 - WORTH_TELLING) else 0.0
    return _Better(mapping=told.mapping, on_paper_seconds=on_paper)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """What the real compiler says: of the remedies, and the source stacks of instructions, by name."""

    tried: "Tried | None" = None
    stacks: dict[str, tuple[str, ...]] = field(default_factory=dict)


def _compile(
    found: "Trace", explanation: "Explanation", better: "Mapping | None", what: tuple[str, str, float]
) -> _Compiled:
    from mallocgame.workloads.compiler_loop.try_remedies import try_remedies
    from mallocgame.workloads.compiler_loop.verify import Target, renamed
    from mallocgame.workloads.hlo.module import parse_hlo
    from mallocgame.workloads.hlo.stacks import in_short
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.xla.compiler import Compiler, CompileRequest

    program, args, seconds = what
    chip, mesh = target_of(found)
    reference = parse_reference(program, args, mesh=mesh)
    tried = None
    with Compiler() as compiler:
        target = Target.of(reference, chip, compiler, assumptions=assumptions_in(found))
        renamed(found.program, target.trace.program)
        module = parse_hlo(compiler.compile(CompileRequest(reference=reference, chip=chip)).hlo)
        if better is not None and explanation.combination is not None:
            tried = try_remedies(target, found.program, better, explanation.combination.remedies, seconds)
    pairs = zip(found.program.instructions, target.trace.program.instructions, strict=True)
    by_name = {i.name: module.stack(i) for body in module.computations.values() for i in body.instructions.values()}
    stacks = {then.name: tuple(map(str, in_short(stack))) for then, now in pairs if (stack := by_name.get(now.name))}
    return _Compiled(tried=tried, stacks=stacks)


def _save_page(path: Path, explanation: "Explanation", name: str) -> None:
    from mallocgame.files import write_text
    from mallocgame.report.explanation import page

    try:
        write_text(path, page(explanation, name))
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None


def _rows(explanation: "Explanation", compiled: _Compiled) -> Iterator[dict[str, Any]]:
    names = ("total_seconds", "stalled_seconds", "mean_idle_bytes", "capacity_bytes")
    better = explanation.combination.seconds if explanation.combination else None
    yield {"kind": "total", **{name: getattr(explanation, name) for name in names}, "better_seconds": better}
    tables: dict[str, tuple[Any, ...]] = {
        "stall": explanation.stalls,
        "slow tensor": explanation.slow,
        "invariant": explanation.invariants,
        "data movement": explanation.movements,
        "rematerialisation": explanation.rematerialisations,
        "peak": explanation.peaks,
    }
    for kind, rows in tables.items():
        for row in rows:
            more = {"stack": compiled.stacks.get(row.due_before, ())} if kind == "stall" and compiled.stacks else {}
            yield {"kind": kind, **asdict(row), **more}
    if explanation.combination is not None:
        for number, remedy in enumerate(explanation.combination.remedies):
            judged = compiled.tried.judged_seconds.get(number) if compiled.tried else None
            yield {"kind": "remedy", "number": number, **asdict(remedy), "compiled_judged_seconds": judged}


def _print(explanation: "Explanation", compiled: _Compiled, name: str, limit: int) -> None:
    total, stalled = explanation.total_seconds, explanation.stalled_seconds
    share = 100 * stalled / total if total else 0.0
    title = f"{name}: {_micros(total)} µs judged, {_micros(stalled)} µs ({share:.1f} %) waiting for copies"
    columns = ("tensor", "waits µs", "times", "copied", "way", "before", "source", "idle", "best remedy", "saves µs")
    if explanation.stalls:
        print_table(title, columns, [_cells(stall) for stall in explanation.stalls[:limit]])
    else:
        say(title)
    for waiting in dict.fromkeys(stall.due_before for stall in explanation.stalls[:limit]):
        if waiting in compiled.stacks:
            say(f"{waiting} comes from {' < '.join(compiled.stacks[waiting])}")
    _print_slow(explanation, limit)
    together = explanation.combination
    changes = [m.saved_seconds for m in explanation.movements]
    changes += [r.saved_seconds for r in explanation.rematerialisations]
    asked = partial(_print_combination, explanation, compiled.tried, limit)
    written = partial(_print_source_changes, explanation, limit)
    gain = explanation.total_seconds - together.seconds if together else 0.0
    is_less = gain < max(changes, default=0.0)
    for show in (written, asked) if is_less else (asked, written):  # what is worth most comes first
        show()
    for p in explanation.invariants[:limit]:
        cost = f"{_micros(p.repeated_seconds)} µs of bandwidth"
        say(f"loop-invariant: {p.tensor} moves {p.iterations} times ({cost}), though it never changes: {p.source}")
    if explanation.invariants:
        say("`mallocgame tune` orders a copy before the loop, where there is room; mallocgame.hoist writes it.")
    for peak in explanation.peaks:
        _print_peak(peak)


def _micros(seconds: float) -> str:
    return f"{round(1e6 * seconds, 1) + 0.0:.1f}"  # + 0.0: never -0.0


def _print_slow(explanation: "Explanation", limit: int) -> None:
    if not explanation.slow:
        return
    rows = []
    for tensor in explanation.slow[:limit]:
        remedy = tensor.remedies[0] if tensor.remedies else None
        rows.append(
            (
                tensor.tensor,
                _micros(tensor.worth_seconds),
                bytes_text(tensor.size_bytes),
                bytes_text(tensor.slow_bytes),
                tensor.source,
                remedy.action if remedy else "no room as it is",
                _micros(remedy.saved_seconds) if remedy else "",
                _told(remedy.ordered_by) if remedy else "",
            )
        )
    columns = ("tensor", "worth µs", "size", "moved", "source", "remedy, alone", "saves µs", "told by")
    print_table("used in slow memory: what fast memory would be worth, were it free", columns, rows)


def _print_source_changes(explanation: "Explanation", limit: int) -> None:
    rows = [
        (_micros(m.saved_seconds), m.kind, f"{m.opcode} {m.instruction}", m.source, m.hint)
        for m in explanation.movements
    ] + [
        (_micros(r.saved_seconds), "remat", f"{r.tensor} of {r.instruction}", r.source, r.hint)
        for r in explanation.rematerialisations
    ]
    rows.sort(key=lambda row: -float(row[0]))
    if rows:
        title = "what changes of the source could save, each alone and at most (tune cannot order these)"
        print_table(title, ("saves µs", "change", "instruction", "source", "hint"), rows[:limit])


def _print_combination(explanation: "Explanation", tried: "Tried | None", limit: int) -> None:
    together = explanation.combination
    if together is None:
        return
    rows, saved = [], 0.0
    for number, remedy in enumerate(together.remedies):
        saved += remedy.saved_seconds
        if number >= limit and number < len(together.remedies) - 1:
            continue
        compiled = tried.judged_seconds.get(number) if tried else None
        rows.append(
            (
                _micros(remedy.saved_seconds),
                _micros(saved),
                _told(remedy.ordered_by),
                *((_micros(explanation.total_seconds - compiled) if compiled else "–",) if tried else ()),
                remedy.action,
            )
        )
    gain = explanation.total_seconds - together.seconds
    told = min(together.ordered_seconds, gain)
    part = "all of which" if told > (1 - WORTH_TELLING) * gain else f"of which {_micros(told)} µs"
    title = f"together: {_micros(gain)} µs less, {part} `mallocgame tune` can ask the compiler for"
    columns = ("saves µs", "in all µs", "told by", *(("compiled, in all µs",) if tried else ()), "remedy")
    print_table(title, columns, rows)
    if tried and tried.together_seconds is not None:
        less = explanation.total_seconds - tried.together_seconds
        say(f"suggested as a whole, as `mallocgame tune` does it: {_micros(less)} µs less in the real compiler")
    if tried and tried.error:
        say(f"the compiler: {tried.error}")


def _print_peak(peak: Any) -> None:
    filled = f"{bytes_text(peak.occupied_bytes)} of {bytes_text(peak.capacity_bytes)}"
    if not peak.largest:
        say(f"{peak.layer}: nothing is planned there")
        return
    filled = f"{filled}, {counted(peak.num_tensors, 'tensor')}"
    title = f"{peak.layer} at its fullest: {filled}, at {peak.instruction} {peak.source}"
    rows = [
        (
            occupant.tensor,
            bytes_text(occupant.size_bytes),
            "" if occupant.padding_bytes is None else bytes_text(occupant.padding_bytes),
            "argument" if occupant.is_parameter else "",
            occupant.source,
        )
        for occupant in peak.largest
    ]
    print_table(title, ("tensor", "size", "padding", "", "source"), rows)


def _told(ordered_by: str) -> str:
    """Return what orders a remedy in words that a column has room for."""
    from mallocgame.explanation.remedy import KEEP, LOOP, PIN, SUGGEST

    for by, word in ((KEEP, "keep"), (PIN, "pin"), (SUGGEST, "suggest"), (LOOP, "prefetch, hoist")):
        ordered_by = ordered_by.replace(by, word)
    return ordered_by or "no"


def _cells(stall: "Stall") -> tuple[str, ...]:
    remedy = stall.remedies[0] if stall.remedies else None
    return (
        stall.tensor + ("*" if stall.is_loop_invariant else ""),
        _micros(stall.waited_seconds),
        str(stall.executions),
        bytes_text(stall.copied_bytes),
        "in" if stall.toward_fast else "out",
        stall.due_before or "(end)",
        stall.source,
        bytes_text(stall.idle_bytes),
        remedy.action if remedy else "–",
        _micros(remedy.saved_seconds) if remedy else "",
    )

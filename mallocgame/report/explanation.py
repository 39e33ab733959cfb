"""An explanation as one HTML page: no server, no script, no other file; every table can be read on its own."""

import html
from collections.abc import Iterable, Sequence

from mallocgame.explanation import Explanation, Peak, Remedy, Stall

MIB = 2**20
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1b1b1b; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; vertical-align: top; }
tr + tr td { border-top: 1px solid #ddd; } td.n, th.n { text-align: right; white-space: nowrap; }
.bar { background: #c2410c; height: .5rem; min-width: 1px; } .note { background: #fef3c7; padding: .6rem .9rem; }
code { font-size: .92em; overflow-wrap: break-word; } small { color: #555; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e8e8e8; } .note { background: #4a3b0a; }
 small { color: #aaa; } tr + tr td { border-color: #3a3d44; } }
"""


def page(explanation: Explanation, title: str) -> str:
    """Return the page as text."""
    total, stalled = explanation.total_seconds, explanation.stalled_seconds
    share = 100 * stalled / total if total else 0.0
    head = (
        f"Judged time {1e6 * total:.1f} µs, of which {1e6 * stalled:.1f} µs ({share:.1f} %) waiting for copies. "
        f"On average {explanation.mean_idle_bytes / 2**20:.1f} of {explanation.capacity_bytes / 2**20:.1f} MiB "
        "of fast memory lie idle."
    )
    note = ""
    if explanation.invariants:
        listed = "".join(
            f"<li><code>{html.escape(p.tensor)}</code>, {p.size_bytes / 2**20:.2f} MiB, {p.iterations} times: "
            f"{1e6 * p.repeated_seconds:.1f} µs of bandwidth (<code>{html.escape(p.source)}</code>)</li>"
            for p in explanation.invariants
        )
        note = (
            f'<div class="note">Loops move parameters that never change again in every iteration:<ul>{listed}</ul>'
            "<code>mallocgame tune</code> orders a copy before the loop, where there is room; "
            "<code>mallocgame.hoist</code> writes it.</div>"
        )
    longest = max((stall.waited_seconds for stall in explanation.stalls), default=0.0)
    rows = "".join(_row(stall, longest) for stall in explanation.stalls)
    columns = '<th class="n">waits, µs</th><th>tensor</th><th>copy</th><th>source</th><th class="n">idle, MiB</th>'
    table = f"<table><tr>{columns}<th>what would mend it</th></tr>{rows}</table>" if rows else "<p>It never waits.</p>"
    name = html.escape(title)
    sections = f"{_together(explanation)}<h2>Waiting for copies</h2>{table}{_slow(explanation)}{_moves(explanation)}"
    sections += "".join(_peak(peak) for peak in explanation.peaks)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"<h1>{name}: where the time goes</h1><p>{head}</p>{note}{sections}</html>\n"
    )


def _together(explanation: Explanation) -> str:
    together = explanation.combination
    if together is None:
        return ""
    gain = explanation.total_seconds - together.seconds
    told = min(together.ordered_seconds, gain)
    saved, rows = 0.0, []
    for remedy in together.remedies:
        saved += remedy.saved_seconds
        rows.append((_us(remedy.saved_seconds), _us(saved), html.escape(remedy.action), _told(remedy)))
    head = (
        f"<p>{_us(gain)} µs less in all, of which <code>mallocgame tune</code> can ask the compiler for {_us(told)} µs."
        "</p>"
    )
    columns = ("#saves, µs", "#in all, µs", "remedy, on top of those before", "XLA is told by")
    return f"<h2>Remedies in combination</h2>{head}{_table(columns, rows)}"


def _slow(explanation: Explanation) -> str:
    if not explanation.slow:
        return ""
    rows = [
        (
            _us(t.worth_seconds),
            f"<code>{html.escape(t.tensor)}</code>",
            f"{t.size_bytes / MIB:.2f}",
            f"<code>{html.escape(t.source)}</code>",
            "<br>".join(_remedy(r) for r in t.remedies) or "no room as it is",
        )
        for t in explanation.slow
    ]
    columns = ("#worth, µs", "tensor", "#MiB", "source", "what would mend it, alone")
    head = "<p>What it would save to have a tensor in fast memory, were space and copies free.</p>"
    return f"<h2>Used in slow memory</h2>{head}{_table(columns, rows)}"


def _moves(explanation: Explanation) -> str:
    """Return the table of what changes of the source could save."""
    found = [
        (
            m.saved_seconds,
            m.kind,
            f"{html.escape(m.opcode)} <code>{html.escape(m.instruction)}</code>",
            m.source,
            m.hint,
        )
        for m in explanation.movements
    ] + [
        (r.saved_seconds, "remat", f"<code>{html.escape(r.tensor)}</code>", r.source, r.hint)
        for r in explanation.rematerialisations
    ]
    if not found:
        return ""
    rows = [
        (_us(saved), kind, what, f"<code>{html.escape(source)}</code>", html.escape(hint))
        for saved, kind, what, source, hint in sorted(found, key=lambda row: -row[0])
    ]
    head = "<p>Each alone, and at most; no override makes them.</p>"
    columns = ("#saves, µs", "change", "instruction", "source", "hint")
    return f"<h2>Changes of the source</h2>{head}{_table(columns, rows)}"


def _peak(peak: Peak) -> str:
    if not peak.largest:
        return ""
    where = f"<code>{html.escape(peak.instruction)}</code> <code>{html.escape(peak.source)}</code>"
    filled = f"{peak.occupied_bytes / MIB:.1f} of {peak.capacity_bytes / MIB:.1f} MiB"
    rows = [
        (
            f"{o.size_bytes / MIB:.2f}",
            "" if o.padding_bytes is None else f"{o.padding_bytes / MIB:.2f}",
            f"<code>{html.escape(o.tensor)}</code>{' <small>argument</small>' if o.is_parameter else ''}",
            f"<code>{html.escape(o.source)}</code>",
        )
        for o in peak.largest
    ]
    head = f"<p>{filled}, {peak.num_tensors} tensors, at {where}; the largest:</p>"
    table = _table(("#MiB", "#padding, MiB", "tensor", "source"), rows)
    return f"<h2>{html.escape(peak.layer)} at its fullest</h2>{head}{table}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already; columns whose names begin with # hold numbers."""
    number = [column.startswith("#") for column in columns]
    mark = [' class="n"' if n else "" for n in number]
    head = "".join(f"<th{m}>{column.lstrip('#')}</th>" for m, column in zip(mark, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{m}>{cell}</td>" for m, cell in zip(mark, row, strict=True)) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _remedy(remedy: Remedy) -> str:
    return f"{html.escape(remedy.action)} <small>saves {_us(remedy.saved_seconds)} µs; {_told(remedy)}</small>"


def _told(remedy: Remedy) -> str:
    return html.escape(remedy.ordered_by) or "no override"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}"


def _row(stall: Stall, longest: float) -> str:
    width = 100 * stall.waited_seconds / longest if longest else 0.0
    times = f", {stall.executions} times" if stall.executions > 1 else ""
    repeated = "<br><small>never changes in the loop</small>" if stall.is_loop_invariant else ""
    way = "in" if stall.toward_fast else "out"
    copy = f"{way}, {stall.copied_bytes / 2**20:.2f} MiB{times}<br><small>after <code>{html.escape(stall.issued_after)}"
    copy += f"</code> before <code>{html.escape(stall.due_before)}</code></small>"
    mends = "<br>".join(_remedy(r) for r in stall.remedies)
    return (
        f'<tr><td class="n">{1e6 * stall.waited_seconds:.1f}<div class="bar" style="width:{width:.1f}%"></div></td>'
        f"<td><code>{html.escape(stall.tensor)}</code>{repeated}</td><td>{copy}</td>"
        f"<td><code>{html.escape(stall.source)}</code></td>"
        f'<td class="n">{stall.idle_bytes / 2**20:.1f}</td><td>{mends or "–"}</td></tr>'
    )

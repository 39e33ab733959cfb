"""An explanation as one HTML page: no server, no script, no other file."""

import html

from mallocgame.explanation import Explanation, Stall

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1b1b1b; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; vertical-align: top; }
tr + tr td { border-top: 1px solid #ddd; } td.n, th.n { text-align: right; white-space: nowrap; }
.bar { background: #c2410c; height: .5rem; min-width: 1px; } .note { background: #fef3c7; padding: .6rem .9rem; }
code { font-size: .92em; overflow-wrap: anywhere; } small { color: #555; }
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
            "<code>mallocgame tune</code> tries the compiler flag that copies them once; <code>mallocgame.hoist</code> "
            "is the rewrite where the flag does not help.</div>"
        )
    longest = max((stall.waited_seconds for stall in explanation.stalls), default=0.0)
    rows = "".join(_row(stall, longest) for stall in explanation.stalls)
    columns = '<th class="n">waits, µs</th><th>tensor</th><th>copy</th><th>source</th><th class="n">idle, MiB</th>'
    table = f"<table><tr>{columns}<th>what would mend it</th></tr>{rows}</table>" if rows else "<p>It never waits.</p>"
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"<h1>{name}: where the time goes</h1><p>{head}</p>{note}{table}</html>\n"
    )


def _row(stall: Stall, longest: float) -> str:
    width = 100 * stall.waited_seconds / longest if longest else 0.0
    times = f", {stall.executions} times" if stall.executions > 1 else ""
    repeated = "<br><small>never changes in the loop</small>" if stall.is_loop_invariant else ""
    way = "in" if stall.toward_fast else "out"
    copy = f"{way}, {stall.copied_bytes / 2**20:.2f} MiB{times}<br><small>after <code>{html.escape(stall.issued_after)}"
    copy += f"</code> before <code>{html.escape(stall.due_before)}</code></small>"
    mends = "<br>".join(
        f"{html.escape(r.action)} <small>saves {1e6 * r.saved_seconds:.1f} µs</small>" for r in stall.remedies
    )
    return (
        f'<tr><td class="n">{1e6 * stall.waited_seconds:.1f}<div class="bar" style="width:{width:.1f}%"></div></td>'
        f"<td><code>{html.escape(stall.tensor)}</code>{repeated}</td><td>{copy}</td>"
        f"<td><code>{html.escape(stall.source)}</code></td>"
        f'<td class="n">{stall.idle_bytes / 2**20:.1f}</td><td>{mends or "–"}</td></tr>'
    )

"""Table and summary of the compiler loop's benchmark: on a terminal, and docs/compiler_loop_table.md."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from mallocgame.workloads.compiler_loop.settings import LARGE

COLUMNS = (
    "program",
    "orders",
    "realised %",
    "default µs",
    "after µs",
    "times",
    "best known µs",
    "of headroom %",
    "XLA est. µs",
    "cycles, M",
    "s / eval",
    "full s",
)
AHEAD = 0.03  # of the time: the best known mapping is so far ahead


def report(rows: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Print a Markdown table and the summary."""
    out.write(f"|{'|'.join(COLUMNS)}|\n|{'---|' * len(COLUMNS)}\n")
    for row in rows:
        cells = (row["case"], row["error"], *[""] * (len(COLUMNS) - 2)) if "error" in row else _cells(row)
        out.write(f"|{'|'.join(cells)}|\n")
    done = [row for row in rows if "error" not in row]
    for chip in ("", *dict.fromkeys(row["chip"] for row in done)):
        _summary([row for row in done if chip in ("", row["chip"])], chip or "all", out)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    cycles = row["default_cycles"], row["cycles"]
    flags = " + flag" if row["flags"] else ""
    return (
        row["case"],
        f"{row['orders']}{flags}",
        f"{100 * row['realised_share']:.0f}",
        f"{1e6 * row['default_seconds']:.1f}",
        f"{1e6 * row['judged_seconds']:.1f}",
        f"{row['default_seconds'] / row['judged_seconds']:.3f}",
        f"{1e6 * best_seconds(row):.1f}",
        f"{100 * share(row):.0f}" if ahead(row) > 0.001 else "–",
        f"{1e6 * row['default_xla_seconds']:.1f} → {1e6 * row['xla_seconds']:.1f}",
        "–" if None in cycles else f"{cycles[0] / 1e6:.2f} → {cycles[1] / 1e6:.2f}",
        f"{row['seconds_per_evaluation']:.2f}",
        "–" if row["full_compile_seconds"] is None else f"{row['full_compile_seconds']:.1f}",
    )


def best_seconds(row: dict[str, Any]) -> float:
    """Return the judged time of the best mapping known: of the run's solver, or of the solvers' benchmark."""
    return float(min(row["goal_seconds"], row["known_seconds"] or float("inf"), row["judged_seconds"]))


def ahead(row: dict[str, Any]) -> float:
    """Return how far the best known mapping is ahead of the compiler's, as a part of its time."""
    return 1.0 - best_seconds(row) / float(row["default_seconds"])


def share(row: dict[str, Any]) -> float:
    """Return the part of that headroom that the compiler realised."""
    default = float(row["default_seconds"])
    headroom = default - best_seconds(row)
    return (default - float(row["judged_seconds"])) / headroom if headroom > 0 else 1.0


def _summary(rows: Sequence[dict[str, Any]], name: str, out: TextIO) -> None:
    far = [share(row) for row in rows if ahead(row) >= AHEAD]
    worse = sum(row["judged_seconds"] > row["default_seconds"] for row in rows)
    out.write(f"\n{name}: {len(rows)} cases, {worse} worse in judged time")
    gain = statistics.geometric_mean(row["default_seconds"] / row["judged_seconds"] for row in rows) - 1
    out.write(f", faster by {100 * gain:.1f} % (geometric mean)\n")
    if far:
        out.write(
            f"- headroom realised, median of the {len(far)} with 3 % or more: {100 * statistics.median(far):.0f} %\n"
        )
    exact = statistics.median(row["realised_share"] for row in rows)
    out.write(f"- overrides of the mapping on paper carried out exactly, median: {100 * exact:.0f} %\n")
    ratios = [r["full_compile_seconds"] / r["seconds_per_evaluation"] for r in rows if r["full_compile_seconds"]]
    if ratios:
        out.write(
            f"- full compilation over evaluation, median of {len(ratios)}: {statistics.median(ratios):.1f} times\n"
        )


PAGE = """<!-- written by python -m tests.benchmarks.compiler_loop --tables -->
Judged times of the compiler's own mapping (default) and of what it made of the options that `tune` found. Headroom is
from the default to the best mapping known: of the run's own solver, or of `docs/results/solvers.jsonl`.

"""
SHORT = ("program", "instructions", "s", "default µs", "after µs", "best known µs", "of headroom", "compilations")
MOMENTS = (60, 120, 300)  # seconds


def write_page(path: Path, groups: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write a summary of all groups of rows, and a table of each."""
    parts = [PAGE, _line("", "cases", "worse", "faster", "with 3 % to win", "of headroom, median"), _line(*["---"] * 6)]
    tables = []
    for name, given in groups.items():
        rows = [row for row in given if "error" not in row]
        large = [row for row in rows if row["steps"] >= LARGE]
        parts += [_group(f"{name}{kind}", some) for kind, some in (("", rows), (f", {LARGE} and more", large)) if some]
        if any(row.get("history") and row["seconds"] >= max(MOMENTS) for row in large):
            parts += [_group(f"{name}, {LARGE} and more, after {at} s", _at(large, at)) for at in MOMENTS]
        tables += [f"\n## {name}\n\n", _line(*SHORT), _line(*["---"] * len(SHORT)), *map(_short, given)]
    path.write_text("".join([*parts, *tables]), encoding="utf-8")


def _at(rows: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Return the rows of runs that were long enough, with what was best at a moment."""
    found = []
    for row in rows:
        if row["seconds"] >= seconds and "history" in row:
            best = min([judged for at, judged in row["history"] if at <= seconds], default=row["default_seconds"])
            found.append(
                {**row, "goal_seconds": best_seconds(row), "judged_seconds": min(best, row["default_seconds"])}
            )
    return found


def _group(name: str, rows: Sequence[dict[str, Any]]) -> str:
    far = [share(row) for row in rows if ahead(row) >= AHEAD]
    worse = sum(row["judged_seconds"] > row["default_seconds"] for row in rows)
    gain = statistics.geometric_mean(row["default_seconds"] / row["judged_seconds"] for row in rows) - 1
    median = f"{100 * statistics.median(far):.0f} %" if far else "–"
    return _line(name, len(rows), worse, f"{100 * gain:.1f} %", len(far), median)


def _short(row: dict[str, Any]) -> str:
    if "error" in row:
        return _line(row["case"], row["error"], *[""] * (len(SHORT) - 2))
    times = [f"{1e6 * seconds:.1f}" for seconds in (row["default_seconds"], row["judged_seconds"], best_seconds(row))]
    part = f"{100 * share(row):.0f} %" if ahead(row) > 0.001 else "–"
    seconds = f"{row['seconds']:.0f}" if "seconds" in row else "–"
    return _line(row["case"], row["steps"], seconds, *times, part, row.get("evaluations", "–"))


def _line(*cells: object) -> str:
    return f"|{'|'.join(map(str, cells))}|\n"

"""Speed-ups over the compiler by trace and solver, with what the proved bound still allows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mallocgame.errors import InputError
from mallocgame.files import atomic_path
from mallocgame.text import label

PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d")


def save_comparison(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], solvers: Sequence[str]) -> None:
    """Draw the rows of ``compare`` (its JSON keys): bars by solver, the bound as a line. PNG, SVG or PDF by the name.

    Traces without a compiler mapping have no speed-up and are left out.

    Raises:
        InputError: no row has a speed-up, or the file cannot be written.
    """
    known = [row for row in rows if row["speedup_over_xla"] is not None]
    traces = list(dict.fromkeys(row["trace"] for row in known))
    if not traces:
        raise InputError(f"{path}: no trace has a compiler mapping to compare with, so there is nothing to draw")
    inches = min(4.0 + 0.16 * len(traces) * (len(solvers) + 1.5), 26.0)
    figure = Figure(figsize=(inches, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    width = 0.8 / len(solvers)
    by_key = {(row["trace"], row["solver"]): row["speedup_over_xla"] for row in known}
    for i, solver in enumerate(solvers):
        places = [t + (i - (len(solvers) - 1) / 2) * width for t in range(len(traces))]
        heights = [by_key.get((trace, solver), 0.0) for trace in traces]
        axis.bar(places, heights, width, label=label(solver), color=PALETTE[i % len(PALETTE)])
    bounded = [row for row in known if row["lower_bound_seconds"] > 0]
    limits = {row["trace"]: row["xla_judged_seconds"] / row["lower_bound_seconds"] for row in bounded}
    centres = [t for t, trace in enumerate(traces) if trace in limits]
    heights = [limits[traces[t]] for t in centres]
    left, right = [t - 0.45 for t in centres], [t + 0.45 for t in centres]
    axis.hlines(heights, left, right, color="black", linewidth=1.6, label="bound: no mapping is faster")
    axis.axhline(1.0, color="#888888", linewidth=0.8, linestyle=":")
    if max([*heights, *by_key.values()]) > 6 * sorted(heights or [1.0])[len(heights) // 2]:
        axis.set_yscale("log")
    axis.set_xticks(
        range(len(traces)),
        [label(trace) for trace in traces],
        rotation=30 if len(traces) < 12 else 60,
        ha="right",
        fontsize=8,
    )
    axis.set_xlim(-0.6, len(traces) - 0.4)
    axis.set_ylabel("speed-up over XLA's mapping")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(solvers) + 1, frameon=False, fontsize=8.5)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix[1:])
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None

"""Speed-ups over the compiler by trace and solver, with what the proved bound still allows."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mallocgame.errors import InputError
from mallocgame.files import atomic_path
from mallocgame.text import label

PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d")
XLA = "xla"  # the line at 1
BARS_A_ROW = 48
FLAT_VALUES = 12  # more bars than this in a row, and their values stand upright
MOST_TRACES = 150  # more are drawn as curves over all traces
LOG_ABOVE = 3.0  # a speed-up above it makes the axis logarithmic
TICKS = (0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0, 1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speedups:
    """What is drawn: speed-ups over the compiler by (trace, solver), and what the bound allows by trace."""

    traces: list[str]
    solvers: list[str]
    of: dict[tuple[str, str], float]
    limits: dict[str, float]

    @property
    def is_wide(self) -> bool:
        return max([*self.of.values(), *self.limits.values()]) > LOG_ABOVE


def save_comparison(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], solvers: Sequence[str]) -> None:
    """Draw the rows of ``compare`` (its JSON keys): PNG, SVG or PDF by the name.

    A few traces are bars with their values, the compiler being the line at 1; many are curves over all of them. Traces
    without a compiler mapping have no speed-up and are left out.

    Raises:
        InputError: no row has a speed-up, or the file cannot be written.
    """
    known = [row for row in rows if row["speedup_over_xla"] is not None]
    traces = list(dict.fromkeys(row["trace"] for row in known))
    if not traces:
        raise InputError(f"{path}: no trace has a compiler mapping to compare with, so there is nothing to draw")
    data = _Speedups(
        traces=traces,
        solvers=[solver for solver in solvers if solver != XLA] or [XLA],
        of={(row["trace"], row["solver"]): row["speedup_over_xla"] for row in known},
        limits={
            row["trace"]: row["xla_judged_seconds"] / row["lower_bound_seconds"]
            for row in known
            if row["lower_bound_seconds"]
        },
    )
    figure = _curves(data) if len(traces) > MOST_TRACES else _bars(data)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix[1:])
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None


def _figure(width: float, height: float, num_labels: int) -> Figure:
    """Return an empty figure; the legend above it gets as many lines as its labels need."""
    lines = 1 + (num_labels - 1) // _legend_columns(width)
    figure = Figure(figsize=(width, height + 0.25 * lines), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend_columns(width: float) -> int:
    return max(int(width / 1.9), 1)


def _bars(data: _Speedups) -> Figure:
    """Return a figure with rows of traces, and a bar from 1 for each solver."""
    a_row = max(BARS_A_ROW // len(data.solvers), 1)
    parts = [data.traces[k : k + a_row] for k in range(0, len(data.traces), a_row)]
    longest = max(len(part) for part in parts)
    width = max(6.6, 1.2 + 0.26 * longest * (len(data.solvers) + 1))
    figure = _figure(width, 3.1 * len(parts) + 0.4, len(data.solvers) + 2)
    axes = figure.subplots(len(parts), squeeze=False, sharey=True)[:, 0]
    for axis, part in zip(axes, parts, strict=True):
        _bar_row(axis, data, part, longest)
        _scale(axis, data)
        axis.set_ylabel("speed-up over XLA")
    _legend(figure, axes[0], width)
    return figure


def _bar_row(axis: Axes, data: _Speedups, traces: Sequence[str], slots: int) -> None:
    width = 0.84 / len(data.solvers)
    for i, solver in enumerate(data.solvers):
        places, heights = [], []
        for t, trace in enumerate(traces):
            if (trace, solver) in data.of:
                places.append(t + (i - (len(data.solvers) - 1) / 2) * width)
                heights.append(data.of[trace, solver])
        colour = PALETTE[i % len(PALETTE)]
        axis.bar(places, [h - 1.0 for h in heights], 0.92 * width, bottom=1.0, label=label(solver), color=colour)
        for place, height in zip(places, heights, strict=True):
            up = height >= 1.0
            axis.annotate(
                f"{height:.2f}",
                (place, height),
                xytext=(0, 2 if up else -2),
                textcoords="offset points",
                ha="center",
                va="bottom" if up else "top",
                rotation=90 if len(traces) * len(data.solvers) > FLAT_VALUES else 0,
                fontsize=7,
                color="#333333",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
                zorder=4,
            )
    bounded = [(t, data.limits[trace]) for t, trace in enumerate(traces) if trace in data.limits]
    axis.hlines(
        [limit for _, limit in bounded],
        [t - 0.46 for t, _ in bounded],
        [t + 0.46 for t, _ in bounded],
        color="black",
        linewidth=1.4,
        label="bound: no mapping is faster",
    )
    axis.axhline(1.0, color="#666666", linewidth=1.0, linestyle="--", label="XLA's own mapping")
    turned = len(traces) > 1 and max(map(len, traces)) > 5 * (len(data.solvers) + 1) * 0.5
    axis.set_xticks(
        range(len(traces)),
        [label(trace) for trace in traces],
        rotation=20 if turned else 0,
        ha="right" if turned else "center",
        fontsize=8,
    )
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, slots - 0.4)


def _scale(axis: Axes, data: _Speedups) -> None:
    """Let the values fit, on ticks that say a factor."""
    values = [*data.of.values(), *data.limits.values(), 1.0]
    low, high = min(values), max(values)
    if data.is_wide:
        axis.set_yscale("log")
        room = (high / low) ** 0.16
        axis.set_ylim(low / room, high * room)
        axis.set_yticks(_apart(low / room, high * room), minor=False)
        axis.minorticks_off()
    else:
        room = 0.16 * (high - low) + 0.01
        axis.set_ylim(low - room, high + room)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}×")
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _apart(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: 1, and what stands far enough from it and from one another."""
    least = math.log(high / low) / 14
    found = [1.0]
    for tick in sorted(TICKS, key=lambda tick: abs(math.log(tick))):
        if low <= tick <= high and all(abs(math.log(tick / other)) >= least for other in found):
            found.append(tick)
    return sorted(found)


def _curves(data: _Speedups) -> Figure:
    """Return a figure of each solver's speed-ups, sorted, over the share of traces."""
    figure = _figure(8.0, 4.6, len(data.solvers) + 2)
    axis = figure.subplots()
    lines = [(solver, [data.of[t, solver] for t in data.traces if (t, solver) in data.of]) for solver in data.solvers]
    for i, (solver, values) in enumerate(lines):
        places = [100.0 * (k + 0.5) / len(values) for k in range(len(values))]
        axis.plot(places, sorted(values), color=PALETTE[i % len(PALETTE)], linewidth=1.6, label=label(solver))
    limits = sorted(data.limits.values())
    places = [100.0 * (k + 0.5) / len(limits) for k in range(len(limits))]
    axis.plot(places, limits, color="black", linewidth=1.2, linestyle=":", label="bound: no mapping is faster")
    axis.axhline(1.0, color="#666666", linewidth=1.0, linestyle="--", label="XLA's own mapping")
    _scale(axis, data)
    axis.set_xlim(0, 100)
    axis.set_xlabel(f"% of {len(data.traces):,} traces, each curve from its least to its greatest")
    axis.set_ylabel("speed-up over XLA")
    _legend(figure, axis, 8.0)
    return figure


def _legend(figure: Figure, axis: Axes, width: float) -> None:
    handles, names = axis.get_legend_handles_labels()
    columns = min(_legend_columns(width), len(names))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False, fontsize=8.5)

"""Plots: miss-ratio curves, and cost over OPT against the flip rate with the proved bound as a line."""

import os
from collections.abc import Sequence
from typing import Any

from mallocgame.baselines.paging.study import Row
from mallocgame.errors import InputError
from mallocgame.files import atomic_path
from mallocgame.text import label

# The Okabe-Ito palette: told apart with every kind of colour vision; line styles tell the rest.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
StrPath = str | os.PathLike[str]


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(label(title), fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: StrPath) -> None:
    suffix = os.path.splitext(path)[1].lstrip(".").lower()
    if suffix not in ("png", "svg", "pdf"):
        raise InputError(f"a plot is .png, .svg or .pdf, got {os.fspath(path)!r}")
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix)
    except OSError as error:
        raise InputError(f"cannot write {os.fspath(path)}: {error.strerror}") from None


def plot_curve(rows: Sequence[Row], path: StrPath, *, title: str) -> None:
    """Draw miss ratio (faults over requests) against the cache size, one line a policy."""
    figure, axes = _figure(title)
    for number, name in enumerate(dict.fromkeys(row.policy for row in rows)):
        points = sorted((row.k, row.faults / row.requests) for row in rows if row.policy == name and row.requests)
        style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
        axes.plot(*zip(*points, strict=True), style, marker=".", color=_COLOURS[number % len(_COLOURS)], label=name)
    axes.set_xscale("log")
    axes.set_xlabel("cache size k (pages)")
    axes.set_ylabel("miss ratio (faults / requests)")
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


_MARKS = ("*", "D", "s", "^", "v", "P")


def plot_flips(
    rows: dict[float, list[Row]],
    path: StrPath,
    *,
    title: str,
    points: dict[str, list[tuple[float, Row]]] | None = None,
) -> None:
    """Draw cost over OPT against the share of flipped bits; dashed, in the same colour, the proved bound.

    ``points`` are predictors: of each, (share of its bits that are wrong, row); every one has a mark of its own.
    """
    figure, axes = _figure(title)
    rates = sorted(rows)
    names = list(dict.fromkeys(row.policy for row in rows[rates[0]] if row.policy != "opt"))
    largest = 1.0
    for number, name in enumerate(names):
        line = [next(row for row in rows[rate] if row.policy == name) for rate in rates]
        ratios = [row.opt_ratio for row in line]
        largest = max(largest, *ratios)
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(rates, ratios, _STYLES[number // len(_COLOURS) % len(_STYLES)], marker=".", color=colour, label=name)
        optimum = [row.faults / row.opt_ratio for row in line]
        bounds = [None if row.bound is None else row.bound / opt for row, opt in zip(line, optimum, strict=True)]
        if all(bound is not None for bound in bounds):
            axes.plot(rates, bounds, linestyle=(0, (1, 2)), color=colour, label=f"{name}: proved bound")
        for mark, found in zip(_MARKS, (points or {}).values(), strict=False):
            for share, row in found:
                if row.policy == name:
                    axes.plot([share], [row.opt_ratio], mark, color=colour, markersize=7, markeredgecolor="black")
                    largest = max(largest, row.opt_ratio)
    for mark, bits in zip(_MARKS, points or {}, strict=False):
        axes.plot([], [], mark, color="none", markeredgecolor="black", label=f"{bits} bits")
    # Bounds grow to k times OPT; the measured lines stay legible and the bound leaves at the top.
    axes.set_ylim(0.97, 1.0 + 1.6 * (largest - 1.0) + 0.05)
    positive = [rate for rate in rates if rate > 0]
    axes.set_xscale("symlog", linthresh=min(positive, default=0.1))
    axes.set_xlim(left=0.0)
    axes.set_xlabel("share of wrong bits (0: consistency; growth: smoothness; right: robustness)")
    axes.set_ylabel("faults / OPT")
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)

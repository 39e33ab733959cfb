"""Pictures of robust solves: objective by iteration, regret by method, robust against nominal as the budget grows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mallocgame.baselines.neur2ro.result import RobustResult
from mallocgame.files import StrPath, atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _save(draw: "Figure", path: StrPath) -> None:
    with atomic_path(path) as temporary:
        draw.savefig(temporary, format=os.path.splitext(path)[1].lstrip(".").lower(), dpi=110, bbox_inches="tight")


def plot_iterations(results: Sequence[RobustResult], path: str | Path) -> None:
    """Draw the objective (or incumbent) of each solver over time; the suffix of ``path`` sets the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    for result in results:
        rows = [row for row in result.history if abs(row.main) < float("inf")]
        if rows:
            axes.plot([row.seconds for row in rows], [row.main for row in rows], marker=".", label=result.method)
        axes.axhline(result.worst_case, linewidth=0.5, linestyle=":", color="grey")
    axes.set(xlabel="seconds", ylabel="objective (cost)", title="Objective by iteration")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    _save(figure, path)


def plot_regret(errors_percent: Mapping[str, Sequence[float]], path: str | Path) -> None:
    """Draw each method's regret (percent above the best worst case known), one point an instance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    for k, errors in enumerate(errors_percent.values()):
        axes.boxplot(list(errors), positions=[k], widths=0.5)
        axes.plot([k] * len(errors), list(errors), ".", alpha=0.4)
    axes.set_xticks(range(len(errors_percent)), list(errors_percent))
    axes.set(ylabel="regret, % of the best worst case", title="Regret by method")
    _save(figure, path)


def plot_budgets(budgets: Sequence[float], costs: Mapping[str, Sequence[float]], title: str, path: str | Path) -> None:
    """Draw worst-case costs of plans as the uncertainty budget grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    for label, values in costs.items():
        axes.plot(list(budgets), list(values), marker="o", label=label)
    axes.set(xlabel="uncertainty budget", ylabel="worst-case cost", title=title)
    axes.legend()
    _save(figure, path)

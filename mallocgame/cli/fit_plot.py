"""The picture of ``mallocgame fit``: step time against budget, with the standard policies."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mallocgame.files import atomic_path
from mallocgame.text import label

if TYPE_CHECKING:
    from mallocgame.cli.fitting import Fitting, Planned


def draw(path: Path, fitting: "Fitting", planned: "Planned", points: "Sequence[Planned]") -> None:
    """Draw plans (a line) and standard policies (points) into ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(9.0, 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    ordered = sorted((*points, planned), key=lambda point: point.budget_bytes)
    budgets = [point.budget_bytes / 1e9 for point in ordered]
    axis.step(
        budgets, [point.row.price.seconds * 1e3 for point in ordered], where="post", label="plan", color="#1f4e79"
    )
    axis.plot(budgets, [point.row.price.seconds * 1e3 for point in ordered], "o", color="#1f4e79", markersize=4)
    for (x, y), names in _standard_points(fitting).items():
        axis.plot([x], [y], "x", color="#a8410f")
        axis.annotate("\n".join(names), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7.5)
    axis.axvline(planned.budget_bytes / 1e9, color="0.6", linestyle=":", label="the budget asked for")
    axis.set_xscale("log")
    for part in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        part(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("device memory, GB (plans: their budget; standard policies: their peak)")
    axis.set_ylabel("predicted step time, ms")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    axis.set_title(f"one step on {label(fitting.chip.name)}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _standard_points(fitting: "Fitting") -> dict[tuple[float, float], list[str]]:
    """Return the names of the standard policies by (GB, ms), those that nearly coincide together."""
    found: dict[tuple[float, float], list[str]] = {}
    for row in fitting.rows:
        x, y = row.price.peak_bytes / 1e9, row.price.seconds * 1e3
        near = next((p for p in found if abs(p[0] / x - 1) < 0.03 and abs(p[1] / y - 1) < 0.03), (x, y))
        found.setdefault(near, []).append(label(row.name))
    return found

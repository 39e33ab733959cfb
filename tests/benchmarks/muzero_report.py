"""Tables, summary and learning curves of what ``tests.benchmarks.muzero train`` measured.

``python -m tests.benchmarks.muzero_report docs/results/muzero.jsonl [--figure docs/img/muzero_curves.png]``: a table
and a summary for each group of settings, and the learning curves of the runs with several seeds.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Row = dict[str, Any]
SETTINGS = ("budget", "seeds", "variations", "hybrid", "hoist", "scratch")
SOLVERS = (
    "docs/results/solvers.jsonl",
    "docs/results/muzero_rivals.jsonl",
)  # made by tests.benchmarks.solvers, 10 s to 300 s a trace
EQUAL = 1e-4  # differences in time below this share do not count
HEADROOM = 0.01


def main() -> None:
    """Print the tables, and draw the curves if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--figure", type=Path)
    chosen = parser.parse_args()
    rows, others = read(chosen.rows), [row for path in SOLVERS for row in read(Path(path))]
    groups = [tuple((name, row[name]) for name in SETTINGS) for row in rows]
    for group in dict.fromkeys(groups):
        sys.stdout.write("\n" + ", ".join(f"{name} {value}" for name, value in group) + "\n\n")
        report([row for row, own in zip(rows, groups, strict=True) if own == group], others)
    if chosen.figure is not None:
        draw([row for row in rows if row["seeds"] > 1], chosen.figure)


def read(path: Path | None) -> list[Row]:
    """Return the rows of a file of JSON lines, none if there is no file."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: list[Row]) -> None:
    """Print rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        values = [row.get(name, "") for name in columns]
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values) + " |")


def report(rows: list[Row], others: list[Row]) -> None:
    """Print a group's table and how far it reaches its goals; ``others``: what the classical solvers reached."""
    rows = [row | compared(row, others) for row in rows]
    hidden = {*SETTINGS, "xla_ms", "curves"} | ({"worst seed"} if rows[0]["seeds"] == 1 else set())
    table([{name: value for name, value in row.items() if name not in hidden} for row in rows])
    speeds = [row["x XLA"] for row in rows]
    room = [row["x XLA"] for row in rows if row["bound"] > 1.0 + HEADROOM]
    lines = [
        f"{len(rows)} rows: geometric mean {statistics.geometric_mean(speeds):.3f} times XLA's speed, "
        f"median {statistics.median(speeds):.3f}, slower on {sum(x < 1.0 - EQUAL for x in speeds)}; "
        f"faster on {sum(x > 1.0 + EQUAL for x in room)} of the {len(room)} where the proved bound leaves 1 %"
    ]
    for name, column in (
        ("greedy", "greedy"),
        ("10 s of annealing", "anneal 10 s"),
        ("the best solver", "best solver"),
    ):
        ratios = [row["x XLA"] / row[column] for row in rows]
        near, ahead = sum(x >= 0.99 for x in ratios), sum(x > 1.0 + EQUAL for x in ratios)
        lines.append(
            f"against {name}: {statistics.geometric_mean(ratios):.3f}, "
            f"within 1 % on {near} ({near / len(rows):.0%}), ahead on {ahead}"
        )
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def compared(row: Row, others: list[Row]) -> Row:
    """Return the best speed-up over XLA of a classical solver, here or in ``others``, and the proved bound on any."""
    found = [other for other in others if other["trace"] == row["trace"] and other["valid"]]
    same = [other for other in found if other["hoist"] == row["hoist"]] or found  # without loops: only with hoisting
    speeds = [other["speedup_over_xla"] or 0.0 for other in same]
    bounds = [other["xla_judged_seconds"] / other["lower_bound_seconds"] for other in same]
    return {"best solver": max([row["greedy"], row["anneal 10 s"], *speeds]), "bound": min(bounds, default=np.inf)}


def draw(rows: list[Row], path: Path) -> None:
    """Draw, per trace, the best mapping met and the mean game against time; a line for each seed."""
    columns = min(len(rows), 4)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = np.atleast_1d(np.asarray(figure.subplots(lines, columns))).reshape(-1)
    for axes in grid[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(grid, rows, strict=False):
        for seed, curve in enumerate(row["curves"]):
            seconds, best, mean = np.array(curve, dtype=float).T
            axes.plot(seconds, mean, color="0.7", linewidth=0.8, label="" if seed else "mean game")
            axes.plot(seconds, best, color="C0", linewidth=1.2, label="" if seed else "best game")
        axes.axhline(1.0, color="C3", linewidth=0.8, linestyle="--", label="XLA")
        axes.axhline(row["anneal 10 s"], color="C2", linewidth=0.8, linestyle=":", label="annealing, 10 s")
        axes.set_title(row["trace"], fontsize=8)
        axes.tick_params(labelsize=7)
    grid[0].legend(fontsize=6)
    figure.supxlabel("seconds of training", fontsize=8)
    figure.supylabel("times XLA's speed", fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()

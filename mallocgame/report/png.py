"""The memory map as a PNG: time × address of each fast layer, copies, stalls, occupancy and link use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from mallocgame.report.scene import Scene, label_color
from mallocgame.text import label

MIB = 2.0**20
HOME_SHARE = 0.06  # of a map's height: the strip under it that stands for layer 0
COPY_IN, COPY_OUT, STALL = "#1f4e79", "#a8410f", "#d62728"
_MAX_LABELS = 60


def draw(path: Path, scene: Scene, title: str, figures: Sequence[tuple[str, str]]) -> None:
    """Draw ``scene`` into ``path``."""
    num_maps = len(scene.layers) - 1
    heights = [4.6 / num_maps + 0.9] * num_maps + [1.3] + [1.1] * len(scene.links)
    figure = Figure(figsize=(13.0, sum(heights) + 1.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    scale, unit = _time_unit(scene.total_seconds)
    for layer in range(1, num_maps + 1):
        _draw_map(axes[layer - 1], scene, layer, scale)
    _draw_occupancy(axes[num_maps], scene, scale)
    for k in range(len(scene.links)):
        _draw_link(axes[num_maps + 1 + k], scene, k, scale)
    for axis in axes:
        _draw_stalls(axis, scene, scale)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlim(0, max(scene.total_seconds, 1e-30) * scale)
    axes[-1].set_xlabel(f"time, {unit} (each loop once, as wide as all its iterations)")
    figure.suptitle(label(title) + "\n" + "    ".join(f"{what} {value}" for what, value in figures), fontsize=11)
    figure.legend(handles=_legend(scene), loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    figure.savefig(path, format="png")


def _time_unit(seconds: float) -> tuple[float, str]:
    return next((s, u) for limit, s, u in ((1.0, 1.0, "s"), (1e-3, 1e3, "ms"), (0.0, 1e6, "µs")) if seconds >= limit)


def _draw_map(axis: Axes, scene: Scene, layer: int, scale: float) -> None:
    capacity = scene.capacities_bytes[layer] / MIB
    used = max((box.offset_bytes + box.size_bytes for box in scene.boxes if box.layer == layer), default=0) / MIB
    top = capacity if used > 0.5 * capacity or not used else 1.3 * used
    strip = HOME_SHARE * top
    full, arriving, colors, faint = [], [], [], []
    boxes = [box for box in scene.boxes if box.layer == layer]
    for box in boxes:
        low, height = box.offset_bytes / MIB, box.size_bytes / MIB
        if box.filled_seconds > box.start_seconds:
            width = (box.filled_seconds - box.start_seconds) * scale
            arriving.append(Rectangle((box.start_seconds * scale, low), width, height))
            faint.append(box.color)
        if box.end_seconds > box.filled_seconds:
            width = (box.end_seconds - box.filled_seconds) * scale
            full.append(Rectangle((box.filled_seconds * scale, low), width, height))
            colors.append(box.color)
    axis.add_collection(PatchCollection(full, facecolors=colors, edgecolors="white", linewidths=0.3))
    axis.add_collection(PatchCollection(arriving, facecolors="white", edgecolors="none"))  # stalls lie below
    axis.add_collection(
        PatchCollection(arriving, facecolors=faint, edgecolors=faint, linewidths=0.3, alpha=0.4, hatch="////")
    )
    axis.add_patch(Rectangle((0, -strip), scene.total_seconds * scale, strip, color="#e4e4e4", zorder=0))
    axis.text(0.004, 0.012, label(scene.layers[0]), transform=axis.transAxes, fontsize=7, va="bottom", color="#555555")
    _draw_arrows(axis, scene, layer, scale, -strip / 2)
    _draw_names(axis, scene, layer, scale, top * MIB)
    if top == capacity:
        axis.axhline(capacity, color="black", linewidth=0.8, linestyle="--")
    else:
        note = f"capacity {capacity:.1f} MiB is above the picture"
        axis.text(0.996, 0.985, note, transform=axis.transAxes, ha="right", va="top", fontsize=7.5, color="#555555")
    axis.set_ylim(-strip, top * 1.02)
    axis.set_ylabel(f"{label(scene.layers[layer])} address, MiB")


def _draw_arrows(axis: Axes, scene: Scene, layer: int, scale: float, home: float) -> None:
    """Draw each copy; the smaller it is, and the more there are, the fainter."""
    ends: dict[str, list[tuple[tuple[float, float], tuple[float, float]]]] = {COPY_IN: [], COPY_OUT: []}
    weights: dict[str, list[float]] = {COPY_IN: [], COPY_OUT: []}
    crowd = min(1.0, 60 / (1 + len(scene.arrows)))
    for arrow in scene.arrows:
        boxes = [scene.boxes[i] if i >= 0 else None for i in (arrow.source, arrow.target)]
        inside = [box is not None and box.layer == layer for box in boxes]
        if not any(inside):
            continue
        heights = [home if b is None or b.layer != layer else (b.offset_bytes + b.size_bytes / 2) / MIB for b in boxes]
        color = COPY_IN if inside[1] else COPY_OUT
        ends[color].append(((arrow.issue_seconds * scale, heights[0]), (arrow.finish_seconds * scale, heights[1])))
        share = min(1.0, 12 * arrow.size_bytes / scene.capacities_bytes[layer])
        weights[color].append(crowd + (1 - crowd) * share)
    for color, lines in ends.items():
        if not lines:
            continue
        weight = np.array(weights[color])
        widths, opacity = 0.3 + 0.8 * weight, 0.1 + 0.75 * weight
        axis.add_collection(LineCollection(lines, colors=color, linewidths=widths, alpha=opacity))
        tips = np.array([line[1] for line in lines])
        colors = [to_rgba(color, 0.15 + 0.85 * each) for each in weight]
        axis.scatter(tips[:, 0], tips[:, 1], s=1 + 16 * weight, c=colors, marker="^" if color == COPY_IN else "v")


def _draw_names(axis: Axes, scene: Scene, layer: int, scale: float, height_bytes: float) -> None:
    """Name the boxes that have room for it."""
    total = scene.total_seconds
    boxes = sorted((b for b in scene.boxes if b.layer == layer), key=lambda b: -b.size_bytes)
    for box in boxes[:_MAX_LABELS]:
        width = (box.end_seconds - box.filled_seconds) / total if total else 0.0
        if box.size_bytes / height_bytes > 0.03 and width > 0.0062 * len(box.name):
            middle = (box.filled_seconds + box.end_seconds) / 2 * scale
            height = (box.offset_bytes + box.size_bytes / 2) / MIB
            color = label_color(box.color)
            axis.text(
                middle, height, label(box.name), ha="center", va="center", fontsize=6.5, clip_on=True, color=color
            )


def _draw_occupancy(axis: Axes, scene: Scene, scale: float) -> None:
    for layer in range(1, len(scene.layers)):
        share = 100.0 * scene.occupancy_bytes[:, layer] / scene.capacities_bytes[layer]
        edges = scene.step_edges_seconds * scale
        axis.stairs(share, edges, fill=len(scene.layers) == 2, color=f"C{layer - 1}", linewidth=1.2)
        if len(scene.layers) > 2:
            axis.plot([], [], color=f"C{layer - 1}", label=label(scene.layers[layer]))
    if len(scene.layers) > 2:
        axis.legend(loc="upper right", fontsize=7)
    axis.set_ylim(0, 105)
    axis.set_ylabel("occupied, %")


def _draw_link(axis: Axes, scene: Scene, k: int, scale: float) -> None:
    edges = scene.link_edges_seconds * scale
    below, above = 100 * scene.link_instructions[k], 100 * scene.link_copies[k]
    axis.stairs(below + above, edges, baseline=below, fill=True, color="#4c7096")
    axis.stairs(below, edges, fill=True, color="#9db4c8")
    axis.set_ylim(0, 105)
    axis.set_ylabel(f"{label(scene.links[k])}\nlink use, %")


def _draw_stalls(axis: Axes, scene: Scene, scale: float) -> None:
    for start, end in ((wait.start_seconds, wait.end_seconds) for wait in scene.stalls):
        if end - start > 2e-4 * scene.total_seconds:
            axis.axvspan(start * scale, end * scale, color=STALL, alpha=0.3, linewidth=0, zorder=0)


def _legend(scene: Scene) -> list[Patch | Line2D]:
    return [
        Patch(facecolor="#7aa0c4", label="tensor (one colour each)"),
        Patch(facecolor="#7aa0c4", alpha=0.4, hatch="////", label="its copy is under way"),
        Line2D([], [], color=COPY_IN, marker="^", markersize=5, linewidth=1, label="copy in"),
        Line2D([], [], color=COPY_OUT, marker="v", markersize=5, linewidth=1, label="copy out"),
        Patch(facecolor=STALL, alpha=0.3, label="stall"),
        Patch(facecolor="#9db4c8", label="link use: light instructions, dark copies"),
    ]

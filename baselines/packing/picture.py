"""A picture of a packing: time across, address up, one rectangle for each buffer."""

import os
from collections.abc import Sequence

import numpy as np

from mallocgame import files
from mallocgame.baselines.packing.buffers import Buffer, packing_height
from mallocgame.errors import InputError
from mallocgame.text import label

_ENDINGS = (".png", ".svg", ".pdf")


def check_picture_path(path: str | os.PathLike[str]) -> str:
    """Return the picture's format by the file's ending.

    Raises:
        InputError: it is not one that can be drawn.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in _ENDINGS:
        raise InputError(f"cannot draw {os.fspath(path)}: expected a name that ends in {', '.join(_ENDINGS)}")
    return ending[1:]


def draw_packing(
    path: str | os.PathLike[str],
    buffers: Sequence[Buffer],
    offsets: Sequence[int],
    *,
    capacity_bytes: int | None = None,
    title: str = "",
) -> None:
    """Draw a packing as PNG, SVG or PDF (by the file's ending), atomically; a line marks the capacity.

    Colours only tell neighbours apart. Buffers too small to see are drawn without an outline; gaps stay open.

    Raises:
        InputError: the file's ending is another, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    ending = check_picture_path(path)
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    height = packing_height(buffers, offsets)
    placed = [(i, p, int(offset)) for i, offset in enumerate(offsets) for p in buffers[i].pieces]
    boxes = [Rectangle((p.lower, offset + p.bottom), p.upper - p.lower, p.top - p.bottom) for _, p, offset in placed]
    owners = np.array([i for i, _, _ in placed], np.int64)
    colours = (np.random.default_rng(0).permutation(len(buffers)) % 20)[owners]
    outline = 0.4 if len(boxes) <= 2000 else 0.0
    collection = PatchCollection(boxes, cmap="tab20", edgecolor="black", linewidth=outline)
    collection.set_array(colours)
    axes.add_collection(collection)
    if capacity_bytes is not None:
        axes.axhline(capacity_bytes, color="red", linewidth=1, linestyle="--", label=f"capacity {capacity_bytes:,}")
        axes.legend(loc="upper right")
    first, last = min((b.lower for b in buffers), default=0), max((b.upper for b in buffers), default=1)
    axes.set_xlim(first, max(last, first + 1))
    axes.set_ylim(0, 1.02 * max(height, capacity_bytes or 0, 1))
    axes.set_xlabel("time (steps)")
    axes.set_ylabel("address (bytes)")
    axes.set_title(label(title))
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, format=ending, dpi=150)

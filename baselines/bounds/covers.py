"""Cover rows of capacity: what cannot be in a layer together, as rows that a fractional solution breaks.

At each step the tensors that are in a layer in full take whole units of alignment (``relaxation``). If a set of them
does not fit, not all are there; nor, in the place of one of them, one that is at least as large as the largest.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.relaxation import Relaxation
from mallocgame.baselines.bounds.templates import expand

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

VIOLATED = 1e-3  # by how much a point must break a row
MOST_ROWS = 400  # a round


class Knapsack(NamedTuple):
    """What may be in a layer during one step: 0-1 columns and their sizes, in units of alignment."""

    columns: I64
    sizes: I64
    capacity: int


def knapsacks(relaxation: Relaxation, stop: Callable[[], bool]) -> list[Knapsack]:
    """Return those of all layers and steps whose items do not all fit."""
    found = []
    for layer in range(1, relaxation.hierarchy.num_layers):
        grain = relaxation.hierarchy.layers[layer].alignment_bytes
        capacity = -(-relaxation.hierarchy.layers[layer].capacity_bytes // grain)
        units = -(-relaxation.program.sizes_bytes // grain)
        present = relaxation.present(layer)
        owner, row = expand(present.low, present.high)
        owner = owner[np.argsort(row, kind="stable")]
        columns, sizes = present.column[owner], units[present.tensor[owner]]
        first = np.cumsum(np.bincount(row, minlength=len(relaxation.steps)))
        for end, count in zip(first.tolist(), np.diff(first, prepend=0).tolist(), strict=True):
            if stop():
                return []
            if sizes[end - count : end].sum() > capacity:
                found.append(Knapsack(columns[end - count : end], sizes[end - count : end], capacity))
    return found


def add_covers(relaxation: Relaxation, found: list[Knapsack], point: F64) -> int:
    """Add the cover rows that ``point`` breaks most; return how many."""
    rows: dict[tuple[int, ...], tuple[float, int]] = {}
    for knapsack in found:
        cover = broken_cover(knapsack, point)
        if cover is not None:
            columns, most, excess = cover
            rows[tuple(sorted(columns.tolist()))] = (excess, most)
    worst = sorted(rows.items(), key=lambda row: -row[1][0])[:MOST_ROWS]
    for members, (_, most) in worst:
        relaxation.linear.at_least([(column, -1.0) for column in members], -float(most))
    return len(worst)


def broken_cover(knapsack: Knapsack, point: F64) -> tuple[I64, int, float] | None:
    """Return (columns, how many of them can be 1, by how much ``point`` exceeds that) of an extended cover; or None."""
    columns, sizes, capacity = knapsack
    values = point[columns]
    order = np.argsort(-values, kind="stable")
    last = int(np.searchsorted(np.cumsum(sizes[order]), capacity, side="right"))
    if last == len(order):
        return None
    cover = order[: last + 1].tolist()
    excess = int(sizes[cover].sum()) - capacity
    for item in sorted(cover, key=lambda i: (values[i], sizes[i])):
        if sizes[item] < excess:  # it does not fit without this one either
            excess -= int(sizes[item])
            cover.remove(item)
    large = np.flatnonzero(sizes >= sizes[cover].max())
    members = np.union1d(np.array(cover, dtype=np.int64), large)
    over = float(values[members].sum()) - (len(cover) - 1)
    return (columns[members], len(cover) - 1, over) if over > VIOLATED else None

"""The relaxation cut into stretches of the schedule, each solved with whole shares: what they prove adds up.

Each row belongs to one stretch. A column that stands in rows of several has its cost split among them, by what the
linear program's duals make of each stretch's rows. A point costs what its parts cost in all stretches, and its part in
each satisfies that stretch's rows, so the sum of the stretches' optima is a bound whatever the split. With the duals'
split it begins at the linear bound; a tree for each stretch is small where one for all multiplies them.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.integer import MARGIN, minimise, whole_boxes
from mallocgame.baselines.bounds.linear import LinearProgram, safe_bound
from mallocgame.baselines.bounds.relaxation import Relaxation
from mallocgame.baselines.bounds.route import LegColumn, StopColumn

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SWEEPS = 12  # of times from rows to auxiliary columns and back


class Stretch(NamedTuple):
    """Some rows, the columns in them, and what those cost here."""

    rows: I64
    columns: I64
    cost: F64
    magnitude: float  # of the sums behind its bound


def stretches(relaxation: Relaxation, duals: F64, count: int) -> Iterator[Stretch]:
    """Yield ``count`` stretches of as many rows each, by time; ``duals`` (float64[rows], >= 0) split the cost."""
    matrix, cost = relaxation.linear.matrix, np.array(relaxation.linear.cost)
    bounds = np.array(relaxation.linear.row_bound)
    parts = np.array_split(np.argsort(row_times(relaxation), kind="stable"), count)
    members = [np.unique(matrix[rows].indices) for rows in parts]
    times_met = np.bincount(np.concatenate(members), minlength=len(cost))
    rest = (cost - matrix.T @ duals) / np.maximum(times_met, 1)
    lost = np.flatnonzero(times_met == 0)  # columns without a row
    for number, (rows, columns) in enumerate(zip(parts, members, strict=True)):
        own = np.union1d(columns, lost) if number == 0 else columns
        share = (matrix[rows].T @ duals[rows])[own] + rest[own]
        yield Stretch(rows, own, share, float(np.abs(duals[rows] * bounds[rows]).sum()))


def stretch_bound(
    relaxation: Relaxation,
    duals: F64,
    count: int,
    *,
    seconds: float,
    boxes: F64,
    stop: Callable[[], bool] = lambda: False,
) -> float:
    """Return a bound in seconds on the points in ``boxes`` (float64[2, columns]) whose shares are whole.

    Infinite where there is none. A stretch without time counts with what the duals prove of it.
    """
    linear, whole = relaxation.linear, relaxation.is_whole
    boxes = whole_boxes(boxes, whole)
    if (boxes[0] > boxes[1]).any():
        return float("inf")
    total, until = linear.constant, time.perf_counter() + seconds
    magnitude = abs(total)
    for number, stretch in enumerate(stretches(relaxation, duals, count)):
        if not len(stretch.columns):
            continue
        part = _program(linear, stretch, boxes)
        left = max((until - time.perf_counter()) / (count - number), 0.0)
        own = boxes[:, stretch.columns]
        found = minimise(stretch.cost, part, own, whole[stretch.columns], seconds=left, gap=0.0, stop=stop)
        proved = max(found.proved, safe_bound(part, duals[stretch.rows]))
        if proved == float("inf"):
            return proved
        total += proved
        magnitude += abs(proved) + stretch.magnitude
    return (total - MARGIN * magnitude) * relaxation.unit_seconds


def _program(linear: LinearProgram, stretch: Stretch, boxes: F64) -> LinearProgram:
    """Return the linear program of a stretch."""
    terms, part = linear.matrix[stretch.rows][:, stretch.columns].tocoo(), LinearProgram()
    part.cost.extend(stretch.cost)
    part.low.extend(boxes[0, stretch.columns])
    part.high.extend(boxes[1, stretch.columns])
    part.add_rows(terms.row, terms.col, terms.data, np.array(linear.row_bound)[stretch.rows])
    return part


def row_times(relaxation: Relaxation) -> F64:
    """Return float64[rows], when in the schedule each row decides something, about: in steps."""
    matrix = relaxation.linear.matrix.tocoo()
    low, high = _spans(relaxation, matrix.shape[1])
    is_known = high >= low
    since, until = np.full(matrix.shape[0], -1.0), np.full(matrix.shape[0], np.inf)
    terms = is_known[matrix.col]
    np.maximum.at(since, matrix.row[terms], low[matrix.col[terms]])
    np.minimum.at(until, matrix.row[terms], high[matrix.col[terms]])
    has_time = since >= 0.0
    rows = np.where(has_time, (since + until) / 2.0, np.nan)
    columns = np.where(is_known, (low + high) / 2.0, np.nan)
    for _ in range(SWEEPS):
        columns = np.where(is_known, columns, _means(matrix.col, rows[matrix.row], len(columns)))
        rows = np.where(has_time, rows, _means(matrix.row, columns[matrix.col], len(rows)))
    return np.nan_to_num(rows)


def _means(places: I64, values: F64, count: int) -> F64:
    """Return float64[count], the mean of the values at each place that are known; NaN: none is."""
    known = ~np.isnan(values)
    number = np.bincount(places[known], minlength=count)
    total = np.bincount(places[known], weights=values[known], minlength=count)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _spans(relaxation: Relaxation, count: int) -> tuple[F64, F64]:
    """Return float64[columns] twice, the first and the last step of each share; others from 1 to 0."""
    columns, low, high = relaxation.columns, np.ones(count), np.zeros(count)
    stops, legs = columns.routes.stops, columns.routes.legs
    for places in (columns.present, columns.served):
        low[places.column] = high[places.column] = stops[places.at, StopColumn.BOUNDARY]
    for at, column in ((columns.kept.at, columns.kept.column), (columns.moves.leg, columns.moves.column)):
        low[column], high[column] = legs[at, LegColumn.FROM_STEP], legs[at, LegColumn.TO_STEP]
        high[column] = np.maximum(low[column], high[column])
    return low, high

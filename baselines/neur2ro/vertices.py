"""The vertices of small uncertainty sets, and the points of small whole-number ones."""

import itertools
import math

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.linear import LinearSet

F64 = npt.NDArray[np.float64]
LIMIT = 3000  # scenarios worth listing
TRIES = 60_000  # candidate bases or corners worth looking at
TOLERANCE = 1e-9


def listed_points(box: LinearSet, *, convex: bool) -> F64 | None:
    """Return scenarios among which every worst case is, float64[K, n], or None if they are too many to list.

    Args:
        box: Xi.
        convex: whether the value is convex in xi: then the vertices do. Otherwise only whole numbers are listed.
    """
    if box.integer.all():
        return _whole_points(box)
    if not convex or box.integer.any() or not np.isfinite([box.lower, box.upper]).all():
        return None
    rows = len(box.rows)
    if rows == 0:
        return _corners(box)
    if rows == 1:
        return _one_row(box)
    return _bases(box)


def _whole_points(box: LinearSet) -> F64 | None:
    low, high = np.ceil(box.lower - TOLERANCE), np.floor(box.upper + TOLERANCE)
    if not np.isfinite([low, high]).all():
        return None
    found: list[F64] = []
    stack = [(low.copy(), 0)]
    looked = 0
    while stack:  # depth first; a prefix is dropped when its rows cannot be met by any completion
        point, depth = stack.pop()
        looked += 1
        if looked > TRIES or len(found) > LIMIT:
            return None
        if depth == box.size:
            found.append(point)
            continue
        for value in np.arange(low[depth], high[depth] + 1):
            child = point.copy()
            child[depth] = value
            if _can_complete(box, child, depth + 1, low, high):
                stack.append((child, depth + 1))
    return np.array(found).reshape(-1, box.size)


def _can_complete(box: LinearSet, point: F64, depth: int, low: F64, high: F64) -> bool:
    if not len(box.rows):
        return True
    done = box.rows[:, :depth] @ point[:depth]
    rest = box.rows[:, depth:]
    least = done + np.minimum(rest * low[depth:], rest * high[depth:]).sum(axis=1)
    most = done + np.maximum(rest * low[depth:], rest * high[depth:]).sum(axis=1)
    return bool(np.all(least <= box.row_upper + TOLERANCE) and np.all(most >= box.row_lower - TOLERANCE))


def _corners(box: LinearSet) -> F64 | None:
    free = np.flatnonzero(box.upper > box.lower)
    if 2 ** len(free) > LIMIT:
        return None
    points = np.repeat(box.lower[None], 2 ** len(free), axis=0)
    picks = np.array(list(itertools.product((False, True), repeat=len(free))), bool).reshape(-1, len(free))
    points[:, free] = np.where(picks, box.upper[free], box.lower[free])
    return points


def _one_row(box: LinearSet) -> F64 | None:
    """Corners that meet the row, and points with one coordinate between its bounds where the row is tight."""
    row, n = box.rows[0], box.size
    span = np.where(box.upper > box.lower, box.upper - box.lower, 0.0)
    low, high = float(box.row_lower[0]), float(box.row_upper[0])
    slope = row * span
    base = float(row @ box.lower)
    found: dict[bytes, F64] = {}
    stack = [(np.zeros(n), 0, base)]
    looked = 0
    most, least = np.maximum(slope, 0.0), np.minimum(slope, 0.0)
    while stack:
        pick, depth, value = stack.pop()
        looked += 1
        if looked > TRIES or len(found) > LIMIT:
            return None
        for limit in (low, high):
            _tight(box, pick, depth, value, limit, slope, span, found)
        if depth < n:
            if value + least[depth:].sum() > high + TOLERANCE or value + most[depth:].sum() < low - TOLERANCE:
                continue
            stack.append((pick, depth + 1, value))
            if span[depth] > 0:
                taken = pick.copy()
                taken[depth] = 1.0
                stack.append((taken, depth + 1, value + float(slope[depth])))
        elif low - TOLERANCE <= value <= high + TOLERANCE:
            _keep(found, box.lower + pick * span)
    return np.array(list(found.values())).reshape(-1, n)


def _tight(
    box: LinearSet,
    pick: F64,
    depth: int,
    value: float,
    limit: float,
    slope: F64,
    span: F64,
    found: dict[bytes, F64],
) -> None:
    """Add the points where one coordinate takes up the row's slack; only for complete choices of the others."""
    if depth < box.size or not math.isfinite(limit):
        return
    for k in np.flatnonzero(slope):
        share = float(pick[k] + (limit - value) / slope[k])
        if TOLERANCE < share < 1 - TOLERANCE:
            point = pick.copy()
            point[k] = share
            _keep(found, box.lower + point * span)


def _keep(found: dict[bytes, F64], point: F64) -> None:
    found.setdefault((np.round(point, 9) + 0.0).tobytes(), point)


def _bases(box: LinearSet) -> F64 | None:
    """Try every choice of n tight constraints: for few variables."""
    n = box.size
    planes = [(np.eye(n)[k], float(end)) for k in range(n) for end in {box.lower[k], box.upper[k]}]
    for row, low, high in zip(box.rows, box.row_lower, box.row_upper, strict=True):
        planes += [(row, float(end)) for end in {low, high} if math.isfinite(end)]
    if math.comb(len(planes), n) > TRIES:
        return None
    found: dict[bytes, F64] = {}
    for chosen in itertools.combinations(planes, n):
        matrix = np.array([row for row, _ in chosen])
        if abs(np.linalg.det(matrix)) <= 1e-10:
            continue
        point = np.linalg.solve(matrix, np.array([end for _, end in chosen]))
        if box.violation(point) <= 1e-8:
            _keep(found, point)
        if len(found) > LIMIT:
            return None
    return np.array(list(found.values())).reshape(-1, n)

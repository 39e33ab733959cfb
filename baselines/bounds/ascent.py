"""Raising the bound that prices give: steps along what is asked for less what is for sale.

The bound is concave in the prices, and demand less supply is a slope of it. Each step goes along a running sum of
slopes, as far as would close a share of the gap to a target if the bound were linear (Polyak); the share shrinks where
nothing is gained. Every point on the way is a proved bound.
"""

from collections.abc import Callable

import numpy as np

from mallocgame.baselines.bounds.prices import Market, Point, start, value

MEMORY = 0.7  # of the direction before
PATIENCE, SHRINK, LEAST = 10, 0.7, 1e-4  # steps without a gain after which the share shrinks; where it ends
HOPE = 0.4  # of the best bound: how far above it the target is where no mapping is known
SLOT_SCALE = 0.3  # steps of the prices of link time, beside those of a step's time
FULL = 1.0 - 1e-9


class Ascent:
    """Prices on the way up, and the best bound that they gave."""

    def __init__(self, goods: Market, stop: Callable[[], bool] = lambda: False) -> None:
        """Begin at simple prices; ``stop``: whether there is no time to look for good ones."""
        self.goods, self.point = goods, start(goods, stop)
        self.best = -np.inf  # units
        self._share, self._stale = 1.0, 0
        self._direction: Point | None = None
        self._space_scale = 1.0 / max(1, int(goods.is_priced.any(axis=0).sum()))

    @property
    def is_over(self) -> bool:
        """Whether steps have become too small to gain much."""
        return self._share < LEAST

    def step(self, cutoff: float) -> None:
        """Look at the prices and take a step toward a bound of ``cutoff`` (units; infinite: not known)."""
        bound, slope = value(self.goods, self.point)
        self._stale = 0 if bound > self.best else self._stale + 1
        self.best = max(bound, self.best)
        if self._stale >= PATIENCE:
            self._share, self._stale = self._share * SHRINK, 0
        slope = self._allowed(_balanced(self.point, slope))
        slope = Point(slope.time, slope.space * self._space_scale**2, slope.slot * SLOT_SCALE**2)
        if self._direction is not None:
            before = self._direction
            slope = Point(
                slope.time + MEMORY * before.time,
                slope.space + MEMORY * before.space,
                slope.slot + MEMORY * before.slot,
            )
        self._direction = self._allowed(slope)
        length = self._length(self._direction)
        target = min(cutoff, self.best + HOPE * abs(self.best))
        if length <= 0.0 or target <= bound:
            self._share = 0.0
            return
        self.point = self.point.moved(self._direction, self._share * (target - bound) / length, self.goods)

    def _allowed(self, step: Point) -> Point:
        """Return a step without what would lower prices below 0."""
        return Point(
            np.where((self.point.time <= 0.0) & (step.time < 0.0), 0.0, step.time),
            np.where(((self.point.space <= 0.0) & (step.space < 0.0)) | ~self.goods.is_priced, 0.0, step.space),
            np.where((self.point.slot <= 0.0) & (step.slot < 0.0), 0.0, step.slot),
        )

    def _length(self, step: Point) -> float:
        space = float((step.space**2).sum()) / self._space_scale**2
        return float((step.time**2).sum()) + space + float((step.slot**2).sum()) / SLOT_SCALE**2


def _balanced(point: Point, slope: Point) -> Point:
    """Return the slope at which waiting, where it costs no more than it is worth, meets what is asked for."""
    is_full = point.slot.sum(axis=0) >= FULL
    priced = (point.slot > 0.0) & is_full
    waits = (slope.slot * priced).sum(axis=0) / np.maximum(priced.sum(axis=0), 1)
    return Point(slope.time, slope.space, slope.slot - np.maximum(waits, 0.0) * is_full)

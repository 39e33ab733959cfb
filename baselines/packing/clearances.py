"""Buffers with gaps, windows or conflict lists as arrays: which differences of two offsets are forbidden.

Two rectangles of the same buffer pair that are live together forbid an open interval of ``offset - other's offset``.
With one rectangle a buffer there is one interval a pair; a window adds another. First fit and hill climbing work on
these intervals, whatever they stand for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mallocgame.baselines.packing.problem import I64, overlap_lists, sections_of, span_sums
from mallocgame.baselines.packing.types import Buffer, conflict_pairs
from mallocgame.jit import jit

FAR = 1 << 62
_HISTORY = 20


class Table(NamedTuple):
    """n buffers in units, int64 arrays, for kernels."""

    size: I64  # [n]
    alignment: I64  # [n]
    fixed: I64  # [n], the offset a buffer must have, or -1
    pointers: I64  # [n + 1]: entries pointers[i] to pointers[i + 1] of the rest are buffer i's
    other: I64  # [m], a buffer that is live with it
    low: I64  # [m]; offset[i] - offset[other] must not lie strictly between low and high
    high: I64  # [m]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearances:
    """n buffers that all need memory, in units of ``unit`` bytes.

    Attributes:
        unit: some best packing has all its offsets multiples of it.
        table: sizes, and the forbidden differences.
        lower_bound: units that every packing needs.
        cliques: int64 rows of (buffer, bottom, top): rectangles that must not share a unit with one another.
    """

    unit: int
    table: Table
    lower_bound: int
    cliques: list[I64]

    @classmethod
    def of(cls, buffers: Sequence[Buffer]) -> "Clearances":
        """Build from value types."""
        rows = [(i, *piece) for i, b in enumerate(buffers) for piece in b.pieces]
        pieces = np.array(rows, np.int64).reshape(-1, 5)
        first, last, sections = sections_of(pieces[:, 1], pieces[:, 2])
        size = np.array([b.size_bytes for b in buffers], np.int64)
        fixed = np.array([-1 if b.fixed_offset is None else b.fixed_offset for b in buffers], np.int64)
        alignment = np.array([b.alignment_bytes for b in buffers], np.int64)
        pairs = np.array(conflict_pairs(buffers), np.int64).reshape(-1, 2)
        pointers, other, low, high = _forbidden(pieces, first, last, pairs, size)
        marks = np.concatenate([size, low, high, alignment[alignment > 1], fixed[fixed >= 0], pieces[:, 3:].ravel()])
        unit = max(1, int(np.gcd.reduce(marks)))
        live = int(span_sums(first, last, pieces[:, 4] - pieces[:, 3], sections).max(initial=0))
        alone = int(np.where(fixed >= 0, fixed + size, size).max(initial=0))
        scaled = pieces[:, [0, 3, 4]] // np.array([1, unit, unit])
        cliques = [scaled[(first <= s) & (s < last)] for s in range(sections)]
        listed = _cliques(pairs, size // unit)
        heaviest = max((int(clique[:, 2].sum()) for clique in listed), default=0)
        return cls(
            unit=unit,
            table=Table(
                size=size // unit,
                alignment=np.where(alignment > 1, alignment // unit, 1),
                fixed=np.where(fixed >= 0, fixed // unit, -1),
                pointers=pointers,
                other=other,
                low=low // unit,
                high=high // unit,
            ),
            lower_bound=max(live // unit, alone // unit, heaviest),
            cliques=[*cliques, *listed],
        )

    def orders(self, buffers: Sequence[Buffer]) -> dict[str, I64]:
        """Return named orders (int64[n]), most constrained first."""
        size, pointers, other = self.table.size, self.table.pointers, self.table.other
        degree = np.diff(pointers)
        area = np.array([sum((p.upper - p.lower) * (p.top - p.bottom) for p in b.pieces) for b in buffers], np.float64)
        around = np.zeros(size.size, np.int64)
        np.add.at(around, np.repeat(np.arange(size.size), degree), size[other])
        keys = {
            "size, degree": (size, degree),
            "around, size": (around + size, size),
            "degree, size": (degree, size),
            "area, size": (area, size),
            "size x degree": (size * degree, size),
            "start": (-np.array([b.lower for b in buffers], np.int64), size),
        }
        return {name: np.lexsort([-k for k in reversed(key)]).astype(np.int64) for name, key in keys.items()}


def _forbidden(pieces: I64, first: I64, last: I64, pairs: I64, size: I64) -> tuple[I64, I64, I64, I64]:
    """Return (pointers, other, low, high) in bytes; pieces are rows of (buffer, lower, upper, bottom, top)."""
    starts, neighbours = overlap_lists(first, last)
    p = np.repeat(np.arange(len(pieces)), np.diff(starts))
    q = neighbours.astype(np.int64)
    owner, bottom, top = pieces[:, 0], pieces[:, 3], pieces[:, 4]
    timed = np.stack([owner[p], owner[q], bottom[q] - top[p], top[q] - bottom[p]], axis=1)
    i, j = pairs[:, 0], pairs[:, 1]
    listed = [np.stack([i, j, -size[i], size[j]], axis=1), np.stack([j, i, -size[j], size[i]], axis=1)]
    rows = np.unique(np.concatenate([timed, *listed]), axis=0).reshape(-1, 4)
    pointers = np.searchsorted(rows[:, 0], np.arange(size.size + 1)).astype(np.int64)
    other, low, high = (np.ascontiguousarray(column) for column in rows[:, 1:].T)
    return pointers, other, low, high


def _cliques(pairs: I64, size: I64) -> list[I64]:
    """Return sets of buffers that all conflict with one another and together cover every pair, grown greedily."""
    near: dict[int, set[int]] = {}
    for i, j in pairs.tolist():
        near.setdefault(i, set()).add(j)
        near.setdefault(j, set()).add(i)
    covered: set[tuple[int, int]] = set()
    found = []
    for i, j in sorted(pairs.tolist(), key=lambda pair: -int(size[pair[0]] + size[pair[1]])):
        if (i, j) in covered:
            continue
        clique, candidates = [i, j], near[i] & near[j]
        while candidates:
            best = max(candidates, key=lambda k: (int(size[k]), -k))
            clique.append(best)
            candidates &= near[best]
        clique.sort()
        covered.update((a, b) for n, a in enumerate(clique) for b in clique[n + 1 :])
        found.append(np.array([[k, 0, size[k]] for k in clique], np.int64))
    return found


@jit
def _lowest(i: int, t: Table, offsets: I64, begins: I64, ends: I64) -> int:
    """Return the lowest offset of buffer i that the placed ones (offset >= 0) allow."""
    count = 0
    for m in range(t.pointers[i], t.pointers[i + 1]):
        at = offsets[t.other[m]]
        if at < 0 or at + t.high[m] <= 0:
            continue
        begin, k = at + t.low[m], count
        while k > 0 and begins[k - 1] > begin:  # sorted by where the forbidden interval begins
            begins[k], ends[k] = begins[k - 1], ends[k - 1]
            k -= 1
        begins[k], ends[k] = begin, at + t.high[m]
        count += 1
    offset, alignment = 0, t.alignment[i]
    for k in range(count):
        if begins[k] >= offset:
            break
        if ends[k] > offset:
            offset = (ends[k] + alignment - 1) // alignment * alignment
    return offset


@jit
def place_in_order(order: I64, t: Table, limit: int) -> tuple[I64, int]:
    """Place buffers one by one, each as low as it goes; return (offsets int64[n], height).

    Gives up, returning a height of at least ``limit``, as soon as that is certain; offsets are then incomplete.
    """
    n = t.size.size
    offsets = np.full(n, -1, np.int64)
    degree = 0
    height = 0
    for i in range(n):
        degree = max(degree, t.pointers[i + 1] - t.pointers[i])
        if t.fixed[i] >= 0:
            offsets[i] = t.fixed[i]
            height = max(height, t.fixed[i] + t.size[i])
    begins, ends = np.empty(degree, np.int64), np.empty(degree, np.int64)
    for i in order:
        if t.fixed[i] < 0:
            offsets[i] = _lowest(i, t, offsets, begins, ends)
            height = max(height, offsets[i] + t.size[i])
            if height >= limit:
                return offsets, height
    return offsets, height


@jit
def climb(order: I64, t: Table, target: int, tries: int, seed: int, stop: I64) -> tuple[I64, int]:
    """Improve ``order`` (int64[n], in place) by at most ``tries`` moves of a buffer at the peak, or of one beside it.

    Late acceptance. Returns the best (offsets, height). Ends at height ``target`` or when ``stop[0]`` is not zero.
    """
    np.random.seed(seed)
    n = order.size
    best_offsets, best = place_in_order(order, t, FAR)
    offsets, height = best_offsets, best
    past = np.full(_HISTORY, best, np.int64)
    place, trial, peaks = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for k in range(tries):
        if best <= target or stop[0] != 0:
            break
        count = 0
        for r in range(n):
            i = order[r]
            place[i] = r
            if t.fixed[i] < 0 and offsets[i] + t.size[i] == height:
                peaks[count] = i
                count += 1
        if count == 0:  # a fixed buffer is the peak
            break
        mover = peaks[np.random.randint(count)]
        degree = t.pointers[mover + 1] - t.pointers[mover]
        if degree > 0 and np.random.random() < 0.4:
            mover = t.other[t.pointers[mover] + np.random.randint(degree)]
        origin, destination = place[mover], np.random.randint(n)
        trial[:] = order
        if np.random.random() < 0.5:
            trial[origin], trial[destination] = order[destination], order[origin]
        else:
            step = 1 if destination > origin else -1
            for r in range(origin, destination, step):
                trial[r] = order[r + step]
            trial[destination] = mover
        bar = max(height, past[k % _HISTORY])
        new_offsets, new_height = place_in_order(trial, t, bar + 1)
        if new_height <= bar:
            order[:] = trial
            offsets, height = new_offsets, new_height
            if height < best:
                best_offsets, best = offsets.copy(), height
        past[k % _HISTORY] = height
    return best_offsets, best

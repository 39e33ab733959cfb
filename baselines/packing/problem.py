"""A packing problem as arrays: sections, independent parts, units, and the bound by what is live at once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.packing.buffers import Buffer
from mallocgame.jit import jit

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@jit
def _sections(order: I64, lower: I64, ends: I64, upper: I64, first: I64, last: I64) -> int:
    """Fill each buffer's span of sections; ``order`` sorts by lower and ``ends`` by upper. Return their number."""
    n = lower.size
    started = 0
    sections = 0
    open_section = False  # has anything started since something last ended?
    for e in range(n):
        j = ends[e]
        while started < n and lower[order[started]] < upper[j]:
            if not open_section:
                sections += 1
                open_section = True
            first[order[started]] = sections - 1
            started += 1
        last[j] = sections
        open_section = False
    return sections


def sections_of(lower: I64, upper: I64) -> tuple[I64, I64, int]:
    """Return (first, last, number): spans of maximal live sets in time order; int64[n], half-open.

    Two buffers are live together iff their spans intersect: a live set that is part of another adds nothing.

    >>> first, last, number = sections_of(np.array([0, 1, 3]), np.array([3, 2, 4]))
    >>> first.tolist(), last.tolist(), number
    ([0, 0, 1], [1, 1, 2], 2)
    """
    first = np.empty(lower.size, np.int64)
    last = np.empty(lower.size, np.int64)
    order = np.argsort(lower, kind="stable")
    ends = np.argsort(upper, kind="stable")
    return first, last, int(_sections(order, lower, ends, upper, first, last))


def span_sums(first: I64, last: I64, weight: I64, num_sections: int) -> I64:
    """Return int64[num_sections], the sum of ``weight`` over the spans that cover each section."""
    change = np.zeros(num_sections + 1, np.int64)
    np.add.at(change, first, weight)
    np.subtract.at(change, last, weight)
    return np.cumsum(change[:-1])


@jit
def span_maxima(first: I64, last: I64, value: I64) -> I64:
    """Return int64[n], the greatest ``value`` (int64[num_sections]) in each span, by a sparse table."""
    size = value.size
    levels = 1
    while (1 << levels) <= size:
        levels += 1
    table = np.empty((levels, size), np.int64)
    table[0] = value
    for k in range(1, levels):
        half = 1 << (k - 1)
        for s in range(size - (1 << k) + 1):
            table[k, s] = max(table[k - 1, s], table[k - 1, s + half])
    result = np.empty(first.size, np.int64)
    for i in range(first.size):
        width = last[i] - first[i]
        k = 0
        while (2 << k) <= width:
            k += 1
        result[i] = max(table[k, first[i]], table[k, last[i] - (1 << k)])
    return result


@jit
def overlap_lists(first: I64, last: I64) -> tuple[I64, I32]:
    """Return (pointers int64[n + 1], neighbours int32[]) of buffers that share a section; spans are half-open."""
    n = first.size
    order = np.argsort(first)
    counts = np.zeros(n + 1, np.int64)
    for a in range(n):
        i = order[a]
        for b in range(a + 1, n):
            j = order[b]
            if first[j] >= last[i]:
                break
            counts[i + 1] += 1
            counts[j + 1] += 1
    pointers = np.cumsum(counts)
    fill = pointers[:-1].copy()
    neighbours = np.empty(pointers[n], np.int32)
    for a in range(n):
        i = order[a]
        for b in range(a + 1, n):
            j = order[b]
            if first[j] >= last[i]:
                break
            neighbours[fill[i]] = j
            fill[i] += 1
            neighbours[fill[j]] = i
            fill[j] += 1
    return pointers, neighbours


@jit
def reorder_lists(pointers: I64, neighbours: I32, order: I64) -> tuple[I64, I32]:
    """Return overlap lists of the same buffers numbered by their place in ``order``."""
    n = order.size
    place = np.empty(n, np.int32)
    for r in range(n):
        place[order[r]] = r
    moved_pointers = np.empty(n + 1, np.int64)
    moved = np.empty(neighbours.size, np.int32)
    top = np.int64(0)
    for r in range(n):
        moved_pointers[r] = top
        for p in range(pointers[order[r]], pointers[order[r] + 1]):
            moved[top] = place[neighbours[p]]
            top += 1
    moved_pointers[n] = top
    return moved_pointers, moved


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingProblem:
    """n buffers in bytes, as int64[n] arrays.

    ``fixed`` is the offset a buffer must have, or -1. ``first`` and ``last`` are half-open spans of sections.
    """

    lower: I64
    upper: I64
    size: I64
    alignment: I64
    fixed: I64
    first: I64
    last: I64
    num_sections: int

    @classmethod
    def of(
        cls, lower: I64, upper: I64, size: I64, *, alignment: I64 | None = None, fixed: I64 | None = None
    ) -> "PackingProblem":
        """Build from int64[n] arrays; see ``Buffer`` for what they must satisfy (checked by assertion here)."""
        n = lower.size
        alignment = np.ones(n, np.int64) if alignment is None else alignment
        fixed = np.full(n, -1, np.int64) if fixed is None else fixed
        assert n == upper.size == size.size == alignment.size == fixed.size
        assert bool((lower < upper).all() and (size > 0).all() and (alignment > 0).all())
        first, last, number = sections_of(lower, upper)
        return cls(
            lower=lower,
            upper=upper,
            size=size,
            alignment=alignment,
            fixed=fixed,
            first=first,
            last=last,
            num_sections=number,
        )

    @classmethod
    def from_buffers(cls, buffers: Sequence[Buffer]) -> "PackingProblem":
        """Build from value types."""

        def column(values: list[int]) -> I64:
            return np.array(values, np.int64)

        return cls.of(
            column([b.lower for b in buffers]),
            column([b.upper for b in buffers]),
            column([b.size_bytes for b in buffers]),
            alignment=column([b.alignment_bytes for b in buffers]),
            fixed=column([-1 if b.fixed_offset is None else b.fixed_offset for b in buffers]),
        )

    def height(self, offsets: I64) -> int:
        """Return the greatest end address in bytes."""
        return int((offsets + self.size).max(initial=0))

    def unit(self) -> int:
        """Return a number of bytes that some best packing has all its offsets multiples of.

        Where every movable buffer has an alignment, offsets are multiples of the alignments' greatest common divisor;
        otherwise buffers pushed down as far as they go have offsets that are sums of sizes.
        """
        movable = self.fixed < 0
        grid = int(np.gcd.reduce(np.concatenate([self.alignment[movable], self.fixed[~movable]]), initial=0))
        if grid > 1:
            return grid
        aligned = self.alignment[movable & (self.alignment > 1)]
        return max(1, int(np.gcd.reduce(np.concatenate([self.size, aligned, self.fixed[~movable]]), initial=0)))

    def lower_bound(self) -> int:
        """Return bytes that every packing needs: the greatest live sum, padding included, and fixed buffers' ends."""
        if self.size.size == 0:
            return 0
        unit = self.unit()
        padded = -(-self.size // unit) * unit
        sums = span_sums(self.first, self.last, padded, self.num_sections)
        # Only the topmost buffer of a section may go without its padding.
        pad = padded - self.size
        spare = _section_maxima(self.first, self.last, pad, self.num_sections) if pad.any() else 0
        fixed_end = int(np.where(self.fixed >= 0, self.fixed + self.size, 0).max())
        return max(int((sums - spare).max()), fixed_end)

    def parts(self) -> list[I64]:
        """Return index arrays (int64) of the parts that share no step with one another, in time order."""
        if self.size.size == 0:
            return []
        crossing = np.zeros(self.num_sections + 1, np.int64)
        np.add.at(crossing, self.first, 1)
        np.subtract.at(crossing, self.last - 1, 1)
        starts = np.concatenate([[True], np.cumsum(crossing)[: self.num_sections - 1] == 0])
        part = (np.cumsum(starts) - 1)[self.first]
        order = np.argsort(part, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(part[order])) + 1)

    def take(self, index: I64) -> "PackingProblem":
        """Return the problem of some of the buffers."""
        arrays = {f.name: getattr(self, f.name)[index] for f in fields(self)[:5]}
        return PackingProblem.of(
            arrays["lower"], arrays["upper"], arrays["size"], alignment=arrays["alignment"], fixed=arrays["fixed"]
        )


@jit
def _section_maxima(first: I64, last: I64, value: I64, num_sections: int) -> I64:
    result = np.zeros(num_sections, np.int64)
    for i in range(first.size):
        for s in range(first[i], last[i]):
            result[s] = max(result[s], value[i])
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A problem in units (see ``PackingProblem.unit``), which is what the solvers' kernels work on; int64[n] arrays."""

    problem: PackingProblem
    unit: int
    size: I64  # rounded up
    alignment: I64
    fixed: I64

    @classmethod
    def of(cls, problem: PackingProblem) -> "Scaled":
        """Scale a problem."""
        unit = problem.unit()
        movable = problem.fixed < 0
        return cls(
            problem=problem,
            unit=unit,
            size=-(-problem.size // unit),
            alignment=np.where(movable & (problem.alignment > 1), problem.alignment // unit, 1),
            fixed=np.where(movable, -1, problem.fixed // unit),
        )

    def bytes_of(self, offsets: I64) -> I64:
        """Return offsets in bytes."""
        return offsets * self.unit

    def max_offsets(self, capacity_bytes: int) -> I64:
        """Return the greatest offset of each buffer in units (negative where it does not fit at all)."""
        return (capacity_bytes - self.problem.size) // self.unit

"""Static packing problems as value types: buffers, gaps in their lifetimes, and what is needed at once.

A buffer is a rectangle of time × address whose time span is given; a packing gives it an address. The same types serve
``mallocgame pack`` and the solvers that place the residencies of a mapping.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mallocgame.errors import InputError

MAX_BYTES = 2**53  # sizes, offsets and capacities above this are taken for mistakes; sums stay far inside int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Steps ``lower <= t < upper`` of a lifetime in which only ``window`` of the buffer's bytes is in use.

    ``window`` is (first byte, one past the last), relative to the buffer's offset; (0, 0) is nothing at all.
    """

    lower: int
    upper: int
    window: tuple[int, int] = (0, 0)


class Piece(NamedTuple):
    """A rectangle that a buffer covers: steps [lower, upper), bytes [bottom, top) above its offset; never empty."""

    lower: int
    upper: int
    bottom: int
    top: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One allocation, live at step t iff ``lower <= t < upper``, and at some time with each buffer in ``conflicts``.

    One of no bytes, or of no steps, needs no memory: any offset will do.
    """

    name: str
    lower: int
    upper: int  # exclusive
    size_bytes: int
    alignment_bytes: int = 1
    fixed_offset: int | None = None  # already placed there: the packing must keep it
    gaps: tuple[Gap, ...] = ()  # in time order; one offset serves the whole lifetime
    conflicts: tuple[str, ...] = ()  # names; it is enough that one of the two names the other

    def __post_init__(self) -> None:
        if self.lower > self.upper:
            raise InputError(f"buffer {self.name!r}: need lower <= upper, got {self.lower} and {self.upper}")
        if max(abs(self.lower), abs(self.upper)) > MAX_BYTES:
            raise InputError(f"buffer {self.name!r}: lower and upper must lie within ±2**53")
        if not 0 <= self.size_bytes <= MAX_BYTES:
            raise InputError(f"buffer {self.name!r}: need 0 <= size <= 2**53 bytes, got {self.size_bytes}")
        if not 0 < self.alignment_bytes <= MAX_BYTES:
            raise InputError(f"buffer {self.name!r}: need 0 < alignment <= 2**53, got {self.alignment_bytes}")
        if self.fixed_offset is not None:
            if not 0 <= self.fixed_offset <= MAX_BYTES:
                raise InputError(f"buffer {self.name!r}: need 0 <= offset <= 2**53, got {self.fixed_offset}")
            if self.fixed_offset % self.alignment_bytes:
                raise InputError(
                    f"buffer {self.name!r}: offset {self.fixed_offset} is not a multiple of its alignment "
                    f"{self.alignment_bytes}"
                )
        end = self.lower
        for gap in self.gaps:
            if not end <= gap.lower <= gap.upper <= self.upper:
                raise InputError(
                    f"buffer {self.name!r}: gap {gap.lower}-{gap.upper} must lie in its lifetime, after the gap before"
                )
            if not 0 <= gap.window[0] <= gap.window[1] <= self.size_bytes:
                raise InputError(
                    f"buffer {self.name!r}: window {gap.window[0]}:{gap.window[1]} must lie within its "
                    f"{self.size_bytes} bytes"
                )
            end = gap.upper

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The rectangles it covers, in time order."""
        found = []
        start = self.lower
        for gap in self.gaps:
            found.append(Piece(start, gap.lower, 0, self.size_bytes))
            found.append(Piece(gap.lower, gap.upper, *gap.window))
            start = gap.upper
        found.append(Piece(start, self.upper, 0, self.size_bytes))
        return tuple(piece for piece in found if piece.lower < piece.upper and piece.bottom < piece.top)

    @property
    def needs_memory(self) -> bool:
        """Whether it ever holds a byte."""
        return bool(self.pieces)


def packing_height(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """Return the greatest end address in bytes of a buffer that needs memory, 0 if there is none.

    >>> packing_height([Buffer(name="a", lower=0, upper=2, size_bytes=4)], [3])
    7
    """
    ends = (offset + b.size_bytes for b, offset in zip(buffers, offsets, strict=True) if b.needs_memory)
    return max(ends, default=0)


def max_live_bytes(buffers: Iterable[Buffer]) -> int:
    """Return the most bytes in use at once by lifetimes (conflict lists may need more): no packing is lower.

    >>> a = Buffer(name="a", lower=0, upper=2, size_bytes=4)
    >>> max_live_bytes([a, Buffer(name="b", lower=2, upper=3, size_bytes=5)])
    5
    """
    changes: dict[int, int] = {}
    for b in buffers:
        for lower, upper, bottom, top in b.pieces:
            changes[lower] = changes.get(lower, 0) + top - bottom
            changes[upper] = changes.get(upper, 0) - (top - bottom)
    live = peak = 0
    for step in sorted(changes):
        live += changes[step]
        peak = max(peak, live)
    return peak


def conflict_pairs(buffers: Sequence[Buffer]) -> list[tuple[int, int]]:
    """Return the pairs of indices (first < second) that conflict lists name, each once, in order.

    Pairs with a buffer that needs no memory are left out.

    Raises:
        InputError: a list names a buffer that does not exist, or its own.
    """
    if not any(b.conflicts for b in buffers):
        return []
    index = {b.name: i for i, b in enumerate(buffers)}
    found = set()
    for i, b in enumerate(buffers):
        for name in b.conflicts:
            if name not in index or index[name] == i:
                raise InputError(f"buffer {b.name!r}: conflicts with {name!r}, which is no other buffer")
            if b.needs_memory and buffers[index[name]].needs_memory:
                found.add((min(i, index[name]), max(i, index[name])))
    return sorted(found)

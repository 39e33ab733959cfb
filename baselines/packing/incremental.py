"""Best-fit placement one buffer at a time, with removal: what a mapping solver needs between full packings."""

import bisect

from mallocgame.errors import InputError


class IncrementalPacker:
    """Live rectangles of time × address; ``place`` finds the tightest gap, ``remove`` gives one back.

    Rectangles are found through buckets of time steps, so a query looks only at those that can be live with it. A
    rectangle is listed in every bucket it touches; ``bucket_steps`` of about num_steps / 64 suits most programs.

    >>> packer = IncrementalPacker(capacity_bytes=10, bucket_steps=4)
    >>> packer.place("a", 0, 8, 6), packer.place("b", 2, 3, 4), packer.place("c", 7, 9, 5)
    (0, 6, None)
    >>> packer.remove("a")
    >>> packer.place("c", 7, 9, 5)
    0
    """

    def __init__(self, *, capacity_bytes: int, bucket_steps: int = 64) -> None:
        if capacity_bytes < 0 or bucket_steps < 1:
            raise InputError(f"need capacity >= 0 and bucket_steps >= 1, got {capacity_bytes} and {bucket_steps}")
        self._capacity = capacity_bytes
        self._steps = bucket_steps
        self._placed: dict[str, tuple[int, int, int, int]] = {}  # name -> offset, end address, lower, upper
        self._buckets: dict[int, list[tuple[int, int, int, int, str]]] = {}

    def __len__(self) -> int:
        return len(self._placed)

    def offset(self, name: str) -> int:
        """Return where a placed buffer is, in bytes."""
        return self._placed[name][0]

    def gap(self, lower: int, upper: int, size_bytes: int, alignment_bytes: int = 1) -> int | None:
        """Return the offset of the tightest gap in [lower, upper) that holds ``size_bytes``, or None."""
        live = {
            entry[4]: entry
            for bucket in range(lower // self._steps, (upper - 1) // self._steps + 1)
            for entry in self._buckets.get(bucket, ())
            if entry[2] < upper and lower < entry[3]
        }
        best: int | None = None
        best_room = self._capacity + 1
        top = 0
        for low, high, *_ in [*sorted(live.values()), (self._capacity, self._capacity, 0, 0, "")]:
            start = -(-top // alignment_bytes) * alignment_bytes
            if size_bytes <= low - start < best_room:
                best, best_room = start, low - start
            top = max(top, high)
        return best

    def place(self, name: str, lower: int, upper: int, size_bytes: int, alignment_bytes: int = 1) -> int | None:
        """Place a buffer live in [lower, upper) and return its offset in bytes, or None where no gap holds it."""
        offset = self.gap(lower, upper, size_bytes, alignment_bytes)
        if offset is not None:
            self.place_at(name, lower, upper, size_bytes, offset)
        return offset

    def place_at(self, name: str, lower: int, upper: int, size_bytes: int, offset: int) -> None:
        """Record a buffer at a given offset; the caller vouches that it is free."""
        if name in self._placed or lower >= upper or size_bytes <= 0:
            raise InputError(f"cannot place {name!r}: already placed, or an empty rectangle")
        self._placed[name] = (offset, offset + size_bytes, lower, upper)
        for bucket in range(lower // self._steps, (upper - 1) // self._steps + 1):
            bisect.insort(self._buckets.setdefault(bucket, []), (offset, offset + size_bytes, lower, upper, name))

    def remove(self, name: str) -> None:
        """Take a buffer out again."""
        entry = self._placed.pop(name)
        for bucket in range(entry[2] // self._steps, (entry[3] - 1) // self._steps + 1):
            row = self._buckets[bucket]
            del row[bisect.bisect_left(row, (*entry, name))]

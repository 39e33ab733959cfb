"""First fit in plain Python: easy packings are answered before a compiler is loaded (half a second of it)."""

from collections.abc import Sequence
from time import monotonic

from mallocgame.baselines.packing.buffers import validate_packing
from mallocgame.baselines.packing.result import PackResult, status_of
from mallocgame.baselines.packing.types import MAX_BYTES, Buffer, max_live_bytes, packing_height

_MOST_BUFFERS = 400  # above this the compiled solvers are faster, start and all


def quick_pack(buffers: Sequence[Buffer], capacity_bytes: int | None, *, minimise: bool) -> PackResult | None:
    """Return a packing that answers the question, by first fit in two orders; None where it takes more than that.

    Gaps, conflict lists and fixed offsets are for the solvers. The answer is one that they would give too: within the
    capacity, or, where the lowest is asked for, as low as the bytes that are live at once.
    """
    began = monotonic()
    if len(buffers) > _MOST_BUFFERS or any(b.gaps or b.conflicts or b.fixed_offset is not None for b in buffers):
        return None
    bound = max_live_bytes(buffers)
    least = minimise or capacity_bytes is None
    capacity = MAX_BYTES * 2 if capacity_bytes is None else capacity_bytes
    goal = min(bound, capacity) if least else capacity
    for key in (_by_size, _by_life):
        offsets = _first_fit(buffers, sorted(range(len(buffers)), key=lambda i, key=key: key(buffers[i])))  # type: ignore[misc]
        height = packing_height(buffers, offsets)
        if height <= goal and not validate_packing(buffers, offsets, limit=1):
            return PackResult.of(offsets, height, bound, status_of(height, bound, capacity), monotonic() - began)
    return None


def _by_size(b: Buffer) -> tuple[int, ...]:
    return -b.size_bytes, b.lower - b.upper


def _by_life(b: Buffer) -> tuple[int, ...]:
    return b.lower - b.upper, -b.size_bytes


def _first_fit(buffers: Sequence[Buffer], order: Sequence[int]) -> list[int]:
    offsets = [0] * len(buffers)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, lower, upper
    for i in order:
        b = buffers[i]
        if not b.needs_memory:
            continue
        offset = 0
        for low, high, _, _ in sorted(p for p in placed if p[2] < b.upper and b.lower < p[3]):
            if offset + b.size_bytes <= low:
                break
            if high > offset:
                offset = -(-high // b.alignment_bytes) * b.alignment_bytes
        offsets[i] = offset
        placed.append((offset, offset + b.size_bytes, b.lower, b.upper))
    return offsets

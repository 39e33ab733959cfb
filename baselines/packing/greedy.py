"""Constructive heuristics, compiled: first fit and best fit in a given order, and hill climbing over the order.

All work in the units of ``Scaled`` and on spans of sections; fixed buffers are placed before any other.
"""

import numpy as np

from mallocgame.baselines.packing.problem import I64, Scaled, span_maxima, span_sums
from mallocgame.jit import jit

FAR = 1 << 62
_HISTORY = 20


@jit
def _insert(sorted_ids: I64, count: int, offsets: I64, i: int) -> None:
    """Insert i into the first ``count`` ids, which are sorted by offset."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if offsets[sorted_ids[middle]] <= offsets[i]:
            low = middle + 1
        else:
            high = middle
    for k in range(count, low, -1):
        sorted_ids[k] = sorted_ids[k - 1]
    sorted_ids[low] = i


@jit
def find_gap(  # noqa: PLR0913 (a kernel takes arrays one by one)
    sorted_ids: I64, count: int, offsets: I64, first: I64, last: I64, size: I64, i: int, alignment: int, best_fit: bool
) -> int:
    """Return the offset of the first (or the tightest) gap for buffer i among ``count`` placed ones, sorted by offset.

    Above everything that is live with it there is always room, so a gap is always found.
    """
    begin, end, need = first[i], last[i], size[i]
    top = 0
    best, best_room = -1, FAR
    for k in range(count):
        j = sorted_ids[k]
        if first[j] >= end or last[j] <= begin:
            continue
        start = top if alignment == 1 else (top + alignment - 1) // alignment * alignment
        room = offsets[j] - start
        if need <= room < best_room:
            best, best_room = start, room
            if not best_fit or room == need:
                return best
        top = max(top, offsets[j] + size[j])
    if best >= 0:
        return best
    return top if alignment == 1 else (top + alignment - 1) // alignment * alignment


@jit
def place_in_order(
    order: I64, first: I64, last: I64, size: I64, alignment: I64, fixed: I64, best_fit: bool, limit: int
) -> tuple[I64, int]:
    """Place buffers one by one in ``order``; return (offsets int64[n], height).

    Gives up, returning a height of at least ``limit``, as soon as that is certain; offsets are then incomplete.
    """
    n = first.size
    offsets = np.full(n, -1, np.int64)
    sorted_ids = np.empty(n, np.int64)
    count = 0
    height = 0
    for i in range(n):
        if fixed[i] >= 0:
            offsets[i] = fixed[i]
            _insert(sorted_ids, count, offsets, i)
            count += 1
            height = max(height, offsets[i] + size[i])
    for i in order:
        if fixed[i] >= 0:
            continue
        offsets[i] = find_gap(sorted_ids, count, offsets, first, last, size, i, alignment[i], best_fit)
        height = max(height, offsets[i] + size[i])
        if height >= limit:
            return offsets, height
        _insert(sorted_ids, count, offsets, i)
        count += 1
    return offsets, height


@jit
def climb(  # noqa: C901, PLR0913 (a kernel: arrays one by one, one loop)
    order: I64,
    first: I64,
    last: I64,
    size: I64,
    alignment: I64,
    fixed: I64,
    target: int,
    tries: int,
    seed: int,
    stop: I64,
) -> tuple[I64, int]:
    """Improve ``order`` (int64[n], in place) for first fit by at most ``tries`` moves.

    Returns the best (offsets, height), in units. Ends early at height ``target`` or when ``stop[0]`` is not zero.
    """
    np.random.seed(seed)  # Numba keeps a state of its own for each thread
    n = order.size
    best_offsets, best = place_in_order(order, first, last, size, alignment, fixed, False, FAR)
    offsets, height = best_offsets, best
    past = np.full(_HISTORY, best, np.int64)
    place = np.empty(n, np.int64)
    trial = np.empty(n, np.int64)
    peaks = np.empty(n, np.int64)
    for k in range(tries):
        if best <= target or stop[0] != 0:
            break
        for r in range(n):
            place[order[r]] = r
        count = 0
        for i in range(n):
            if fixed[i] < 0 and offsets[i] + size[i] == height:
                peaks[count] = i
                count += 1
        if count == 0:  # a fixed buffer is the peak
            break
        mover = peaks[np.random.randint(count)]
        if np.random.random() < 0.3:  # or one of those it rests upon, at random
            for _ in range(1 + np.random.randint(4)):
                below, seen = -1, 0
                for j in range(n):
                    if (
                        fixed[j] < 0
                        and first[j] < last[mover]
                        and first[mover] < last[j]
                        and offsets[j] + size[j] == offsets[mover]
                    ):
                        seen += 1
                        if np.random.randint(seen) == 0:
                            below = j
                if below < 0:
                    break
                mover = below
        origin = place[mover]
        if np.random.random() < 0.5:
            destination = np.random.randint(n)
        else:  # the place of a buffer that is live with it
            destination, seen = 0, 0
            for j in range(n):
                if j != mover and first[j] < last[mover] and first[mover] < last[j]:
                    seen += 1
                    if np.random.randint(seen) == 0:
                        destination = place[j]
        trial[:] = order
        if np.random.random() < 0.5:
            trial[origin], trial[destination] = order[destination], order[origin]
        elif destination < origin:
            for r in range(origin, destination, -1):
                trial[r] = order[r - 1]
            trial[destination] = mover
        else:
            for r in range(origin, destination):
                trial[r] = order[r + 1]
            trial[destination] = mover
        bar = max(height, past[k % _HISTORY])
        new_offsets, new_height = place_in_order(trial, first, last, size, alignment, fixed, False, bar + 1)
        if new_height <= bar:
            order[:] = trial
            offsets, height = new_offsets, new_height
            if height < best:
                best_offsets, best = offsets.copy(), height
        past[k % _HISTORY] = height
    return best_offsets, best


def static_orders(scaled: Scaled) -> dict[str, I64]:
    """Return named orders (int64[n] index arrays), most constrained first; ties go to the buffer given first."""
    p = scaled.problem
    if p.size.size == 0:
        return {"size": np.empty(0, np.int64)}
    width = p.upper - p.lower
    sections = p.last - p.first
    load = span_maxima(p.first, p.last, span_sums(p.first, p.last, scaled.size, p.num_sections))
    area = scaled.size.astype(np.float64) * width
    section_area = scaled.size.astype(np.float64) * sections
    keys = {
        "width, area, load": (width, area, load),
        "load, area, width": (load, area, width),
        "load, width, area": (load, width, area),
        "load, sections, area": (load, sections, area),
        "load, size, width": (load, scaled.size, width),
        "sections, area": (sections, section_area),
        "area, width": (area, width),
        "section area, size": (section_area, scaled.size),
        "size, width": (scaled.size, width),
        "end, size": (p.last, scaled.size),
        "start, size": (-p.first, scaled.size),
    }
    return {name: np.lexsort([-k for k in reversed(key)]).astype(np.int64) for name, key in keys.items()}

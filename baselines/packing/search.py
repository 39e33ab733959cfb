"""Exact search for a packing of one component within a capacity, compiled with Numba.

The search places buffers bottom-up in a canonical order (every buffer rests on another one or on zero, and placements
come in non-decreasing order of (offset, rank)), as MiniMalloc does (Moffitt, ASPLOS 2023, doi:10.1145/3623278.3624752).
A partial packing is given up when a section (a maximal set of buffers live at once) cannot hold what is still to be
placed there, and is split into independent parts as soon as no unplaced buffer crosses a boundary between sections.
Three things are ours:

* *support*: an unplaced buffer that was passed over must come to rest on a buffer placed later, which bounds its
  offset from below and sharpens the section bound;
* *failed states* are remembered by a 128-bit key of (unplaced buffers, their least offsets): the future depends on
  nothing else, and a state that failed for one order of placement fails for every other;
* *twins* (same sections, size and alignment) are placed in one order only.

A buffer with gaps is live in several runs of sections, and one of a conflict list in that of each clique: bounds count
only those, and a part is split off only where nothing unplaced reaches from one side to the other, gaps included.

The state and its pairs of do and undo are in ``state.py``.
"""

from dataclasses import dataclass

import numpy as np

from mallocgame.baselines.packing.problem import I64
from mallocgame.baselines.packing.state import (
    ARENA,
    COUNT,
    FAR,
    PART,
    PARTS,
    PENDING,
    TRAIL,
    U64,
    Bounds,
    Frames,
    Packing,
    SearchTables,
    empty_bounds,
    empty_frames,
    empty_packing,
    put,
    raise_least,
    round_up,
    take_back,
)
from mallocgame.jit import jit, kernel

__all__ = ["INFEASIBLE", "LIMIT", "SOLVED", "STOPPED", "Memo", "SearchTables", "search"]

SOLVED, INFEASIBLE, LIMIT, STOPPED = 1, 2, 3, 4
_BEGIN, _END, _LOW, _HIGH, _PARENT, _NEXT, _NUMBER = 0, 1, 2, 3, 4, 5, 6  # columns of the parts that wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """Failed states of one component at one capacity; valid for every order of its buffers."""

    keys: U64  # uint64[2 ** k, 2], zeros where empty

    @classmethod
    def empty(cls, num_bits: int = 18) -> "Memo":
        """Return a table of ``2 ** num_bits`` slots (16 bytes each)."""
        return cls(keys=np.zeros((1 << num_bits, 2), np.uint64))


@kernel
def _mix(label: int, offset: int, salt: int) -> np.uint64:
    word = np.uint64(label) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(offset) * np.uint64(0xC2B2AE3D27D4EB4F)
    word += np.uint64(salt)
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return word


@kernel
def _sort_by_load(x: SearchTables, p: Packing, arena: I64, begin: int, end: int, load: I64) -> None:
    """Sort arena[begin:end] by (greatest rest of the buffer's sections, descending; index); shell sort in place."""
    for m in range(begin, end):
        i = arena[m]
        load[i] = 0
        for q in range(x.starts[i], x.starts[i + 1]):
            for s in range(x.runs[q, 0], x.runs[q, 1]):
                load[i] = max(load[i], p.rest[s])
    gap = 1
    while 3 * gap + 1 < end - begin:
        gap = 3 * gap + 1
    while gap > 0:
        for m in range(begin + gap, end):
            i = arena[m]
            k = m
            while k - gap >= begin and (
                load[arena[k - gap]] < load[i] or (load[arena[k - gap]] == load[i] and arena[k - gap] > i)
            ):
                arena[k] = arena[k - gap]
                k -= gap
            arena[k] = i
        gap //= 3


# Entering a node


@kernel
def _measure(x: SearchTables, p: Packing, f: Frames, arena: I64, depth: int) -> tuple[int, int, np.uint64, np.uint64]:
    """Return (number of the part's unplaced buffers, least end any of them can have, key of the state)."""
    key_a, key_b = np.uint64(1), np.uint64(2)
    ceiling = int(FAR)
    unplaced = 0
    for m in range(f.members[depth, 0], f.members[depth, 1]):
        i = arena[m]
        if p.placed[i]:
            continue
        unplaced += 1
        least = p.least[i]
        ceiling = min(ceiling, int(least + x.size[i]))
        key_a += _mix(x.label[i], least, 0x1234567)
        key_b += _mix(x.label[i], least, 0x89ABCDE)
    return unplaced, ceiling, key_a, key_b


@kernel
def _next_part(f: Frames, pending: I64, depth: int) -> None:
    """Let the node at ``depth`` go on with the part that waits."""
    head = f.pending[depth]
    f.members[depth, 0], f.members[depth, 1] = pending[head, _BEGIN], pending[head, _END]
    f.sections[depth, 0], f.sections[depth, 1] = pending[head, _LOW], pending[head, _HIGH]
    f.parent[depth] = pending[head, _PARENT]
    f.pending[depth] = pending[head, _NEXT]
    f.part[depth] = pending[head, _NUMBER]


@kernel
def _list_candidates(
    x: SearchTables,
    p: Packing,
    f: Frames,
    arena: I64,
    candidates: I64,
    depth: int,
    begin: int,
    floor: tuple[int, int, int],
) -> int:
    """List, by (offset, rank), the buffers that may be placed next; return the end of the list.

    ``floor`` is (offset, rank) of the last placement, which the next must not precede, and the least end of anything
    unplaced, below which the next must begin.
    """
    last_offset, last_rank, ceiling = floor
    highest = FAR
    for s in range(f.sections[depth, 0], f.sections[depth, 1]):
        if p.rest[s] > 0:
            highest = min(highest, x.capacity - p.rest[s])
    end = begin
    for m in range(f.members[depth, 0], f.members[depth, 1]):
        i = arena[m]
        least = p.least[i]
        if p.placed[i] or least >= ceiling or least > highest:
            continue
        if least < last_offset or (least == last_offset and m < last_rank):
            continue
        if x.twin[i] >= 0 and not p.placed[x.twin[i]]:
            continue
        k = end  # members come by rank, so a stable insertion by offset suffices
        while k > begin and p.least[arena[candidates[k - 1]]] > least:
            candidates[k] = candidates[k - 1]
            k -= 1
        candidates[k] = m
        end += 1
    return end


# The bound over a whole part


@kernel
def _bound_members(x: SearchTables, p: Packing, b: Bounds, arena: I64, members: tuple[int, int], rank: int) -> bool:
    """Bound the offset of each unplaced buffer from below, after the one of ``rank`` was placed.

    One that was passed over must come to rest on something placed later. Returns False if one of them cannot.
    """
    offset = p.offsets[arena[rank]]
    for m in range(members[0], members[1]):
        j = arena[m]
        if p.placed[j]:
            b.bound[j] = -1
            continue
        bound = p.least[j]
        if bound < offset or (bound == offset and m < rank):
            if x.fixed[j] >= 0:
                return False
            bound = FAR
            for q in range(x.pointers[j], x.pointers[j + 1]):
                k = np.int64(x.neighbours[q])
                if not p.placed[k]:
                    bound = min(bound, max(p.least[k], offset) + x.size[k])
            if bound == FAR:
                return False
            bound = round_up(bound, x.alignment[j])
            if bound > x.max_offset[j]:
                return False
        b.bound[j] = bound
    return True


@kernel
def _sections_hold(x: SearchTables, b: Bounds, low: int, high: int) -> bool:
    """Tell whether what must lie above each bound fits there, in every section, from the highest bound down."""
    count = b.known[COUNT]
    for a in range(1, count):
        j = b.waiting[a]
        bound = b.bound[j]
        k = a
        while k > 0 and b.bound[b.waiting[k - 1]] < bound:
            b.waiting[k] = b.waiting[k - 1]
            k -= 1
        b.waiting[k] = j
    for s in range(low, high):
        b.above[s] = 0
    for a in range(count):
        j = b.waiting[a]
        if b.bound[j] < 0:
            break
        worst = np.int64(0)
        for q in range(x.starts[j], x.starts[j + 1]):
            for s in range(x.runs[q, 0], x.runs[q, 1]):
                b.above[s] += x.size[j]
                worst = max(worst, b.above[s])
        if b.bound[j] + worst > x.capacity:
            return False
    return True


@kernel
def _part_holds(x: SearchTables, p: Packing, f: Frames, b: Bounds, arena: I64, depth: int, rank: int) -> bool:
    """Apply both bounds to the part of the node at ``depth``."""
    begin, end = f.members[depth, 0], f.members[depth, 1]
    if f.part[depth] != b.known[PART]:
        b.known[PART], b.known[COUNT] = f.part[depth], end - begin
        for m in range(end - begin):
            b.waiting[m] = arena[begin + m]
    if not _bound_members(x, p, b, arena, (begin, end), rank):
        return False
    return _sections_hold(x, b, f.sections[depth, 0], f.sections[depth, 1])


# Going down


@kernel
def _separates(x: SearchTables, p: Packing, i: int) -> bool:
    """Tell whether no unplaced buffer crosses some boundary that the placed buffer i crosses."""
    found = False
    for s in range(x.first[i], x.last[i] - 1):
        found = found or p.cuts[s] == 0
    return found


@kernel
def _go_down(f: Frames, depth: int) -> None:
    """The next node works on the same part."""
    child = depth + 1
    f.members[child, 0], f.members[child, 1] = f.members[depth, 0], f.members[depth, 1]
    f.sections[child, 0], f.sections[child, 1] = f.sections[depth, 0], f.sections[depth, 1]
    f.parent[child] = depth
    f.part[child] = f.part[depth]
    f.pending[child] = f.pending[depth]


@kernel
def _split(x: SearchTables, p: Packing, f: Frames, arena: I64, pending: I64, load: I64, depth: int) -> None:
    """Let the parts that the buffer placed at ``depth`` separates wait, and the next node take one of them.

    ``take_back`` undoes it by the tops of the arena and of the waiting parts.
    """
    i = f.placed[depth]
    low, high = f.sections[depth, 0], f.sections[depth, 1]
    head = f.pending[depth]
    start = low
    for s in range(low, high):
        if s + 1 < high and not (x.first[i] <= s < x.last[i] - 1 and p.cuts[s] == 0):
            continue
        begin = p.tops[ARENA]
        end = begin
        for m in range(f.members[depth, 0], f.members[depth, 1]):
            j = arena[m]
            if not p.placed[j] and x.first[j] >= start and x.first[j] <= s:
                arena[end] = j
                end += 1
        if end > begin:
            if x.by_load:
                _sort_by_load(x, p, arena, begin, end, load)
            row = p.tops[PENDING]
            p.tops[PARTS] += 1
            pending[row, _BEGIN], pending[row, _END] = begin, end
            pending[row, _LOW], pending[row, _HIGH] = start, s + 1
            pending[row, _PARENT], pending[row, _NEXT] = depth, head
            pending[row, _NUMBER] = p.tops[PARTS]
            p.tops[ARENA], p.tops[PENDING] = end, row + 1
            head = row
        start = s + 1
    child = depth + 1
    f.members[child, 0] = f.members[child, 1] = 0
    f.sections[child, 0] = f.sections[child, 1] = 0
    f.pending[child] = head
    f.parent[child] = depth


# The search


@jit
def _longer(array: I64, used: int, needed: int) -> I64:
    grown = np.empty(2 * needed, np.int64)
    grown[:used] = array[:used]
    return grown


@jit
def _longer_trail(trail: I64, used: int, needed: int) -> I64:
    grown = np.empty((2 * needed, 2), np.int64)
    grown[:used] = trail[:used]
    return grown


@jit
def search(x: SearchTables, node_limit: int, stop: I64, memo: U64, offsets: I64) -> tuple[int, int]:  # noqa: C901 (a kernel: one loop)
    """Search for offsets of the buffers within the capacity.

    Args:
        x: the buffers, n of them.
        node_limit: give up after so many nodes.
        stop: int64[1], set to non-zero by another thread to stop the search.
        memo: uint64[2 ** k, 2], failed states, updated in place.
        offsets: int64[n], overwritten; complete only where the status is SOLVED.

    Returns:
        (SOLVED | INFEASIBLE | LIMIT | STOPPED, nodes visited)
    """
    n = x.first.size
    mask = np.uint64(memo.shape[0] - 1)
    p, f, b = empty_packing(x, offsets), empty_frames(x), empty_bounds(x)
    trail = np.empty((16 * n + 64, 2), np.int64)  # rows of (buffer, its least offset before)
    arena = np.empty(n * 4 + 64, np.int64)
    candidates = np.empty(n * 4 + 64, np.int64)
    pending = np.empty((x.num_sections + n + 8, 7), np.int64)
    load = np.empty(n, np.int64)
    for i in range(n):
        arena[i] = i
    if x.by_load:
        _sort_by_load(x, p, arena, 0, n, load)
    depth = 0
    nodes = 0
    last_offset, last_rank = 0, -1
    entering = True
    while True:
        if entering:
            nodes += 1
            if nodes > node_limit:
                return LIMIT, nodes
            if stop[0] != 0:
                return STOPPED, nodes
            unplaced, ceiling, key_a, key_b = _measure(x, p, f, arena, depth)
            while unplaced == 0:
                if f.pending[depth] < 0:
                    return SOLVED, nodes
                _next_part(f, pending, depth)
                last_offset, last_rank = 0, -1
                unplaced, ceiling, key_a, key_b = _measure(x, p, f, arena, depth)
            f.key[depth, 0], f.key[depth, 1] = key_a, key_b
            begin = int(f.candidates[depth - 1, 1]) if depth > 0 else 0
            end = begin
            slot = key_a & mask
            if memo[slot, 0] != key_a or memo[slot, 1] != key_b:
                if begin + unplaced > candidates.size:
                    candidates = _longer(candidates, begin, begin + unplaced)
                floor = (last_offset, last_rank, ceiling)
                end = _list_candidates(x, p, f, arena, candidates, depth, begin, floor)
            f.candidates[depth, 0], f.candidates[depth, 1] = begin, end
            f.position[depth] = begin
            f.placed[depth] = -1
            for top in range(3):
                f.marks[depth, top] = p.tops[top]
            entering = False

        if f.placed[depth] >= 0:
            take_back(x, p, f, trail, depth)
        if f.position[depth] == f.candidates[depth, 1]:  # exhausted
            slot = f.key[depth, 0] & mask
            memo[slot, 0], memo[slot, 1] = f.key[depth, 0], f.key[depth, 1]
            if f.parent[depth] < 0:
                return INFEASIBLE, nodes
            parent = f.parent[depth]
            while depth - 1 > parent:
                depth -= 1
                take_back(x, p, f, trail, depth)
            depth = parent
            continue

        rank = int(candidates[f.position[depth]])
        i = arena[rank]
        f.position[depth] += 1
        if p.least[i] > x.max_offset[i]:
            continue
        f.placed[depth] = i
        if not put(x, p, i, p.least[i]):
            continue
        needed = p.tops[TRAIL] + x.pointers[i + 1] - x.pointers[i]
        if needed > trail.shape[0]:
            trail = _longer_trail(trail, p.tops[TRAIL], needed)
        if not raise_least(x, p, trail, i):
            continue
        if x.deep and not _part_holds(x, p, f, b, arena, depth, rank):
            continue
        if _separates(x, p, i):
            needed = p.tops[ARENA] + f.members[depth, 1] - f.members[depth, 0]
            if needed > arena.size:
                arena = _longer(arena, p.tops[ARENA], needed)
            _split(x, p, f, arena, pending, load, depth)
            last_offset, last_rank = 0, -1
        else:
            _go_down(f, depth)
            last_offset, last_rank = int(p.offsets[i]), rank
        depth += 1
        entering = True

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

All kernels of the search live in this one module because Numba's cache looks only at the file that holds the function.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]

SOLVED, INFEASIBLE, LIMIT, STOPPED = 1, 2, 3, 4
_FAR = np.int64(1) << np.int64(62)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """Failed states of one component at one capacity; valid for every order of its buffers."""

    keys: U64  # uint64[2 ** k, 2], zeros where empty

    @classmethod
    def empty(cls, num_bits: int = 18) -> "Memo":
        """Return a table of ``2 ** num_bits`` slots (16 bytes each)."""
        return cls(keys=np.zeros((1 << num_bits, 2), np.uint64))


@jit
def _mix(label: int, offset: int, salt: int) -> np.uint64:
    word = np.uint64(label) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(offset) * np.uint64(0xC2B2AE3D27D4EB4F)
    word += np.uint64(salt)
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return word


@jit
def _round_up(offset: int, alignment: int) -> int:
    return offset if alignment == 1 else (offset + alignment - 1) // alignment * alignment


@jit
def _sort_by_load(arena: I64, begin: int, end: int, load: I64, first: I64, last: I64, rest: I64) -> None:
    """Sort arena[begin:end] by (greatest rest of the buffer's sections, descending; index); shell sort in place."""
    for m in range(begin, end):
        i = arena[m]
        load[i] = 0
        for s in range(first[i], last[i]):
            load[i] = max(load[i], rest[s])
    gap = 1
    while 3 * gap + 1 < end - begin:
        gap = 3 * gap + 1
    while gap > 0:
        for m in range(begin + gap, end):
            i = arena[m]
            p = m
            while p - gap >= begin and (
                load[arena[p - gap]] < load[i] or (load[arena[p - gap]] == load[i] and arena[p - gap] > i)
            ):
                arena[p] = arena[p - gap]
                p -= gap
            arena[p] = i
        gap //= 3


@jit
def search(
    first: I64,
    last: I64,
    size: I64,
    alignment: I64,
    fixed: I64,
    max_offset: I64,
    label: I64,
    twin: I64,
    pointers: I64,
    neighbours: I32,
    num_sections: int,
    capacity: int,
    by_load: bool,
    deep: bool,
    node_limit: int,
    stop: I64,
    memo: U64,
    offsets: I64,
) -> tuple[int, int]:
    """Search for offsets of n buffers, given in rank order, within ``capacity``.

    Args:
        first: int64[n], first section of each buffer.
        last: int64[n], one past its last section.
        size: int64[n], > 0, in units.
        alignment: int64[n], >= 1, in units.
        fixed: int64[n], the offset a buffer must have, or -1.
        max_offset: int64[n], the greatest offset allowed.
        label: int64[n], >= 0, names the buffer in the failed-state table: equal for twins, independent of the order.
        twin: int64[n], the twin of next lower rank, or -1.
        pointers: int64[n + 1], as ``overlap_lists`` returns.
        neighbours: int32[], as ``overlap_lists`` returns.
        num_sections: number of sections.
        capacity: units a section can hold.
        by_load: rank the buffers of a part first by the greatest rest of their sections when the part was split off.
        deep: apply the section bound to the whole part at each node, not only to the sections of the placed buffer.
        node_limit: give up after so many nodes.
        stop: int64[1], set to non-zero by another thread to stop the search.
        memo: uint64[2 ** k, 2], failed states, updated in place.
        offsets: int64[n], overwritten; complete only where the status is SOLVED.

    Returns:
        (SOLVED | INFEASIBLE | LIMIT | STOPPED, nodes visited)
    """
    n = first.size
    mask = np.uint64(memo.shape[0] - 1)
    # State of the partial packing, undone by a trail.
    least = np.zeros(n, np.int64)  # least offset of each buffer given what is placed
    placed = np.zeros(n, np.bool_)
    rest = np.zeros(num_sections, np.int64)  # size still to be placed, by section
    cuts = np.zeros(num_sections, np.int64)  # unplaced buffers crossing from section s to s + 1
    for i in range(n):
        offsets[i] = -1
        least[i] = fixed[i] if fixed[i] >= 0 else 0
        for s in range(first[i], last[i]):
            rest[s] += size[i]
            if s + 1 < last[i]:
                cuts[s] += 1
    above = np.empty(num_sections, np.int64)
    bound = np.full(n, -1, np.int64)
    waiting = np.empty(n, np.int64)  # the part's buffers, highest bound first
    waiting_part, waiting_count = np.int64(-1), np.int64(0)
    parts_made = np.int64(0)
    load = np.empty(n, np.int64)
    trail_buffer = np.empty(16 * n + 64, np.int64)
    trail_least = np.empty(16 * n + 64, np.int64)
    trail_top = 0
    # One frame per placed buffer (and one per node being tried).
    depth_limit = n + 2
    f_members = np.zeros((depth_limit, 2), np.int64)  # range of the arena holding the part's buffers
    f_sections = np.zeros((depth_limit, 2), np.int64)
    f_candidates = np.zeros((depth_limit, 2), np.int64)
    f_position = np.zeros(depth_limit, np.int64)
    f_parent = np.zeros(depth_limit, np.int64)  # where to go when this node is exhausted
    f_pending = np.zeros(depth_limit, np.int64)
    f_part = np.zeros(depth_limit, np.int64)
    f_placed = np.full(depth_limit, -1, np.int64)
    f_trail = np.zeros(depth_limit, np.int64)
    f_marks = np.zeros((depth_limit, 2), np.int64)  # arena and pending tops before this node placed anything
    f_key = np.zeros((depth_limit, 2), np.uint64)
    arena = np.empty(n * 4 + 64, np.int64)
    candidates = np.empty(n * 4 + 64, np.int64)
    pending = np.empty((num_sections + n + 8, 7), np.int64)  # members, sections, parent, next, number
    pending_top = 0
    for i in range(n):
        arena[i] = i
    arena_top = n
    if by_load:
        _sort_by_load(arena, 0, n, load, first, last, rest)

    depth = 0
    nodes = 0
    f_members[0, 0], f_members[0, 1] = 0, n
    f_sections[0, 0], f_sections[0, 1] = 0, num_sections
    f_parent[0] = -1
    f_pending[0] = -1
    f_part[0] = 0
    last_offset, last_rank = np.int64(0), np.int64(-1)
    entering = True
    while True:
        if entering:
            nodes += 1
            if nodes > node_limit:
                return LIMIT, nodes
            if stop[0] != 0:
                return STOPPED, nodes
            # Take the next part when this one is complete.
            while True:
                key_a, key_b = np.uint64(1), np.uint64(2)
                ceiling = _FAR
                unplaced = 0
                for m in range(f_members[depth, 0], f_members[depth, 1]):
                    i = arena[m]
                    if placed[i]:
                        continue
                    unplaced += 1
                    ceiling = min(ceiling, least[i] + size[i])
                    key_a += _mix(label[i], least[i], 0x1234567)
                    key_b += _mix(label[i], least[i], 0x89ABCDE)
                if unplaced > 0:
                    break
                head = f_pending[depth]
                if head < 0:
                    return SOLVED, nodes
                f_members[depth, 0], f_members[depth, 1] = pending[head, 0], pending[head, 1]
                f_sections[depth, 0], f_sections[depth, 1] = pending[head, 2], pending[head, 3]
                f_parent[depth] = pending[head, 4]
                f_pending[depth] = pending[head, 5]
                f_part[depth] = pending[head, 6]
                last_offset, last_rank = np.int64(0), np.int64(-1)
            f_key[depth, 0], f_key[depth, 1] = key_a, key_b
            f_placed[depth] = -1
            begin = f_candidates[depth - 1, 1] if depth > 0 else np.int64(0)
            end = begin
            slot = key_a & mask
            if memo[slot, 0] != key_a or memo[slot, 1] != key_b:
                if begin + unplaced > candidates.size:
                    grown = np.empty(2 * (begin + unplaced), np.int64)
                    grown[:begin] = candidates[:begin]
                    candidates = grown
                highest = _FAR
                for s in range(f_sections[depth, 0], f_sections[depth, 1]):
                    if rest[s] > 0:
                        highest = min(highest, capacity - rest[s])
                for m in range(f_members[depth, 0], f_members[depth, 1]):
                    i = arena[m]
                    if placed[i] or least[i] >= ceiling or least[i] > highest:
                        continue
                    if least[i] < last_offset or (least[i] == last_offset and m < last_rank):
                        continue
                    if twin[i] >= 0 and not placed[twin[i]]:
                        continue
                    p = end  # members come by rank, so a stable insertion by offset suffices
                    while p > begin and least[arena[candidates[p - 1]]] > least[i]:
                        candidates[p] = candidates[p - 1]
                        p -= 1
                    candidates[p] = m
                    end += 1
            f_candidates[depth, 0], f_candidates[depth, 1] = begin, end
            f_position[depth] = begin
            f_marks[depth, 0], f_marks[depth, 1] = arena_top, pending_top
            f_trail[depth] = trail_top
            entering = False

        # Undo what this node placed, if anything.
        i = f_placed[depth]
        if i >= 0:
            while trail_top > f_trail[depth]:
                trail_top -= 1
                least[trail_buffer[trail_top]] = trail_least[trail_top]
            placed[i] = False
            for s in range(first[i], last[i]):
                rest[s] += size[i]
                if s + 1 < last[i]:
                    cuts[s] += 1
            arena_top, pending_top = f_marks[depth, 0], f_marks[depth, 1]
            f_placed[depth] = -1

        if f_position[depth] == f_candidates[depth, 1]:  # exhausted
            slot = f_key[depth, 0] & mask
            memo[slot, 0], memo[slot, 1] = f_key[depth, 0], f_key[depth, 1]
            parent = f_parent[depth]
            if parent < 0:
                return INFEASIBLE, nodes
            while depth - 1 > parent:
                depth -= 1
                j = f_placed[depth]
                while trail_top > f_trail[depth]:
                    trail_top -= 1
                    least[trail_buffer[trail_top]] = trail_least[trail_top]
                placed[j] = False
                for s in range(first[j], last[j]):
                    rest[s] += size[j]
                    if s + 1 < last[j]:
                        cuts[s] += 1
                f_placed[depth] = -1
            depth = parent
            continue

        rank = candidates[f_position[depth]]
        i = arena[rank]
        f_position[depth] += 1
        offset = least[i]
        if offset > max_offset[i]:
            continue
        # Place buffer i.
        f_placed[depth] = i
        placed[i] = True
        offsets[i] = offset
        top = offset + size[i]
        viable = True
        for s in range(first[i], last[i]):
            rest[s] -= size[i]
            if s + 1 < last[i]:
                cuts[s] -= 1
            if rest[s] > 0 and top + rest[s] > capacity:
                viable = False
        if not viable:
            continue
        degree = pointers[i + 1] - pointers[i]
        if trail_top + degree > trail_buffer.size:
            longer_buffer = np.empty(2 * (trail_top + degree), np.int64)
            longer_buffer[:trail_top] = trail_buffer[:trail_top]
            trail_buffer = longer_buffer
            longer_least = np.empty(2 * (trail_top + degree), np.int64)
            longer_least[:trail_top] = trail_least[:trail_top]
            trail_least = longer_least
        for p in range(pointers[i], pointers[i + 1]):
            j = np.int64(neighbours[p])
            if placed[j] or least[j] >= top:
                continue
            trail_buffer[trail_top] = j
            trail_least[trail_top] = least[j]
            trail_top += 1
            least[j] = _round_up(top, alignment[j])
            if least[j] > max_offset[j] or (fixed[j] >= 0 and least[j] > fixed[j]):
                viable = False
                break
        if not viable:
            continue
        # Section bound: what is unplaced must fit above the least offset that any of it can have.
        low, high = f_sections[depth, 0], f_sections[depth, 1]
        if deep:
            if f_part[depth] != waiting_part:
                waiting_part = f_part[depth]
                waiting_count = f_members[depth, 1] - f_members[depth, 0]
                for m in range(waiting_count):
                    waiting[m] = arena[f_members[depth, 0] + m]
            for m in range(f_members[depth, 0], f_members[depth, 1]):
                j = arena[m]
                if placed[j]:
                    bound[j] = -1
                    continue
                b = least[j]
                if b < offset or (b == offset and m < rank):  # passed over: it must rest on something placed later
                    if fixed[j] >= 0:
                        viable = False
                        break
                    b = _FAR
                    for p in range(pointers[j], pointers[j + 1]):
                        k = np.int64(neighbours[p])
                        if not placed[k]:
                            b = min(b, max(least[k], offset) + size[k])
                    if b == _FAR:
                        viable = False
                        break
                    b = _round_up(b, alignment[j])
                    if b > max_offset[j]:
                        viable = False
                        break
                bound[j] = b
            if not viable:
                continue
            # Each section, from the highest bound down: what must lie above a bound has to fit there.
            for a in range(1, waiting_count):
                j = waiting[a]
                b = bound[j]
                p = a
                while p > 0 and bound[waiting[p - 1]] < b:
                    waiting[p] = waiting[p - 1]
                    p -= 1
                waiting[p] = j
            for s in range(low, high):
                above[s] = 0
            for a in range(waiting_count):
                j = waiting[a]
                if bound[j] < 0:
                    break
                worst = np.int64(0)
                for s in range(first[j], last[j]):
                    above[s] += size[j]
                    worst = max(worst, above[s])
                if bound[j] + worst > capacity:
                    viable = False
                    break
            if not viable:
                continue
        # Go down; split where no unplaced buffer crosses any more.
        split = False
        for s in range(first[i], last[i] - 1):
            if cuts[s] == 0:
                split = True
                break
        child = depth + 1
        if not split:
            f_members[child, 0], f_members[child, 1] = f_members[depth, 0], f_members[depth, 1]
            f_sections[child, 0], f_sections[child, 1] = low, high
            f_parent[child] = depth
            f_part[child] = f_part[depth]
            f_pending[child] = f_pending[depth]
            last_offset, last_rank = offset, rank
        else:
            members = f_members[depth, 1] - f_members[depth, 0]
            if arena_top + members > arena.size:
                wider = np.empty(2 * (arena_top + members), np.int64)
                wider[:arena_top] = arena[:arena_top]
                arena = wider
            head = f_pending[depth]
            start = low
            for s in range(low, high):
                inside = s + 1 < high and not (first[i] <= s < last[i] - 1 and cuts[s] == 0)
                if inside:
                    continue
                begin = arena_top
                for m in range(f_members[depth, 0], f_members[depth, 1]):
                    j = arena[m]
                    if not placed[j] and first[j] >= start and first[j] <= s:
                        arena[arena_top] = j
                        arena_top += 1
                if arena_top > begin:
                    if by_load:
                        _sort_by_load(arena, begin, arena_top, load, first, last, rest)
                    pending[pending_top, 0], pending[pending_top, 1] = begin, arena_top
                    pending[pending_top, 2], pending[pending_top, 3] = start, s + 1
                    pending[pending_top, 4], pending[pending_top, 5] = depth, head
                    parts_made += 1
                    pending[pending_top, 6] = parts_made
                    head = pending_top
                    pending_top += 1
                start = s + 1
            f_members[child, 0] = f_members[child, 1] = 0
            f_sections[child, 0] = f_sections[child, 1] = 0
            f_pending[child] = head
            f_parent[child] = depth
            last_offset, last_rank = np.int64(0), np.int64(-1)
        depth = child
        entering = True

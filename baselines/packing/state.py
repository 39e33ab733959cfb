"""What the exact search works on, and its steps in pairs of do and undo, compiled with Numba."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.packing.problem import I32, I64
from mallocgame.jit import jit, kernel

U64 = npt.NDArray[np.uint64]

FAR = np.int64(1) << np.int64(62)
TRAIL, ARENA, PENDING, PARTS = 0, 1, 2, 3  # of Packing.tops
PART, COUNT = 0, 1  # of Bounds.known


class SearchTables(NamedTuple):
    """n buffers in rank order, their sections, and how to search; sizes and offsets in units."""

    first: I64  # [n], first section of each buffer
    last: I64  # [n], one past its last section
    starts: I64  # [n + 1]: rows starts[i] to starts[i + 1] of ``runs`` are buffer i's
    runs: I64  # [., 2], half-open runs of sections in which a buffer is live, within first and last, in order
    size: I64  # [n], > 0
    alignment: I64  # [n], >= 1
    fixed: I64  # [n], the offset a buffer must have, or -1
    max_offset: I64  # [n], the greatest offset allowed
    label: I64  # [n], >= 0, its name in the failed-state table: equal for twins, independent of the order
    twin: I64  # [n], the twin of next lower rank, or -1
    pointers: I64  # [n + 1], as ``overlap_lists`` returns
    neighbours: I32  # as ``overlap_lists`` returns
    num_sections: int
    capacity: int  # units that a section can hold
    by_load: bool  # rank a part's buffers first by the greatest rest of their sections when it was split off
    deep: bool  # apply the section bound to the whole part at each node, not only to the placed buffer's sections


class Packing(NamedTuple):
    """The partial packing; whatever changes in it is undone by its pair."""

    offsets: I64  # [n]
    least: I64  # [n], least offset of each buffer given what is placed
    placed: npt.NDArray[np.bool_]  # [n]
    rest: I64  # [sections], size still to be placed
    cuts: I64  # [sections], unplaced buffers crossing from section s to s + 1
    tops: I64  # [4]: how much of the trail, the arena and the waiting parts is in use; parts made so far


class Frames(NamedTuple):
    """One row for each placed buffer, and one for the node being tried; depth d is row d."""

    members: I64  # [., 2], range of the arena that holds the part's buffers
    sections: I64  # [., 2]
    candidates: I64  # [., 2], range of the candidates
    position: I64  # [.], the candidate to try next
    parent: I64  # [.], where to go when this node is exhausted
    pending: I64  # [.], the part that comes after this one, or -1
    part: I64  # [.], number of the part
    placed: I64  # [.], the buffer that the node has placed, or -1
    marks: I64  # [., 3], ``tops`` before it placed anything
    key: U64  # [., 2], of the state


class Bounds(NamedTuple):
    """Scratch of the section bound over a whole part."""

    bound: I64  # [n], a lower bound on each unplaced buffer's offset; -1: placed
    above: I64  # [sections], size that must lie above the bound looked at
    waiting: I64  # [n], the part's buffers, highest bound first as of the last look
    known: I64  # [2]: the part that ``waiting`` is of, and its number of buffers


@jit
def empty_packing(x: SearchTables, offsets: I64) -> Packing:
    """Return the packing that holds nothing; ``offsets`` (int64[n]) becomes its array."""
    n = x.first.size
    p = Packing(
        offsets=offsets,
        least=np.zeros(n, np.int64),
        placed=np.zeros(n, np.bool_),
        rest=np.zeros(x.num_sections, np.int64),
        cuts=np.zeros(x.num_sections, np.int64),
        tops=np.array([0, n, 0, 0]),
    )
    for i in range(n):
        offsets[i] = -1
        p.least[i] = max(x.fixed[i], 0)
        for q in range(x.starts[i], x.starts[i + 1]):
            for s in range(x.runs[q, 0], x.runs[q, 1]):
                p.rest[s] += x.size[i]
        for s in range(x.first[i], x.last[i] - 1):
            p.cuts[s] += 1
    return p


@jit
def empty_frames(x: SearchTables) -> Frames:
    """Return frames whose first row is the whole problem."""
    n = x.first.size
    depths = n + 2
    f = Frames(
        members=np.zeros((depths, 2), np.int64),
        sections=np.zeros((depths, 2), np.int64),
        candidates=np.zeros((depths, 2), np.int64),
        position=np.zeros(depths, np.int64),
        parent=np.zeros(depths, np.int64),
        pending=np.zeros(depths, np.int64),
        part=np.zeros(depths, np.int64),
        placed=np.full(depths, -1, np.int64),
        marks=np.zeros((depths, 3), np.int64),
        key=np.zeros((depths, 2), np.uint64),
    )
    f.members[0, 1], f.sections[0, 1] = n, x.num_sections
    f.parent[0] = f.pending[0] = -1
    return f


@jit
def empty_bounds(x: SearchTables) -> Bounds:
    """Return scratch for the section bound."""
    n = x.first.size
    return Bounds(
        bound=np.full(n, -1, np.int64),
        above=np.empty(x.num_sections, np.int64),
        waiting=np.empty(n, np.int64),
        known=np.array([-1, 0]),
    )


@kernel
def round_up(offset: int, alignment: int) -> int:
    """Return the next multiple of ``alignment``."""
    return offset if alignment == 1 else (offset + alignment - 1) // alignment * alignment


# Do and undo


@kernel
def put(x: SearchTables, p: Packing, i: int, offset: int) -> bool:
    """Place buffer i; return whether its sections still hold what is to be placed above it. ``lift`` undoes it."""
    p.placed[i] = True
    p.offsets[i] = offset
    top = offset + x.size[i]
    viable = True
    for q in range(x.starts[i], x.starts[i + 1]):
        for s in range(x.runs[q, 0], x.runs[q, 1]):
            p.rest[s] -= x.size[i]
            if p.rest[s] > 0 and top + p.rest[s] > x.capacity:
                viable = False
    for s in range(x.first[i], x.last[i] - 1):
        p.cuts[s] -= 1
    return viable


@kernel
def lift(x: SearchTables, p: Packing, i: int) -> None:
    """Take buffer i out again."""
    p.placed[i] = False
    for q in range(x.starts[i], x.starts[i + 1]):
        for s in range(x.runs[q, 0], x.runs[q, 1]):
            p.rest[s] += x.size[i]
    for s in range(x.first[i], x.last[i] - 1):
        p.cuts[s] += 1


@kernel
def raise_least(x: SearchTables, p: Packing, trail: I64, i: int) -> bool:
    """Raise the least offsets of what is live with the placed buffer i; return whether all still fit.

    ``lower_least`` undoes it, by the trail.
    """
    top = p.offsets[i] + x.size[i]
    at = p.tops[TRAIL]
    viable = True
    for m in range(x.pointers[i], x.pointers[i + 1]):
        j = np.int64(x.neighbours[m])
        if p.placed[j] or p.least[j] >= top:
            continue
        trail[at, 0], trail[at, 1] = j, p.least[j]
        at += 1
        least = round_up(top, x.alignment[j])
        p.least[j] = least
        if least > x.max_offset[j] or (x.fixed[j] >= 0 and least > x.fixed[j]):
            viable = False
            break
    p.tops[TRAIL] = at
    return viable


@kernel
def lower_least(p: Packing, trail: I64, mark: int) -> None:
    """Give back the least offsets that the trail holds above ``mark``."""
    at = p.tops[TRAIL]
    while at > mark:
        at -= 1
        p.least[trail[at, 0]] = trail[at, 1]
    p.tops[TRAIL] = at


@kernel
def take_back(x: SearchTables, p: Packing, f: Frames, trail: I64, depth: int) -> None:
    """Undo all that the node at ``depth`` did: what it placed, raised, and split off."""
    lower_least(p, trail, f.marks[depth, TRAIL])
    lift(x, p, f.placed[depth])
    p.tops[ARENA], p.tops[PENDING] = f.marks[depth, ARENA], f.marks[depth, PENDING]
    f.placed[depth] = -1

"""When copies can happen: each move spreads its work over the slots of its window, and takes space from its start.

The schedule is cut at ``edges`` (boundaries). Slot 2j is the wait at edge j; slot 2j + 1 the steps between edges j and
j + 1 with the waits inside. A move that may use part of a slot counts as one that may use all of it: coarser edges give
a weaker, never a wrong, bound.

Slots are the leaves of a binary tree. A node's supply is what its children pass up; a window is the union of at most
2 log2(slots) nodes, so a move needs that many columns, not one a slot.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.flow import CopyArc
from mallocgame.baselines.bounds.linear import Expression, LinearProgram

I64 = npt.NDArray[np.int64]

FINENESS = 2  # a node of a window is at most this fraction of its distance from the window's end


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done[i]``: the share of ``move`` that is complete when slot ``last_slots[i]`` ends (a column each)."""

    move: CopyArc
    last_slots: list[int]
    done: list[int]

    def before_step(self, step: int, edges: list[int]) -> int | None:
        """Return the column for what has certainly been copied before ``step`` starts (None: nothing)."""
        edge = bisect_right(edges, step) - 1  # the last edge at or before the step
        index = bisect_right(self.last_slots, 2 * edge) - 1
        return self.done[index] if index >= 0 else None


def pick_edges(num_steps: int, moves: list[tuple[CopyArc, int, float]], count: int) -> I64:
    """Return at most ``count`` + 1 boundaries, 0 and T among them: where the windows of the largest moves begin or end.

    Args:
        num_steps: T.
        moves: (move, link, work).
        count: K.
    """
    score = np.zeros(num_steps + 1)
    for move, _, work in moves:
        score[move.leg.last_due] += work
        score[move.leg.first_issue] += work
    score[[0, num_steps]] = np.inf
    best = np.argsort(-score, kind="stable")[: count + 1]
    return np.sort(best[score[best] > 0.0]).astype(np.int64)


def spread(
    linear: LinearProgram,
    moves: list[tuple[CopyArc, int, float]],
    idle: list[list[Expression]],
    wait: list[int],
    edges: I64,
) -> list[Progress]:
    """Add the columns of each move and the rows that keep every link within its free time.

    Args:
        linear: gains columns and rows.
        moves: (move, link, work in units).
        idle: per link and step, free link time.
        wait: per slot, the column of the waiting in it.
        edges: int64[K + 1], boundaries.
    """
    num_slots = 2 * len(edges) - 1
    size = 1 << (num_slots - 1).bit_length()
    demand: list[list[Expression]] = [[Expression() for _ in range(2 * size)] for _ in idle]
    found = []
    for move, link, work in moves:
        first, last = window_slots(move, edges)
        nodes = _cover(first, last, size)
        done = [linear.column(0.0, 1.0) for _ in nodes[1:]] + [move.column]
        for i, (node, column) in enumerate(zip(nodes, done, strict=True)):
            terms = demand[link][node].terms
            terms.append((column, work))
            if i > 0:
                terms.append((done[i - 1], -work))
                linear.not_above(Expression.of(done[i - 1]), Expression.of(column))
        ends = [((node + 1) << (size.bit_length() - node.bit_length())) - size - 1 for node in nodes]
        found.append(Progress(move=move, last_slots=ends, done=done))
    for per_step, per_node in zip(idle, demand, strict=True):
        leaves = []
        for slot in range(num_slots):
            free = Expression.of(wait[slot])
            if slot % 2:
                for step in range(int(edges[slot // 2]), int(edges[slot // 2 + 1])):
                    free.add(per_step[step])
            leaves.append(free)
        _share_out(linear, leaves, per_node, size)
    return found


def _share_out(linear: LinearProgram, leaves: list[Expression], demand: list[Expression], size: int) -> None:
    """Add the rows: what a node gives to moves and passes up is at most what it has."""
    wanted = [bool(expression.terms) for expression in demand]  # some node above (or this one) is drawn from
    for node in range(2, 2 * size):
        wanted[node] = wanted[node] or wanted[node // 2]
    supply: list[Expression | None] = [None] * (2 * size)
    for node in range(2 * size - 1, 0, -1):
        if node >= size:
            has = leaves[node - size] if node - size < len(leaves) else None
        else:
            below = [child for child in (supply[2 * node], supply[2 * node + 1]) if child is not None]
            has = None
            for child in below:
                has = child if has is None else has.plus(child)
        if has is None or not wanted[node]:
            continue
        given = demand[node]
        passes = node > 1 and wanted[node // 2]
        if passes:
            supply[node] = Expression.of(linear.column(0.0, 1.0))
            given = given.plus(supply[node] or Expression())
        linear.not_above(given, has)


def _cover(first: int, last: int, size: int) -> list[int]:
    """Return tree nodes (1 is the root, ``size + s`` slot s) whose slots are first..last, in time order.

    Nodes grow with their distance from the last slot: when a copy starts early matters less than that it does.
    """
    nodes = []
    end = last + 1  # slots from here on are covered
    while end > first:
        width = 1
        while (
            end % (2 * width) == 0 and end - 2 * width >= first and 2 * width * FINENESS <= last + 1 - end + 2 * width
        ):
            width *= 2
        nodes.append((size + end - width) // width)
        end -= width
    return nodes[::-1]


def window_slots(move: CopyArc, edges: I64) -> tuple[int, int]:
    """Return the first and the last slot in which a move can be under way."""
    issue, due = move.leg.first_issue, move.leg.last_due
    first = int(np.searchsorted(edges, issue, side="left"))  # the first edge at or after the issue
    last = int(np.searchsorted(edges, due, side="right")) - 1  # the last edge at or before the due boundary
    first_slot = 2 * first if edges[first] == issue else 2 * first - 1
    last_slot = 2 * last if edges[last] == due else 2 * last + 1
    return first_slot, last_slot

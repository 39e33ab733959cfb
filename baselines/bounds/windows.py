"""When copies can happen: each move spreads its work over the slots of its window, and takes space from its start.

The schedule is cut at ``edges`` (boundaries). Slot 2j is the wait at edge j; slot 2j + 1 the steps between edges j and
j + 1 with the waits inside. A move that may use part of a slot counts as one that may use all of it: coarser edges give
a weaker, never a wrong, bound.

Slots are the leaves of a binary tree. A node's supply is what its children pass up; a window is the union of at most
2 log2(slots) nodes, so a move needs that many columns, not one a slot.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.linear import LinearProgram
from mallocgame.jit import jit

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

FINENESS = 2  # a node of a window is at most this fraction of its distance from the window's end (or its start)


class LargeMoves(NamedTuple):
    """Moves whose windows count: int64[M] each, and float64[M] of work in units."""

    first_issue: I64
    last_due: I64
    column: I64
    link: I64
    work: F64
    is_back: Bool  # toward layer 0: what counts is how early it is done, not how late it begins


class Idle(NamedTuple):
    """The free time of one link: ``constant`` a step (float64[T], units), and terms on columns."""

    constant: F64
    step: I64
    column: I64
    coefficient: F64


class Progress(NamedTuple):
    """``column[i]``: the share of move ``move[i]`` that is complete when slot ``last_slot[i]`` ends, move by move."""

    move: I64
    column: I64
    last_slot: I64


def pick_edges(num_steps: int, moves: LargeMoves, count: int, *, afterwards: bool = False) -> I64:
    """Return at most ``count`` + 1 boundaries, 0 and T among them: where the windows of the largest moves begin or end.

    Args:
        num_steps: T.
        moves: the large ones.
        count: K.
        afterwards: also one step after a window's end, so that a slot ends with the step that waits for the copy.
    """
    score = np.zeros(num_steps + 1)
    ends = [moves.last_due, moves.first_issue]
    if afterwards:
        ends.append(np.minimum(moves.last_due + 1, num_steps))
    np.add.at(score, np.column_stack(ends).ravel(), np.repeat(moves.work, len(ends)))
    score[[0, num_steps]] = np.inf
    best = np.argsort(-score, kind="stable")[: count + 1]
    return np.sort(best[score[best] > 0.0]).astype(np.int64)


def spread(linear: LinearProgram, moves: LargeMoves, idle: list[Idle], wait: I64, edges: I64) -> Progress:
    """Add the columns of each move and the rows that keep every link within its free time.

    Args:
        linear: gains columns and rows.
        moves: the large ones.
        idle: per link, free link time.
        wait: int64[2K + 1], per slot, the column of the waiting in it.
        edges: int64[K + 1], boundaries.
    """
    num_slots = 2 * len(edges) - 1
    size = 1 << (num_slots - 1).bit_length()
    first, last = window_slots(moves.first_issue, moves.last_due, edges)
    move, node = _covers(first, last, size, moves.is_back)
    is_last = np.append(move[1:] != move[:-1], True)[: len(move)]
    is_first = np.append(True, move[1:] != move[:-1])[: len(move)]
    column = np.empty(len(move), dtype=np.int64)
    column[is_last] = moves.column
    column[~is_last] = linear.add_columns(np.ones(int((~is_last).sum())))
    later = np.flatnonzero(~is_first)  # what is done by then is at least what was done before
    rows = np.arange(len(later))
    linear.add_rows(
        np.concatenate([rows, rows]),
        np.concatenate([column[later], column[later - 1]]),
        np.concatenate([np.ones(len(later)), -np.ones(len(later))]),
        np.zeros(len(later)),
    )
    link, work = moves.link[move], moves.work[move]
    for number, free in enumerate(idle):
        own, again = np.flatnonzero(link == number), later[link[later] == number]
        given = (
            np.concatenate([node[own], node[again]]),
            np.concatenate([column[own], column[again - 1]]),
            np.concatenate([work[own], -work[again]]),
        )
        slot = 2 * np.searchsorted(edges, free.step, side="right") - 1
        has = (
            np.concatenate([np.arange(num_slots), slot]) + size,
            np.concatenate([wait, free.column]),
            np.concatenate([np.ones(num_slots), free.coefficient]),
        )
        constants = np.zeros(2 * size)
        steps = 2 * np.searchsorted(edges, np.arange(len(free.constant)), side="right") - 1
        np.add.at(constants, steps + size, free.constant)
        _share_out(linear, given, has, constants, num_slots)
    levels = np.floor(np.log2(np.maximum(node, 1))).astype(np.int64)
    ends = ((node + 1) << (size.bit_length() - 1 - levels)) - size - 1
    return Progress(move, column, ends)


def _share_out(
    linear: LinearProgram,
    given: tuple[I64, I64, F64],
    has: tuple[I64, I64, F64],
    constants: F64,
    num_slots: int,
) -> None:
    """Add the rows: what a node gives to moves and passes up is at most what it has. Terms: (node, column, factor)."""
    size = len(constants) // 2
    wanted = np.bincount(given[0], minlength=2 * size) > 0  # some node above (or this one) is drawn from
    exists = np.zeros(2 * size, dtype=np.bool_)
    exists[size : size + num_slots] = True
    for node in range(2, 2 * size):
        wanted[node] |= wanted[node // 2]
    for node in range(size - 1, 0, -1):
        exists[node] = exists[2 * node] or exists[2 * node + 1]
    used = np.flatnonzero(wanted & exists)[::-1]  # from the leaves up
    row_of = np.full(2 * size, -1, dtype=np.int64)
    row_of[used] = np.arange(len(used))
    passing = used[(used > 1) & wanted[used // 2]]
    supply = linear.add_columns(np.ones(len(passing)))
    terms = [
        (row_of[passing], supply, -np.ones(len(passing))),
        (row_of[passing // 2], supply, np.ones(len(passing))),
        (row_of[given[0]], given[1], -given[2]),
        (row_of[has[0]], has[1], has[2]),
    ]
    rows, columns, factors = (np.concatenate(part) for part in zip(*terms, strict=True))
    there = rows >= 0
    linear.add_rows(rows[there], columns[there], factors[there], -constants[used])


def _covers(first: I64, last: I64, size: int, is_back: Bool) -> tuple[I64, I64]:
    """Return (window, tree node) pairs that cover each window, in the order of time.

    Nodes are fine toward a window's end, or toward its start where ``is_back``: those are covered in a mirror.
    """
    low, high = np.where(is_back, size - 1 - last, first), np.where(is_back, size - 1 - first, last)
    counts = _count_nodes(low, high)
    window = np.repeat(np.arange(len(first)), counts)
    node = _cover_all(low, high, size, is_back, int(counts.sum()))
    level = 1 << np.floor(np.log2(np.maximum(node, 1))).astype(np.int64)  # its first node
    return window, np.where(is_back[window], 3 * level - 1 - node, node)


@jit
def _count_nodes(first: I64, last: I64) -> I64:
    counts = np.zeros(len(first), np.int64)
    for i in range(len(first)):
        end = last[i] + 1
        while end > first[i]:
            end -= _width(end, first[i], last[i])
            counts[i] += 1
    return counts


@jit
def _cover_all(first: I64, last: I64, size: int, is_back: Bool, total: int) -> I64:
    nodes = np.empty(total, np.int64)
    at = 0
    for i in range(len(first)):
        begin, end = at, last[i] + 1  # slots from here on are covered
        while end > first[i]:
            width = _width(end, first[i], last[i])
            nodes[at] = (size + end - width) // width
            at += 1
            end -= width
        if not is_back[i]:
            nodes[begin:at] = nodes[begin:at][::-1].copy()
    return nodes


@jit
def _width(end: int, first: int, last: int) -> int:
    """Nodes grow with their distance from the last slot: when a copy starts early matters less than that it does."""
    width = 1
    while end % (2 * width) == 0 and end - 2 * width >= first and 2 * width * FINENESS <= last + 1 - end + 2 * width:
        width *= 2
    return width


def window_slots(first_issue: I64, last_due: I64, edges: I64) -> tuple[I64, I64]:
    """Return the first and the last slot in which each move can be under way."""
    first = np.searchsorted(edges, first_issue, side="left")  # the first edge at or after the issue
    last = np.searchsorted(edges, last_due, side="right") - 1  # the last edge at or before the due boundary
    first_slot = np.where(edges[first] == first_issue, 2 * first, 2 * first - 1)
    last_slot = np.where(edges[last] == last_due, 2 * last, 2 * last + 1)
    return first_slot, last_slot

"""Caches of prompts' prefixes: a block is of use only while every block before it in its prompt is resident.

``prefix-lru`` is what vLLM and SGLang do: evict the least recently used block that no resident block continues. The
blocks of a prompt are put in the queue in reverse order when it ends, so a block is always older than the blocks it
continues, and the oldest block of all is a leaf. While a prompt runs its blocks are pinned; a prompt longer than the
cache loses its deepest block. ``prefix-lru0`` does so among the blocks that may go first by their bit, then among the
others; a block may go first only if no resident block that continues it is kept. Without prompts every request is a
prompt of its own, and the two are LRU and LRU0.
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Hint, Hints, Policy, register
from mallocgame.baselines.paging.structures import (
    FAULT,
    HIT,
    I32,
    I64,
    U8,
    new_queues,
    pop,
    pop_first,
    pop_newest,
    push,
    push_oldest,
    remove,
)
from mallocgame.jit import jit

_LruState = tuple[I32, U8, I64]
_Lru0State = tuple[I32, U8, U8, I32, I32, I64]
_DONE, _CURRENT = 0, 1  # queues of prefix-lru: blocks of ended prompts, blocks of the one that runs
_ONES, _ZEROS, _RUNNING = 0, 1, 2  # queues of prefix-lru0


def _start_lru(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _LruState:
    links, where = new_queues(2, num_pages)
    return links, where, np.array([num_frames, 0], np.int64)


@jit
def _step_lru(state: _LruState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, count = state
    k, cached, faults = count[0], count[1], 0
    for i in range(pages.size):
        page = pages[i]
        if hints[i] == 0:  # a prompt starts
            ended = pop_newest(links, where, _CURRENT)
            while ended >= 0:
                push(links, where, _DONE, ended)
                ended = pop_newest(links, where, _CURRENT)
        if where[page]:
            remove(links, where, page)
            events[i] = HIT
        else:
            faults += 1
            if cached < k:
                cached += 1
                events[i] = FAULT
            else:
                victim = pop(links, where, _DONE)
                if victim < 0:
                    victim = pop_newest(links, where, _CURRENT)
                events[i] = victim
        push(links, where, _CURRENT, page)
    count[1] = cached
    return faults


def _start_lru0(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _Lru0State:
    links, where = new_queues(3, num_pages)
    return (
        links,
        where,
        np.zeros(num_pages, np.uint8),  # bit: of the last request
        np.full(num_pages, -1, np.int32),  # parent: the block that it continues
        np.zeros(num_pages, np.int32),  # kept: resident blocks that continue it and are kept
        np.array([num_frames, 0], np.int64),
    )


@jit
def _tell_ancestors(links: I32, where: U8, bit: U8, parent: I32, kept: I32, page: int, change: int) -> None:
    """Tell the blocks that ``page`` continues that it is kept now (``change`` 1) or no longer (-1).

    A resident block with bit 1 changes sides with its first or last kept successor, and tells its own ancestors.
    """
    up = parent[page]
    while up >= 0:
        kept[up] += change
        if kept[up] > (1 if change > 0 else 0) or bit[up] == 0 or where[up] == 0:
            break
        if change > 0 and where[up] == _ONES + 1:  # it was to go first: now it stays, as the one to go last
            remove(links, where, up)
            push(links, where, _ZEROS, up)
        elif change < 0 and where[up] == _ZEROS + 1:
            remove(links, where, up)
            push_oldest(links, where, _ONES, up)
        up = parent[up]


@jit
def _step_lru0(state: _Lru0State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, bit, parent, kept, count = state
    k, cached, faults = count[0], count[1], 0
    for i in range(pages.size):
        page = pages[i]
        if hints[i] < 2:  # a prompt starts
            ended = pop_newest(links, where, _RUNNING)
            while ended >= 0:
                push(links, where, _ONES if bit[ended] and kept[ended] == 0 else _ZEROS, ended)
                ended = pop_newest(links, where, _RUNNING)
        resident = where[page] > 0
        was_kept = resident and (bit[page] == 0 or kept[page] > 0)
        if resident:
            remove(links, where, page)
            events[i] = HIT
        else:
            faults += 1
            if cached < k:
                cached += 1
                events[i] = FAULT
            else:
                victim = pop_first(links, where, _ONES, _ZEROS)
                if victim < 0:
                    victim = pop_newest(links, where, _RUNNING)
                if bit[victim] == 0 or kept[victim] > 0:
                    _tell_ancestors(links, where, bit, parent, kept, victim, -1)
                events[i] = victim
        push(links, where, _RUNNING, page)
        bit[page] = hints[i] & 1
        parent[page] = (hints[i] >> 1) - 1
        is_kept = bit[page] == 0 or kept[page] > 0
        if is_kept != was_kept:
            _tell_ancestors(links, where, bit, parent, kept, page, 1 if is_kept else -1)
    count[1] = cached
    return faults


PREFIX_LRU = register(
    Policy(
        name="prefix-lru",
        summary="evict the least recently used block that no resident block of a prompt continues (vLLM, SGLang)",
        start=_start_lru,
        step=_step_lru,
        hint=Hint.PROMPT,
    )
)
PREFIX_LRU0 = register(
    Policy(
        name="prefix-lru0",
        summary="the same among blocks with bit 1 that no kept block continues, then among the others",
        start=_start_lru0,
        step=_step_lru0,
        hint=Hint.PROMPT_DISCARD,
    )
)

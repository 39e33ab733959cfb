"""Deterministic algorithms with one discard bit a request: FWA0 and LRU0, both (1, k-1, 1)-competitive.

Source: Antoniadis et al., Paging with Succinct Predictions, ICML 2023, arXiv:2210.02775 (FWA0); LRU0 is this
project's: where every cached page has bit 0 it evicts the least recently used one instead of flushing them all.
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Guarantee, Hint, Hints, Policy, register
from mallocgame.baselines.paging.structures import (
    FAULT,
    FLUSH,
    HIT,
    I32,
    I64,
    U8,
    new_queues,
    pop,
    pop_first,
    push,
    remove,
)
from mallocgame.jit import jit

_State = tuple[I32, U8, I64]
_ONES, _ZEROS = 0, 1  # queues: pages whose last bit was 1, by last request; pages whose last bit was 0


def _start(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _State:
    links, where = new_queues(2, num_pages)
    return links, where, np.array([num_frames, 0, 0], np.int64)


@jit
def _step_fwa0(state: _State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, count = state
    k, ones, zeros, faults = count[0], count[1], count[2], 0
    for i in range(pages.size):
        page = pages[i]
        tag = where[page]
        if tag:
            events[i] = HIT
            if tag == _ZEROS + 1 and not hints[i]:
                continue  # the order of 0-pages does not matter here
            remove(links, where, page)
            if tag == _ONES + 1:
                ones -= 1
            else:
                zeros -= 1
        else:
            faults += 1
            if ones + zeros < k:
                events[i] = FAULT
            elif ones > 0:
                events[i] = pop(links, where, _ONES)
                ones -= 1
            else:
                while pop(links, where, _ZEROS) >= 0:
                    pass
                zeros = 0
                events[i] = FLUSH
        if hints[i]:
            push(links, where, _ONES, page)
            ones += 1
        else:
            push(links, where, _ZEROS, page)
            zeros += 1
    count[1], count[2] = ones, zeros
    return faults


@jit
def _step_lru0(state: _State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, count = state
    k, cached, faults = count[0], count[1], 0
    for i in range(pages.size):
        page = pages[i]
        if where[page]:
            remove(links, where, page)
            events[i] = HIT
        else:
            faults += 1
            if cached < k:
                cached += 1
                events[i] = FAULT
            else:
                events[i] = pop_first(links, where, _ONES, _ZEROS)
        push(links, where, _ONES if hints[i] else _ZEROS, page)
    count[1] = cached
    return faults


_SUCCINCT = Guarantee(alpha=1.0, beta=lambda k: k - 1.0, gamma=1.0)
FWA0 = register(
    Policy(
        name="fwa0",
        summary="evict the LRU page with bit 1; where all bits are 0, flush the cache",
        start=_start,
        step=_step_fwa0,
        hint=Hint.DISCARD,
        guarantee=_SUCCINCT,
    )
)
LRU0 = register(
    Policy(
        name="lru0",
        summary="evict the LRU page with bit 1; where all bits are 0, the LRU page",
        start=_start,
        step=_step_lru0,
        hint=Hint.DISCARD,
        guarantee=_SUCCINCT,
    )
)

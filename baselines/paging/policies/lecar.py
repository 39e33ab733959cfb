"""LeCaR: draws between LRU and LFU with weights that each regretted eviction lowers.

Source: Vietri et al., Driving Cache Replacement with ML-based LeCaR, HotStorage 2018: learning rate 0.45, discount
0.005 ** (1 / k), a history of k evicted pages for each of the two.
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Hints, Policy, register
from mallocgame.baselines.paging.structures import (
    F64,
    FAULT,
    HIT,
    I32,
    I64,
    U8,
    U64,
    heap_pop,
    heap_push,
    heap_replace_top,
    new_queues,
    new_random,
    next_random,
    pop,
    push,
    remove,
)
from mallocgame.jit import jit

_State = tuple[I32, U8, I64, I64, I32, I64, I64, F64, U64]
_CACHED, _BY_LRU, _BY_LFU = 0, 1, 2  # queues: cached pages by recency; pages that each expert evicted
_TIME_BITS = 36  # key = -(uses << 36 | time they were reached): the largest goes first
_LEARNING_RATE, _FORGOTTEN = 0.45, 0.005


def _start(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _State:
    links, where = new_queues(3, num_pages)
    room = 4 * num_frames + 64
    weights = np.array([0.5, _FORGOTTEN ** (1.0 / num_frames)])
    return (
        links,
        where,
        np.zeros(num_pages, np.int64),  # key of a cached page; an entry of the heap that differs from it is stale
        np.zeros(room, np.int64),
        np.zeros(room, np.int32),
        np.zeros(num_pages, np.int64),  # when a page was evicted
        np.array([num_frames, 0, 0, 0, 0], np.int64),
        weights,  # of LRU; the discount
        new_random(seed),
    )


@jit
def _step(state: _State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, key, keys, values, left_at, count, weights, random = state
    k, cached, size, faults = count[0], count[1], count[2], 0
    for i in range(pages.size):
        page = pages[i]
        tag = where[page]
        if tag == _CACHED + 1:
            events[i] = HIT
            remove(links, where, page)
            push(links, where, _CACHED, page)
            key[page] = -((((-key[page]) >> _TIME_BITS) + 1) << _TIME_BITS | (now + i))
            continue
        faults += 1
        events[i] = FAULT
        if tag:
            remove(links, where, page)
            count[2 + tag - 1] -= 1
            regret = np.exp(-_LEARNING_RATE * weights[1] ** (now + i - left_at[page]))
            lru = weights[0] * (regret if tag == _BY_LRU + 1 else 1.0)
            lfu = (1.0 - weights[0]) * (regret if tag == _BY_LFU + 1 else 1.0)
            weights[0] = min(0.99, max(0.01, lru / (lru + lfu)))
        if cached == k:
            frequent = values[0]
            while key[frequent] != keys[0]:
                if key[frequent] < keys[0] and where[frequent] == _CACHED + 1:
                    heap_replace_top(keys, values, size, key[frequent], frequent)
                else:
                    size = heap_pop(keys, values, size)
                frequent = values[0]
            recent = int(links[where.size + _CACHED, 1])
            by_lru = next_random(random, 1 << 30) < weights[0] * (1 << 30)
            victim = recent if by_lru else int(frequent)
            remove(links, where, victim)
            key[victim] = 0
            events[i] = victim
            if recent != frequent:
                expert = _BY_LRU if by_lru else _BY_LFU
                if count[2 + expert] == k:
                    pop(links, where, expert)
                    count[2 + expert] -= 1
                push(links, where, expert, victim)
                count[2 + expert] += 1
                left_at[victim] = now + i
        else:
            cached += 1
        key[page] = -((1 << _TIME_BITS) | (now + i))
        push(links, where, _CACHED, page)
        if size == keys.size:  # mostly stale: build it anew
            size = 0
            one = int(links[where.size + _CACHED, 1])
            while one < where.size:
                if one != page:
                    size = heap_push(keys, values, size, key[one], one)
                one = int(links[one, 1])
        size = heap_push(keys, values, size, key[page], page)
    count[1], count[2] = cached, size
    return faults


LECAR = register(
    Policy(
        name="lecar",
        summary="draw between LRU and LFU by regret (Vietri et al., HotStorage 2018)",
        start=_start,
        step=_step,
        randomized=True,
    )
)

"""OPT (Belady's farthest-in-future rule), twice: a 64-ary bit tree over positions, and a plain heap.

Both use that next-use positions are unique. In the tree a cached page is the bit at the position of its next request,
so "is it cached?" is "is bit i set?" and no state is kept by page. In the heap a stale key lies at or before the
present and so below every live key: stale entries are never met at the top while a live one is left.
Pages that are never requested again are evicted first, oldest first.
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Guarantee, Hint, Hints, Policy, register
from mallocgame.baselines.paging.structures import (
    FAULT,
    HIT,
    I32,
    I64,
    U8,
    U64,
    heap_pop,
    heap_push,
    new_bit_tree,
    tree_set,
    tree_take_max,
)
from mallocgame.jit import jit

_TreeState = tuple[U64, U64, I32, I32, I64]
_HeapState = tuple[U8, I64, I32, I32, I64]


def _start_tree(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _TreeState:
    words, summary = new_bit_tree(num_requests)
    owner = np.zeros(num_requests, np.int32)
    return words, summary, owner, np.zeros(num_frames, np.int32), np.array([num_frames, 0, 0, 0, 0, num_requests])


@jit
def _step_tree(state: _TreeState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    words, summary, owner, dead, registers = state
    k, cached, top, dead_tail, dead_count, never = registers
    faults = 0
    for i in range(pages.size):
        t = now + i
        w = t >> 6
        bit = np.uint64(1) << np.uint64(t & 63)
        if words[w] & bit:
            words[w] &= ~bit
            events[i] = HIT
        else:
            faults += 1
            if cached < k:
                cached += 1
                events[i] = FAULT
            elif dead_count > 0:
                events[i] = dead[dead_tail]
                dead_tail = dead_tail + 1 if dead_tail + 1 < k else 0
                dead_count -= 1
            else:
                position = tree_take_max(words, summary, top)
                top = position >> 12
                events[i] = owner[position]
        following = hints[i]
        if following < never:
            tree_set(words, summary, following)
            owner[following] = pages[i]
            top = max(top, following >> 12)
        else:
            at = dead_tail + dead_count
            dead[at if at < k else at - k] = pages[i]
            dead_count += 1
    registers[1], registers[2], registers[3], registers[4] = cached, top, dead_tail, dead_count
    return faults


def _start_heap(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _HeapState:
    room = 4 * num_frames + 64
    registers = np.array([num_frames, 0, 0, 0, 0, num_requests])
    keys, values = np.zeros(room, np.int64), np.zeros(room, np.int32)
    return np.zeros(num_pages, np.uint8), keys, values, np.zeros(num_frames, np.int32), registers


@jit
def _step_heap(state: _HeapState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    present, keys, values, dead, registers = state
    k, cached, size, dead_tail, dead_count, never = registers
    faults = 0
    for i in range(pages.size):
        page = pages[i]
        if present[page]:
            events[i] = HIT
        else:
            faults += 1
            present[page] = 1
            if cached < k:
                cached += 1
                events[i] = FAULT
            else:
                if dead_count > 0:
                    victim = dead[dead_tail]
                    dead_tail = dead_tail + 1 if dead_tail + 1 < k else 0
                    dead_count -= 1
                else:
                    victim = values[0]
                    size = heap_pop(keys, values, size)
                present[victim] = 0
                events[i] = victim
        following = hints[i]
        if following < never:
            if size == keys.size:  # squeeze out the stale keys and rebuild
                kept = 0
                for j in range(size):
                    if keys[j] > now + i:
                        kept = heap_push(keys, values, kept, keys[j], values[j])
                size = kept
            size = heap_push(keys, values, size, following, page)
        else:
            at = dead_tail + dead_count
            dead[at if at < k else at - k] = page
            dead_count += 1
    registers[1], registers[2], registers[3], registers[4] = cached, size, dead_tail, dead_count
    return faults


_OPTIMAL = Guarantee(alpha=1.0, beta=lambda k: 0.0, gamma=0.0, robust=lambda k: 1.0)
OPT = register(
    Policy(
        name="opt",
        summary="Belady's optimum: evict the page whose next request is farthest (bit tree)",
        start=_start_tree,
        step=_step_tree,
        hint=Hint.NEXT_USE,
        guarantee=_OPTIMAL,
    )
)
OPT_HEAP = register(
    Policy(
        name="opt-heap",
        summary="the same with a binary heap: O(k) memory instead of O(requests)",
        start=_start_heap,
        step=_step_heap,
        hint=Hint.NEXT_USE,
        guarantee=_OPTIMAL,
    )
)

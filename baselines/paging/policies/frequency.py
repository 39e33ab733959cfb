"""LFU and W-TinyLFU: what is known is how often a page came."""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Hints, Policy, register
from mallocgame.baselines.paging.structures import (
    FAULT,
    HIT,
    I32,
    I64,
    U8,
    heap_push,
    heap_replace_top,
    new_queues,
    pop,
    push,
    remove,
)
from mallocgame.jit import jit

_LfuState = tuple[I64, I64, I32, I64]
_TinyState = tuple[I32, U8, U8, I64]
_TIME_BITS = 36  # key = -(count << 36 | time the count was reached): the largest key is the first to go
_WINDOW, _PROBATION, _PROTECTED = 0, 1, 2
_ROWS, _MAX_COUNT, _SAMPLE_FACTOR = 4, 15, 10


def _start_lfu(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _LfuState:
    heap_keys, heap_pages = np.zeros(num_frames, np.int64), np.zeros(num_frames, np.int32)
    return np.zeros(num_pages, np.int64), heap_keys, heap_pages, np.zeros(1, np.int64)


@jit
def _step_lfu(state: _LfuState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    # A hit only lowers the page's key; its heap entry is put right when it surfaces. One entry a cached page.
    key, heap_keys, heap_pages, count = state
    cached, faults = count[0], 0
    for i in range(pages.size):
        page = pages[i]
        if key[page]:
            events[i] = HIT
            key[page] = -((((-key[page]) >> _TIME_BITS) + 1) << _TIME_BITS | (now + i))
            continue
        faults += 1
        key[page] = -((1 << _TIME_BITS) | (now + i))
        if cached < heap_keys.size:
            cached = heap_push(heap_keys, heap_pages, cached, key[page], page)
            events[i] = FAULT
            continue
        victim = heap_pages[0]
        while heap_keys[0] != key[victim]:
            heap_replace_top(heap_keys, heap_pages, cached, key[victim], victim)
            victim = heap_pages[0]
        key[victim] = 0
        heap_replace_top(heap_keys, heap_pages, cached, key[page], page)
        events[i] = victim
    count[0] = cached
    return faults


def _start_tiny(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _TinyState:
    links, where = new_queues(3, num_pages)
    window = max(1, num_frames // 100)
    protected = (num_frames - window) * 8 // 10
    width = 1 << max(6, int(num_frames - 1).bit_length() + 2)  # four counters a frame in each row, as in Caffeine
    count = np.array([num_frames, window, protected, 0, 0, 0, 0], np.int64)
    return links, where, np.zeros((_ROWS, width), np.uint8), count


@jit
def _cell(row: int, page: int, width: int) -> int:
    h = np.uint64(page + 1) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(2 * row + 0x94D049BB133111EB)
    return np.int64((h >> np.uint64(33)) & np.uint64(width - 1))  # type: ignore[return-value]


@jit
def _estimate(sketch: U8, page: int) -> int:
    least = _MAX_COUNT
    for row in range(_ROWS):
        least = min(least, int(sketch[row, _cell(row, page, sketch.shape[1])]))
    return least


@jit
def _step_tiny(state: _TinyState, pages: I32, hints: Hints, now: int, events: Events) -> int:  # noqa: C901 (a kernel: one loop)
    links, where, sketch, count = state
    k, window_room, protected_room = count[0], count[1], count[2]
    cached, window, protected, sampled, faults = count[3], count[4], count[5], count[6], 0
    for i in range(pages.size):
        page = pages[i]
        for row in range(_ROWS):
            at = _cell(row, page, sketch.shape[1])
            if sketch[row, at] < _MAX_COUNT:
                sketch[row, at] += 1
        sampled += 1
        if sampled == _SAMPLE_FACTOR * k:
            for row in range(_ROWS):
                for j in range(sketch.shape[1]):
                    sketch[row, j] >>= 1
            sampled //= 2
        tag = where[page]
        if tag == _WINDOW + 1:
            remove(links, where, page)
            push(links, where, _WINDOW, page)
            events[i] = HIT
        elif tag:
            remove(links, where, page)
            push(links, where, _PROTECTED, page)
            events[i] = HIT
            if tag == _PROBATION + 1:
                protected += 1
                if protected > protected_room:
                    push(links, where, _PROBATION, pop(links, where, _PROTECTED))
                    protected -= 1
        else:
            faults += 1
            push(links, where, _WINDOW, page)
            window += 1
            events[i] = FAULT
            if window > window_room:
                candidate = pop(links, where, _WINDOW)
                window -= 1
                if cached == k:
                    victim = pop(links, where, _PROBATION)
                    if victim < 0:
                        victim = pop(links, where, _PROTECTED)
                        protected -= victim >= 0
                    if victim >= 0 and _estimate(sketch, candidate) > _estimate(sketch, victim):
                        push(links, where, _PROBATION, candidate)
                        events[i] = victim
                    else:
                        if victim >= 0:
                            push(links, where, _PROBATION, victim)
                        events[i] = candidate
                else:
                    push(links, where, _PROBATION, candidate)
                    cached += 1
            else:
                cached += 1
    count[3], count[4], count[5], count[6] = cached, window, protected, sampled
    return faults


LFU = register(
    Policy(
        name="lfu",
        summary="evict the page least often used since it came in, the oldest among equals",
        start=_start_lfu,
        step=_step_lfu,
    )
)
W_TINYLFU = register(
    Policy(
        name="w-tinylfu",
        summary="1% LRU window, segmented-LRU main part, admission by a 4-bit count sketch (Einziger et al., 2017)",
        start=_start_tiny,
        step=_step_tiny,
    )
)

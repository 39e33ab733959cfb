"""Marking algorithms: Marker, MARK0 (discard bits), MARK&PREDICT (phase bits) and its deterministic form.

Source: Antoniadis et al., ICML 2023, arXiv:2210.02775; Fiat et al., J. Algorithms 1991 (Marker).
"""

from typing import Any

import numpy as np

from mallocgame.baselines.paging.policy import Events, Guarantee, Hint, Hints, Policy, harmonic, register
from mallocgame.baselines.paging.structures import (
    FAULT,
    HIT,
    I32,
    I64,
    U8,
    U64,
    new_queues,
    new_random,
    next_random,
    pop,
    pop_first,
    push,
    remove,
)
from mallocgame.jit import jit

_Mark0State = tuple[I32, U8, I32, I64, U64]
_PhaseState = tuple[I32, U8, I32, I64, U64]
_LruPhaseState = tuple[I32, U8, U8, I64]
_ONE_TAG, _ZERO_TAG = 1, 2
_BIT_1, _BIT_0, _MARKED = 0, 1, 2  # queues of det-mark-predict, by last request: unmarked by their bit, and marked


def _start_mark0(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _Mark0State:
    links, where = new_queues(1, num_pages)
    count = np.array([num_frames, 0, 0, 0], np.int64)
    return links, where, np.zeros(num_frames + 1, np.int32), count, new_random(seed)


@jit
def _place(links: I32, where: U8, frames: I32, at: Any, page: Any) -> None:
    frames[at] = page
    links[page, 0] = at
    where[page] = _ZERO_TAG


@jit
def _step_mark0(state: _Mark0State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    # frames[:unmarked] unmarked 0-pages, frames[unmarked:zeros] marked ones; queue 0 holds the 1-pages. A 1-page needs
    # no mark: marks are read only when there are no 1-pages, and it leaves its queue by a request (marks) or eviction.
    links, where, frames, count, random = state
    k, ones, zeros, unmarked, faults = count[0], count[1], count[2], count[3], 0
    for i in range(pages.size):
        page = pages[i]
        tag = where[page]
        if tag == _ZERO_TAG:
            events[i] = HIT
            at = links[page, 0]
            if at < unmarked:
                unmarked -= 1
                _place(links, where, frames, at, frames[unmarked])
                _place(links, where, frames, unmarked, page)
                at = unmarked
            if hints[i]:
                zeros -= 1
                _place(links, where, frames, at, frames[zeros])
                push(links, where, 0, page)
                ones += 1
            continue
        if tag == _ONE_TAG:
            events[i] = HIT
            remove(links, where, page)
            ones -= 1
        else:
            faults += 1
            if ones + zeros < k:
                events[i] = FAULT
            elif ones > 0:
                events[i] = pop(links, where, 0)
                ones -= 1
            else:
                if unmarked == 0:
                    unmarked = zeros
                at = next_random(random, unmarked)
                victim = frames[at]
                unmarked -= 1
                zeros -= 1
                _place(links, where, frames, at, frames[unmarked])
                if unmarked < zeros:
                    _place(links, where, frames, unmarked, frames[zeros])
                where[victim] = 0
                events[i] = victim
        if hints[i]:
            push(links, where, 0, page)
            ones += 1
        else:
            _place(links, where, frames, zeros, page)
            zeros += 1
    count[1], count[2], count[3] = ones, zeros, unmarked
    return faults


def _start_phases(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _PhaseState:
    count = np.array([num_frames, 0, 0, 0], np.int64)
    slot, bits = np.zeros(num_pages, np.int32), np.zeros(num_pages, np.uint8)
    return slot, bits, np.zeros(num_frames + 1, np.int32), count, new_random(seed)


@jit
def _unmark_all(slot: I32, bits: U8, frames: I32) -> int:
    """Start a phase: put the pages with bit 1 first in ``frames``; return how many they are."""
    ones = 0
    for j in range(frames.size):
        moved = frames[j]
        if bits[moved]:
            frames[j] = frames[ones]
            frames[ones] = moved
            ones += 1
    for j in range(frames.size):
        slot[frames[j]] = j + 1
    return ones


@jit
def _step_phases(state: _PhaseState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    # frames[:a] unmarked with bit 1, frames[a:b] unmarked with bit 0, frames[b:cached] marked; slot = index + 1.
    slot, bits, frames, count, random = state
    k, cached, a, b, faults = count[0], count[1], count[2], count[3], 0
    told = hints.size > 0  # without bits every bit is 0: Marker
    for i in range(pages.size):
        page = pages[i]
        at = slot[page] - 1
        if at >= b:
            events[i] = HIT
        else:
            if at >= 0:
                events[i] = HIT
            else:
                faults += 1
                if cached < k:
                    events[i] = FAULT
                    at = cached
                    cached += 1
                else:
                    if b == 0:
                        a, b = _unmark_all(slot, bits, frames[:cached]), cached
                    at = next_random(random, a) if a > 0 else next_random(random, b)
                    events[i] = frames[at]
            if at < b:  # the hole at `at` moves to the end of the unmarked, which becomes the first marked frame
                if at < a:
                    a -= 1
                    frames[at] = frames[a]
                    slot[frames[at]] = at + 1
                    at = a
                b -= 1
                if at < b:
                    frames[at] = frames[b]
                    slot[frames[at]] = at + 1
                    at = b
            if events[i] >= 0:
                slot[events[i]] = 0
            frames[at] = page
            slot[page] = at + 1
        bits[page] = hints[i] if told else 0
    count[1], count[2], count[3] = cached, a, b
    return faults


def _start_lru_phases(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _LruPhaseState:
    links, where = new_queues(3, num_pages)
    return links, where, np.zeros(num_pages, np.uint8), np.array([num_frames, 0], np.int64)


@jit
def _step_lru_phases(state: _LruPhaseState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, bits, count = state
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
                victim = pop_first(links, where, _BIT_1, _BIT_0)
                if victim < 0:
                    moved = pop(links, where, _MARKED)
                    while moved >= 0:
                        push(links, where, _BIT_1 if bits[moved] else _BIT_0, moved)
                        moved = pop(links, where, _MARKED)
                    victim = pop_first(links, where, _BIT_1, _BIT_0)
                events[i] = victim
        push(links, where, _MARKED, page)
        bits[page] = hints[i]
    count[1] = cached
    return faults


def _log_robust(k: int) -> float:
    return 2.0 * (1.0 + harmonic(k // 2) + harmonic(k - k // 2))


MARKER = register(
    Policy(
        name="marker",
        summary="evict a uniformly random unmarked page; unmark all where all are marked",
        start=_start_phases,
        step=_step_phases,
        randomized=True,
        guarantee=Guarantee(alpha=0.0, beta=lambda k: 0.0, gamma=0.0, robust=lambda k: 2.0 * harmonic(k) - 1.0),
    )
)
MARK0 = register(
    Policy(
        name="mark0",
        summary="evict the LRU page with bit 1; where all bits are 0, a random unmarked page",
        start=_start_mark0,
        step=_step_mark0,
        hint=Hint.DISCARD,
        randomized=True,
        guarantee=Guarantee(alpha=1.0, beta=lambda k: 2.0 * harmonic(k), gamma=1.0),
    )
)
MARK_PREDICT = register(
    Policy(
        name="mark-predict",
        summary="Marker that prefers random unmarked pages with phase bit 1",
        start=_start_phases,
        step=_step_phases,
        hint=Hint.PHASE,
        randomized=True,
        guarantee=Guarantee(alpha=2.0, beta=harmonic, gamma=1.0, robust=_log_robust),
    )
)
DET_MARK_PREDICT = register(
    Policy(
        name="det-mark-predict",
        summary="MARK&PREDICT with the least recently used page in place of a random one",
        start=_start_lru_phases,
        step=_step_lru_phases,
        hint=Hint.PHASE,
        guarantee=Guarantee(alpha=2.0, beta=lambda k: k - 1.0, gamma=1.0, robust=float),
    )
)

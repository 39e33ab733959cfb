"""Algorithms told a predicted next arrival with each request: BlindOracle, PredictiveMarker, LMarker, LNonMarker.

Sources: Lykouris and Vassilvitskii, ICML 2018 (PredictiveMarker); Rohatgi, SODA 2020, doi:10.1137/1.9781611975994.112
(LMarker, LNonMarker); Wei, APPROX 2020 (BlindOracle). LNonMarker and BlindOracle alone are not robust: combine them
with a classical policy ("blind-oracle+lru", "lnonmarker+marker").
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Guarantee, Hint, Hints, Policy, harmonic, register
from mallocgame.baselines.paging.structures import (
    FAULT,
    HIT,
    I32,
    I64,
    U64,
    heap_pop,
    heap_push,
    new_random,
    next_random,
)
from mallocgame.jit import jit

_BlindState = tuple[I64, I64, I32, I64]
_MarkerState = tuple[I32, I64, I32, I64, I32, I32, I32, I64, U64]
_ABSENT = -(2**62)
_PREDICTIVE, _LMARKER, _LNONMARKER = 0, 1, 2


def _start_blind(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _BlindState:
    room = 4 * num_frames + 64
    keys, values = np.zeros(room, np.int64), np.zeros(room, np.int32)
    return np.full(num_pages, _ABSENT), keys, values, np.array([num_frames, 0, 0])


@jit
def _step_blind(state: _BlindState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    # expected[page]: the last prediction of a cached page; a heap entry that differs from it is stale.
    expected, keys, values, count = state
    k, cached, size, faults = count[0], count[1], count[2], 0
    for i in range(pages.size):
        page = pages[i]
        before = expected[page]
        if before != _ABSENT:
            events[i] = HIT
        else:
            faults += 1
            if cached < k:
                cached += 1
                events[i] = FAULT
            else:
                while keys[0] != expected[values[0]]:
                    size = heap_pop(keys, values, size)
                victim = values[0]
                size = heap_pop(keys, values, size)
                expected[victim] = _ABSENT
                events[i] = victim
        if hints[i] == before:
            continue  # its entry in the heap still stands
        if size == keys.size:
            kept = 0
            for j in range(size):
                if keys[j] == expected[values[j]] and values[j] != page:
                    kept = heap_push(keys, values, kept, keys[j], values[j])
            size = kept
        expected[page] = hints[i]
        size = heap_push(keys, values, size, hints[i], page)
    count[1], count[2] = cached, size
    return faults


def _start_marker(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _MarkerState:
    slot, expected, frames = (
        np.zeros(num_pages, np.int32),
        np.zeros(num_pages, np.int64),
        np.zeros(num_frames, np.int32),
    )
    count = np.array([num_frames, 0, 0, 1, 0, 0, int(harmonic(num_frames))], np.int64)
    return (
        slot,
        expected,
        frames,
        np.zeros(num_frames, np.int64),  # unmarked pages of this phase by prediction, a heap that only shrinks
        np.zeros(num_frames, np.int32),
        np.zeros(num_pages, np.int32),  # stale_in[page]: the phase at whose start it was cached
        np.zeros((num_pages, 2), np.int32),  # note[page]: PredictiveMarker's chain length; LNonMarker's evictor, seen
        count,
        new_random(seed),
    )


@jit
def _serve(state: _MarkerState, pages: I32, hints: Hints, now: int, events: Events, rule: int) -> int:
    # frames[:unmarked] were cached at the start of the phase and not requested since; slot = index + 1.
    slot, expected, frames, keys, values, stale_in, note, count, random = state
    k, cached, unmarked, phase, size, distinct, chain_limit = count
    faults = 0
    for i in range(pages.size):
        page = pages[i]
        at = slot[page] - 1
        if rule == _LNONMARKER:  # phases count distinct pages; the others start one when all are marked
            new_phase = False
            if note[page, 1] != phase:
                distinct += 1
                new_phase = distinct > k
        else:
            new_phase = at < 0 and cached == k and unmarked == 0
        if new_phase:
            phase += 1
            distinct = 1
            unmarked = cached
            size = 0
            for j in range(cached):
                stale_in[frames[j]] = phase
                note[frames[j], 0] = 0
                size = heap_push(keys, values, size, expected[frames[j]], frames[j])
        note[page, 1] = phase
        if at >= 0:
            events[i] = HIT
        else:
            faults += 1
            if cached < k:
                events[i] = FAULT
                at = cached
                cached += 1
            else:
                stale = stale_in[page] == phase
                chain = note[page, 0] + 1
                farthest = not stale or (rule == _PREDICTIVE and chain <= chain_limit)
                anywhere = unmarked == 0 or (rule == _LNONMARKER and stale and note[page, 0] == 1)
                if anywhere:
                    at = next_random(random, cached)
                elif farthest:
                    while slot[values[0]] == 0 or slot[values[0]] > unmarked:
                        size = heap_pop(keys, values, size)
                    at = slot[values[0]] - 1
                else:
                    at = next_random(random, unmarked)
                victim = frames[at]
                events[i] = victim
                if rule == _PREDICTIVE:
                    note[victim, 0] = chain if stale else 1
                else:
                    note[victim, 0] = 0 if stale else 1  # 1: evicted for a clean page
        if at < unmarked:
            unmarked -= 1
            frames[at] = frames[unmarked]
            slot[frames[at]] = at + 1
            at = unmarked
        if events[i] >= 0:
            slot[events[i]] = 0
        frames[at] = page
        slot[page] = at + 1
        expected[page] = hints[i]
    count[1], count[2], count[3], count[4], count[5] = cached, unmarked, phase, size, distinct
    return faults


@jit
def _step_predictive(state: _MarkerState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    return _serve(state, pages, hints, now, events, _PREDICTIVE)


@jit
def _step_lmarker(state: _MarkerState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    return _serve(state, pages, hints, now, events, _LMARKER)


@jit
def _step_lnonmarker(state: _MarkerState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    return _serve(state, pages, hints, now, events, _LNONMARKER)


_FARTHEST = "evict the page whose predicted next arrival is farthest"
BLIND_ORACLE = register(
    Policy(name="blind-oracle", summary=_FARTHEST, start=_start_blind, step=_step_blind, hint=Hint.ARRIVAL)
)
PREDICTIVE_MARKER = register(
    Policy(
        name="predictive-marker",
        summary="Marker that trusts predictions until a chain of evictions is H_k long",
        start=_start_marker,
        step=_step_predictive,
        hint=Hint.ARRIVAL,
        randomized=True,
        guarantee=Guarantee(alpha=0.0, beta=lambda k: 0.0, gamma=0.0, robust=lambda k: 4.0 * harmonic(k)),
    )
)
LMARKER = register(
    Policy(
        name="lmarker",
        summary="clean page: evict the farthest unmarked; stale page: a random unmarked one",
        start=_start_marker,
        step=_step_lmarker,
        hint=Hint.ARRIVAL,
        randomized=True,
    )
)
LNONMARKER = register(
    Policy(
        name="lnonmarker",
        summary="LMarker that evicts any random page when the prediction was just proved wrong",
        start=_start_marker,
        step=_step_lnonmarker,
        hint=Hint.ARRIVAL,
        randomized=True,
    )
)

"""The eviction rule of LRB: draw a few cached pages and evict the one predicted to come back last.

Predictions grow old: a page that was predicted for the past is taken to stay away as long again as it is overdue.
With learned arrivals (``predict/arrivals.py``) this is a learner like LRB. Source: Song et al., Learning Relaxed Belady
for Content Distribution Network Caching, NSDI 2020 (64 candidates).
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Hint, Hints, Policy, register
from mallocgame.baselines.paging.structures import FAULT, HIT, I32, I64, U64, new_random, next_random
from mallocgame.jit import jit

_State = tuple[I32, I64, I32, I64, U64]
_CANDIDATES = 64


def _start(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _State:
    return (
        np.zeros(num_pages, np.int32),  # slot of a cached page, + 1
        np.zeros(num_pages, np.int64),  # its predicted next arrival
        np.zeros(num_frames, np.int32),
        np.array([num_frames, 0], np.int64),
        new_random(seed),
    )


@jit
def _step(state: _State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    slot, expected, frames, count, random = state
    k, cached, faults = count[0], count[1], 0
    for i in range(pages.size):
        page = pages[i]
        if slot[page]:
            events[i] = HIT
        else:
            faults += 1
            if cached < k:
                at = cached
                cached += 1
                events[i] = FAULT
            else:
                at, farthest = 0, np.int64(-1)
                for draw in range(min(_CANDIDATES, k)):
                    one = next_random(random, k) if k > _CANDIDATES else draw
                    away = abs(expected[frames[one]] - (now + i))
                    if away > farthest:
                        at, farthest = one, away
                victim = frames[at]
                slot[victim] = 0
                events[i] = victim
            frames[at] = page
            slot[page] = at + 1
        expected[page] = hints[i]
    count[1] = cached
    return faults


RELAXED_BELADY = register(
    Policy(
        name="relaxed-belady",
        summary="of 64 random pages evict the one predicted to come back last (the rule of LRB, NSDI 2020)",
        start=_start,
        step=_step,
        hint=Hint.ARRIVAL,
        randomized=True,
    )
)

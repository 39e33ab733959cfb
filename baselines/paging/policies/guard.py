"""Guard around LRU0: pages that the bits evicted too early are protected until the phase ends.

A phase starts when every page cached at the start of the last one has been requested or evicted since. On a fault for a
page that was evicted in this phase, a random page cached at its start and not requested since leaves, and the page that
came back is guarded: it stays until the next phase. Otherwise LRU0's choice among the unguarded pages leaves.

Source: Chen et al., Robustifying Learning-Augmented Caching Efficiently without Compromising 1-Consistency, NeurIPS
2025, arXiv:2507.16242: at most 2 H_(k-1) + 2 times OPT whatever the bits.
"""

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
    push,
    remove,
)
from mallocgame.jit import jit

_State = tuple[I32, U8, U8, I32, I32, I32, I64, U64]
_ONES, _ZEROS, _GUARDED = 0, 1, 2


def _start(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _State:
    links, where = new_queues(3, num_pages)
    return (
        links,
        where,
        np.zeros(num_pages, np.uint8),  # bit: of the last request
        np.zeros(num_frames, np.int32),  # old: pages cached at the start of the phase, not requested since
        np.zeros(num_pages, np.int32),  # index of a page in old, + 1
        np.zeros(num_pages, np.int32),  # evicted_in: the phase in which the page was last evicted
        np.array([num_frames, 0, 0, 1], np.int64),
        new_random(seed),
    )


@jit
def _step(state: _State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, bit, old, index, evicted_in, count, random = state
    k, cached, unrequested, phase, faults = count[0], count[1], count[2], count[3], 0
    for i in range(pages.size):
        page = pages[i]
        tag = where[page]
        guard = tag == _GUARDED + 1
        gone = -1  # who leaves `old`
        if tag:
            events[i] = HIT
            remove(links, where, page)
            gone = int(page)
        else:
            faults += 1
            events[i] = FAULT
            if cached < k:
                cached += 1
            else:
                if unrequested == 0:
                    phase += 1
                    guarded = pop(links, where, _GUARDED)
                    while guarded >= 0:
                        push(links, where, _ONES if bit[guarded] else _ZEROS, guarded)
                        guarded = pop(links, where, _GUARDED)
                    for queue in range(2):
                        one = int(links[where.size + queue, 1])
                        while one < where.size:
                            old[unrequested] = one
                            unrequested += 1
                            index[one] = unrequested
                            one = int(links[one, 1])
                if evicted_in[page] == phase:
                    guard = True
                    victim = int(old[next_random(random, unrequested)])
                    remove(links, where, victim)
                else:
                    victim = int(pop(links, where, _ONES))
                    if victim < 0:
                        victim = int(pop(links, where, _ZEROS))
                evicted_in[victim] = phase
                events[i] = victim
                gone = victim
        if gone >= 0 and index[gone]:
            unrequested -= 1
            last, at = old[unrequested], index[gone]
            old[at - 1] = last
            index[last] = at
            index[gone] = 0
        bit[page] = hints[i]
        push(links, where, _GUARDED if guard else (_ONES if hints[i] else _ZEROS), page)
    count[1], count[2], count[3] = cached, unrequested, phase
    return faults


GUARD_LRU0 = register(
    Policy(
        name="guard-lru0",
        summary="LRU0 that protects, until a phase ends, the pages it evicted too early (Chen et al., NeurIPS 2025)",
        start=_start,
        step=_step,
        hint=Hint.DISCARD,
        randomized=True,
        guarantee=Guarantee(
            alpha=0.0, beta=lambda k: 0.0, gamma=0.0, robust=lambda k: 2.0 * (harmonic(k - 1) if k > 1 else 0.0) + 2.0
        ),
    )
)

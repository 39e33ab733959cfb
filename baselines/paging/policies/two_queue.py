"""2Q: a page is admitted to the LRU part only when it comes back after it left the FIFO part.

Source: Johnson and Shasha, 2Q: A Low Overhead High Performance Buffer Management Replacement Algorithm, VLDB 1994 (full
version, shares 25 % and 50 %).
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Hints, Policy, register
from mallocgame.baselines.paging.structures import FAULT, HIT, I32, I64, U8, new_queues, pop, push, remove
from mallocgame.jit import jit

_State = tuple[I32, U8, I64]
_IN, _OUT, _MAIN = 0, 1, 2  # FIFO of new pages, FIFO of the ids of those that left it, LRU of those that came back


def _start(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _State:
    links, where = new_queues(3, num_pages)
    return links, where, np.array([num_frames, num_frames // 4, num_frames // 2, 0, 0, 0], np.int64)


@jit
def _step(state: _State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, count = state
    k, in_room, out_room = count[0], count[1], count[2]
    entered, ghosts, main, faults = count[3], count[4], count[5], 0
    for i in range(pages.size):
        page = pages[i]
        tag = where[page]
        if tag == _IN + 1 or tag == _MAIN + 1:
            events[i] = HIT
            if tag == _MAIN + 1:
                remove(links, where, page)
                push(links, where, _MAIN, page)
            continue
        faults += 1
        events[i] = FAULT
        if tag:
            remove(links, where, page)
            ghosts -= 1
        if entered + main == k:
            if entered > in_room:
                victim = pop(links, where, _IN)
                entered -= 1
                if out_room > 0:
                    if ghosts == out_room:
                        pop(links, where, _OUT)
                        ghosts -= 1
                    push(links, where, _OUT, victim)
                    ghosts += 1
            else:
                victim = pop(links, where, _MAIN)
                main -= 1
            events[i] = victim
        if tag:
            push(links, where, _MAIN, page)
            main += 1
        else:
            push(links, where, _IN, page)
            entered += 1
    count[3], count[4], count[5] = entered, ghosts, main
    return faults


TWO_QUEUE = register(
    Policy(
        name="2q",
        summary="FIFO of new pages, LRU of those that came back soon after it (Johnson, Shasha, VLDB 1994)",
        start=_start,
        step=_step,
    )
)

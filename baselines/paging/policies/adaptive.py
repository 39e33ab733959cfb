"""ARC and S3-FIFO: ghosts of evicted pages tell which part of the cache deserves room."""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Hints, Policy, register
from mallocgame.baselines.paging.structures import F64, FAULT, HIT, I32, I64, U8, new_queues, pop, push, remove
from mallocgame.jit import jit

_ArcState = tuple[I32, U8, I64, F64]
_S3State = tuple[I32, U8, U8, I64]
_T1, _T2, _B1, _B2 = 0, 1, 2, 3
_SMALL, _MAIN, _GHOST = 0, 1, 2
_TO_MAIN, _MAX_USES = 2, 3


def _start_arc(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _ArcState:
    links, where = new_queues(4, num_pages)
    return links, where, np.array([num_frames, 0, 0, 0, 0], np.int64), np.zeros(1)


@jit
def _step_arc(state: _ArcState, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, count, target = state
    k, t1, t2, b1, b2, p, faults = count[0], count[1], count[2], count[3], count[4], target[0], 0
    for i in range(pages.size):
        page = pages[i]
        tag = where[page]
        if tag == _T1 + 1 or tag == _T2 + 1:
            events[i] = HIT
            if tag == _T1 + 1:
                t1 -= 1
                t2 += 1
            remove(links, where, page)
            push(links, where, _T2, page)
            continue
        faults += 1
        if tag == _B1 + 1:
            p = min(p + max(b2 / b1, 1.0), float(k))
            b1 -= 1
            remove(links, where, page)
        elif tag == _B2 + 1:
            p = max(p - max(b1 / b2, 1.0), 0.0)
            b2 -= 1
            remove(links, where, page)
        if t1 + t2 < k:
            events[i] = FAULT
        elif tag == 0 and t1 + b1 >= k and b1 == 0:  # T1 fills the whole cache: its oldest leaves no ghost
            events[i] = pop(links, where, _T1)
            t1 -= 1
        else:
            if tag == 0 and t1 + b1 >= k:
                pop(links, where, _B1)
                b1 -= 1
            elif tag == 0 and t1 + t2 + b1 + b2 >= 2 * k and b2 > 0:
                pop(links, where, _B2)
                b2 -= 1
            if (t1 > 0 and (t1 > p or (t1 == p and tag == _B2 + 1))) or t2 == 0:
                victim = pop(links, where, _T1)
                push(links, where, _B1, victim)
                t1 -= 1
                b1 += 1
            else:
                victim = pop(links, where, _T2)
                push(links, where, _B2, victim)
                t2 -= 1
                b2 += 1
            events[i] = victim
        if tag == 0:
            push(links, where, _T1, page)
            t1 += 1
        else:
            push(links, where, _T2, page)
            t2 += 1
    count[1], count[2], count[3], count[4], target[0] = t1, t2, b1, b2, p
    return faults


def _start_s3(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _S3State:
    links, where = new_queues(3, num_pages)
    small = int(num_frames * 0.1)
    count = np.array([num_frames, num_frames - small, int(num_frames * 0.9), 0, 0, 0, 0], np.int64)
    return links, where, np.zeros(num_pages, np.uint8), count


@jit
def _step_s3(state: _S3State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, uses, count = state
    k, main_room, ghost_room = count[0], count[1], count[2]
    small, main, ghosts, warm, faults = count[3], count[4], count[5], count[6] > 0, 0
    for i in range(pages.size):
        page = pages[i]
        tag = where[page]
        if tag == _SMALL + 1 or tag == _MAIN + 1:
            if uses[page] < _MAX_USES:
                uses[page] += 1
            events[i] = HIT
            continue
        faults += 1
        if tag:
            ghosts -= 1
            remove(links, where, page)
        events[i] = FAULT
        warm = (
            warm or small + main >= k
        )  # until the first eviction, what overfills the small queue goes to the main one
        while small + main >= k:
            if main > main_room or small == 0:
                while True:
                    victim = pop(links, where, _MAIN)
                    if uses[victim] == 0:
                        break
                    uses[victim] -= 1
                    push(links, where, _MAIN, victim)
                main -= 1
                events[i] = victim
            else:
                while small > 0:
                    victim = pop(links, where, _SMALL)
                    small -= 1
                    if uses[victim] < _TO_MAIN:
                        if ghost_room > 0:
                            if ghosts == ghost_room:
                                pop(links, where, _GHOST)
                                ghosts -= 1
                            push(links, where, _GHOST, victim)
                            ghosts += 1
                        events[i] = victim
                        break
                    uses[victim] = 0
                    push(links, where, _MAIN, victim)
                    main += 1
        uses[page] = 0
        if tag or (not warm and small >= k - main_room):
            push(links, where, _MAIN, page)
            main += 1
        else:
            push(links, where, _SMALL, page)
            small += 1
    count[3], count[4], count[5], count[6] = small, main, ghosts, int(warm)
    return faults


ARC = register(
    Policy(
        name="arc",
        summary="adaptive split between pages seen once and pages seen again (Megiddo, Modha, FAST 2003)",
        start=_start_arc,
        step=_step_arc,
    )
)
S3_FIFO = register(
    Policy(
        name="s3-fifo",
        summary="small, main and ghost FIFO queues, 10% / 90% / 90% (Yang et al., SOSP 2023)",
        start=_start_s3,
        step=_step_s3,
    )
)

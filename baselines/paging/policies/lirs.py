"""LIRS: what counts is the time between a page's last two requests, not the time since the last.

Source: Jiang and Zhang, LIRS: An Efficient Low Inter-reference Recency Set Replacement Policy, SIGMETRICS 2002: 1 % of
the frames for pages of long intervals; the stack is bounded at 2 k entries.
"""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Hints, Policy, register
from mallocgame.baselines.paging.structures import FAULT, HIT, I32, I64, U8, new_queues, pop, push, remove
from mallocgame.jit import jit

_State = tuple[I32, U8, I32, U8, U8, I64]
_STACK = 0  # of the first links: recency of all low pages, and of those above the lowest of them
_HIGH, _GONE = 0, 1  # of the second links: resident pages of long intervals; pages in the stack that are not resident
_LOW, _RESIDENT, _ABSENT = 1, 2, 3  # kind of a page; 0 is unknown


def _start(num_pages: int, num_frames: int, num_requests: int, seed: int) -> _State:
    stack, in_stack = new_queues(1, num_pages)
    lists, in_list = new_queues(2, num_pages)
    high = max(1, num_frames // 100)
    count = np.array([num_frames, num_frames - high, 0, 0, 0], np.int64)
    return stack, in_stack, lists, in_list, np.zeros(num_pages, np.uint8), count


@jit
def _prune(stack: I32, in_stack: U8, lists: I32, in_list: U8, kind: U8) -> int:
    """Take pages off the bottom of the stack until a low page lies there; return how many."""
    taken = 0
    while True:
        bottom = stack[in_stack.size, 1]
        if bottom >= in_stack.size or kind[bottom] == _LOW:
            return taken
        remove(stack, in_stack, bottom)
        taken += 1
        if kind[bottom] == _ABSENT:
            remove(lists, in_list, bottom)
            kind[bottom] = 0


@jit
def _step(state: _State, pages: I32, hints: Hints, now: int, events: Events) -> int:
    stack, in_stack, lists, in_list, kind, count = state
    k, low_room, low, resident, depth, faults = count[0], count[1], count[2], count[3], count[4], 0
    for i in range(pages.size):
        page = pages[i]
        was = kind[page]
        events[i] = HIT
        if was != _LOW and was != _RESIDENT:
            faults += 1
            events[i] = FAULT
            if resident == k:
                victim = pop(lists, in_list, _HIGH)
                events[i] = victim
                resident -= 1
                if in_stack[victim]:
                    kind[victim] = _ABSENT
                    push(lists, in_list, _GONE, victim)
                else:
                    kind[victim] = 0
            resident += 1
        stacked = in_stack[page] > 0
        if stacked:
            remove(stack, in_stack, page)
        else:
            depth += 1
        if in_list[page]:
            remove(lists, in_list, page)
        push(stack, in_stack, _STACK, page)
        if was == _LOW:
            depth -= _prune(stack, in_stack, lists, in_list, kind)
        elif low < low_room:  # at the start, every page is low
            kind[page] = _LOW
            low += 1
        elif stacked and low_room > 0:  # its interval is shorter than the recency of the lowest: they change places
            kind[page] = _LOW
            lowest = pop(stack, in_stack, _STACK)
            depth -= 1
            kind[lowest] = _RESIDENT
            push(lists, in_list, _HIGH, lowest)
            depth -= _prune(stack, in_stack, lists, in_list, kind)
        else:
            kind[page] = _RESIDENT
            push(lists, in_list, _HIGH, page)
        if low_room == 0:
            depth -= _prune(stack, in_stack, lists, in_list, kind)
        while depth > 2 * k:
            forgotten = pop(lists, in_list, _GONE)
            if forgotten < 0:
                break
            remove(stack, in_stack, forgotten)
            kind[forgotten] = 0
            depth -= 1
    count[2], count[3], count[4] = low, resident, depth
    return faults


LIRS = register(
    Policy(
        name="lirs",
        summary="keep pages whose last two requests lay close together (Jiang, Zhang, SIGMETRICS 2002)",
        start=_start,
        step=_step,
    )
)

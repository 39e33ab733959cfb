"""LRU, FIFO, CLOCK and SIEVE: what is known is only when a page came and whether it was used again."""

import numpy as np

from mallocgame.baselines.paging.policy import Events, Guarantee, Hints, Policy, register
from mallocgame.baselines.paging.structures import FAULT, HIT, I32, I64, U8, new_queues, pop, push, remove
from mallocgame.jit import jit

_MARKING = Guarantee(alpha=0.0, beta=lambda k: 0.0, gamma=0.0, robust=float)  # at most k times OPT


def _start_lru(num_pages: int, num_frames: int, num_requests: int, seed: int) -> tuple[I32, U8, I64]:
    links, where = new_queues(1, num_pages)
    return links, where, np.array([num_frames, 0], np.int64)


@jit
def _step_lru(state: tuple[I32, U8, I64], pages: I32, hints: Hints, now: int, events: Events) -> int:
    links, where, count = state
    k, cached, faults = count[0], count[1], 0
    for i in range(pages.size):
        page = pages[i]
        if where[page]:
            remove(links, where, page)
            events[i] = HIT
        else:
            faults += 1
            if cached == k:
                events[i] = pop(links, where, 0)
            else:
                cached += 1
                events[i] = FAULT
        push(links, where, 0, page)
    count[1] = cached
    return faults


def _start_ring(num_pages: int, num_frames: int, num_requests: int, seed: int) -> tuple[U8, I32, I64]:
    return np.zeros(num_pages, np.uint8), np.zeros(num_frames, np.int32), np.zeros(2, np.int64)


@jit
def _step_fifo(state: tuple[U8, I32, I64], pages: I32, hints: Hints, now: int, events: Events) -> int:
    cached, ring, registers = state
    hand, used, faults = registers[0], registers[1], 0
    for i in range(pages.size):
        page = pages[i]
        if cached[page]:
            events[i] = HIT
            continue
        faults += 1
        if used == ring.size:
            victim = ring[hand]
            cached[victim] = 0
            events[i] = victim
        else:
            used += 1
            events[i] = FAULT
        cached[page] = 1
        ring[hand] = page
        hand += 1
        if hand == ring.size:
            hand = 0
    registers[0], registers[1] = hand, used
    return faults


@jit
def _step_clock(state: tuple[U8, I32, I64], pages: I32, hints: Hints, now: int, events: Events) -> int:
    cached, ring, registers = state  # cached: 0 absent, 1 present, 2 present and used since the hand passed
    hand, used, faults = registers[0], registers[1], 0
    for i in range(pages.size):
        page = pages[i]
        if cached[page]:
            cached[page] = 2
            events[i] = HIT
            continue
        faults += 1
        if used == ring.size:
            victim = ring[hand]
            while cached[victim] == 2:
                cached[victim] = 1
                hand += 1
                if hand == ring.size:
                    hand = 0
                victim = ring[hand]
            cached[victim] = 0
            events[i] = victim
        else:
            used += 1
            events[i] = FAULT
        cached[page] = 1
        ring[hand] = page
        hand += 1
        if hand == ring.size:
            hand = 0
    registers[0], registers[1] = hand, used
    return faults


def _start_sieve(num_pages: int, num_frames: int, num_requests: int, seed: int) -> tuple[U8, I32, I64]:
    return np.zeros(num_pages, np.uint8), np.zeros(2 * num_frames + 64, np.int32), np.array([num_frames, 0, 0, 0])


@jit
def _step_sieve(state: tuple[U8, I32, I64], pages: I32, hints: Hints, now: int, events: Events) -> int:
    cached, log, registers = state  # log: pages by age, oldest first, -1 where one was evicted
    k, used, hand, head, faults = registers[0], registers[1], registers[2], registers[3], 0
    for i in range(pages.size):
        page = pages[i]
        if cached[page]:
            cached[page] = 2
            events[i] = HIT
            continue
        faults += 1
        if used == k:
            while True:
                victim = log[hand]
                if victim >= 0:
                    if cached[victim] == 1:
                        break
                    cached[victim] = 1
                hand += 1
                if hand == head:
                    hand = 0
            log[hand] = -1
            cached[victim] = 0
            events[i] = victim
            hand += 1
            if hand == head:
                hand = 0
        else:
            used += 1
            events[i] = FAULT
        if head == log.size:
            kept, new_hand = 0, 0
            for j in range(head):
                if j == hand:
                    new_hand = kept
                if log[j] >= 0:
                    log[kept] = log[j]
                    kept += 1
            head, hand = kept, new_hand
            if hand == head:
                hand = 0
        log[head] = page
        head += 1
        cached[page] = 1
    registers[1], registers[2], registers[3] = used, hand, head
    return faults


LRU = register(
    Policy(
        name="lru", summary="evict the least recently used page", start=_start_lru, step=_step_lru, guarantee=_MARKING
    )
)
FIFO = register(
    Policy(name="fifo", summary="evict the oldest page", start=_start_ring, step=_step_fifo, guarantee=_MARKING)
)
CLOCK = register(
    Policy(
        name="clock",
        summary="FIFO with one second chance for a page used since (used bit 0 at insertion)",
        start=_start_ring,
        step=_step_clock,
        guarantee=_MARKING,
    )
)
SIEVE = register(
    Policy(
        name="sieve",
        summary="FIFO order, a hand that spares used pages in place (Zhang et al., NSDI 2024)",
        start=_start_sieve,
        step=_step_sieve,
    )
)

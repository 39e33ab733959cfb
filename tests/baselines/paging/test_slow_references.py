"""CLOCK, SIEVE, LFU, 2Q and LIRS beside slow ones written from their papers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.paging import (
    from_ids,
    get_policy,
    record,
)

PAGES = st.lists(st.integers(0, 9), max_size=60)


def slow_clock(pages: list[int], k: int) -> int:
    queue: list[int] = []
    used: dict[int, int] = {}
    faults = 0
    for page in pages:
        if page in queue:
            used[page] = 1
            continue
        faults += 1
        if len(queue) == k:
            while used[queue[0]]:
                used[queue[0]] = 0
                queue.append(queue.pop(0))
            queue.pop(0)
        queue.append(page)
        used[page] = 0
    return faults


def slow_sieve(pages: list[int], k: int) -> int:
    queue: list[int] = []  # oldest first
    used: dict[int, int] = {}
    hand, faults = 0, 0
    for page in pages:
        if page in queue:
            used[page] = 1
            continue
        faults += 1
        if len(queue) == k:
            hand = hand if hand < len(queue) else 0
            while used[queue[hand]]:
                used[queue[hand]] = 0
                hand = (hand + 1) % len(queue)
            queue.pop(hand)
            if hand == len(queue):
                hand = 0
        queue.append(page)
        used[page] = 0
    return faults


def slow_lfu(pages: list[int], k: int) -> int:
    count: dict[int, tuple[int, int]] = {}
    faults = 0
    for now, page in enumerate(pages):
        if page in count:
            count[page] = (count[page][0] + 1, now)
            continue
        faults += 1
        if len(count) == k:
            del count[min(count, key=count.__getitem__)]
        count[page] = (1, now)
    return faults


@settings(max_examples=150, deadline=None)
@given(PAGES, st.integers(1, 6))
def test_clock_sieve_and_lfu_equal_their_references(pages: list[int], k: int) -> None:
    trace = from_ids(pages)
    for name, slow in (("clock", slow_clock), ("sieve", slow_sieve), ("lfu", slow_lfu)):
        assert record(trace, get_policy(name), k).faults == slow(pages, k)


def slow_two_queue(pages: list[int], k: int) -> int:
    fresh: list[int] = []
    ghosts: list[int] = []
    main: list[int] = []
    faults = 0
    for page in pages:
        if page in fresh:
            continue
        if page in main:
            main.append(main.pop(main.index(page)))
            continue
        faults += 1
        back = page in ghosts
        if back:
            ghosts.remove(page)
        if len(fresh) + len(main) == k:
            if len(fresh) > k // 4:
                ghosts.append(fresh.pop(0))
                ghosts = ghosts[-(k // 2) :] if k // 2 else []
            else:
                main.pop(0)
        (main if back else fresh).append(page)
    return faults


def slow_lirs(pages: list[int], k: int) -> int:
    room = k - max(1, k // 100)
    stack: list[int] = []  # oldest first
    high: list[int] = []
    gone: list[int] = []
    low: set[int] = set()
    faults = 0

    def prune() -> None:
        while stack and stack[0] not in low:
            page = stack.pop(0)
            if page in gone:
                gone.remove(page)

    for page in pages:
        if page not in low and page not in high:
            faults += 1
            if len(low) + len(high) == k:
                victim = high.pop(0)
                if victim in stack:
                    gone.append(victim)
        stacked = page in stack
        for one in (stack, high, gone):
            if page in one:
                one.remove(page)
        stack.append(page)
        if page in low:
            prune()
        elif len(low) < room:
            low.add(page)
        elif stacked and room:
            low.add(page)
            lowest = stack.pop(0)
            low.discard(lowest)
            high.append(lowest)
            prune()
        else:
            high.append(page)
        if not room:
            prune()
        while len(stack) > 2 * k and gone:
            stack.remove(gone.pop(0))
    return faults


@settings(max_examples=150, deadline=None)
@given(PAGES, st.integers(1, 7))
def test_2q_and_lirs_equal_their_references(pages: list[int], k: int) -> None:
    trace = from_ids(pages)
    for name, slow in (("2q", slow_two_queue), ("lirs", slow_lirs)):
        assert record(trace, get_policy(name), k).faults == slow(pages, k)

"""Robust combinations of two policies: never much worse than the better of the two.

"a+b" follows whichever of a and b has had fewer faults so far; on its own fault with a full cache it evicts a page that
the leader does not hold. At most 2 min(a, b) + k faults. "a~b" draws the leader with multiplicative weights
(Blum and Burch, Machine Learning 2000): at most (1 + eps) min(a, b) + O(k / eps) expected faults.
"""

from typing import Any

import numpy as np

from baselines.paging.policy import Events, Guarantee, Hint, Hints, Policy, get_policy
from baselines.paging.structures import F64, FAULT, FLUSH, HIT, I32, I64, U8, U64, new_random, next_random
from mallocgame.errors import InputError
from mallocgame.jit import jit

_Own = tuple[I32, U8, I32, I32, I32, U8, I64, F64, U64]
_FRAMES, _CACHED, _FAULTS, _LEADER, _EPOCH, _TAIL, _COUNT = 0, 1, 2, 4, 5, 7, 9  # in `count`; some are one a policy


def _start_own(num_pages: int, num_frames: int, seed: int) -> _Own:
    count = np.zeros(11, np.int64)
    count[_FRAMES] = num_frames
    count[_EPOCH : _EPOCH + 2] = 1
    return (
        np.zeros((2, num_pages), np.int32),  # held[who, page] == epoch of who: policy who (0: a, 1: b) holds the page
        np.zeros(num_pages, np.uint8),  # own: the combination holds the page
        np.zeros(num_frames, np.int32),  # frames: the pages of the own cache
        np.zeros(num_pages, np.int32),  # index of a page in frames
        np.zeros((2, num_pages), np.int32),  # rings: own pages that a (b) has evicted, oldest first
        np.zeros((2, num_pages), np.uint8),  # in_ring
        count,
        np.array([0.5]),  # probability that b leads
        new_random(seed),
    )


@jit
def _lost(own_state: _Own, who: int, page: int) -> None:
    """Policy ``who`` has evicted ``page``: an own page becomes a candidate while that policy leads."""
    held, own, _, _, rings, in_ring, count, _, _ = own_state
    held[who, page] = 0
    if own[page] and not in_ring[who, page]:
        at = count[_TAIL + who] + count[_COUNT + who]
        rings[who, at if at < own.size else at - own.size] = page
        count[_COUNT + who] += 1
        in_ring[who, page] = 1


@jit
def _candidate(own_state: _Own, who: int) -> int:
    """Take the own page that leader ``who`` evicted longest ago and does not hold; one exists on an own fault.

    The leader holds the requested page, the own cache does not: so one of the k own pages is not the leader's. Every
    such page was put in the ring when the leader lost it, because a page enters the own cache when both hold it.
    """
    held, own, _, _, rings, in_ring, count, _, _ = own_state
    while True:
        tail = count[_TAIL + who]
        page = rings[who, tail]
        count[_TAIL + who] = tail + 1 if tail + 1 < own.size else 0
        count[_COUNT + who] -= 1
        in_ring[who, page] = 0
        if own[page] and held[who, page] != count[_EPOCH + who]:
            return int(page)


@jit
def _follow(own_state: _Own, who: int, page: int, event: int) -> None:
    """Bring what is known of policy ``who`` up to date with its ``event`` on ``page``."""
    held, _, frames, _, _, _, count, _, _ = own_state
    if event == FLUSH:
        for j in range(count[_CACHED]):
            if held[who, frames[j]] == count[_EPOCH + who]:
                _lost(own_state, who, frames[j])
        count[_EPOCH + who] += 1
    elif event >= 0:
        _lost(own_state, who, event)
    held[who, page] = count[_EPOCH + who]
    count[_FAULTS + who] += event != HIT


@jit
def _lead(own_state: _Own, rate: float) -> int:
    """Return the leader after this request; ``rate`` > 0 draws it, so that P(leader) follows the weights."""
    _, _, _, _, _, _, count, share, random = own_state
    leader, lead = count[_LEADER], count[_FAULTS] - count[_FAULTS + 1]  # lead > 0: b is ahead
    if rate == 0.0:
        if lead != 0:
            leader = 1 if lead > 0 else 0
    else:
        before, after = share[0], 1.0 / (1.0 + np.exp(min(-rate * lead, 700.0)))
        share[0] = after
        draw = next_random(random, 1 << 31) / 2147483648.0
        if leader == 0 and after > before and draw < (after - before) / (1.0 - before):
            leader = 1
        elif leader == 1 and after < before and draw < (before - after) / before:
            leader = 0
    count[_LEADER] = leader
    return int(leader)


@jit
def _step_own(own_state: _Own, pages: I32, events_a: I32, events_b: I32, rate: float, events: Events) -> int:
    _, own, frames, index, _, _, count, _, _ = own_state
    faults = 0
    for i in range(pages.size):
        page = pages[i]
        _follow(own_state, 0, page, events_a[i])
        _follow(own_state, 1, page, events_b[i])
        leader = _lead(own_state, rate)
        if own[page]:
            events[i] = HIT
            continue
        faults += 1
        if count[_CACHED] < count[_FRAMES]:
            at = count[_CACHED]
            count[_CACHED] += 1
            events[i] = FAULT
        else:
            victim = _candidate(own_state, leader)
            at = index[victim]
            own[victim] = 0
            events[i] = victim
        frames[at] = page
        index[page] = at
        own[page] = 1
    return faults


def combine(a: Policy, b: Policy, *, epsilon: float = 0.0) -> Policy:
    """Return the policy that follows the better of ``a`` and ``b``.

    Args:
        a: any policy.
        b: a policy without hints, or with hints of the same kind as a's.
        epsilon: 0: deterministic. In (0, 1]: randomised, with learning rate epsilon / (2 k).

    Raises:
        InputError: the two want hints of different kinds, or epsilon lies outside [0, 1].
    """
    if b.hint not in (Hint.NONE, a.hint):
        raise InputError(
            f"cannot combine {a.name!r} ({a.hint.value}) with {b.name!r} ({b.hint.value}): one hint kind only"
        )
    if not 0.0 <= epsilon <= 1.0:
        raise InputError(f"epsilon lies in [0, 1], got {epsilon}")

    def start(num_pages: int, num_frames: int, num_requests: int, seed: int) -> Any:
        own = _start_own(num_pages, num_frames, seed)
        own[6][_LEADER] = int(bool(epsilon) and next_random(own[8], 2))
        parts = (
            a.start(num_pages, num_frames, num_requests, seed + 1),
            b.start(num_pages, num_frames, num_requests, seed + 2),
        )
        return own, parts, num_frames

    def step(state: Any, pages: I32, hints: Hints, now: int, events: Events) -> int:
        own, (state_a, state_b), num_frames = state
        events_a, events_b = np.empty_like(events), np.empty_like(events)
        a.step(state_a, pages, hints, now, events_a)
        b.step(state_b, pages, hints if b.hint is not Hint.NONE else np.zeros(0, np.uint8), now, events_b)
        return _step_own(own, pages, events_a, events_b, epsilon / (2.0 * num_frames), events)

    sign = "~" if epsilon else "+"
    return Policy(
        name=f"{a.name}{sign}{b.name}",
        summary=f"follow the better of {a.name} and {b.name} ({'drawn by weights' if epsilon else 'so far'})",
        start=start,
        step=step,
        hint=a.hint,
        randomized=bool(epsilon) or a.randomized or b.randomized,
        guarantee=_combined_guarantee(a, b, epsilon),
    )


def _combined_guarantee(a: Policy, b: Policy, epsilon: float) -> Guarantee | None:
    robust = b.guarantee.robust if b.guarantee else None
    own = a.guarantee
    if epsilon or own is None:
        return None
    return Guarantee(
        alpha=2.0 * own.alpha,
        beta=lambda k: 2.0 * own.beta(k),
        gamma=2.0 * own.gamma,
        robust=None if robust is None else lambda k: 2.0 * robust(k),
    )


def policy_from_name(name: str, *, epsilon: float = 0.1) -> Policy:
    """Return a registered policy, or the combination that "a+b" (deterministic) or "a~b" (randomised) names."""
    for sign, rate in (("+", 0.0), ("~", epsilon)):
        if sign in name:
            left, _, right = name.partition(sign)
            return combine(policy_from_name(left, epsilon=epsilon), get_policy(right), epsilon=rate)
    return get_policy(name)

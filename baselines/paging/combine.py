"""Robust combinations of two policies: never much worse than the better of the two.

"a+b" follows whichever of a and b has had fewer faults so far; on its own fault with a full cache it evicts a page that
the leader does not hold. At most 2 min(a, b) + k faults. "a~b" draws the leader with multiplicative weights
(Blum and Burch, Machine Learning 2000): at most (1 + eps) min(a, b) + O(k / eps) expected faults. "a^b" follows
whichever had fewer faults lately, with no bound. Where a is told the prompts, what is no usable hit counts as a fault.
"""

from typing import Any

import numpy as np

from mallocgame.baselines.paging.policy import Events, Guarantee, Hint, Hints, Policy, get_policy
from mallocgame.baselines.paging.structures import F64, FAULT, FLUSH, HIT, I32, I64, U8, U64, new_random, next_random
from mallocgame.errors import InputError
from mallocgame.jit import jit

_Own = tuple[I32, U8, I32, I32, I32, U8, I64, F64, U64]
_FRAMES, _CACHED, _FAULTS, _LEADER, _EPOCH, _TAIL, _COUNT = 0, 1, 2, 4, 5, 7, 9  # in `count`; some are one a policy
_BROKEN = 11  # one a policy: the run of hits from the prompt's start has ended
_MARGIN = 0.005  # of "a^b": the other has to be better by this share
_RECENT = 4.0  # of "a^b": costs weigh 1/e after so many times k requests
_NO_STARTS: U8 = np.zeros(0, np.uint8)


def _start_own(num_pages: int, num_frames: int, seed: int) -> _Own:
    count = np.zeros(13, np.int64)
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
        np.array([0.5, 0.0, 0.0]),  # probability that b leads; costs of a and b, old ones weighing less
        new_random(seed),
    )


@jit
def _lead(leader: int, lead: int, rate: float, before: float, after: float, draw: float) -> int:
    """Return who leads now; ``lead`` > 0 says that b is ahead, before and after are the probabilities that b leads."""
    if rate == 0.0:
        return leader if lead == 0 else (1 if lead > 0 else 0)
    if leader == 0 and after > before and draw < (after - before) / (1.0 - before):
        return 1
    if leader == 1 and after < before and draw < (before - after) / before:
        return 0
    return leader


@jit
def _step_own(  # noqa: C901 (a kernel: one loop)
    state: _Own, pages: I32, events_a: I32, events_b: I32, starts: U8, rate: float, fading: float, events: Events
) -> int:
    """Serve ``pages`` as the combination, given what a and b did; ``starts`` marks where prompts start (or is empty).

    What counts is faults; with prompts, requests that are no usable hit.

    A victim always exists on an own fault: the leader holds the requested page, the own cache does not, so one of the k
    own pages is not the leader's; and each such page was put in the ring when the leader lost it, because a page enters
    the own cache at a moment when both hold it. (One loop, few helpers: passing the arrays on would count references.)
    """
    held, own, frames, index, rings, in_ring, count, share, random = state
    k, cached, leader, num_pages, faults = count[_FRAMES], count[_CACHED], count[_LEADER], own.size, 0
    prompts = starts.size > 0
    for i in range(pages.size):
        page = pages[i]
        for who in range(2):
            event = events_a[i] if who == 0 else events_b[i]
            epoch = count[_EPOCH + who]
            cost = 0 if event == HIT else 1
            if prompts:
                if starts[i]:
                    count[_BROKEN + who] = 0
                if event != HIT:
                    count[_BROKEN + who] = 1
                cost = count[_BROKEN + who]
            count[_FAULTS + who] += cost
            if fading > 0.0:
                share[1 + who] += cost - fading * share[1 + who]
            if event != HIT:
                flush = event == FLUSH
                for j in range(cached if flush else (1 if event >= 0 else 0)):
                    lost = frames[j] if flush else event
                    if held[who, lost] == epoch:
                        held[who, lost] = 0
                        if own[lost] and not in_ring[who, lost]:
                            end = count[_TAIL + who] + count[_COUNT + who]
                            rings[who, end if end < num_pages else end - num_pages] = lost
                            count[_COUNT + who] += 1
                            in_ring[who, lost] = 1
                if flush:
                    epoch += 1
                    count[_EPOCH + who] = epoch
            held[who, page] = epoch
        lead = count[_FAULTS] - count[_FAULTS + 1]
        before, after, draw = share[0], 0.5, 0.0
        if rate > 0.0:
            after = 1.0 / (1.0 + np.exp(min(-rate * lead, 700.0)))
            draw = next_random(random, 1 << 31) / 2147483648.0
            share[0] = after
        if fading > 0.0:
            other = 1 - leader
            if share[1 + other] < (1.0 - _MARGIN) * share[1 + leader]:
                leader = other
        else:
            leader = _lead(leader, lead, rate, before, after, draw)
        if own[page]:
            events[i] = HIT
            continue
        faults += 1
        if cached < k:
            at = cached
            cached += 1
            events[i] = FAULT
        else:
            while True:
                tail = count[_TAIL + leader]
                victim = rings[leader, tail]
                count[_TAIL + leader] = tail + 1 if tail + 1 < num_pages else 0
                count[_COUNT + leader] -= 1
                in_ring[leader, victim] = 0
                if own[victim] and held[leader, victim] != count[_EPOCH + leader]:
                    break
            at = index[victim]
            own[victim] = 0
            events[i] = victim
        frames[at] = page
        index[page] = at
        own[page] = 1
    count[_CACHED], count[_LEADER] = cached, leader
    return faults


_WITHIN = {
    Hint.PROMPT: (Hint.NONE, Hint.PROMPT),
    Hint.PROMPT_DISCARD: (Hint.NONE, Hint.DISCARD, Hint.PROMPT, Hint.PROMPT_DISCARD),
}


def part_of(hints: Hints, given: Hint, wanted: Hint) -> Hints:
    """Return the hints of kind ``wanted`` that hints of kind ``given`` hold."""
    if wanted is Hint.NONE:
        return np.zeros(0, np.uint8)
    if given is Hint.PROMPT_DISCARD and wanted is Hint.DISCARD:
        return (hints & 1).astype(np.uint8)
    if given is Hint.PROMPT_DISCARD and wanted is Hint.PROMPT:
        return hints >> 1
    return hints


def combine(a: Policy, b: Policy, *, epsilon: float = 0.0, recent: bool = False) -> Policy:
    """Return the policy that follows the better of ``a`` and ``b``.

    Args:
        a: any policy.
        b: a policy without hints, or with hints of the same kind as a's.
        epsilon: 0: deterministic. In (0, 1]: randomised, with learning rate epsilon / (2 k).

    Raises:
        InputError: the two want hints of different kinds, or epsilon lies outside [0, 1].
    """
    if b.hint not in _WITHIN.get(a.hint, (Hint.NONE, a.hint)):
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
        b.step(state_b, pages, part_of(hints, a.hint, b.hint), now, events_b)
        starts = _NO_STARTS
        if a.hint in _WITHIN:
            starts = (hints < (2 if a.hint is Hint.PROMPT_DISCARD else 1)).astype(np.uint8)
        fading = 1.0 / (_RECENT * num_frames) if recent else 0.0
        return _step_own(own, pages, events_a, events_b, starts, epsilon / (2.0 * num_frames), fading, events)

    sign, how = ("^", "lately") if recent else ("~", "drawn by weights") if epsilon else ("+", "so far")
    return Policy(
        name=f"{a.name}{sign}{b.name}",
        summary=f"follow the better of {a.name} and {b.name} ({how})",
        start=start,
        step=step,
        hint=a.hint,
        randomized=bool(epsilon) or a.randomized or b.randomized,
        guarantee=None if recent else _combined_guarantee(a, b, epsilon),
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
        constant=lambda k: 2.0 * own.constant(k) + k,
    )


def policy_from_name(name: str, *, epsilon: float = 0.1) -> Policy:
    """Return a registered policy, or the combination that "a+b" (deterministic) or "a~b" (randomised) names."""
    at = max(name.rfind(sign) for sign in "+~^")
    if at >= 0:
        left, right = policy_from_name(name[:at], epsilon=epsilon), get_policy(name[at + 1 :])
        return combine(left, right, epsilon=epsilon if name[at] == "~" else 0.0, recent=name[at] == "^")
    return get_policy(name)

"""One-bit predictions: exact bits from the optimum or any teacher, errors put into them, and wrong bits counted.

Polarity (PAGING.md): a discard bit is 1 where the page leaves the cache of the reference schedule before its next
request; a phase bit is 1 where the page is not requested in the next k-phase. eta0 counts wrong predicted 0s, eta1
wrong predicted 1s.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.engine import Recording, record
from mallocgame.baselines.paging.policy import Hint, get_policy
from mallocgame.baselines.paging.structures import I32, U8
from mallocgame.baselines.paging.trace import PageTrace, next_use
from mallocgame.errors import InputError
from mallocgame.jit import jit


@jit
def _discard_bits(hits: U8, following: npt.NDArray[Any], cached_at_end: U8, pages: I32, bits: U8) -> None:
    n = hits.size
    for i in range(n):
        if following[i] < n:
            bits[i] = 1 - hits[following[i]]
        else:
            bits[i] = 1 - cached_at_end[pages[i]]


def discard_bits(trace: PageTrace, num_frames: int, *, teacher: str = "opt", seed: int = 0) -> U8:
    """Return the discard bits that make ``teacher``'s schedule the reference; OPT's are the exact ones.

    With bits from any demand-paging teacher A of at most k pages the bounds hold with A's faults in place of OPT's.

    Returns:
        uint8[n]: 1 iff the teacher evicts the page before its next request (no next request: before the end).
    """
    policy = get_policy(teacher)
    if policy.hint not in (Hint.NONE, Hint.NEXT_USE):
        raise InputError(f"a teacher needs no predictions, {teacher!r} wants {policy.hint.value} ones")
    following = next_use(trace)
    hints = following if policy.hint is Hint.NEXT_USE else None
    recording: Recording = record(trace, policy, num_frames, hints=hints, seed=seed)
    bits = np.empty(trace.num_requests, np.uint8)
    _discard_bits(recording.hits, following, recording.cached_at_end, trace.pages, bits)
    return bits


@jit
def _phases(pages: I32, num_frames: int, seen: I32, phase: I32) -> None:
    current, distinct = 1, 0
    for i in range(pages.size):
        page = pages[i]
        if seen[page] != current:
            if distinct == num_frames:
                current += 1
                distinct = 0
            seen[page] = current
            distinct += 1
        phase[i] = current - 1


def phases(trace: PageTrace, num_frames: int) -> I32:
    """Return int32[n], the k-phase of each request: a new phase starts at the (k+1)-th distinct page."""
    out = np.empty(trace.num_requests, np.int32)
    _phases(trace.pages, num_frames, np.zeros(trace.num_pages, np.int32), out)
    return out


@jit
def _phase_bits(phase: I32, following: npt.NDArray[Any], bits: U8) -> None:
    n = phase.size
    for i in range(n - 1, -1, -1):
        j = following[i]
        if j == n or phase[j] > phase[i] + 1:
            bits[i] = 1
        elif phase[j] == phase[i]:
            bits[i] = bits[j]
        else:
            bits[i] = 0


def phase_bits(trace: PageTrace, num_frames: int) -> U8:
    """Return uint8[n], the exact phase bits: 0 iff the page is requested in the next k-phase."""
    bits = np.empty(trace.num_requests, np.uint8)
    _phase_bits(phases(trace, num_frames), next_use(trace), bits)
    return bits


def exact_bits(trace: PageTrace, num_frames: int, hint: Hint) -> U8:
    """Return the exact bits of the kind ``hint``."""
    if hint is Hint.DISCARD:
        return discard_bits(trace, num_frames)
    if hint is Hint.PHASE:
        return phase_bits(trace, num_frames)
    raise InputError(f"there are no {hint.value} bits; there are discard and phase bits")


def flip(bits: U8, rate_zeros: float, rate_ones: float, *, seed: int = 0) -> U8:
    """Flip each true 0 with probability ``rate_zeros`` and each true 1 with ``rate_ones``."""
    for rate in (rate_zeros, rate_ones):
        if not 0.0 <= rate <= 1.0:
            raise InputError(f"a flip rate lies in [0, 1], got {rate}")
    draw = np.random.default_rng(seed).random(bits.size, dtype=np.float32)
    return np.where(draw < np.where(bits, np.float32(rate_ones), np.float32(rate_zeros)), 1 - bits, bits).astype(
        np.uint8
    )


def flip_adversarial(bits: U8, following: npt.NDArray[Any], rate_zeros: float, rate_ones: float) -> U8:
    """Flip the same shares of 0s and 1s, but where it should hurt (a written adversary, not the worst there is).

    A flipped 0 costs a fault only if the page leaves before it is used again: those with the longest time to the next
    use are flipped. A flipped 1 keeps a dead page until a flush, which takes up to k - 1 correct 0s along: flips are
    spread evenly in time, each on the page that stays away the longest. The two kinds partly cancel for FWA0, which
    evicts a wrong 1 where it would have flushed.
    """
    for rate in (rate_zeros, rate_ones):
        if not 0.0 <= rate <= 1.0:
            raise InputError(f"a flip rate lies in [0, 1], got {rate}")
    away = np.asarray(following, np.int64) - np.arange(bits.size)
    zeros, ones = np.flatnonzero(bits == 0), np.flatnonzero(bits)
    wrong = bits.copy()
    wrong[zeros[np.argsort(-away[zeros], kind="stable")[: round(rate_zeros * zeros.size)]]] = 1
    budget = round(rate_ones * ones.size)
    for group in np.array_split(ones, budget) if budget else ():
        wrong[group[np.argmax(away[group])]] = 0
    return wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Wrong bits by their predicted value."""

    eta0: int
    eta1: int


def count_errors(predicted: U8, truth: U8, *, counted: npt.NDArray[np.bool_] | None = None) -> Errors:
    """Count wrong bits, over the requests where ``counted`` is True if it is given."""
    if predicted.shape != truth.shape:
        raise InputError(f"{predicted.size} predicted bits for {truth.size} true ones")
    wrong = predicted != truth
    if counted is not None:
        wrong &= counted
    return Errors(eta0=int(np.sum(wrong & (predicted == 0))), eta1=int(np.sum(wrong & (predicted == 1))))


def last_in_phase(trace: PageTrace, num_frames: int) -> npt.NDArray[np.bool_]:
    """Return bool[n]: the request is its page's last in its phase, and the phase is not the final one.

    Only these phase bits are read by MARK&PREDICT's proof; counting them alone gives the tightest valid bound.
    """
    phase, following = phases(trace, num_frames), next_use(trace)
    n = trace.num_requests
    if n == 0:
        return np.zeros(0, bool)
    later = np.where(following < n, phase[np.minimum(following, n - 1)], -1)
    return np.asarray((later != phase) & (phase < phase[-1]))


def as_bits(values: Any, num_requests: int) -> U8:
    """Check a user's bits: ``num_requests`` values, each 0 or 1."""
    array = np.asarray(values)
    if array.shape != (num_requests,):
        raise InputError(f"need one bit a request: got {array.size} bits for {num_requests} requests")
    if array.size and not np.isin(array, (0, 1)).all():
        at = int(np.argmax(~np.isin(array, (0, 1))))
        raise InputError(f"a bit is 0 or 1, got {array[at]} at request {at}")
    bits: U8 = array.astype(np.uint8)
    return bits

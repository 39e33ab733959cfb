"""The one bit that a classical policy holds about a page: is it among those to go first?

LIRS: its interval is long; 2Q and S3-FIFO: it is in the queue of new pages. The policy runs beside the cache at full
size, and the bit of a request is what the policy thinks of the page once it has served the request. No look-ahead.
"""

from collections.abc import Callable

import numpy as np

from mallocgame.baselines.paging.policies import adaptive, lirs, two_queue
from mallocgame.baselines.paging.policy import Policy
from mallocgame.baselines.paging.structures import I32, I64, U8
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError
from mallocgame.jit import jit

SHADOWS = ("lirs", "2q", "s3-fifo")
_NO_HINTS: U8 = np.zeros(0, np.uint8)
_lirs_step, _two_queue_step, _s3_step = lirs._step, two_queue._step, adaptive._step_s3


@jit
def _lirs_bits(state: tuple[I32, U8, I32, U8, U8, I64], pages: I32, no_hints: U8, event: I32, bits: U8) -> None:
    for i in range(pages.size):
        _lirs_step(state, pages[i : i + 1], no_hints, i, event)
        bits[i] = 0 if state[4][pages[i]] == 1 else 1


@jit
def _two_queue_bits(state: tuple[I32, U8, I64], pages: I32, no_hints: U8, event: I32, bits: U8) -> None:
    for i in range(pages.size):
        _two_queue_step(state, pages[i : i + 1], no_hints, i, event)
        bits[i] = 1 if state[1][pages[i]] == 1 else 0


@jit
def _s3_bits(state: tuple[I32, U8, U8, I64], pages: I32, no_hints: U8, event: I32, bits: U8) -> None:
    for i in range(pages.size):
        _s3_step(state, pages[i : i + 1], no_hints, i, event)
        bits[i] = 1 if state[1][pages[i]] == 1 else 0


_KERNELS: dict[str, tuple[Policy, Callable[..., None]]] = {
    "lirs": (lirs.LIRS, _lirs_bits),
    "2q": (two_queue.TWO_QUEUE, _two_queue_bits),
    "s3-fifo": (adaptive.S3_FIFO, _s3_bits),
}


def shadow_bits(trace: PageTrace, num_frames: int, shadow: str) -> U8:
    """Return uint8[n] discard bits: 1 iff ``shadow`` would let the page go before others, as it stands then.

    Raises:
        InputError: no such shadow, or fewer than 1 frame.
    """
    if shadow not in SHADOWS or num_frames < 1:
        raise InputError(f"need a shadow of {', '.join(SHADOWS)} and at least 1 frame, got {shadow!r}, {num_frames}")
    policy, kernel = _KERNELS[shadow]
    frames = max(1, min(num_frames, trace.num_pages))
    state = policy.start(trace.num_pages, frames, trace.num_requests, 0)
    bits = np.zeros(trace.num_requests, np.uint8)
    kernel(state, trace.pages, _NO_HINTS, np.zeros(1, np.int32), bits)
    return bits

"""Bits closed over prefixes: what is predicted of a block has to agree with what is predicted of its prompt.

A block is of use only while its ancestors are resident. "up": an ancestor of a kept block is kept too (a 0 makes every
earlier bit of the prompt 0). "down": a block that continues a discarded one is discarded (a 1 makes every later bit of
the prompt 1). Both use the bits of one prompt alone, and all its blocks are known when it comes.
"""

from collections.abc import Callable

import numpy as np

from mallocgame.baselines.paging.engine import Job, simulate
from mallocgame.baselines.paging.policy import Hint, Hints, Policy
from mallocgame.baselines.paging.structures import I64, U8
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError
from mallocgame.jit import jit

CLOSURES = ("none", "up", "down")


@jit
def _close(bits: U8, starts: I64, up: bool) -> None:
    for prompt in range(starts.size - 1):
        first, last = starts[prompt], starts[prompt + 1]
        if up:
            for i in range(last - 2, first - 1, -1):
                bits[i] &= bits[i + 1]
        else:
            for i in range(first + 1, last):
                bits[i] |= bits[i - 1]


def close_bits(trace: PageTrace, bits: U8, closure: str) -> U8:
    """Return uint8[n] ``bits`` closed over the prompts of ``trace``; as they are where it has none.

    >>> from mallocgame.baselines.paging import Prompts
    >>> prompts = Prompts(starts=np.array([0, 3]), tokens=np.array([3]), block_tokens=1)
    >>> trace = PageTrace(name="t", pages=np.arange(3, dtype=np.int32), num_pages=3, prompts=prompts)
    >>> [close_bits(trace, np.array([1, 0, 1], np.uint8), way).tolist() for way in ("up", "down")]
    [[0, 0, 1], [1, 1, 1]]
    """
    if closure not in CLOSURES:
        raise InputError(f"no closure called {closure!r}; there are: {', '.join(CLOSURES)}")
    closed = bits.copy()
    if closure != "none" and trace.prompts is not None:
        _close(closed, trace.prompts.starts, closure == "up")
    return closed


def with_prompts(trace: PageTrace, bits: U8 | None) -> I64:
    """Return int64[n] hints of kind PROMPT, or PROMPT_DISCARD where there are bits."""
    hints = trace.parents().astype(np.int64) + 1
    return hints if bits is None else 2 * hints + bits


def best_closure(prefix: PageTrace, num_frames: int, bits: U8, policy: Policy, start: int = 0) -> str:
    """Return the closure with the most usable hits (fewest faults without prompts) of ``policy`` from ``start`` on."""
    if prefix.prompts is None:
        return "none"
    wrap: Callable[[U8], Hints] = (
        (lambda b: with_prompts(prefix, b)) if policy.hint is Hint.PROMPT_DISCARD else (lambda b: b)
    )
    jobs = [
        Job(policy=policy, num_frames=num_frames, hints=wrap(close_bits(prefix, bits, way)), judge_from=start)
        for way in CLOSURES
    ]
    usable = [result.usable_hits or 0 for result in simulate(prefix, jobs)]
    return CLOSURES[int(np.argmax(usable))]

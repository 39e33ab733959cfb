"""Which one-bit policy to take, decided on the first part of a trace: the bits alone, or with which robust partner.

The candidates are LRU0 (prefix-lru0 for prompts) told the bits, and its combinations with each classical policy: "+",
which never has more than about twice the faults of the better of the two, and "^", which follows the recent leader.
They are compared by usable hits (hits without prompts) on the last quarter of the first part, with warm caches: what is
recent tells more about what comes than the whole does.
"""

from dataclasses import dataclass

import numpy as np

from mallocgame.baselines.paging.closure import close_bits, with_prompts
from mallocgame.baselines.paging.combine import part_of, policy_from_name
from mallocgame.baselines.paging.engine import Job, Result, simulate
from mallocgame.baselines.paging.policy import Hint, Hints, Policy
from mallocgame.baselines.paging.structures import U8
from mallocgame.baselines.paging.trace import PageTrace

PARTNERS = ("lru", "arc", "s3-fifo", "sieve", "lirs", "2q", "w-tinylfu")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selected:
    """A policy, what it is told, and the usable hits of every candidate on the part that decided."""

    policy: Policy
    hints: Hints
    scores: dict[str, int]


def candidates(trace: PageTrace) -> list[str]:
    """Return the names of the one-bit policies that are compared, the robust default first."""
    if trace.prompts is None:
        return ["lru0+lru", "lru0", *(f"lru0{sign}{name}" for name in PARTNERS for sign in "+^" if name != "lru")]
    base, partners = "prefix-lru0", ("prefix-lru", *PARTNERS[1:])
    names = [f"{base}{sign}{name}" for name in partners for sign in "+^"]
    return [names[0], base, *names[1:], "lru0", "lru0+lru", "lru0+arc"]


def served(trace: PageTrace, result: Result) -> int:
    """Return what counts of a result: usable hits, or hits without prompts."""
    return result.num_requests - result.faults if result.usable_hits is None else result.usable_hits


def choose_one_bit(trace: PageTrace, num_frames: int, bits: U8, prefix_requests: int) -> Selected:
    """Choose on the first ``prefix_requests`` requests; the hints returned are for the whole trace.

    Args:
        trace: the sequence.
        num_frames: cache size.
        bits: uint8[n] discard bits, each from requests before it alone.
        prefix_requests: what may be looked at.
    """
    prefix, names = trace[:prefix_requests], candidates(trace)
    policies = [policy_from_name(name) for name in names]
    told = [hints_of(prefix, bits[:prefix_requests], policy) for policy in policies]
    jobs = [
        Job(policy=policy, num_frames=num_frames, hints=hints, judge_from=3 * prefix_requests // 4)
        for policy, hints in zip(policies, told, strict=True)
    ]
    scores = [served(prefix, result) for result in simulate(prefix, jobs)]
    best = int(np.argmax(scores))
    return Selected(
        policy=policies[best],
        hints=hints_of(trace, bits, policies[best]),
        scores=dict(zip(names, scores, strict=True)),
    )


def hints_of(trace: PageTrace, bits: U8, policy: Policy) -> Hints:
    """Return the hints of ``policy`` that the bits, closed upwards over prompts, make."""
    closed = close_bits(trace, bits, "up")
    return part_of(with_prompts(trace, closed), Hint.PROMPT_DISCARD, policy.hint)

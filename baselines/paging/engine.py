"""The engine: several policies and cache sizes over one sequence, in chunks, on all cores, with progress."""

import operator
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.policy import Hint, Hints, Policy
from mallocgame.baselines.paging.structures import FAULT, FLUSH, HIT, I32, I64, U8
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError
from mallocgame.jit import jit
from mallocgame.system import num_cores

CHUNK_REQUESTS = 1 << 18
_NO_HINTS: U8 = np.zeros(0, np.uint8)
_HINT_DTYPES = {
    Hint.DISCARD: (np.uint8,),
    Hint.PHASE: (np.uint8,),
    Hint.ARRIVAL: (np.int64,),
    Hint.PROMPT: (np.int64,),
    Hint.PROMPT_DISCARD: (np.int64,),
    Hint.NEXT_USE: (np.int32, np.int64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One policy at one cache size, with the hints it needs (one a request).

    All requests are served; faults are counted from request ``judge_from`` on.
    """

    policy: Policy
    num_frames: int
    hints: Hints | None = None
    seed: int = 0
    judge_from: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one job cost. ``seconds`` is the time inside the policy's own step; ``total_faults`` counts from request 0.

    ``usable_hits`` counts the hits on blocks whose whole prefix was resident when their prompt came, ``saved_tokens``
    the tokens in them; both are None for a trace without prompts, where every hit is of use.
    """

    policy: str
    num_frames: int
    num_requests: int
    faults: int
    seconds: float
    total_faults: int
    usable_hits: int | None = None
    saved_tokens: int | None = None


def _check(trace: PageTrace, job: Job) -> Hints:
    if job.num_frames < 1:
        raise InputError(f"the cache needs at least 1 frame, got k = {job.num_frames}")
    if job.policy.hint is Hint.NONE:
        return _NO_HINTS
    if job.hints is None:
        raise InputError(f"policy {job.policy.name!r} needs {job.policy.hint.value} hints")
    if job.hints.shape != (trace.num_requests,):
        raise InputError(
            f"policy {job.policy.name!r} needs one {job.policy.hint.value} hint a request: "
            f"got {job.hints.size} for {trace.num_requests} requests"
        )
    if job.hints.dtype not in _HINT_DTYPES[job.policy.hint]:
        wanted = " or ".join(np.dtype(d).name for d in _HINT_DTYPES[job.policy.hint])
        raise InputError(f"{job.policy.hint.value} hints are {wanted}, got {job.hints.dtype}")
    return job.hints


@jit
def _usable(events: I32, now: int, judge_from: int, starts: I64, tokens: I64, block_tokens: int, totals: I64) -> None:
    """Add the usable hits of a chunk to ``totals``: usable hits, saved tokens, prompt, whether its run still lasts.

    While a prompt's first blocks are hits nothing is evicted, so the run of hits from its start is exactly the prefix
    that was resident when it came.
    """
    prompt, lasting = totals[2], totals[3]
    for i in range(events.size):
        t = now + i
        while prompt + 1 < starts.size and starts[prompt + 1] <= t:
            prompt += 1
        if t == starts[prompt]:
            lasting = 1
        if lasting and events[i] == HIT:
            if t >= judge_from:
                totals[0] += 1
                left = tokens[prompt] - (t - starts[prompt]) * block_tokens
                totals[1] += max(0, min(block_tokens, left))
        else:
            lasting = 0
    totals[2], totals[3] = prompt, lasting


def _counted(policy: Policy, faults: Any) -> int:
    try:
        return operator.index(faults)
    except TypeError:
        wanted = "expected the number of faults, a whole number"
        raise InputError(f"policy {policy.name!r}: step returned {faults!r:.60}, {wanted}") from None


class _Running:
    """A job under way: its state, its event buffer, and what it has cost so far."""

    def __init__(self, trace: PageTrace, job: Job, keep_events: bool) -> None:
        self.job, self.trace, self.hints = job, trace, _check(trace, job)
        # A cache larger than the set of pages never evicts: it needs no more frames than pages.
        frames = max(1, min(job.num_frames, trace.num_pages))
        self.state = job.policy.start(trace.num_pages, frames, trace.num_requests, job.seed)
        self.events = np.empty(trace.num_requests if keep_events else CHUNK_REQUESTS, np.int32)
        self.keep_events = keep_events
        self.faults, self.total_faults, self.seconds = 0, 0, 0.0
        self.usable = np.zeros(4, np.int64)

    def advance(self, start: int, stop: int) -> None:
        hints = self.hints[start:stop] if self.hints.size else self.hints
        events = self.events[start:stop] if self.keep_events else self.events[: stop - start]
        began = time.perf_counter()
        found = self.job.policy.step(self.state, self.trace.pages[start:stop], hints, start, events)
        self.seconds += time.perf_counter() - began
        faults = _counted(self.job.policy, found)
        self.total_faults += faults
        if start < self.job.judge_from:
            faults = int(np.sum(events[self.job.judge_from - start :] != HIT))
        self.faults += faults
        prompts = self.trace.prompts
        if prompts is not None:
            judged = self.job.judge_from
            _usable(events, start, judged, prompts.starts, prompts.tokens, prompts.block_tokens, self.usable)

    def result(self) -> Result:
        job = self.job
        return Result(
            policy=job.policy.name,
            num_frames=job.num_frames,
            num_requests=max(0, self.trace.num_requests - job.judge_from),
            faults=self.faults,
            seconds=self.seconds,
            total_faults=self.total_faults,
            usable_hits=None if self.trace.prompts is None else int(self.usable[0]),
            saved_tokens=None if self.trace.prompts is None else int(self.usable[1]),
        )


def simulate(
    trace: PageTrace,
    jobs: Sequence[Job],
    *,
    num_threads: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> list[Result]:
    """Serve ``trace`` under every job, chunk by chunk: the sequence is read once, whatever the number of jobs.

    Args:
        trace: the sequence; a memory map works, only a chunk of it is touched at a time.
        jobs: policies and cache sizes; a job with k above the number of pages runs with k = number of pages.
        num_threads: default: one a core. The compiled steps release the interpreter lock.
        on_progress: called with the number of requests served so far.

    Returns:
        One result a job, in the order of ``jobs``.

    Raises:
        InputError: k < 1, or hints missing, of the wrong length or the wrong type.
    """
    running = [_Running(trace, job, keep_events=False) for job in jobs]
    with ThreadPoolExecutor(num_threads or num_cores()) as pool:
        for start in range(0, trace.num_requests, CHUNK_REQUESTS):
            stop = min(start + CHUNK_REQUESTS, trace.num_requests)
            for future in [pool.submit(one.advance, start, stop) for one in running]:
                future.result()
            if on_progress is not None:
                on_progress(float(stop))
    return [one.result() for one in running]


def usable_hits(trace: PageTrace, events: I32) -> U8:
    """Return uint8[n], 1 where a recorded event is a usable hit; every hit is one without prompts."""
    hits: U8 = (events == HIT).astype(np.uint8)
    if trace.prompts is not None:
        _run_of_hits(hits, trace.prompts.starts)
    return hits


@jit
def _run_of_hits(hits: U8, starts: I64) -> None:
    for prompt in range(starts.size - 1):
        lasting = True
        for i in range(starts[prompt], starts[prompt + 1]):
            lasting = lasting and hits[i] == 1
            hits[i] = 1 if lasting else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A whole run: int32[n] events, uint8[n] hits, and uint8[num_pages] what was cached at the end."""

    faults: int
    events: I32
    hits: U8
    cached_at_end: U8


@jit
def _replay(pages: I32, events: I32, num_pages: int, num_frames: int, cached: U8) -> int:
    """Replay events on a plain set; return the first request at which they are impossible, or -1."""
    used = 0
    for i in range(pages.size):
        page, event = pages[i], events[i]
        if event == HIT:
            if not cached[page]:
                return i
            continue
        if cached[page]:
            return i
        if event == FLUSH:
            cached[:] = 0
            used = 0
        elif event >= 0:
            if event == page:
                return i
            if not cached[event]:
                return i
            cached[event] = 0
            used -= 1
        elif event != FAULT:
            return i
        cached[page] = 1
        used += 1
        if used > num_frames:
            return i
    return -1


def check_events(trace: PageTrace, num_frames: int, events: I32) -> U8:
    """Judge a recorded run apart from the policy that made it; return uint8[num_pages], what is cached at the end.

    Raises:
        ValueError: a hit on an absent page, a fault on a cached one, a victim that was not there, or over k pages.
    """
    cached = np.zeros(trace.num_pages, np.uint8)
    at = int(_replay(trace.pages, events, trace.num_pages, num_frames, cached))
    if at >= 0:
        raise ValueError(f"impossible event {int(events[at])} at request {at} (page {int(trace.pages[at])})")
    return cached


def record(
    trace: PageTrace, policy: Policy, num_frames: int, *, hints: npt.NDArray[Any] | None = None, seed: int = 0
) -> Recording:
    """Run one policy and keep every event; the run is judged by ``check_events``."""
    one = _Running(trace, Job(policy=policy, num_frames=num_frames, hints=hints, seed=seed), keep_events=True)
    for start in range(0, trace.num_requests, CHUNK_REQUESTS):
        one.advance(start, min(start + CHUNK_REQUESTS, trace.num_requests))
    cached = check_events(trace, num_frames, one.events)
    return Recording(
        faults=one.faults, events=one.events, hits=(one.events == HIT).astype(np.uint8), cached_at_end=cached
    )

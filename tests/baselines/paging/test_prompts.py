"""Policies that know prompts: prefixes, their usable hits, and the optimum of those."""

import itertools

import numpy as np
import pytest

from mallocgame.baselines.paging import (
    Job,
    PageTrace,
    Prompts,
    get_policy,
    next_use,
    policy_from_name,
    record,
    simulate,
    with_prompts,
    zipf,
)
from mallocgame.baselines.paging.policy import Hint


def slow_prefix_lru(trace: PageTrace, k: int) -> tuple[int, int]:
    """Leaf-first LRU said outright: evict, of the blocks that no resident block continues, the least recently used."""
    assert trace.prompts is not None
    last: dict[int, tuple[int, int]] = {}  # of resident blocks: prompt, deeper blocks first
    parent: dict[int, int] = {}
    faults = usable = 0
    starts = trace.prompts.starts.tolist()
    pages = trace.pages.tolist()
    for number, (start, stop) in enumerate(itertools.pairwise(starts)):
        good = True
        for i in range(start, stop):
            page = pages[i]
            parent[page] = pages[i - 1] if i > start else -1
            good = good and page in last
            usable += good
            if page not in last:
                faults += 1
                if len(last) == k:
                    leaves = [q for q in last if all(parent[x] != q for x in last)]
                    before = [q for q in leaves if last[q][0] < number]
                    del last[min(before, key=last.__getitem__) if before else pages[i - 1]]
            last[page] = (number, -i)
    return faults, usable


def prompt_trace(rng: np.random.Generator, num_prompts: int) -> PageTrace:
    """Prompts that walk a random tree of blocks."""
    nodes: dict[tuple[int, int], int] = {}
    pages, starts = [], [0]
    for _ in range(num_prompts):
        at = -1
        for _ in range(int(rng.integers(1, 6))):
            at = nodes.setdefault((at, int(rng.integers(0, 2))), len(nodes))
            pages.append(at)
        starts.append(len(pages))
    prompts = Prompts(starts=np.array(starts), tokens=np.diff(starts) * 16 - 5, block_tokens=16)
    return PageTrace(name="tree", pages=np.array(pages, np.int32), num_pages=len(nodes), prompts=prompts)


def test_prefix_lru_evicts_the_oldest_leaf_and_usable_hits_are_counted() -> None:
    rng = np.random.default_rng(3)
    for k in range(1, 13):
        for _ in range(12):
            trace = prompt_trace(rng, 25)
            job = Job(policy=get_policy("prefix-lru"), num_frames=k, hints=with_prompts(trace, None))
            result = simulate(trace, [job])[0]
            assert (result.faults, result.usable_hits) == slow_prefix_lru(trace, k)
            assert result.usable_hits == trace.num_requests - result.faults  # what it keeps is always of use


def test_usable_hits_and_tokens_of_any_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = prompt_trace(np.random.default_rng(4), 60)
    assert trace.prompts is not None
    job = Job(policy=get_policy("s3-fifo"), num_frames=7, judge_from=40)
    events = record(trace, get_policy("s3-fifo"), 7).events
    usable = tokens = 0
    for number, (start, stop) in enumerate(itertools.pairwise(trace.prompts.starts.tolist())):
        left = int(trace.prompts.tokens[number])
        for i in range(start, stop):
            if events[i] != -1:
                break
            usable += i >= 40
            tokens += min(16, left) if i >= 40 else 0
            left -= 16
    for chunk in (7, 1 << 18):
        monkeypatch.setattr("mallocgame.baselines.paging.engine.CHUNK_REQUESTS", chunk)
        result = simulate(trace, [job])[0]
        assert (result.usable_hits, result.saved_tokens) == (usable, tokens)
    assert 0 < usable < trace.num_requests - result.faults  # some hits are of no use


def best_usable(trace: PageTrace, k: int) -> int:
    """The most usable hits that any demand-paging schedule has, by trying them all."""
    assert trace.prompts is not None
    starts = set(trace.prompts.starts.tolist())
    states: dict[tuple[frozenset[int], bool], int] = {(frozenset(), False): 0}
    for i, page in enumerate(trace.pages.tolist()):
        after: dict[tuple[frozenset[int], bool], int] = {}
        for (cached, lasting), score in states.items():
            good = (lasting or i in starts) and page in cached
            options = [cached | {page}]
            if page not in cached and len(cached) == k:
                options = [(cached - {q}) | {page} for q in cached]
            for option in options:
                after[option, good] = max(after.get((option, good), -1), score + good)
        states = after
    return max(states.values())


def test_opt_bounds_the_usable_hits_of_every_schedule() -> None:
    rng = np.random.default_rng(5)
    reached = 0
    for _ in range(60):
        trace, k = prompt_trace(rng, 8), int(rng.integers(2, 6))
        opt = simulate(trace, [Job(policy=get_policy("opt"), num_frames=k, hints=next_use(trace))])[0]
        best = best_usable(trace, k)
        assert (opt.usable_hits or 0) <= best <= trace.num_requests - opt.faults
        reached += best == opt.usable_hits == trace.num_requests - opt.faults
    assert reached > 40


def test_without_prompts_the_prefix_policies_are_lru_and_lru0() -> None:
    trace = zipf(num_pages=60, num_requests=3000, seed=7)
    bits = np.random.default_rng(0).integers(0, 2, 3000).astype(np.uint8)
    for name, plain, told in (("prefix-lru", "lru", None), ("prefix-lru0", "lru0", bits)):
        one = record(trace, get_policy(name), 12, hints=with_prompts(trace, told)).events
        assert np.array_equal(one, record(trace, get_policy(plain), 12, hints=told).events)


def test_prefix_lru0_keeps_the_ancestors_of_what_it_keeps() -> None:
    """Every hit is a usable one, whatever the bits: a block never outlives a block that it continues."""
    rng = np.random.default_rng(6)
    for k in range(6, 20, 3):  # no prompt is longer than the cache
        trace = prompt_trace(rng, 80)
        hints = with_prompts(trace, rng.integers(0, 2, trace.num_requests).astype(np.uint8))
        result = simulate(trace, [Job(policy=get_policy("prefix-lru0"), num_frames=k, hints=hints)])[0]
        assert result.usable_hits == trace.num_requests - result.faults


@pytest.mark.parametrize("name", ["prefix-lru", "prefix-lru0", "prefix-lru0+prefix-lru", "prefix-lru0^arc"])
def test_every_event_on_prompts_is_possible(name: str) -> None:
    rng, policy = np.random.default_rng(8), policy_from_name(name)
    for k in (1, 2, 4, 9, 15):
        for _ in range(6):
            trace = prompt_trace(rng, 60)
            bits = rng.integers(0, 2, trace.num_requests).astype(np.uint8)
            hints = with_prompts(trace, None if policy.hint is Hint.PROMPT else bits)
            run = record(trace, policy, k, hints=hints)  # raises where an event is impossible
            assert run.faults >= record(trace, get_policy("opt"), k, hints=next_use(trace)).faults

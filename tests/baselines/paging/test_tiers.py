"""Chains of sized caches: equal sizes give the unit engine, one tier of LRU a slow reference, and bytes add up."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.paging import (
    AccessTrace,
    Job,
    Tier,
    from_ids,
    get_policy,
    reads_only,
    simulate,
    simulate_tiers,
    zipf,
)
from mallocgame.baselines.paging.sized import DEFINE, READ, UPDATE
from mallocgame.baselines.paging.tiers import RULES
from mallocgame.errors import InputError


@pytest.mark.parametrize("k", [1, 3, 20, 100])
@pytest.mark.parametrize("rule", RULES)
def test_equal_sizes_are_the_unit_engine(rule: str, k: int) -> None:
    for seed in range(3):
        trace = zipf(num_pages=200, num_requests=3000, exponent=0.8, seed=seed)
        bits = np.random.default_rng(seed).integers(0, 2, 3000).astype(np.uint8)
        told = bits if rule == "lru0" else None
        unit = simulate(trace, [Job(policy=get_policy(rule), num_frames=k, hints=told)])[0]
        got = simulate_tiers(
            reads_only(trace, np.full(trace.num_pages, 10)),
            [Tier(name="a", capacity_bytes=10 * k, rule=rule)],
            bits=told,
        )
        assert got.misses == unit.faults
        assert got.fetch_bytes == 10 * unit.faults
        assert got.tiers[0].hits == 3000 - unit.faults


def access(data: st.DataObject) -> AccessTrace:
    pages = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=60))
    trace, n = from_ids(pages), len(pages)
    return AccessTrace(
        pages=trace,
        size_bytes=np.array(data.draw(st.lists(st.integers(1, 9), min_size=trace.num_pages, max_size=trace.num_pages))),
        kinds=np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.uint8),
        bundles=np.arange(n),
        dead_after=np.zeros(n, np.uint8),
        seconds=np.cumsum(np.array(data.draw(st.lists(st.floats(0, 3), min_size=n, max_size=n)))),
    )


def slow_lru(trace: AccessTrace, capacities: list[int], ttl: float) -> tuple[list[int], int, int, int]:
    """Return (hits of each tier, misses, fetched bytes, written-back bytes) of a chain of LRU tiers."""
    assert trace.seconds is not None
    tiers: list[OrderedDict[int, None]] = [OrderedDict() for _ in capacities]
    sizes, dirty, born = trace.size_bytes.tolist(), set(), {}
    hits, misses, fetched, back = [0] * len(tiers), 0, 0, 0

    def put(at: int, page: int) -> None:
        nonlocal back
        if at == len(tiers) or sizes[page] > capacities[at]:
            back += sizes[page] if page in dirty else 0
            dirty.discard(page)
            return
        out = []
        while sum(sizes[q] for q in tiers[at]) + sizes[page] > capacities[at]:
            out.append(tiers[at].popitem(last=False)[0])
        tiers[at][page] = None
        for one in reversed(out):
            put(at + 1, one)

    for page, kind, now in zip(trace.pages.pages.tolist(), trace.kinds.tolist(), trace.seconds.tolist(), strict=True):
        found = next((at for at, tier in enumerate(tiers) if page in tier), None)
        if found is not None:
            del tiers[found][page]
            if now - born[page] > ttl:
                back += sizes[page] if page in dirty else 0
                dirty.discard(page)
                found = None
        if found is None:
            misses += 1
            born[page] = now
            fetched += sizes[page] if kind != DEFINE else 0
        else:
            hits[found] += 1
        if sizes[page] > capacities[0]:
            back += sizes[page] if kind != READ else 0
            continue
        if kind != READ:
            dirty.add(page)
        put(0, page)
    return hits, misses, fetched, back + sum(sizes[q] for q in dirty)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_lru_tiers_equal_the_slow_reference(data: st.DataObject) -> None:
    trace = access(data)
    capacities = data.draw(st.lists(st.integers(1, 25), min_size=1, max_size=3))
    ttl = data.draw(st.sampled_from((1.0, 4.0, 1e9)))
    tiers = [Tier(name=str(at), capacity_bytes=capacity) for at, capacity in enumerate(capacities)]
    got = simulate_tiers(trace, tiers, ttl_seconds=ttl)
    hits, misses, fetched, back = slow_lru(trace, capacities, ttl)
    assert [tier.hits for tier in got.tiers] == hits
    assert (got.misses, got.fetch_bytes, got.write_back_bytes) == (misses, fetched, back)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rule=st.sampled_from(RULES), below=st.sampled_from(RULES))
def test_bytes_and_objects_add_up_under_every_rule(data: st.DataObject, rule: str, below: str) -> None:
    trace = access(data)
    tiers = [
        Tier(name="hbm", capacity_bytes=data.draw(st.integers(1, 20)), rule=rule),
        Tier(
            name="host",
            capacity_bytes=data.draw(st.integers(1, 40)),
            rule=below,
            admission=data.draw(st.sampled_from(("all", "reused", "bit"))),
        ),
    ]
    bits = (np.arange(trace.pages.num_requests) % 2).astype(np.uint8)
    got = simulate_tiers(trace, tiers, bits=bits, ttl_seconds=5.0)
    assert sum(tier.hits for tier in got.tiers) + got.misses == got.requests
    assert sum(tier.hit_bytes for tier in got.tiers) + got.miss_bytes == got.request_bytes
    assert got.fetch_bytes <= got.miss_bytes
    assert got.misses >= trace.pages.num_pages
    assert got.object_hit_ratio == pytest.approx(1 - got.misses / got.requests)
    if not (trace.kinds != READ).any():
        assert got.write_back_bytes == 0


def test_a_second_tier_saves_fetches_and_admission_saves_writes() -> None:
    trace = reads_only(zipf(num_pages=500, num_requests=20_000, exponent=0.7, seed=1), np.full(500, 8)[:500])
    one = simulate_tiers(trace, [Tier(name="hbm", capacity_bytes=400)])
    both = simulate_tiers(trace, [Tier(name="hbm", capacity_bytes=400), Tier(name="ssd", capacity_bytes=1600)])
    picky = simulate_tiers(
        trace, [Tier(name="hbm", capacity_bytes=400), Tier(name="ssd", capacity_bytes=1600, admission="reused")]
    )
    assert both.tiers[0].hits == one.tiers[0].hits  # the first tier does not know what lies below
    assert both.fetch_bytes < picky.fetch_bytes < one.fetch_bytes
    assert picky.tiers[1].written_bytes < 0.8 * both.tiers[1].written_bytes


def test_large_objects_pass_by() -> None:
    trace = reads_only(from_ids([0, 1, 0, 1]), np.array([5, 50]))
    got = simulate_tiers(trace, [Tier(name="a", capacity_bytes=10)])
    assert (got.misses, got.passed_by, got.tiers[0].hits) == (3, 2, 1)
    assert (got.object_hit_ratio, got.byte_hit_ratio) == pytest.approx((0.25, 5 / 110))


def test_a_dirty_object_is_written_back_when_it_leaves_the_last_tier() -> None:
    trace = AccessTrace(
        pages=from_ids([0, 1, 2]),
        size_bytes=np.array([4, 4, 4]),
        kinds=np.array([UPDATE, DEFINE, READ], np.uint8),
        bundles=np.arange(3),
        dead_after=np.zeros(3, np.uint8),
    )
    got = simulate_tiers(trace, [Tier(name="a", capacity_bytes=4), Tier(name="b", capacity_bytes=4)])
    assert (got.fetch_bytes, got.write_back_bytes) == (8, 8)  # 0 left by the end, 1 is written back at the end
    assert got.tiers[1].written_bytes == 8


def test_bad_tiers_have_one_clear_line() -> None:
    trace = reads_only(from_ids([0, 1]), np.array([1, 1]))
    for make, reason in (
        (lambda: Tier(name="a", capacity_bytes=0), "at least 1 byte"),
        (lambda: Tier(name="a", capacity_bytes=1, rule="best"), "no rule called 'best'"),
        (lambda: Tier(name="a", capacity_bytes=1, admission="some"), "no admission called 'some'"),
        (lambda: simulate_tiers(trace, []), "at least one tier"),
        (lambda: simulate_tiers(trace, [Tier(name="a", capacity_bytes=1, rule="lru0")]), "need one discard bit"),
        (lambda: simulate_tiers(trace, [Tier(name="a", capacity_bytes=1)], ttl_seconds=1.0), "needs the time"),
        (lambda: simulate_tiers(trace, [Tier(name="a", capacity_bytes=1)], ttl_seconds=0.0), "is > 0 seconds"),
    ):
        with pytest.raises(InputError, match=reason):
            make()

"""Next-arrival policies against slow references, and the classical ones against libcachesim where it is installed."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mallocgame.baselines.paging import Job, PageTrace, from_ids, get_policy, next_use, record, simulate, zipf
from mallocgame.baselines.paging.readers import ORACLE_RECORD
from tests.baselines.paging.instances import sequence
from tests.baselines.paging.reference import harmonic

Choose = Callable[["Marking", int], int]


class Marking:
    """A slow marking algorithm with predictions; ``choose`` names the victim for a page."""

    def __init__(self, k: int, choose: Choose, draw: random.Random, *, by_distinct: bool = False) -> None:
        self.k, self.choose, self.draw, self.by_distinct = k, choose, draw, by_distinct
        self.cache: list[int] = []
        self.expected: dict[int, int] = {}
        self.unmarked: set[int] = set()
        self.stale: set[int] = set()
        self.seen: set[int] = set()
        self.chain: dict[int, int] = {}
        self.evicted_for_clean: dict[int, bool] = {}

    def new_phase(self) -> None:
        self.unmarked, self.stale = set(self.cache), set(self.cache)
        self.seen, self.chain, self.evicted_for_clean = set(), {}, {}

    def farthest(self) -> int:
        return max(self.unmarked, key=self.expected.__getitem__)

    def any_of(self, pool: list[int]) -> int:
        return self.draw.choice(sorted(pool))

    def serve(self, pages: list[int], predictions: list[int]) -> int:
        faults = 0
        for page, prediction in zip(pages, predictions, strict=True):
            if self.by_distinct and page not in self.seen and len(self.seen) == self.k:
                self.new_phase()
            self.seen.add(page)
            if page not in self.cache:
                faults += 1
                if len(self.cache) == self.k:
                    if not self.by_distinct and not self.unmarked:
                        self.new_phase()
                    victim = self.choose(self, page)
                    self.cache.remove(victim)
                    self.unmarked.discard(victim)
                self.cache.append(page)
            self.unmarked.discard(page)
            self.expected[page] = prediction
        return faults


def lmarker(state: Marking, page: int) -> int:
    return state.any_of(list(state.unmarked)) if page in state.stale else state.farthest()


def predictive_marker(state: Marking, page: int) -> int:
    length = state.chain.get(page, 0) + 1 if page in state.stale else 1
    victim = state.farthest() if length <= harmonic(state.k) else state.any_of(list(state.unmarked))
    state.chain[victim] = length
    return victim


def lnonmarker(state: Marking, page: int) -> int:
    clean = page not in state.stale
    if not state.unmarked or (not clean and state.evicted_for_clean.get(page, False)):
        victim = state.any_of(state.cache)
    else:
        victim = state.farthest() if clean else state.any_of(list(state.unmarked))
    state.evicted_for_clean[victim] = clean
    return victim


@pytest.mark.parametrize(
    ("name", "choose"),
    [("lmarker", lmarker), ("predictive-marker", predictive_marker), ("lnonmarker", lnonmarker)],
)
def test_next_arrival_markers_follow_their_references(name: str, choose: Choose) -> None:
    rng = np.random.default_rng(4)
    for kind in (1, 2, 3):
        k, repeats = 5, 1500
        pages = sequence(rng, kind, 60, k)
        predictions = rng.permutation(1000)[:60] + 100
        job = {"num_frames": k, "hints": predictions.astype(np.int64)}
        jobs = [Job(policy=get_policy(name), seed=seed, **job) for seed in range(repeats)]
        ours = np.array([result.faults for result in simulate(from_ids(pages), jobs)])
        slow = [
            Marking(k, choose, random.Random(seed), by_distinct=name == "lnonmarker").serve(pages, predictions.tolist())
            for seed in range(repeats)
        ]
        error = (ours.var() / repeats + np.var(slow) / repeats) ** 0.5
        assert abs(ours.mean() - np.mean(slow)) <= 4.5 * error + 1e-9


def test_blind_oracle_evicts_the_farthest_prediction() -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        k, n = int(rng.integers(1, 6)), 50
        pages = rng.integers(0, 9, n).tolist()
        predictions = rng.permutation(10 * n)[:n]
        cache: dict[int, int] = {}
        faults = 0
        for page, prediction in zip(pages, predictions.tolist(), strict=True):
            if page not in cache:
                faults += 1
                if len(cache) == k:
                    del cache[max(cache, key=cache.__getitem__)]
            cache[page] = prediction
        run = record(from_ids(pages), get_policy("blind-oracle"), k, hints=predictions.astype(np.int64))
        assert run.faults == faults


def test_true_arrivals_make_the_followers_good() -> None:
    trace = zipf(num_pages=500, num_requests=20_000, seed=2)
    arrivals = next_use(trace).astype(np.int64)
    jobs = [Job(policy=get_policy("opt"), num_frames=40, hints=next_use(trace))]
    jobs += [Job(policy=get_policy(n), num_frames=40, hints=arrivals) for n in ("blind-oracle", "lmarker")]
    jobs += [Job(policy=get_policy("marker"), num_frames=40)]
    opt, blind, lmarker_cost, marker = (result.faults for result in simulate(trace, jobs))
    assert opt == blind < lmarker_cost < marker


@pytest.fixture
def oracle_file(tmp_path: Path) -> tuple[PageTrace, Path]:
    rng = np.random.default_rng(7)
    skewed = zipf(num_pages=3000, num_requests=40_000, exponent=0.9, seed=7).pages
    loops = [np.arange(w) + 5000 for w in rng.integers(5, 60, 400)]  # ghosts of both kinds, adapted back and forth
    near = rng.integers(0, 45, 10_000)
    trace = from_ids(np.concatenate((skewed, *loops, near, *loops[:100], near[::-1])))
    records = np.zeros(trace.num_requests, ORACLE_RECORD)
    following = next_use(trace)
    records["page"], records["size_bytes"] = trace.pages + np.uint64(1), 1
    records["next_request"] = np.where(following < trace.num_requests, following, -1)
    records.tofile(tmp_path / "t.oracleGeneral")
    return trace, tmp_path / "t.oracleGeneral"


@pytest.mark.parametrize("num_frames", [20, 100, 700])
def test_fault_counts_equal_libcachesim_to_the_last_fault(oracle_file: tuple[PageTrace, Path], num_frames: int) -> None:
    pytest.importorskip("libcachesim")
    from tests.benchmarks.paging import PEERS, peer

    trace, path = oracle_file
    for name, (theirs, alike) in PEERS.items():
        if not alike:
            continue
        run = peer(theirs, path, num_frames)
        assert run is not None
        hints = next_use(trace) if name == "opt" else None
        ours = simulate(trace, [Job(policy=get_policy(name), num_frames=num_frames, hints=hints)])[0].faults
        assert (name, ours) == (name, run()[0])


def test_frequency_and_ghosts_resist_a_scan() -> None:
    """A hot set is served, then a long scan of new pages passes by: LRU loses the hot set, these policies keep it."""
    rng = np.random.default_rng(3)
    hot = rng.integers(0, 50, 4000)
    mixed = np.stack((rng.integers(0, 50, 3000), np.arange(1000, 4000))).T.ravel()
    scan = np.repeat(np.arange(5000, 9000), 1)
    trace = from_ids(np.concatenate((hot, mixed, scan, np.arange(50))))
    last_50 = {}
    for name in ("lru", "w-tinylfu", "arc", "s3-fifo", "lfu", "sieve"):
        job = Job(policy=get_policy(name), num_frames=60, judge_from=trace.num_requests - 50)
        last_50[name] = simulate(trace, [job])[0].faults
    assert last_50["lru"] == 50
    assert last_50["w-tinylfu"] <= 5  # counters are shared
    assert max(last_50["lfu"], last_50["sieve"]) <= 5

"""The compiled policies against slow references, golden figures, and a judge that replays every event."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.paging import (
    Job,
    PageTrace,
    Prompts,
    check_events,
    discard_bits,
    from_ids,
    get_policy,
    next_use,
    phase_bits,
    policy_from_name,
    policy_names,
    read_mooncake,
    record,
    simulate,
    with_prompts,
    zipf,
)
from mallocgame.baselines.paging.policy import Hint, Hints, Policy
from mallocgame.errors import InputError
from tests.baselines.paging import reference as ref
from tests.baselines.paging.instances import instances, sequence
from tests.baselines.paging.paths import CONVERSATION

COMBINED = (
    "fwa0+lru",
    "mark0~marker",
    "blind-oracle+lru",
    "lnonmarker+marker",
    "prefix-lru0+prefix-lru",
    "prefix-lru0+lru0+arc",
)
PAGES = st.lists(st.integers(0, 9), max_size=60)


def random_hints(policy: Policy, trace: PageTrace, k: int, seed: int) -> Hints | None:
    rng = np.random.default_rng(seed)
    if policy.hint is Hint.NEXT_USE:
        return next_use(trace)
    if policy.hint is Hint.ARRIVAL:
        return np.arange(trace.num_requests) + rng.integers(1, 20, trace.num_requests)
    if policy.hint is Hint.PROMPT:
        return with_prompts(trace, None)
    if policy.hint is Hint.PROMPT_DISCARD:
        return with_prompts(trace, rng.integers(0, 2, trace.num_requests).astype(np.uint8))
    if policy.hint in (Hint.DISCARD, Hint.PHASE):
        return rng.integers(0, 2, trace.num_requests).astype(np.uint8)
    return None


@pytest.mark.parametrize("name", [*policy_names(), *COMBINED])
def test_every_event_is_possible_and_no_policy_beats_opt(name: str) -> None:
    policy = policy_from_name(name)
    for number, instance in enumerate(instances(150, seed=1, largest_k=12, longest=150)):
        trace = from_ids(instance.pages)
        run = record(trace, policy, instance.k, hints=random_hints(policy, trace, instance.k, number), seed=number)
        check_events(trace, instance.k, run.events)  # raises where an event is impossible
        assert run.faults == int(np.sum(run.events != -1))
        assert run.faults >= ref.belady(instance.pages, instance.k)[0]


def test_the_judge_catches_a_wrong_event() -> None:
    trace = from_ids([0, 1, 2, 0])
    good = record(trace, get_policy("lru"), 2).events
    for at, event in ((0, -1), (2, -2), (2, 2), (3, -1)):
        bad = good.copy()
        bad[at] = event
        with pytest.raises(ValueError, match="impossible event"):
            check_events(trace, 2, bad)


@settings(max_examples=150, deadline=None)
@given(PAGES, st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_deterministic_policies_equal_their_references(pages: list[int], k: int, seed: int) -> None:
    trace = from_ids(pages)
    bits = np.random.default_rng(seed).integers(0, 2, len(pages)).astype(np.uint8)

    def cost(name: str) -> int:
        policy = get_policy(name)
        return record(trace, policy, k, hints=None if policy.hint is Hint.NONE else bits).faults

    assert record(trace, get_policy("opt"), k, hints=next_use(trace)).faults == ref.belady(pages, k)[0]
    assert record(trace, get_policy("opt-heap"), k, hints=next_use(trace)).faults == ref.belady(pages, k)[0]
    assert cost("lru") == ref.lru(pages, k)[0]
    assert cost("fifo") == ref.fifo(pages, k)[0]
    assert cost("fwa0") == ref.fwa0(pages, bits.tolist(), k)
    assert cost("lru0") == ref.fwa0(pages, bits.tolist(), k, flush=False)
    assert cost("det-mark-predict") == ref.det_mark_predict(pages, bits.tolist(), k)
    assert discard_bits(trace, k, teacher="lru").tolist() == ref.lru(pages, k)[1]
    assert phase_bits(trace, k).tolist() == ref.phase_truth(pages, k)


@pytest.mark.parametrize(
    ("name", "step"),
    [("marker", ref.marker_step), ("mark0", ref.mark0_step), ("mark-predict", ref.mark_predict_step)],
)
def test_randomised_policies_follow_the_exact_distribution(name: str, step: ref.Step) -> None:
    rng = np.random.default_rng(5)
    for kind in range(4):
        k, repeats = 4, 3000
        pages = sequence(rng, kind, 40, k)
        bits = rng.integers(0, 2, len(pages)).astype(np.uint8)
        policy = get_policy(name)
        # MARK0 may take any 1-page; the compiled one takes the least recently used, the reference follows it.
        wanted = (
            lru_ones_expectation(pages, bits.tolist(), k)
            if name == "mark0"
            else ref.expected_faults(pages, bits.tolist() if policy.hint is Hint.PHASE else [0] * len(pages), step, k)
        )
        trace = from_ids(pages)
        hints = None if policy.hint is Hint.NONE else bits
        jobs = [Job(policy=policy, num_frames=k, hints=hints, seed=seed) for seed in range(repeats)]
        costs = np.array([result.faults for result in simulate(trace, jobs)])
        assert abs(costs.mean() - float(wanted)) <= 4.5 * costs.std() / repeats**0.5 + 1e-9


def lru_ones_expectation(pages: list[int], bits: list[int], k: int) -> ref.Fraction:
    last: dict[int, int] = {}
    clock = iter(range(len(pages)))

    class Bits(dict[int, int]):
        def __setitem__(self, page: int, bit: int) -> None:
            last[page] = next(clock)
            super().__setitem__(page, bit)

    def step(state: ref.State, size: int, bit: dict[int, int]) -> list[tuple[ref.Fraction, ref.State]]:
        cached, marked = state
        ones = [q for q in cached if bit[q]]
        if ones:
            victim = min(ones, key=last.__getitem__)
            return [(ref.Fraction(1), (cached - {victim}, marked - {victim}))]
        return ref.marker_step(state, size, bit)

    return ref.expected_faults(pages, bits, step, k, history=Bits())


def slow_clock(pages: list[int], k: int) -> int:
    queue: list[int] = []
    used: dict[int, int] = {}
    faults = 0
    for page in pages:
        if page in queue:
            used[page] = 1
            continue
        faults += 1
        if len(queue) == k:
            while used[queue[0]]:
                used[queue[0]] = 0
                queue.append(queue.pop(0))
            queue.pop(0)
        queue.append(page)
        used[page] = 0
    return faults


def slow_sieve(pages: list[int], k: int) -> int:
    queue: list[int] = []  # oldest first
    used: dict[int, int] = {}
    hand, faults = 0, 0
    for page in pages:
        if page in queue:
            used[page] = 1
            continue
        faults += 1
        if len(queue) == k:
            hand = hand if hand < len(queue) else 0
            while used[queue[hand]]:
                used[queue[hand]] = 0
                hand = (hand + 1) % len(queue)
            queue.pop(hand)
            if hand == len(queue):
                hand = 0
        queue.append(page)
        used[page] = 0
    return faults


def slow_lfu(pages: list[int], k: int) -> int:
    count: dict[int, tuple[int, int]] = {}
    faults = 0
    for now, page in enumerate(pages):
        if page in count:
            count[page] = (count[page][0] + 1, now)
            continue
        faults += 1
        if len(count) == k:
            del count[min(count, key=count.__getitem__)]
        count[page] = (1, now)
    return faults


@settings(max_examples=150, deadline=None)
@given(PAGES, st.integers(1, 6))
def test_clock_sieve_and_lfu_equal_their_references(pages: list[int], k: int) -> None:
    trace = from_ids(pages)
    for name, slow in (("clock", slow_clock), ("sieve", slow_sieve), ("lfu", slow_lfu)):
        assert record(trace, get_policy(name), k).faults == slow(pages, k)


def test_chunks_and_threads_do_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = zipf(num_pages=300, num_requests=5000, seed=3)
    jobs = []
    for name in [*policy_names(), *COMBINED]:
        policy = policy_from_name(name)
        jobs += [Job(policy=policy, num_frames=k, hints=random_hints(policy, trace, k, 1), seed=2) for k in (1, 7, 60)]
    whole = [result.faults for result in simulate(trace, jobs)]
    monkeypatch.setattr("mallocgame.baselines.paging.engine.CHUNK_REQUESTS", 97)
    assert [result.faults for result in simulate(trace, jobs, num_threads=1)] == whole


def test_faults_are_counted_from_the_judged_request_on() -> None:
    trace = zipf(num_pages=100, num_requests=3000, seed=4)
    events = record(trace, get_policy("lru"), 10).events
    result = simulate(trace, [Job(policy=get_policy("lru"), num_frames=10, judge_from=1234)])[0]
    assert (result.faults, result.num_requests) == (int(np.sum(events[1234:] != -1)), 3000 - 1234)


def test_a_cache_of_all_pages_faults_once_a_page() -> None:
    trace = zipf(num_pages=50, num_requests=2000, seed=0)
    for name in policy_names():
        policy = get_policy(name)
        if name in ("s3-fifo", "w-tinylfu"):
            continue  # their fixed partitions may evict from a cache that is not full of live pages
        hints = random_hints(policy, trace, 10**6, 0)
        assert record(trace, policy, 10**6, hints=hints).faults == trace.num_pages


@pytest.mark.skipif(not CONVERSATION.exists(), reason="shared data absent")
def test_golden_figures_on_the_mooncake_conversation_trace() -> None:
    trace = read_mooncake(CONVERSATION)
    assert (trace.num_requests, trace.num_pages) == (288_500, 182_790)
    golden = {"opt": 217_437, "opt-heap": 217_437, "lru": 273_420, "fifo": 273_935, "sieve": 271_711}
    bits = discard_bits(trace, 1827)
    golden |= {"fwa0": 217_437, "lru0": 217_437, "mark0": 217_437}
    golden |= {"s3-fifo": 269_024}  # libcachesim's figure too
    golden |= {"w-tinylfu": 264_095}  # no peer has the same sketch: this guards against unnoticed change
    hints = {Hint.NEXT_USE: next_use(trace), Hint.DISCARD: bits}
    jobs = [Job(policy=get_policy(n), num_frames=1827, hints=hints.get(get_policy(n).hint)) for n in golden]
    assert {r.policy: r.faults for r in simulate(trace, jobs)} == golden


@pytest.mark.parametrize(
    ("num_frames", "hints", "reason"),
    [
        (0, np.zeros(3, np.uint8), "at least 1 frame"),
        (2, None, "needs discard hints"),
        (2, np.zeros(2, np.uint8), "one discard hint a request"),
        (2, np.zeros(3, np.int64), "hints are uint8"),
    ],
)
def test_bad_jobs_have_one_clear_line(num_frames: int, hints: Hints | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        simulate(from_ids([1, 2, 3]), [Job(policy=get_policy("fwa0"), num_frames=num_frames, hints=hints)])


def test_unknown_policies_and_mixed_hints_are_refused() -> None:
    with pytest.raises(InputError, match="no policy called 'best'"):
        policy_from_name("best")
    with pytest.raises(InputError, match="one hint kind only"):
        policy_from_name("fwa0+mark-predict")


def slow_two_queue(pages: list[int], k: int) -> int:
    fresh: list[int] = []
    ghosts: list[int] = []
    main: list[int] = []
    faults = 0
    for page in pages:
        if page in fresh:
            continue
        if page in main:
            main.append(main.pop(main.index(page)))
            continue
        faults += 1
        back = page in ghosts
        if back:
            ghosts.remove(page)
        if len(fresh) + len(main) == k:
            if len(fresh) > k // 4:
                ghosts.append(fresh.pop(0))
                ghosts = ghosts[-(k // 2) :] if k // 2 else []
            else:
                main.pop(0)
        (main if back else fresh).append(page)
    return faults


def slow_lirs(pages: list[int], k: int) -> int:
    room = k - max(1, k // 100)
    stack: list[int] = []  # oldest first
    high: list[int] = []
    gone: list[int] = []
    low: set[int] = set()
    faults = 0

    def prune() -> None:
        while stack and stack[0] not in low:
            page = stack.pop(0)
            if page in gone:
                gone.remove(page)

    for page in pages:
        if page not in low and page not in high:
            faults += 1
            if len(low) + len(high) == k:
                victim = high.pop(0)
                if victim in stack:
                    gone.append(victim)
        stacked = page in stack
        for one in (stack, high, gone):
            if page in one:
                one.remove(page)
        stack.append(page)
        if page in low:
            prune()
        elif len(low) < room:
            low.add(page)
        elif stacked and room:
            low.add(page)
            lowest = stack.pop(0)
            low.discard(lowest)
            high.append(lowest)
            prune()
        else:
            high.append(page)
        if not room:
            prune()
        while len(stack) > 2 * k and gone:
            stack.remove(gone.pop(0))
    return faults


@settings(max_examples=150, deadline=None)
@given(PAGES, st.integers(1, 7))
def test_2q_and_lirs_equal_their_references(pages: list[int], k: int) -> None:
    trace = from_ids(pages)
    for name, slow in (("2q", slow_two_queue), ("lirs", slow_lirs)):
        assert record(trace, get_policy(name), k).faults == slow(pages, k)


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

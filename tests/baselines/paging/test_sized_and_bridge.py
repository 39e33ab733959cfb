"""Sized pages and write-backs against a slow reference; programs as tiles; the generators."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.paging import (
    AccessTrace,
    Job,
    cyclic,
    from_ids,
    get_policy,
    kv_cache,
    moe_decode,
    next_use,
    reads_only,
    simulate,
    simulate_sized,
    tile_program,
    zipf,
)
from mallocgame.baselines.paging.sized import DEFINE, READ, UPDATE
from mallocgame.errors import InputError
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind


def slow_lru(trace: AccessTrace, capacity: int) -> tuple[int, int, int]:
    """Return (misses, fetched bytes, written-back bytes) of LRU, the operands of a bundle pinned."""
    size = trace.size_bytes
    cache: list[int] = []
    dirty: set[int] = set()
    misses = fetched = written = 0
    rows = list(zip(trace.pages.pages.tolist(), trace.kinds.tolist(), trace.bundles.tolist(), strict=True))
    for bundle in dict.fromkeys(b for _, _, b in rows):
        members = [i for i, row in enumerate(rows) if row[2] == bundle]
        pinned = {rows[i][0] for i in members}
        for i in members:
            page, kind, _ = rows[i]
            if page in cache:
                cache.remove(page)
            else:
                misses += 1
                fetched += int(size[page]) if kind != DEFINE else 0
                while sum(size[q] for q in cache) + size[page] > capacity:
                    victim = next(q for q in cache if q not in pinned)
                    cache.remove(victim)
                    written += int(size[victim]) if victim in dirty else 0
                    dirty.discard(victim)
            cache.append(page)
            if kind != READ:
                dirty.add(page)
        for i in members:
            page = rows[i][0]
            if trace.dead_after[i] and page in cache:
                cache.remove(page)
                dirty.discard(page)
    written += sum(int(size[q]) for q in cache if q in dirty)
    return misses, fetched, written


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_sized_lru_equals_the_slow_reference(data: st.DataObject) -> None:
    pages = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=40))
    n = len(pages)
    trace = from_ids(pages)
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=trace.num_pages, max_size=trace.num_pages))
    accesses = AccessTrace(
        pages=trace,
        size_bytes=np.array(sizes, np.int64),
        kinds=np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.uint8),
        bundles=np.cumsum(np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.int64)),
        dead_after=np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.uint8),
    )
    capacity = data.draw(st.integers(1, 40))
    bundles = accesses.bundles
    if any(
        sum(sizes[q] for q in set(trace.pages[bundles == b].tolist())) > capacity for b in np.unique(bundles).tolist()
    ):
        with pytest.raises(InputError, match="take"):
            simulate_sized(accesses, {"lru": None}, capacity)
        return
    result = simulate_sized(accesses, {"lru": None}, capacity)[0]
    assert (result.misses, result.fetch_bytes, result.write_back_bytes) == slow_lru(accesses, capacity)


def test_equal_sizes_reduce_to_the_unit_engine() -> None:
    trace = zipf(num_pages=300, num_requests=4000, seed=5)
    bits = np.random.default_rng(0).integers(0, 2, 4000).astype(np.uint8)
    accesses = reads_only(trace, np.full(trace.num_pages, 64))
    sized = simulate_sized(accesses, {"lru": None, "fifo": None, "lru0": bits, "belady": None}, 64 * 20)
    hints = {"lru0": bits, "opt": next_use(trace)}
    jobs = [Job(policy=get_policy(n), num_frames=20, hints=hints.get(n)) for n in ("lru", "fifo", "lru0", "opt")]
    assert [r.misses for r in sized] == [r.faults for r in simulate(trace, jobs)]
    assert all(r.fetch_bytes == 64 * r.misses and r.write_back_bytes == 0 for r in sized)


def test_greedy_dual_keeps_small_pages() -> None:
    rng = np.random.default_rng(1)
    ids = np.where(rng.random(6000) < 0.5, rng.integers(0, 40, 6000), 40 + rng.integers(0, 40, 6000))
    trace = from_ids(ids)
    sizes = np.zeros(trace.num_pages, np.int64)
    sizes[trace.pages] = np.where(ids < 40, 1, 50)
    by_size, lru = simulate_sized(reads_only(trace, sizes), {"greedy-dual-size": None, "lru": None}, 500)
    assert by_size.misses < lru.misses


def test_sized_bad_input() -> None:
    accesses = reads_only(from_ids([0, 1]), np.array([5, 9]))
    with pytest.raises(InputError, match=r"bundle 1 \(request 1\) take 9 together"):
        simulate_sized(accesses, {"lru": None}, 8)
    with pytest.raises(InputError, match="no sized rule called 'arc'"):
        simulate_sized(accesses, {"arc": None}, 10)
    with pytest.raises(InputError, match="one discard bit"):
        simulate_sized(accesses, {"lru0": None}, 10)
    with pytest.raises(InputError, match="one size > 0"):
        reads_only(from_ids([0, 1]), np.array([5, 0]))


def program() -> Program:
    """w (40 bytes) is read in a loop that runs 3 times, which updates acc; out is defined from acc."""
    instructions = (
        Instruction(name="init", compute_seconds=0.0),
        Instruction(name="body", compute_seconds=0.0, trip_count=3),
        Instruction(name="end", compute_seconds=0.0),
    )
    tensors = (
        Tensor(name="w", size_bytes=40, is_parameter=True, uses=(Use(step=1, bytes=16, operand=0),)),
        Tensor(
            name="acc",
            size_bytes=16,
            uses=(
                Use(step=0, bytes=16, kind=UseKind.DEFINE),
                Use(step=1, bytes=16, kind=UseKind.UPDATE),
                Use(step=2, bytes=16, operand=0),
            ),
        ),
        Tensor(name="out", size_bytes=20, is_output=True, uses=(Use(step=2, bytes=20, kind=UseKind.DEFINE),)),
    )
    loops = (Loop(start_step=1, end_step=2, trip_count=3),)
    return Program(name="loop", instructions=instructions, tensors=tensors, loops=loops)


def test_a_program_becomes_tiles() -> None:
    tiled = tile_program(program(), 16)
    accesses = tiled.accesses
    names = [
        (program().tensors[tiled.tensor_of_page[p]].name, int(tiled.tile_of_page[p])) for p in accesses.pages.pages
    ]
    assert names == [
        ("acc", 0), ("w", 0), ("acc", 0), ("w", 1), ("acc", 0), ("w", 2), ("acc", 0), ("acc", 0), ("out", 0), ("out", 1)
    ]  # fmt: skip
    assert accesses.kinds.tolist() == [DEFINE, READ, UPDATE, READ, UPDATE, READ, UPDATE, READ, DEFINE, DEFINE]
    assert accesses.bundles.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert accesses.dead_after.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]
    by_name = {names[i]: int(accesses.size_bytes[p]) for i, p in enumerate(accesses.pages.pages)}
    assert by_name == {("acc", 0): 16, ("w", 0): 16, ("w", 1): 16, ("w", 2): 8, ("out", 0): 16, ("out", 1): 4}
    result = simulate_sized(accesses, {"lru": None}, 48)[0]
    assert (result.fetch_bytes, result.write_back_bytes) == (40, 20)  # w once; acc dies unwritten; out is the output


def test_the_compilers_bits_are_exact() -> None:
    tiled = tile_program(program(), 4)
    for k in (3, 5, 9):
        trace = tiled.accesses.pages
        bits = tiled.evict_first_bits(k)
        jobs = [
            Job(policy=get_policy("lru0"), num_frames=k, hints=bits),
            Job(policy=get_policy("opt"), num_frames=k, hints=next_use(trace)),
        ]
        told, optimum = (r.faults for r in simulate(trace, jobs))
        assert told == optimum


def test_nested_and_equal_loops_unroll() -> None:
    instructions = tuple(Instruction(name=f"i{s}", compute_seconds=0.0, trip_count=6 if s else 1) for s in range(2))
    tensors = tuple(
        Tensor(name=f"t{s}", size_bytes=4, is_parameter=True, uses=(Use(step=s, bytes=4),)) for s in range(2)
    )
    loops = (Loop(start_step=1, end_step=2, trip_count=2), Loop(start_step=1, end_step=2, trip_count=3))
    made = Program(name="nest", instructions=instructions, tensors=tensors, loops=loops)
    assert tile_program(made, 4).accesses.pages.pages.tolist() == [0, *[1] * 6]
    cut = tile_program(made, 4, max_requests=3)
    assert (cut.accesses.pages.num_requests, cut.truncated) == (3, True)
    with pytest.raises(InputError, match="tile_bytes"):
        tile_program(made, 0)


def test_generators() -> None:
    assert cyclic(num_pages=3, num_requests=7).pages.tolist() == [0, 1, 2, 0, 1, 2, 0]
    moe = moe_decode(num_tokens=50, num_layers=3, num_experts=8, experts_per_token=2, dense_tiles=2, expert_tiles=3)
    assert moe.num_requests == 50 * 3 * (2 + 2 * 3)
    first = moe.pages[: 2 + 6]
    assert np.unique(first).size == 8  # two dense tiles, two different experts of three tiles
    counts = np.bincount(moe.pages)
    assert np.sum(counts == 50) >= 6  # every token reads the dense tiles of every layer
    still = moe_decode(num_tokens=9, num_layers=2, stickiness=1.0).pages.reshape(9, -1)
    assert (still == still[0]).all()
    kv = kv_cache(num_sequences=20, batch=4, seed=2)
    assert np.bincount(kv.pages)[0] == np.bincount(kv.pages)[1]  # the shared prefix is read by every step
    assert np.array_equal(kv.pages, kv_cache(num_sequences=20, batch=4, seed=2).pages)
    for make in (lambda: zipf(num_pages=0), lambda: moe_decode(experts_per_token=99), lambda: moe_decode(stickiness=2)):
        with pytest.raises(InputError):
            make()


def test_a_dead_page_is_never_written_back() -> None:
    trace = from_ids([0, 1])
    accesses = AccessTrace(
        pages=trace,
        size_bytes=np.array([8, 8]),
        kinds=np.array([DEFINE, UPDATE], np.uint8),
        bundles=np.array([0, 1]),
        dead_after=np.array([1, 0], np.uint8),
    )
    result = simulate_sized(accesses, {"lru": None}, 8)[0]
    assert (result.fetch_bytes, result.write_back_bytes) == (8, 8)

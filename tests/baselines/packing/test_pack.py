"""``pack`` as a whole: real instances, heuristics, status words, limits, Ctrl-C."""

import _thread
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.packing import SOLVERS, IncrementalPacker, PackingProblem, SolverName, pack
from mallocgame.baselines.packing.buffers import Buffer, max_live_bytes, read_buffers, validate_packing
from mallocgame.errors import InputError
from tests.baselines.packing.instances import planted, random_buffers
from tests.baselines.packing.oracle import small_problems
from tests.paths import SHARED_DATA

HARD = planted(5, num_buffers=400, capacity_bytes=1 << 20, num_steps=300, unit_bytes=1024, slack=0.3)[0]
needs_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="shared/data is absent")


@needs_data
@pytest.mark.parametrize("name", ["A", "C", "E", "G", "I", "K"])
def test_minimalloc_instances_fit(name: str) -> None:
    buffers = read_buffers(SHARED_DATA / "minimalloc" / f"{name}.1048576.csv")
    result = pack(buffers, 1048576, seconds=60)
    assert result.status in ("optimal", "feasible")
    assert validate_packing(buffers, result.offsets.tolist(), 1048576) == []


@needs_data
@pytest.mark.parametrize(
    ("name", "ratio", "seconds"), [("resnet50", 1.01, 10), ("pangu_2.6B", 1.05, 8), ("G_1", 1, 10)]
)
def test_large_real_instances(name: str, ratio: float, seconds: float) -> None:
    buffers = read_buffers(SHARED_DATA / "idealloc" / f"{name}.csv")
    result = pack(buffers, seconds=seconds)
    assert result.height_bytes <= ratio * max_live_bytes(buffers)
    assert validate_packing(buffers, result.offsets.tolist(), result.height_bytes) == []


@pytest.mark.parametrize("solver", SOLVERS)
@given(buffers=small_problems(aligned=True, fixed=True), capacity=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_every_solver_tells_the_truth(solver: SolverName, buffers: list[Buffer], capacity: int) -> None:
    result = pack(buffers, capacity, solver=solver, seconds=0.02, workers=1)
    offsets = result.offsets.tolist()
    assert validate_packing(buffers, offsets, result.height_bytes) == []
    assert result.lower_bound_bytes <= result.height_bytes
    assert (result.status in ("optimal", "feasible")) == (result.height_bytes <= capacity)
    assert (result.status == "infeasible") == (result.lower_bound_bytes > capacity)


@pytest.mark.parametrize("solver", ["first-fit", "best-fit", "hill-climb"])
@given(seed=st.integers(0, 10**6), num_buffers=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_heuristics_are_valid_on_larger_problems(solver: SolverName, seed: int, num_buffers: int) -> None:
    buffers = random_buffers(seed, num_buffers=num_buffers, num_steps=40, max_size=1000)
    result = pack(buffers, solver=solver, seconds=0.02, workers=1)
    assert validate_packing(buffers, result.offsets.tolist(), result.height_bytes) == []


def test_climbing_improves_on_its_start() -> None:
    start = pack(HARD, solver="first-fit", seconds=1)
    assert pack(HARD, solver="hill-climb", seconds=2, workers=1).height_bytes < start.height_bytes


def test_not_found_and_infeasible_are_different_words() -> None:
    assert pack(HARD, 1 << 20, solver="first-fit").status == "not found"
    assert pack(HARD, (1 << 20) - 1, solver="first-fit").status in ("not found", "infeasible")
    peak = max_live_bytes(HARD)
    result = pack(HARD, peak - 1, seconds=0)
    assert result.status == "infeasible"
    assert result.height_bytes > peak - 1


def test_a_time_limit_of_zero_returns_the_start() -> None:
    start = pack(HARD, solver="best-fit", seconds=1).offsets.tolist()
    assert pack(HARD, start=start, seconds=0).offsets.tolist() == start
    bare = pack(HARD, 1 << 20, seconds=0)
    assert validate_packing(HARD, bare.offsets.tolist(), bare.height_bytes) == []


def test_a_start_is_never_made_worse() -> None:
    buffers, offsets = planted(5, num_buffers=400, capacity_bytes=1 << 20, num_steps=300, unit_bytes=1024, slack=0.3)
    result = pack(buffers, 1 << 20, start=offsets, seconds=0.1)
    assert result.status in ("optimal", "feasible")


def test_one_worker_and_a_seed_repeat() -> None:
    buffers = planted(3, num_buffers=60, capacity_bytes=4096, num_steps=80)[0]
    first, second = (pack(buffers, 4096, solver="search", seconds=60, seed=7, workers=1) for _ in range(2))
    assert first.status == "optimal"
    assert first.offsets.tolist() == second.offsets.tolist()


@pytest.mark.parametrize("solver", ["search", "hill-climb", "cpsat", "best"])
def test_ctrl_c_returns_the_incumbent(solver: SolverName) -> None:
    pack(HARD[:20], solver=solver, seconds=1)  # compiled before the clock runs
    timer = threading.Timer(1.0, _thread.interrupt_main)
    began = time.monotonic()
    timer.start()
    result = pack(HARD, solver=solver, seconds=120)
    timer.join()
    assert result.interrupted
    assert time.monotonic() - began < 60
    assert validate_packing(HARD, result.offsets.tolist(), result.height_bytes) == []


def test_bad_arguments() -> None:
    a = Buffer(name="a", lower=0, upper=2, size_bytes=4, fixed_offset=0)
    b = Buffer(name="b", lower=1, upper=3, size_bytes=4, fixed_offset=2)
    with pytest.raises(InputError, match="fixed offsets clash: buffers 'a' and 'b' share bytes"):
        pack([a, b])
    with pytest.raises(InputError, match="start is not a valid packing"):
        pack([a], start=[1])
    with pytest.raises(InputError, match="unknown packing solver 'magic'; expected one of best"):
        pack([a], solver="magic")  # type: ignore[arg-type]
    for wrong in ({"seconds": -1}, {"seconds": float("nan")}, {"workers": 0}):
        with pytest.raises(InputError):
            pack([a], **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="capacity"):
        pack([a], -1)


def test_no_buffers_need_no_memory() -> None:
    result = pack([], 0)
    assert (result.status, result.height_bytes, result.offsets.size) == ("optimal", 0, 0)


def test_parts_share_no_step() -> None:
    problem = PackingProblem.of(np.array([0, 5, 1, 7]), np.array([2, 6, 5, 9]), np.array([1, 1, 1, 1]))
    assert [part.tolist() for part in problem.parts()] == [[0, 2], [1], [3]]


def test_progress_is_told_of_heights_and_bounds() -> None:
    heard: list[tuple[int, int]] = []
    buffers = random_buffers(1, num_buffers=30, num_steps=20, max_size=50)
    result = pack(buffers, seconds=5, progress=lambda height, bound: heard.append((height, bound)))
    assert heard[-1] == (result.height_bytes, result.lower_bound_bytes)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(1, 9), st.booleans()), max_size=40))
def test_incremental_packer_against_a_grid(actions: list[tuple[int, int, int, bool]]) -> None:
    """Placed buffers never share a cell, and None means that really no gap was wide enough."""
    packer = IncrementalPacker(capacity_bytes=16, bucket_steps=4)
    taken: dict[tuple[int, int], str] = {}
    for k, (lower, width, size, leave) in enumerate(actions):
        name, steps = f"b{k}", range(lower, lower + width)
        offset = packer.place(name, lower, lower + width, size)
        gaps = [o for o in range(17 - size) if not any((t, a) in taken for t in steps for a in range(o, o + size))]
        assert (offset is None) == (not gaps)
        if offset is None:
            continue
        assert offset in gaps
        if leave:
            packer.remove(name)
        else:
            taken.update({(t, a): name for t in steps for a in range(offset, offset + size)})
    assert len(packer) == len(set(taken.values()))


@pytest.mark.parametrize("solver", ["first-fit", "best-fit", "hill-climb"])
def test_a_buffer_that_ends_frees_its_bytes_at_once(solver: SolverName) -> None:
    spans = {"a": (0, 1, 4), "b": (1, 2, 4), "c": (0, 2, 1)}
    buffers = [Buffer(name=k, lower=low, upper=up, size_bytes=size) for k, (low, up, size) in spans.items()]
    assert pack(buffers, solver=solver, seconds=1).height_bytes == 5

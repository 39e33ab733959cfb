"""The first solvers: always valid, never worse than their start, the same for the same seed."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.baselines.placement.address_space import AddressSpace, InFlight
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.placement.partial_mapping import PartialMapping
from mallocgame.baselines.placement.placement import PlacementFactory
from mallocgame.baselines.placement.trivial import none, random
from mallocgame.baselines.placement.xla_heuristic import (
    MAX_OVERLAP_TO_MEMORY,
    MIN_OVERLAP,
    CopyResource,
    memory_boundedness,
    xla_heuristic,
)
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, hoisted
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.solver import Solver
from tests.strategies import programs, small_hierarchy
from tests.toy import toy_program

SOLVERS: dict[str, Solver] = {"none": none, "random": random, "greedy": greedy, "xla-heuristic": xla_heuristic}


@pytest.mark.parametrize("name", SOLVERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs(), num_layers=st.integers(2, 3), seed=st.integers(0, 9))
def test_every_answer_is_valid(name: str, program: Program, num_layers: int, seed: int) -> None:
    memory = small_hierarchy(num_layers=num_layers)
    result = SOLVERS[name](program, memory, seconds=5.0, seed=seed)
    assert validate(program, memory, result.mapping) == []
    assert result.seconds == simulate(program, memory, result.mapping).total_seconds
    assert [seconds for _, seconds in result.history] == sorted((s for _, s in result.history), reverse=True)
    assert result.history[-1][1] == result.seconds


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("trip_count", [1, 5])
def test_real_sizes(name: str, trip_count: int) -> None:
    program, memory = toy_program(num_layers=16, trip_count=trip_count), preset("v5e")
    result = SOLVERS[name](program, memory, seconds=600.0, seed=3)
    assert validate(program, memory, result.mapping) == []
    home = home_seconds(program, memory)
    if name in ("greedy", "xla-heuristic"):
        assert result.seconds < 0.9 * home
        assert len(result.mapping.residencies) > 5
    if name == "none":
        assert result.seconds == home
    again = SOLVERS[name](program, memory, seconds=600.0, seed=3)
    assert again.mapping == result.mapping


def test_random_depends_on_the_seed() -> None:
    program, memory = toy_program(num_layers=16), preset("v5e")
    assert random(program, memory, seed=1).mapping != random(program, memory, seed=2).mapping


@pytest.mark.parametrize("name", SOLVERS)
def test_never_worse_than_the_start_and_it_is_all_there_is_without_time(name: str) -> None:
    program, memory = toy_program(num_layers=12), preset("v5e")
    start = greedy(program, memory, seconds=20.0).mapping
    best = simulate(program, memory, start).total_seconds
    for seconds in (0.0, 5.0):
        result = SOLVERS[name](program, memory, seconds=seconds, start=start)
        assert result.seconds <= best
        assert validate(program, memory, result.mapping) == []
    assert none(program, memory, seconds=0.0, start=start).mapping == start


def test_progress_is_told() -> None:
    told: list[float] = []
    random(toy_program(), preset("v5e"), seconds=1.0, progress=told.append)
    assert told == sorted(told)
    assert told
    assert 0 <= told[0] <= told[-1] <= 1


def test_the_heuristic_never_copies_into_a_loop_from_outside() -> None:
    for seed in range(4):
        program, memory = toy_program(num_layers=16, seed=seed, trip_count=7), preset("v5e")
        assert hoisted(program, xla_heuristic(program, memory).mapping) == ()


def test_the_heuristic_keeps_one_parameter_between_runs() -> None:
    program, memory = toy_program(num_layers=12), preset("v5e")
    tensors = tuple(replace(t, holdable=t.is_parameter) for t in program.tensors)
    mapping = xla_heuristic(replace(program, tensors=tensors), memory).mapping
    held = [r.tensor for r in mapping.residencies if r.start_step == HELD]
    fitting = [i for i, t in enumerate(tensors) if t.is_parameter and t.uses[-1].step < program.num_steps - 1]
    assert held == [max(fitting, key=lambda i: tensors[i].size_bytes)]


def test_copies_overlap_as_much_as_the_ratios_ask() -> None:
    program, memory = toy_program(num_layers=24), preset("v5e")
    mapping = xla_heuristic(program, memory).mapping
    factory = PlacementFactory(program, memory)
    elapsed = np.concatenate([[0.0], np.cumsum(factory.elapsed)])
    longest = MAX_OVERLAP_TO_MEMORY * memory.layers[1].capacity_bytes / memory.links[0].bytes_per_second
    ratios = []
    for x in mapping.transfers:
        if x.target != HOME and x.done_before < program.num_steps:
            overlap = elapsed[x.done_before] - elapsed[x.start_after + 1]
            ratios.append(overlap / factory.work_seconds(0, 1, x.tensor))
            assert overlap <= longest
    assert len(ratios) > 10
    assert min(ratios) >= MIN_OVERLAP


def test_what_waits_too_long_leaves() -> None:
    program, memory = toy_program(num_layers=200), preset("v5e")
    elapsed = np.concatenate([[0.0], np.cumsum(PlacementFactory(program, memory).elapsed)])
    longest = MAX_OVERLAP_TO_MEMORY * memory.layers[1].capacity_bytes / memory.links[0].bytes_per_second
    mapping = xla_heuristic(program, memory).mapping
    waits = []
    for r, fill in zip(mapping.residencies, mapping.fill_boundaries, strict=True):
        steps = sorted({u.step for u in program.tensors[r.tensor].uses if fill <= u.step < r.end_step})
        waits += [elapsed[b] - elapsed[a] for a, b in pairwise(steps)]
    assert 0.2 * longest < max(waits) <= longest


def _lone_use(compute_seconds: float, size: int = 4, trip_count: int = 1) -> PlacementFactory:
    step = Instruction(name="i", compute_seconds=compute_seconds)
    tensor = Tensor(name="t", size_bytes=size, uses=(Use(step=0, bytes=8),), is_parameter=True)
    assert trip_count == 1
    return PlacementFactory(Program(name="p", instructions=(step,), tensors=(tensor,)), small_hierarchy())


def test_memory_boundedness_by_hand() -> None:
    # 8 bytes take 8 s at home (1 B/s), 2 s in the fast layer (4 B/s); the key divides by the root of 4 bytes.
    assert memory_boundedness(_lone_use(0.0), 1, 0) == pytest.approx((8 - 2) / 2)
    assert memory_boundedness(_lone_use(5.0), 1, 0) == pytest.approx((8 - 5) / 2)
    assert memory_boundedness(_lone_use(9.0), 1, 0) == pytest.approx((2 - 9) / 2)


def test_the_copy_resource_is_used_once() -> None:
    program, memory = toy_program(num_layers=8), preset("v5e")
    factory = PlacementFactory(program, memory)
    resource = CopyResource(factory, 1)
    plan = next(factory.stays(0, 1, 15, 15, issue=10))
    claims = []
    while (claimed := resource.claim(plan)) is not None:
        claims.append(claimed)
    available = float(factory.elapsed[10:15].sum())
    assert len(claims) == int(available / resource.copy_seconds(0))
    resource.release(claims[0])
    assert resource.claim(plan) is not None
    assert resource.claim(plan) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5), st.integers(1, 6)), max_size=20), st.integers(1, 3))
def test_best_fit_is_a_free_place_in_the_smallest_gap(rows: list[tuple[int, int, int]], alignment: int) -> None:
    space = AddressSpace(16, alignment)
    placed: list[tuple[int, int, int, int]] = []
    for start, length, size in rows:
        end = start + length
        busy = [any(s < end and e > start and o <= b < o + z for s, e, o, z in placed) for b in range(16)]
        free = [o for o in range(0, 17 - size, alignment) if not any(busy[o : o + size])]
        offset = space.best_fit([(start, end)], size)
        assert (offset is None) == (not free)
        if offset is not None:
            assert offset in free
            assert space.is_free((start, end), size, offset)
            assert _gap(busy, offset) == min(_gap(busy, o) for o in free)
            space.add([(start, end)], size, offset)
            placed.append((start, end, offset, size))


def _gap(busy: list[bool], offset: int) -> int:
    low = next((b + 1 for b in range(offset - 1, -1, -1) if busy[b]), 0)
    high = next((b for b in range(offset, len(busy)) if busy[b]), len(busy))
    return high - low


def test_flights_are_limited_per_queue() -> None:
    flights = InFlight(10, [2])
    assert flights.add(0, 0, 5)
    assert flights.add(0, 4, 8)
    assert not flights.add(0, 4, 5)
    assert flights.add(1, 4, 5)
    assert flights.add(0, 5, 9)
    flights.remove(0, 4, 8)
    assert flights.add(0, 4, 5)


def test_what_is_accepted_is_valid() -> None:
    program, memory = toy_program(num_layers=12), preset("v5e")
    factory = PlacementFactory(program, memory)
    partial = PartialMapping(factory)
    for tensor in range(len(program.tensors)):
        steps = factory.use_steps(tensor)
        for plan in factory.stays(tensor, 1, steps[0], steps[-1]):
            if partial.add(plan):
                assert validate(program, memory, partial.mapping) == []
    assert len(partial.plans) > 8


def test_copies_are_issued_as_late_as_the_link_allows() -> None:
    program, memory = toy_program(num_layers=10), preset("v5e")
    factory = PlacementFactory(program, memory)
    idle = [_idle(program, t) for t in range(program.num_steps)]
    for tensor in range(10):
        needed = factory.work_seconds(0, 1, tensor)
        for due in range(1, program.num_steps + 1):
            issue = factory.latest_issue(0, 1, tensor, due)
            enough = [b for b in range(due + 1) if sum(idle[b:due]) >= needed * (1 - 1e-9)]
            assert issue in ((max(enough), max(enough) - 1) if enough else (0,))


def _idle(program: Program, step: int) -> float:
    memory = preset("v5e")
    moved = simulate(program, memory, Mapping()).layer_bytes[step]
    busy = moved[0] / memory.layers[0].bytes_per_second
    return float(max(program.compute_seconds[step] - busy, 0.0))


def test_a_value_needed_at_home_is_written_back() -> None:
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=9.0) for t in range(4))
    uses = (Use(step=0, bytes=4, kind=UseKind.DEFINE), Use(step=1, bytes=4), Use(step=3, bytes=4))
    program = Program(name="p", instructions=steps, tensors=(Tensor(name="t", size_bytes=4, uses=uses),))
    factory = PlacementFactory(program, small_hierarchy())
    (whole,) = factory.stays(0, 1, 0, 3)
    assert whole.moves == ()
    (part,) = factory.stays(0, 1, 0, 1)
    assert [(move.source, move.target) for move in part.moves] == [(0, HOME)]
    assert all(a <= b for a, b in pairwise((part.moves[0].issue, part.moves[0].due, 3)))

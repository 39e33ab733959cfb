"""The bound never exceeds the optimum (brute force over mappings), and sees what it claims to see."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds import capacity_bound
from mallocgame.baselines.bounds.ascent import Ascent
from mallocgame.baselines.bounds.coarse import may_coarsen, without
from mallocgame.baselines.bounds.covers import Knapsack, broken_cover
from mallocgame.baselines.bounds.integer import solve_integer
from mallocgame.baselines.bounds.linear import LinearProgram, safe_bound, solve
from mallocgame.baselines.bounds.prices import market
from mallocgame.baselines.bounds.relaxation import placed_tensors, relax
from mallocgame.baselines.bounds.stretches import stretch_bound
from mallocgame.baselines.bounds.windows import _covers
from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer
from mallocgame.judge.simulation import home_seconds, lower_bound
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from mallocgame.solver import Incumbent, Limits, Problem
from tests.baselines.solvers.tiny import tiny_hierarchy, tiny_program
from tests.benchmarks.bounds import attack, attack_with_mappings
from tests.brute_force import brute_force
from tests.strategies import small_hierarchy

BATCH = 60


def _linear(program: Program, hierarchy: Hierarchy, num_slots: int = 64) -> float:
    relaxation = relax(program, hierarchy, num_slots=num_slots)
    return solve(relaxation.linear).bound * relaxation.unit_seconds


@pytest.mark.parametrize("batch", range(2))
def test_linear_bound_is_never_above_the_optimum(batch: int) -> None:
    ratios = []
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        program, hierarchy = tiny_program(seed, num_steps=4, num_tensors=2), tiny_hierarchy(7 * seed + 1)
        best = brute_force(program, hierarchy, seconds=60.0)
        assert best.status == "optimal"
        assert not validate(program, hierarchy, best.mapping)
        bound = _linear(program, hierarchy, num_slots=random.Random(seed).choice([1, 3, 64]))
        assert bound <= best.seconds * (1 + 1e-12) + 1e-12, f"seed {seed}"
        ratios.append(bound / best.seconds if best.seconds else 1.0)
    assert np.mean(ratios) > 0.94  # and it is not just small


def test_integer_bound_is_never_above_the_optimum_and_mostly_is_it() -> None:
    exact = 0
    seeds = range(9000, 9040)
    for seed in seeds:
        program, hierarchy = tiny_program(seed, num_steps=4, num_tensors=2), tiny_hierarchy(7 * seed + 1)
        best = brute_force(program, hierarchy, seconds=60.0)
        bound = capacity_bound(program, hierarchy, seconds=20.0).seconds
        assert bound <= best.seconds * (1 + 1e-12) + 1e-12, f"seed {seed}"
        exact += bound >= best.seconds * (1 - 1e-5)
    assert exact >= 0.75 * len(seeds)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_linear_bound_is_never_above_the_empty_mapping(seed: int) -> None:
    program, hierarchy = tiny_program(seed, num_steps=8, num_tensors=6), tiny_hierarchy(seed)
    assert _linear(program, hierarchy) <= home_seconds(program, hierarchy) * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("first", [20, 50])
def test_no_bound_is_above_brute_force_that_slices_and_chains(first: int) -> None:
    """Prices (any, and raised), linear program and ``capacity_bound``; two and three layers by turns."""
    ratios = [attack(seed) for seed in range(first, first + 24)]
    assert np.mean(ratios) > 0.8


def test_raised_prices_come_near_the_linear_program() -> None:
    ratios = []
    for seed in range(12):
        program, hierarchy = tiny_program(seed, num_steps=9, num_tensors=6), tiny_hierarchy(7 * seed + 1)
        ascent = Ascent(market(program, hierarchy))
        for _ in range(400):
            ascent.step(float("inf"))
        ratios.append(ascent.best * ascent.goods.unit_seconds / _linear(program, hierarchy))
    assert min(ratios) > 0.8
    assert np.mean(ratios) > 0.95


def test_prices_see_that_held_weights_share_a_layer() -> None:
    """Ten weights, each read once; four can stay in the middle for ever, what the fastest layer holds comes again."""
    weights = tuple(
        Tensor(name=f"w{i}", size_bytes=10, uses=(Use(step=i, bytes=10),), is_parameter=True, holdable=True)
        for i in range(10)
    )
    steps = tuple(Instruction(name=f"i{i}", compute_seconds=0.0) for i in range(10))
    program = Program(name="weights", instructions=steps, tensors=weights)
    layers = tuple(
        MemoryLayer(name=name, capacity_bytes=size, bytes_per_second=speed)
        for name, size, speed in (("host", 1000, 1.0), ("hbm", 40, 1e6), ("vmem", 10, 1e9))
    )
    links = (
        Link(name="pcie", pairs=((0, 1), (0, 2)), bytes_per_second=1.0, shared_layer=0),
        Link(name="dma", pairs=((1, 2),), bytes_per_second=1e6, shared_layer=1),
    )
    hierarchy = Hierarchy(name="host", layers=layers, links=links)
    bound = capacity_bound(program, hierarchy, seconds=2.0, integer=False)
    assert bound.priced_seconds > 59.0
    assert bound.linear_seconds > 59.0
    assert bound.seconds <= anneal(program, hierarchy, steps=20).seconds < 61.0


def _hierarchy(capacity: int) -> Hierarchy:
    home = MemoryLayer(name="home", capacity_bytes=10**6, bytes_per_second=1.0)
    fast = MemoryLayer(name="fast", capacity_bytes=capacity, bytes_per_second=1e9)
    link = Link(name="link", pairs=((0, 1),), bytes_per_second=1.0, shared_layer=0)
    return Hierarchy(name="two", layers=(home, fast), links=(link,))


def _reader(name: str, size: int, steps: list[int]) -> Tensor:
    define = Use(step=steps[0], bytes=size, kind=UseKind.DEFINE)
    return Tensor(name=name, size_bytes=size, uses=(define, *(Use(step=s, bytes=size) for s in steps[1:])))


@pytest.mark.parametrize("num_layers", [2, 3])
def test_no_mapping_that_annealing_finds_beats_the_bound(num_layers: int) -> None:
    """Chained and sliced copies too; the bound with cover rows, and the mapping as a cutoff."""
    for seed in range(20):
        program, memory = tiny_program(seed, num_steps=9, num_tensors=6), small_hierarchy(6, num_layers)
        search = Incumbent(Problem(program, memory), Limits(steps=3), seed=seed)
        search.offer(Mapping())
        anneal.improve(search)
        relaxed = relax(program, memory)
        assert solve(relaxed.linear).bound * relaxed.unit_seconds <= search.seconds * (1 + 1e-9)
        alone = capacity_bound(program, memory, seconds=0.5).seconds
        assert alone <= search.seconds * (1 + 1e-9), f"seed {seed}"
        before = search.seconds
        assert capacity_bound(program, memory, seconds=0.5, search=search).seconds <= before * (1 + 1e-9)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=9), st.integers(1, 20))
def test_a_cover_row_holds_for_every_set_that_fits(items: list[tuple[int, float]], capacity: int) -> None:
    sizes, point = np.array([size for size, _ in items]), np.array([value for _, value in items])
    found = broken_cover(Knapsack(np.arange(len(items)), sizes, capacity), point)
    if found is None:
        return
    columns, most, over = found
    assert point[columns].sum() - most == pytest.approx(over)
    for chosen in range(1 << len(items)):
        inside = np.array([chosen >> i & 1 for i in range(len(items))])
        if inside @ sizes <= capacity:
            assert inside[columns].sum() <= most


def test_of_four_halves_two_fit_and_then_nothing_else() -> None:
    """Four parameters of half the layer, one small tensor at the same steps: cover rows see what no size does."""
    halves = tuple(
        Tensor(name=f"h{i}", size_bytes=50, uses=tuple(Use(step=s, bytes=50) for s in (1, 2)), is_parameter=True)
        for i in range(4)
    )
    small = Tensor(name="s", size_bytes=1, uses=tuple(Use(step=s, bytes=40) for s in (1, 2)), is_parameter=True)
    instructions = (
        Instruction(name="long", compute_seconds=1e3),
        Instruction(name="i1", compute_seconds=0.0),
        Instruction(name="i2", compute_seconds=0.0),
    )
    program = Program(name="halves", instructions=instructions, tensors=(*halves, small))
    loose = _linear(program, _hierarchy(100))
    tight = capacity_bound(program, _hierarchy(100), seconds=5.0, integer=False).seconds
    assert tight > loose * (1 + 1e-3)


def test_capacity_is_seen() -> None:
    """Two tensors live at once, room for one: the other is written and read in layer 0, 20 of 40 seconds."""
    program = Program(
        name="pair",
        instructions=tuple(Instruction(name=f"i{s}", compute_seconds=0.0) for s in range(4)),
        tensors=(_reader("a", 10, [0, 2]), _reader("b", 10, [1, 3])),
    )
    assert lower_bound(program, _hierarchy(10)) < 1.0
    assert capacity_bound(program, _hierarchy(10), seconds=60.0).seconds == pytest.approx(20.0, rel=1e-4)
    assert capacity_bound(program, _hierarchy(20), seconds=60.0).seconds < 1.0


def test_a_write_back_takes_its_space_until_it_is_done() -> None:
    """Two tensors are written one after the other, room for one: the first cannot leave in no time."""
    steps = (1, 2)
    tensors = tuple(
        Tensor(name=f"t{s}", size_bytes=10, uses=(Use(step=s, bytes=20, kind=UseKind.DEFINE), Use(step=4, bytes=1)))
        for s in steps
    )
    seconds = (0.0, 0.0, 0.0, 1e3, 0.0)
    instructions = tuple(Instruction(name=f"i{s}", compute_seconds=each) for s, each in enumerate(seconds))
    program = Program(name="backs", instructions=instructions, tensors=tensors)
    assert capacity_bound(program, _hierarchy(10), seconds=60.0).seconds == pytest.approx(1011.0, rel=1e-4)
    assert capacity_bound(program, _hierarchy(20), seconds=60.0).seconds == pytest.approx(1000.0, rel=1e-4)


def test_what_is_copied_during_a_step_has_its_space_there() -> None:
    """A parameter is read in a long step, another in the next: with room for one, nothing comes in during the first."""
    tensors = tuple(
        Tensor(name=f"w{s}", size_bytes=10, uses=(Use(step=s, bytes=40),), is_parameter=True) for s in (0, 1)
    )
    instructions = (Instruction(name="long", compute_seconds=100.0), Instruction(name="i", compute_seconds=0.0))
    program = Program(name="two", instructions=instructions, tensors=tensors)
    assert capacity_bound(program, _hierarchy(20), seconds=60.0).seconds == pytest.approx(100.0, rel=1e-4)
    late = replace(tensors[0], uses=(Use(step=0, bytes=400),))
    program = replace(program, tensors=(late, tensors[1]))
    assert capacity_bound(program, _hierarchy(20), seconds=60.0).seconds == pytest.approx(110.0, rel=1e-4)
    assert capacity_bound(program, _hierarchy(10), seconds=60.0).seconds == pytest.approx(120.0, rel=1e-4)


def test_what_is_held_has_its_place_in_the_last_step() -> None:
    """A held weight is loaded again during the long last step, whose own tensor needs the room."""
    held = Tensor(name="w", size_bytes=10, uses=(Use(step=0, bytes=10),), is_parameter=True, holdable=True)
    own = Tensor(name="own", size_bytes=10, uses=(Use(step=1, bytes=30),), is_parameter=True)
    instructions = (Instruction(name="i", compute_seconds=10.0), Instruction(name="long", compute_seconds=20.0))
    program = Program(name="held", instructions=instructions, tensors=(held, own))
    assert capacity_bound(program, _hierarchy(20), seconds=60.0).seconds == pytest.approx(30.0, rel=1e-4)
    assert capacity_bound(program, _hierarchy(10), seconds=60.0).seconds == pytest.approx(40.0, rel=1e-4)


def test_each_mapping_is_a_point_of_the_relaxation() -> None:
    assert sum(attack_with_mappings(seed) for seed in range(40)) > 60


def test_leaving_small_tensors_out_raises_no_bound() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        program, hierarchy = tiny_program(seed, num_steps=9, num_tensors=6), tiny_hierarchy(7 * seed + 1)
        if not may_coarsen(hierarchy):
            continue
        is_small = placed_tensors(program, hierarchy) & (rng.random(len(program.tensors)) < 0.5)
        rest = without(program, hierarchy, is_small)
        assert _linear(rest, hierarchy) <= _linear(program, hierarchy) * (1 + 1e-9) + 1e-12, f"seed {seed}"


def test_stretches_prove_more_than_the_linear_program_and_no_more_than_whole_shares() -> None:
    rng, gained = np.random.default_rng(0), 0
    for seed in range(8):
        relaxed = relax(tiny_program(seed, num_steps=9, num_tensors=6), tiny_hierarchy(7 * seed + 1))
        linear, unit, solution = relaxed.linear, relaxed.unit_seconds, solve(relaxed.linear)
        optimum = solve_integer(relaxed, seconds=20.0, gap=0.0).value_seconds
        boxes = np.array([linear.low, linear.high])
        found = stretch_bound(relaxed, solution.duals, 2, seconds=20.0, boxes=boxes)
        assert solution.bound * unit * (1 - 1e-4) <= found <= optimum * (1 + 1e-6), f"seed {seed}"
        gained += found > solution.bound * unit * (1 + 1e-3)
        drawn = rng.exponential(size=len(linear.row_bound))  # whatever splits the cost
        assert stretch_bound(relaxed, drawn, 3, seconds=20.0, boxes=boxes) <= optimum * (1 + 1e-6), f"seed {seed}"
        assert stretch_bound(relaxed, solution.duals, 2, seconds=0.0, boxes=boxes) >= solution.bound * unit * (1 - 1e-4)
    assert gained > 0


def test_window_of_a_copy_is_seen() -> None:
    """A parameter needed at step 0 has no time before it to be copied in; the idle hours after it do not help."""
    late = Instruction(name="long", compute_seconds=100.0)
    tensor = Tensor(name="w", size_bytes=10, uses=(Use(step=0, bytes=30),), is_parameter=True)
    program = Program(name="w", instructions=(Instruction(name="i", compute_seconds=0.0), late), tensors=(tensor,))
    assert capacity_bound(program, _hierarchy(100), seconds=60.0).seconds == pytest.approx(110.0, rel=1e-4)
    swapped = Program(
        name="w", instructions=program.instructions[::-1], tensors=(replace(tensor, uses=(Use(step=1, bytes=30),)),)
    )
    assert capacity_bound(swapped, _hierarchy(100), seconds=60.0).seconds == pytest.approx(100.0, rel=1e-4)


def test_loops_price_copies_by_trip_and_hoisting_by_permission() -> None:
    body = Instruction(name="body", compute_seconds=1.0, trip_count=8)
    tensor = Tensor(name="w", size_bytes=10, uses=(Use(step=1, bytes=10),), is_parameter=True)
    program = Program(
        name="loop",
        instructions=(Instruction(name="before", compute_seconds=0.0), body),
        tensors=(tensor,),
        loops=(Loop(start_step=1, end_step=2, trip_count=8),),
    )
    hoisted = capacity_bound(program, _hierarchy(10), seconds=60.0).seconds
    assert hoisted == pytest.approx(18.0, rel=1e-4)  # copied once, 10 s, then 8 trips of 1 s
    assert capacity_bound(program.without_hoisting(), _hierarchy(10), seconds=60.0).seconds == pytest.approx(
        80.0, rel=1e-4
    )


def test_any_duals_give_a_bound() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        linear = LinearProgram()
        columns = [linear.column(0.0, float(rng.integers(1, 4)), float(rng.normal())) for _ in range(4)]
        inside = np.array([rng.uniform(0, high) for high in linear.high])
        for _ in range(3):
            row = rng.normal(size=4)
            linear.at_least(zip(columns, row.tolist(), strict=True), float(row @ inside) - abs(rng.normal()))
        optimum = solve(linear).value
        assert safe_bound(linear, rng.normal(size=3)) <= optimum + 1e-9
        assert safe_bound(linear, np.full(3, math.nan)) <= optimum + 1e-9
        assert solve(linear).bound == pytest.approx(optimum, abs=1e-9)


def test_with_nothing_to_decide_the_bound_is_the_constant() -> None:
    linear = LinearProgram(constant=2.5)
    solution = solve(linear)
    assert solution.is_solved
    assert (solution.value, len(solution.columns)) == (2.5, 0)
    assert solution.bound == pytest.approx(2.5)


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=4))
@settings(deadline=None)  # the first call compiles
def test_cover_is_a_partition_of_the_window(ends: list[tuple[int, int]]) -> None:
    first, last = np.sort(np.array(ends), axis=1).T
    is_back = np.arange(len(ends)) % 2 == 1
    slots: list[list[int]] = [[] for _ in ends]
    for window, node in zip(*_covers(first, last, 64, is_back), strict=True):
        low = high = node
        while low < 64:
            low, high = 2 * low, 2 * high + 1
        slots[window].extend(range(low - 64, high - 63))
    assert slots == [list(range(a, b + 1)) for a, b in zip(first, last, strict=True)]


def test_no_time_gives_the_simple_bound() -> None:
    program, hierarchy = tiny_program(3), tiny_hierarchy(3)
    bound = capacity_bound(program, hierarchy, seconds=0.0)
    assert bound.linear_seconds == bound.integer_seconds == 0.0
    assert bound.seconds == bound.simple_seconds


def test_brute_force_finds_a_planted_optimum() -> None:
    program = Program(
        name="pair",
        instructions=tuple(Instruction(name=f"i{s}", compute_seconds=0.0) for s in range(4)),
        tensors=(_reader("a", 10, [0, 2]), _reader("b", 10, [1, 3])),
    )
    best = brute_force(program, _hierarchy(10), seconds=60.0)
    assert best.status == "optimal"
    assert best.seconds == pytest.approx(20.0, abs=1e-6)
    assert brute_force(program, _hierarchy(10), seconds=0.0).mapping == Mapping()

"""The judge against exact event-by-event clocks, and the laws it must keep."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.judge.simulation import home_seconds, lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from tests.judge.concrete import Clock
from tests.strategies import likely_mappings, loose_mappings, programs, small_hierarchy

THOROUGH = settings(max_examples=800, deadline=None)


def _cases(num_layers: int) -> st.SearchStrategy[tuple[Program, Mapping]]:
    memory = small_hierarchy(num_layers=num_layers)
    return programs().flatmap(
        lambda p: st.tuples(st.just(p), st.one_of(loose_mappings(p, memory), likely_mappings(p, memory)))
    )


@THOROUGH
@given(st.integers(2, 3).flatmap(lambda n: st.tuples(st.just(n), _cases(n))))
def test_total_equals_the_exact_clock(case: tuple[int, tuple[Program, Mapping]]) -> None:
    num_layers, (program, mapping) = case
    memory = small_hierarchy(num_layers=num_layers)
    assert simulate(program, memory, mapping).total_seconds == pytest.approx(
        float(Clock(program, memory, mapping).run()), rel=1e-12, abs=1e-12
    )


@THOROUGH
@given(_cases(2))
def test_bytes_are_conserved_and_time_adds_up(case: tuple[Program, Mapping]) -> None:
    program, mapping = case
    memory = small_hierarchy()
    found = simulate(program, memory, mapping)
    assert found.total_seconds == pytest.approx(found.elapsed_seconds.sum() + found.stall_seconds.sum())
    home_bytes = (found.layer_bytes[:, 0] * program.trip_counts).sum() + found.link_bytes.sum()
    undone = [x for x in range(len(mapping.transfers)) if mapping.transfers[x].done_before > program.num_steps]
    assert not undone
    assert home_bytes / memory.layers[0].bytes_per_second <= found.total_seconds + 1e-9
    assert found.link_busy_seconds.sum() == pytest.approx(found.link_bytes.sum() / memory.links[0].bytes_per_second)


@THOROUGH
@given(_cases(2))
def test_no_valid_mapping_beats_the_bound(case: tuple[Program, Mapping]) -> None:
    program, mapping = case
    memory = small_hierarchy()
    bound = lower_bound(program, memory)
    assert bound <= home_seconds(program, memory) + 1e-9
    if not validate(program, memory, mapping):
        assert bound <= simulate(program, memory, mapping).total_seconds + 1e-9


def _unroll(program: Program, mapping: Mapping) -> tuple[Program, Mapping]:
    """Unroll a program with one loop that no residency or transfer enters or leaves."""
    loop = program.loops[0]
    length, extra = loop.end_step - loop.start_step, loop.trip_count - 1
    steps = list(program.instructions)
    body = steps[loop.start_step : loop.end_step]
    steps[loop.end_step : loop.end_step] = body * extra

    def copies(step: int) -> list[int]:
        if step < loop.start_step:
            return [step]
        if step < loop.end_step:
            return [step + i * length for i in range(extra + 1)]
        return [step + extra * length]

    tensors = []
    for tensor in program.tensors:
        uses = [replace(use, step=at) for use in tensor.uses for at in copies(use.step)]
        tensors.append(replace(tensor, uses=tuple(sorted(uses, key=lambda u: u.step))))
    residencies, transfers = [], []
    for x in mapping.transfers:
        r = mapping.residencies[max(x.source, x.target)]
        starts = copies(r.start_step)
        for start in starts if loop.contains_boundary(x.start_after + 1) else starts[:1]:
            shift = start - r.start_step
            after, due = x.start_after + shift, x.done_before + shift
            residencies.append(replace(r, start_step=start, end_step=r.end_step + shift))
            here = len(residencies) - 1
            source, target = (here if x.source != HOME else HOME), (here if x.target != HOME else HOME)
            transfers.append(replace(x, source=source, target=target, start_after=after, done_before=due))
    flat = tuple(replace(i, trip_count=1) for i in steps)
    unrolled = Program(name="unrolled", instructions=flat, tensors=tuple(tensors))
    return unrolled, Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_loop_takes_what_its_unrolled_iterations_take(data: st.DataObject) -> None:
    """Aggregation is exact while no copy is under way across a loop's edge."""
    trips = data.draw(st.integers(1, 4))
    num_steps = 7
    loop = Loop(start_step=1, end_step=6, trip_count=trips)
    seconds = data.draw(st.lists(st.integers(0, 8), min_size=num_steps, max_size=num_steps))
    instructions = tuple(
        Instruction(name=f"i{t}", compute_seconds=s / 2, trip_count=trips if 1 <= t < 6 else 1)
        for t, s in enumerate(seconds)
    )
    tensors, residencies, transfers = [], [], []
    for index in range(data.draw(st.integers(1, 4))):
        after = data.draw(st.integers(1, 3))
        due = data.draw(st.integers(after + 1, 4))
        size, writes = data.draw(st.integers(1, 5)), data.draw(st.booleans())
        first = Use(step=after if writes else due, bytes=size, kind=UseKind.DEFINE if writes else UseKind.READ)
        tensors.append(Tensor(name=f"t{index}", size_bytes=size, uses=(first,), is_parameter=not writes))
        start = after if writes else after + 1
        residencies.append(
            Residency(tensor=index, layer=1, offset_bytes=0, start_step=start, end_step=max(due + 1, start + 1))
        )
        source, target = (index, HOME) if writes else (HOME, index)
        transfers.append(
            Transfer(tensor=index, source=source, target=target, start_after=after, done_before=due, size_bytes=size)
        )
    program = Program(name="loop", instructions=instructions, tensors=tuple(tensors), loops=(loop,))
    mapping = Mapping(residencies=tuple(residencies), transfers=tuple(transfers))
    memory = small_hierarchy(100)
    unrolled = simulate(*_with(memory, *_unroll(program, mapping))).total_seconds
    assert simulate(program, memory, mapping).total_seconds == pytest.approx(unrolled)


def _with(memory: Hierarchy, program: Program, mapping: Mapping) -> tuple[Program, Hierarchy, Mapping]:
    return program, memory, mapping


def test_a_copy_hides_behind_compute_and_stalls_for_the_rest() -> None:
    """v5e: a 32 MiB weight needs 45.5 us of the link (XLA_CAPTURE.md, worked numbers)."""
    chip, size = preset("v5e"), 33554432
    weight = Tensor(name="w", size_bytes=size, is_parameter=True, uses=(Use(step=1, bytes=size),))
    steps = (Instruction(name="a", compute_seconds=20e-6), Instruction(name="b", compute_seconds=10.9e-6))
    program = Program(name="p", instructions=steps, tensors=(weight,))
    mapping = Mapping(
        residencies=(Residency(tensor=0, layer=1, offset_bytes=0, start_step=0, end_step=2),),
        transfers=(Transfer(tensor=0, source=HOME, target=0, start_after=-1, done_before=1, size_bytes=size),),
    )
    found = simulate(program, chip, mapping)
    assert found.stall_seconds[1] == pytest.approx(45.4876e-6 - 20e-6, rel=1e-4)
    assert found.total_seconds == pytest.approx(45.4876e-6 + 10.9e-6, rel=1e-4)
    assert np.array_equal(found.occupancy_bytes[:, 1], [size, size])
    assert found.start_seconds == pytest.approx([0.0, 45.4876e-6], rel=1e-4)


def test_the_bound_holds_where_layer_0_is_the_fastest() -> None:
    memory = small_hierarchy()
    home = replace(memory.layers[0], bytes_per_second=64.0)
    memory = replace(memory, layers=(home, memory.layers[1]))
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, is_output=True, uses=(Use(step=0, bytes=64),))
    steps = (Instruction(name="a", compute_seconds=0.0),)
    program = Program(name="p", instructions=steps, tensors=(weight,))
    assert lower_bound(program, memory) <= home_seconds(program, memory)


def test_the_bound_counts_what_layer_0_must_move() -> None:
    """By hand, a byte a second: 2 bytes of every step but the last, 3 at home only, 4 of a weight, 5 of an output."""
    weight = Tensor(
        name="w",
        size_bytes=40,
        is_parameter=True,
        holdable=True,  # for ever only in a layer between: here there is none
        uses=(Use(step=0, bytes=1), Use(step=1, bytes=3)),
    )
    home = Tensor(name="h", size_bytes=8, is_parameter=True, uses=(Use(step=2, bytes=3, home_only=True),))
    made = Tensor(name="o", size_bytes=5, is_output=True, uses=(Use(step=1, bytes=9, kind=UseKind.DEFINE),))
    fixed = ((2,), (2, 1), (2,), ())
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=0.0, fixed_bytes=b) for t, b in enumerate(fixed))
    program = Program(name="p", instructions=steps, tensors=(weight, home, made))
    assert lower_bound(program, small_hierarchy()) == 3 * 2 + 3 + 4 + 5
    looped = replace(
        program,
        instructions=tuple(replace(i, trip_count=3 if t < 2 else 1) for t, i in enumerate(steps)),
        loops=(Loop(start_step=0, end_step=2, trip_count=3),),
    )
    assert lower_bound(looped, small_hierarchy()) == 7 * 2 + 3 + 3 * 4 + 5
    short = replace(looped, tensors=(replace(weight, size_bytes=10), home, made))  # then a copy costs less
    assert lower_bound(short, small_hierarchy()) == 7 * 2 + 3 + 10 + 5


def test_what_may_be_held_for_ever_need_not_come_from_layer_0() -> None:
    memory = small_hierarchy(16, num_layers=3)
    uses = (Use(step=0, bytes=8), Use(step=1, bytes=8))
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, holdable=True, uses=uses)
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(2))
    program = Program(name="held", instructions=steps, tensors=(weight,))
    for_ever = Residency(tensor=0, layer=1, offset_bytes=0, start_step=HELD, end_step=2)
    mapping = Mapping(residencies=(for_ever,))
    assert validate(program, memory, mapping) == []
    assert lower_bound(program, memory) <= simulate(program, memory, mapping).total_seconds == 4.0
    fetched = replace(program, tensors=(replace(weight, holdable=False),))
    assert lower_bound(fetched, memory) == 8.0  # once, over a link of a byte a second


def test_each_copy_waits_for_its_latency_too() -> None:
    memory = small_hierarchy(16)
    late = replace(memory, links=(replace(memory.links[0], latency_seconds=0.5),))
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=1, bytes=8),))
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=2.0) for t in range(2))
    program = Program(name="late", instructions=steps, tensors=(weight,))
    place = Residency(tensor=0, layer=1, offset_bytes=0, start_step=0, end_step=2)
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=-1, done_before=1, size_bytes=8)
    mapping = Mapping(residencies=(place,), transfers=(copy,))
    assert simulate(program, memory, mapping).total_seconds == 8.0 + 2.0
    assert simulate(program, late, mapping).total_seconds == 8.5 + 2.0


@pytest.mark.parametrize(("shared_layer", "waited"), [(None, 4.0), (0, 4.0), (1, 8.0)])
def test_a_copy_shares_the_bandwidth_of_the_layer_that_its_link_names(shared_layer: int | None, waited: float) -> None:
    memory = small_hierarchy(24)
    memory = replace(memory, links=(replace(memory.links[0], shared_layer=shared_layer),))
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=1, bytes=8),))
    result = Tensor(name="r", size_bytes=8, uses=(Use(step=0, bytes=16, kind=UseKind.DEFINE),))
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=0.0) for t in range(2))
    program = Program(name="shared", instructions=steps, tensors=(weight, result))
    places = tuple(Residency(tensor=i, layer=1, offset_bytes=8 * i, start_step=0, end_step=2) for i in range(2))
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=-1, done_before=1, size_bytes=8)
    found = simulate(program, memory, Mapping(residencies=places, transfers=(copy,)))
    assert found.stall_seconds.sum() == waited  # step 0 takes 4 s, all of layer 1's
    assert found.total_seconds == 4.0 + waited + 2.0


def test_the_bound_counts_what_transfers_bring_instead_of_a_copy() -> None:
    """The copy's 4 bytes from layer 0, and the last change of the output there: 1 byte."""
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=0.0, is_replaceable=t == 1) for t in range(3))
    cache = Tensor(name="cache", size_bytes=4, is_parameter=True, uses=(Use(step=1, bytes=4),))
    changed = (Use(step=1, bytes=4, kind=UseKind.DEFINE), Use(step=2, bytes=1, kind=UseKind.UPDATE))
    copy = Tensor(name="copy", size_bytes=4, is_output=True, uses=changed)
    program, memory = Program(name="cached", instructions=steps, tensors=(cache, copy)), small_hierarchy(8)
    assert lower_bound(program, memory) == pytest.approx(5 / memory.layers[0].bytes_per_second, rel=1e-12)

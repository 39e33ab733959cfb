"""Contents that are current on one way through loops and branches and not on another, in programs made for it."""

from dataclasses import replace

import pytest

from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Conditional, Instruction, Loop, Program, Tensor, Use, UseKind
from tests.judge.concrete import Clock, Machine
from tests.strategies import small_hierarchy

MEMORY = small_hierarchy(16)


def _looping(trip_count: int, *uses: Use) -> Program:
    """A step, a loop of two, a step; one parameter."""
    steps = tuple(
        Instruction(name=f"i{t}", compute_seconds=1.0, trip_count=trip_count if t in (1, 2) else 1) for t in range(4)
    )
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, uses=uses)
    loop = Loop(start_step=1, end_step=3, trip_count=trip_count)
    return Program(name="looping", instructions=steps, tensors=(weight,), loops=(loop,))


def _branching(tensor: Tensor, *others: Tensor, edges: tuple[int, int, int] = (1, 4, 7), num_steps: int = 8) -> Program:
    trips = [0.5 if edges[0] <= t < edges[2] else 1.0 for t in range(num_steps)]
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=2.0, trip_count=n) for t, n in enumerate(trips))
    conditional = Conditional(edges=edges, weights=(0.5, 0.5))
    return Program(name="branching", instructions=steps, tensors=(tensor, *others), conditionals=(conditional,))


def _place(start: int, end: int, **change: int) -> Residency:
    return Residency(**({"tensor": 0, "layer": 1, "offset_bytes": 0} | change), start_step=start, end_step=end)


def _copy(source: int, target: int, issue: int, due: int, **change: int) -> Transfer:
    given = {"tensor": 0, "size_bytes": 8} | change
    return Transfer(source=source, target=target, start_after=issue - 1, done_before=due, **given)


def _rules(program: Program, places: list[Residency], copies: list[Transfer], memory: Hierarchy = MEMORY) -> set[str]:
    mapping = Mapping(residencies=tuple(places), transfers=tuple(copies))
    return {violation.rule for violation in validate(program, memory, mapping)}


@pytest.mark.parametrize("trip_count", [1, 3])
def test_a_loop_of_one_trip_is_no_loop(trip_count: int) -> None:
    program = _looping(trip_count, Use(step=1, bytes=8), Use(step=2, bytes=8))
    repeats = trip_count > 1
    into = [_copy(HOME, 0, 0, 2)]  # from before the loop to its middle
    assert _rules(program, [_place(0, 4)], into) == ({"loop"} if repeats else set())
    gone = [_place(0, 2)], [_copy(HOME, 0, 0, 1)]  # the second iteration does not find it
    assert _rules(program, *gone) - {"hoist"} == ({"stale"} if repeats else set())


@pytest.mark.parametrize("trip_count", [1, 3])
def test_what_an_iteration_writes_elsewhere_is_not_at_home_in_the_next(trip_count: int) -> None:
    program = _looping(trip_count, Use(step=1, bytes=8), Use(step=2, bytes=8, kind=UseKind.UPDATE))
    assert _rules(program, [_place(2, 3)], [_copy(HOME, 0, 2, 2)]) == ({"stale"} if trip_count > 1 else set())


def test_a_slice_that_one_branch_brings_is_missing_after_the_other() -> None:
    weight = Tensor(name="w", size_bytes=12, is_parameter=True, uses=(Use(step=7, bytes=4),))
    program = _branching(weight)
    parts = [(0, 1), (2, 3), (7, 7)]  # before the conditional, in its first branch, behind it
    slices = [
        _copy(HOME, 0, issue, due, size_bytes=4, slice_offset_bytes=4 * number)
        for number, (issue, due) in enumerate(parts)
    ]
    assert "stale" in _rules(program, [_place(0, 8)], slices)
    slices[1] = _copy(HOME, 0, 0, 1, size_bytes=4, slice_offset_bytes=4)
    assert _rules(program, [_place(0, 8)], slices) == set()


@pytest.mark.parametrize("written", [2, 5])
def test_a_write_in_one_branch_spoils_the_copy_around_both(written: int) -> None:
    update = Use(step=written, bytes=8, kind=UseKind.UPDATE)
    result = Tensor(name="r", size_bytes=8, is_parameter=True, is_output=True, uses=(update,))
    copies = [_copy(HOME, 0, 0, 1), _copy(0, HOME, 1, 7)]
    assert _rules(_branching(result), [_place(0, 8)], copies) == {"stale"}
    copies[1] = _copy(0, HOME, 7, 8)
    assert _rules(_branching(result), [_place(0, 8)], copies) == set()


@pytest.mark.parametrize("edges", [(1, 4, 4), (1, 1, 4)])
def test_a_branch_that_does_nothing_leaves_what_was_there(edges: tuple[int, int, int]) -> None:
    uses = (Use(step=2, bytes=8, kind=UseKind.DEFINE), Use(step=5, bytes=8))
    program = _branching(Tensor(name="w", size_bytes=8, is_parameter=True, uses=uses), edges=edges)
    assert _rules(program, [_place(2, 8)], []) == {"stale"}  # on that way it is in layer 0
    assert _rules(program, [_place(0, 8)], [_copy(HOME, 0, 0, 1)]) == set()


def test_what_is_held_for_ever_outlives_a_conditional_at_the_end() -> None:
    uses = (Use(step=2, bytes=8), Use(step=5, bytes=8))
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, holdable=True, uses=uses)
    memory = small_hierarchy(16, num_layers=3)
    assert _rules(_branching(weight, num_steps=7), [_place(HELD, 7)], [], memory) == set()


@pytest.mark.parametrize("early", [0, 2])
def test_slices_from_before_and_after_a_write_are_no_whole(early: int) -> None:
    uses = (Use(step=1, bytes=8, kind=UseKind.DEFINE, home_only=True), Use(step=3, bytes=8))
    program = _looping(1, *uses)
    slices = [
        _copy(HOME, 0, issue, issue + 1, size_bytes=4, slice_offset_bytes=at) for issue, at in ((early, 0), (2, 4))
    ]
    mapping = Mapping(residencies=(_place(early, 4),), transfers=tuple(slices))
    is_wrong = early == 0  # half of it would be the contents before step 1
    assert bool(Machine(program, MEMORY, mapping).run()) == is_wrong
    assert _rules(program, [_place(early, 4)], slices) == ({"stale"} if is_wrong else set())


def test_a_copy_between_two_slices_reads_half_a_tensor() -> None:
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=1, bytes=8),))
    program = _branching(weight)
    first, second = (_copy(HOME, 0, 1, 1, size_bytes=4, slice_offset_bytes=at) for at in (0, 4))
    back = _copy(0, HOME, 1, 1)
    assert _rules(program, [_place(0, 3)], [first, second, back]) == set()
    assert _rules(program, [_place(0, 3)], [first, back, second]) == {"stale"}


def test_copies_that_are_issued_before_a_conditional_at_the_start_are_issued_once() -> None:
    weights = [
        Tensor(name=f"w{i}", size_bytes=8, is_parameter=True, uses=(Use(step=step, bytes=8),))
        for i, step in enumerate((1, 7))
    ]
    program = _branching(*weights, edges=(0, 3, 6))
    places = (_place(0, 6), _place(6, 8, tensor=1, offset_bytes=8))
    mapping = Mapping(residencies=places, transfers=(_copy(HOME, 0, 0, 0), _copy(HOME, 1, 6, 7, tensor=1)))
    assert validate(program, MEMORY, mapping) == []
    expected = float(Clock(program, MEMORY, mapping).run())
    assert simulate(program, MEMORY, mapping).total_seconds == pytest.approx(expected, rel=1e-12)


def test_a_violation_says_whose_it_is_and_when() -> None:
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=1, bytes=8),))
    program = _branching(weight)
    for_ever = Mapping(residencies=(_place(HELD, 8),))
    assert [(v.rule, v.tensor, v.step) for v in validate(program, MEMORY, for_ever)][:1] == [("held", 0, -1)]
    slices = tuple(_copy(HOME, 0, 0, 1, size_bytes=1, slice_offset_bytes=at) for at in range(8))
    narrow = replace(MEMORY, links=(replace(MEMORY.links[0], max_in_flight=7),))
    many = validate(program, narrow, Mapping(residencies=(_place(0, 2),), transfers=slices))
    assert [(v.rule, v.tensor, v.step) for v in many] == [("in-flight", -1, 0)]


def test_the_bound_counts_a_copy_as_often_as_its_branch_runs() -> None:
    weight = Tensor(name="w", size_bytes=2, is_parameter=True, uses=(Use(step=3, bytes=4),))
    program = _branching(weight)
    idle = tuple(replace(each, compute_seconds=0.0) for each in program.instructions)
    program = replace(program, instructions=idle)
    mapping = Mapping(residencies=(_place(2, 4),), transfers=(_copy(HOME, 0, 2, 3, size_bytes=2),))
    assert validate(program, MEMORY, mapping) == []
    assert simulate(program, MEMORY, mapping).total_seconds == 0.5 * (2.0 + 1.0)  # a copy and a read
    assert lower_bound(program, MEMORY) == 0.5 * 2.0

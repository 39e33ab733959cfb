"""Programs with conditionals: the judge against machines and clocks that take every way through the branches."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds, lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Conditional, Instruction, Loop, Program, Tensor, Use, UseKind
from tests.judge.concrete import Clock, Machine
from tests.strategies import branching_programs, likely_mappings, loose_mappings, programs, small_hierarchy

THOROUGH = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _cases(num_layers: int = 2) -> st.SearchStrategy[tuple[Program, Mapping]]:
    memory = small_hierarchy(num_layers=num_layers)
    return branching_programs().flatmap(
        lambda p: st.tuples(st.just(p), st.one_of(likely_mappings(p, memory), loose_mappings(p, memory)))
    )


def test_a_mapping_without_violations_runs_on_every_way_through() -> None:
    seen: Counter[bool] = Counter()

    @settings(max_examples=900, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(2, 3).flatmap(lambda n: st.tuples(st.just(n), _cases(n))))
    def check(case: tuple[int, tuple[Program, Mapping]]) -> None:
        num_layers, (program, mapping) = case
        memory = small_hierarchy(num_layers=num_layers)
        violations = validate(program, memory, mapping)
        if mapping.residencies and program.conditionals:
            seen[not violations] += 1
        if not violations:
            for seed in range(6):
                assert not Machine(program, memory, mapping).run(seed), (program, mapping)

    check()
    assert min(seen[True], seen[False]) > sum(seen.values()) / 20, "the property saw only one kind of mapping"


def _encloses(program: Program, mapping: Mapping) -> bool:
    return any(
        x.start_after + 1 <= c.start_step and c.end_step <= x.done_before
        for x in mapping.transfers
        for c in program.conditionals
    )


@THOROUGH
@given(_cases(2))
def test_expected_time_is_the_mean_over_all_paths(case: tuple[Program, Mapping]) -> None:
    program, mapping = case
    memory = small_hierarchy()
    if any(v.rule in ("branch", "loop", "reference") for v in validate(program, memory, mapping)):
        return
    ours, oracle = simulate(program, memory, mapping).total_seconds, float(Clock(program, memory, mapping).run())
    if not _encloses(program, mapping):
        assert ours == pytest.approx(oracle, rel=1e-9, abs=1e-9)
    else:  # of a copy that is waited for later, the wait of the mean is charged
        assert ours <= oracle + 1e-9


@THOROUGH
@given(_cases(2))
def test_laws_hold_with_branches(case: tuple[Program, Mapping]) -> None:
    program, mapping = case
    memory = small_hierarchy()
    assert validate(program, memory, Mapping()) == []
    violations = validate(program, memory, mapping)
    if any(v.rule in ("branch", "loop", "reference") for v in violations):
        return
    found = simulate(program, memory, mapping)
    assert found.total_seconds == pytest.approx(found.elapsed_seconds.sum() + found.stall_seconds.sum())
    assert found.link_busy_seconds.sum() == pytest.approx(found.link_bytes.sum() / memory.links[0].bytes_per_second)
    home_bytes = (found.layer_bytes[:, 0] * program.trip_counts).sum() + found.link_bytes.sum()
    assert home_bytes / memory.layers[0].bytes_per_second <= found.total_seconds + 1e-9
    bound = lower_bound(program, memory)
    assert bound <= home_seconds(program, memory) + 1e-9
    if not violations:
        assert bound <= found.total_seconds + 1e-9


def _program(*tensors: Tensor, weights: tuple[float, float] = (0.5, 0.5)) -> Program:
    """A step, two branches of three steps, a step."""
    trips = [1.0, *[weights[0]] * 3, *[weights[1]] * 3, 1.0]
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=2.0, trip_count=n) for t, n in enumerate(trips))
    conditional = Conditional(edges=(1, 4, 7), weights=weights)
    return Program(name="branches", instructions=steps, tensors=tensors, conditionals=(conditional,))


MEMORY = small_hierarchy(8)


def _rules(program: Program, residencies: list[Residency], transfers: list[Transfer]) -> set[str]:
    mapping = Mapping(residencies=tuple(residencies), transfers=tuple(transfers))
    return {v.rule for v in validate(program, MEMORY, mapping)}


def _place(tensor: int, offset: int, start: int, end: int) -> Residency:
    return Residency(tensor=tensor, layer=1, offset_bytes=offset, start_step=start, end_step=end)


def _copy(tensor: int, target: int, after: int, before: int, size: int = 8) -> Transfer:
    return Transfer(tensor=tensor, source=HOME, target=target, start_after=after, done_before=before, size_bytes=size)


def test_two_branches_may_use_the_same_addresses() -> None:
    weights = [
        Tensor(name=f"w{i}", size_bytes=8, is_parameter=True, uses=(Use(step=s, bytes=8),)) for i, s in ((0, 3), (1, 6))
    ]
    program = _program(*weights)
    places = [_place(0, 0, 2, 4), _place(1, 0, 5, 7)]
    assert _rules(program, places, [_copy(0, 0, 1, 3), _copy(1, 1, 4, 6)]) == set()
    timeline = simulate(
        program, MEMORY, Mapping(residencies=tuple(places), transfers=(_copy(0, 0, 1, 3), _copy(1, 1, 4, 6)))
    )
    assert timeline.total_seconds == pytest.approx(2 + 6 + 2 + 6)  # each branch waits 8 - 2 of the copy, half the time


def test_a_copy_that_rounding_leaves_unfinished_is_finished_when_it_was_waited_for() -> None:
    """At three bytes a second what is left of three copies is no number of bits."""
    seconds = [0.7, 1.7, 0.1, 1.7, 1 / 3, 1 / 3, 1 / 3, 0.7, 1.7, 0.3]
    steps = tuple(
        Instruction(name=f"i{t}", compute_seconds=x, trip_count=0.5 if 1 <= t < 9 else 1) for t, x in enumerate(seconds)
    )
    sizes, spans = (17, 36, 21), ((1, 4), (2, 4), (1, 3))
    program = Program(
        name="thirds",
        instructions=steps,
        tensors=tuple(
            Tensor(name=f"w{i}", size_bytes=size, is_parameter=True, uses=(Use(step=4, bytes=size),))
            for i, size in enumerate(sizes)
        ),
        conditionals=(Conditional(edges=(1, 5, 9), weights=(0.5, 0.5)),),
    )
    memory = small_hierarchy(100)
    memory = replace(memory, links=(replace(memory.links[0], bytes_per_second=3.0),))
    mapping = Mapping(
        residencies=tuple(_place(i, (0, 20, 60)[i], after + 1, 5) for i, (after, _) in enumerate(spans)),
        transfers=tuple(_copy(i, i, *span, size) for i, (span, size) in enumerate(zip(spans, sizes, strict=True))),
    )
    assert validate(program, memory, mapping) == []
    found = simulate(program, memory, mapping)
    assert found.total_seconds == pytest.approx(float(Clock(program, memory, mapping).run()), rel=1e-12)
    first = 0.7 + 0.5 * (1.7 + (17 + 21) / 3)  # copies 0 and 2 are issued with step 2, each moment counts half
    last = first + 0.5 * 36 / 3
    assert found.transfer_finish_seconds == pytest.approx([first, last, first], rel=1e-12)


def test_a_copy_lies_in_one_branch_or_around_both() -> None:
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=3, bytes=8), Use(step=7, bytes=8)))
    program = _program(weight)
    around = [_place(0, 0, 1, 8)]
    assert _rules(program, around, [_copy(0, 0, 0, 7)]) == set()
    assert _rules(program, around, [_copy(0, 0, 0, 3)]) == {"branch", "stale"}
    assert "branch" in _rules(program, [_place(0, 0, 2, 8)], [_copy(0, 0, 1, 5)])
    for due in (4, 6):  # issued between the branches
        assert "branch" in _rules(program, [_place(0, 0, 4, 8)], [_copy(0, 0, 3, due)])
    assert "stale" in _rules(program, [_place(0, 0, 2, 8)], [_copy(0, 0, 1, 3)])  # the other branch does not copy


def test_a_result_is_in_fast_memory_if_every_branch_leaves_it_there() -> None:
    define = UseKind.DEFINE
    result = Tensor(
        name="r",
        size_bytes=8,
        uses=(Use(step=3, bytes=8, kind=define), Use(step=6, bytes=8, kind=define), Use(step=7, bytes=8)),
    )
    program = _program(result)
    assert _rules(program, [_place(0, 0, 3, 8)], []) == set()
    assert _rules(program, [_place(0, 0, 3, 4), _place(0, 0, 6, 8)], []) == {"stale"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": (1, 4, 9), "weights": (0.5, 0.5)}, "edges in order"),
        ({"edges": (1, 4, 3), "weights": (0.5, 0.5)}, "edges in order"),
        ({"edges": (1, 4, 7), "weights": (0.5, 0.6)}, "sum to 1"),
        ({"edges": (1, 4, 7), "weights": (0.0, 1.0)}, "weight > 0"),
        ({"edges": (1, 4, 7), "weights": (1.0,)}, "weight > 0 for each"),
    ],
)
def test_impossible_conditionals_are_refused(change: dict[str, tuple[float, ...]], message: str) -> None:
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(8))
    with pytest.raises(InputError, match=message):
        Program(name="p", instructions=steps, tensors=(), conditionals=(Conditional(**change),))  # type: ignore[arg-type]


def test_branches_and_loops_must_nest() -> None:
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(8))
    conditional = Conditional(edges=(1, 3, 5, 7), weights=(0.25, 0.25, 0.5))
    for span in ((2, 4), (1, 5), (3, 7), (0, 2)):
        loop = Loop(start_step=span[0], end_step=span[1], trip_count=1)
        with pytest.raises(InputError, match="must nest"):
            Program(name="p", instructions=steps, tensors=(), loops=(loop,), conditionals=(conditional,))


def test_what_one_branch_leaves_undefined_is_refused() -> None:
    one = Tensor(name="r", size_bytes=8, uses=(Use(step=3, bytes=8, kind=UseKind.DEFINE), Use(step=7, bytes=8)))
    with pytest.raises(InputError, match="a branch without its definition"):
        _program(one)
    other = Tensor(name="r", size_bytes=8, uses=(Use(step=3, bytes=8, kind=UseKind.DEFINE), Use(step=6, bytes=8)))
    with pytest.raises(InputError, match="a branch without its definition"):
        _program(other)
    output = Tensor(name="r", size_bytes=8, is_output=True, uses=(Use(step=3, bytes=8, kind=UseKind.DEFINE),))
    with pytest.raises(InputError, match="an output that a branch leaves undefined"):
        _program(output)


def test_trip_counts_follow_from_loops_and_weights() -> None:
    steps = [Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(8)]
    with pytest.raises(InputError, match=r"its loops run it 0\.25 times"):
        Program(
            name="p",
            instructions=tuple(steps),
            tensors=(),
            conditionals=(Conditional(edges=(1, 4, 7), weights=(0.25, 0.75)),),
        )


def test_live_spans_follow_every_branch() -> None:
    read_in_one = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=5, bytes=8),))
    after = Tensor(name="v", size_bytes=8, is_parameter=True, uses=(Use(step=7, bytes=8),))
    program = _program(read_in_one, after)
    assert program.live_steps == (((0, 1), (4, 6)), ((0, 8),))  # the other branch has no need of it


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(2, 4).flatmap(lambda n: st.tuples(st.just(small_hierarchy(num_layers=n)), programs())), st.data())
def test_a_conditional_at_the_end_changes_nothing_before_it(
    case: tuple[Hierarchy, Program], data: st.DataObject
) -> None:
    """The clock of branches says of every copy and step what the plain one says."""
    memory, program = case
    mapping = data.draw(st.one_of(likely_mappings(program, memory), loose_mappings(program, memory)))
    end = program.num_steps
    nothing = tuple(Instruction(name=f"branch{k}", compute_seconds=0.0, trip_count=0.5) for k in range(2))
    conditional = Conditional(edges=(end, end + 1, end + 2), weights=(0.5, 0.5))
    longer = replace(program, instructions=(*program.instructions, *nothing), conditionals=(conditional,))
    plain, found = simulate(program, memory, mapping), simulate(longer, memory, mapping)
    assert found.total_seconds == pytest.approx(plain.total_seconds)
    assert found.transfer_finish_seconds == pytest.approx(plain.transfer_finish_seconds)
    assert found.link_busy_seconds == pytest.approx(plain.link_busy_seconds)
    assert found.stall_seconds[: end + 1] == pytest.approx(plain.stall_seconds)

"""Copies of the program that transfers do instead: only where nobody misses what the instruction would have left."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds.bound import capacity_bound
from mallocgame.errors import InputError
from mallocgame.judge.replaced import replaced_copies
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer, serving_layers
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from tests.judge.concrete import Machine
from tests.strategies import branching_programs, likely_mappings, programs, small_hierarchy

MEMORY = small_hierarchy(8)


@st.composite
def copying_programs(draw: st.DrawFn) -> Program:
    """A random program with a step that copies a parameter to another tensor, which later steps use and may change."""
    program = draw(st.one_of(programs(), branching_programs()))
    step = draw(st.integers(0, program.num_steps - 1))
    apart = [replace(t, uses=tuple(u for u in t.uses if u.step != step)) for t in program.tensors]
    apart = [t for t in apart if t.is_parameter or t.uses]
    source = draw(st.sampled_from([i for i, t in enumerate(apart) if t.is_parameter] or [-1]))
    if source < 0:
        source = len(apart)
        apart.append(Tensor(name="source", size_bytes=4, is_parameter=True, uses=()))
    size = apart[source].size_bytes
    read = Use(step=step, bytes=size)
    apart[source] = replace(apart[source], uses=tuple(sorted((*apart[source].uses, read), key=lambda u: u.step)))
    kinds = st.sampled_from((UseKind.READ, UseKind.READ, UseKind.UPDATE, UseKind.DEFINE))
    later = draw(st.sets(st.integers(step + 1, program.num_steps), max_size=3)) - {program.num_steps}
    uses = [Use(step=step, bytes=size, kind=UseKind.DEFINE)]
    uses += [Use(step=t, bytes=draw(st.integers(0, 4)), kind=draw(kinds)) for t in sorted(later)]
    is_output = draw(st.booleans())
    result = Tensor(name="result", size_bytes=size, uses=tuple(uses), is_output=is_output)
    steps = [replace(i, is_replaceable=t == step) for t, i in enumerate(program.instructions)]
    try:
        return replace(program, instructions=tuple(steps), tensors=(*apart, result))
    except InputError:  # a branch leaves something undefined
        everywhere = replace(result, is_parameter=True)
        kept = [t if t.is_parameter else replace(t, is_parameter=True) for t in apart]
        return replace(program, instructions=tuple(steps), tensors=(*kept, everywhere))


def _plain(program: Program) -> Program:
    return replace(program, instructions=tuple(replace(i, is_replaceable=False) for i in program.instructions))


@st.composite
def copied_in(draw: st.DrawFn, program: Program) -> Mapping:
    """A likely mapping in which the result is brought to fast memory after the copy, and perhaps written back."""
    index, num_steps = len(program.tensors) - 1, program.num_steps
    result = program.tensors[index]
    others = (*program.tensors[:-1], replace(result, movable=False))
    mapping = draw(likely_mappings(replace(_plain(program), tensors=others), MEMORY))
    step = next(iter(program.replaceable_copies))
    after = draw(st.integers(step, num_steps - 1))
    due = draw(st.integers(after + 1, num_steps))
    end = draw(st.integers(min(due + 1, num_steps), num_steps))
    place = Residency(
        tensor=index, layer=1, offset_bytes=draw(st.integers(0, 4)), start_step=min(after + 1, end - 1), end_step=end
    )
    number, size = len(mapping.residencies), result.size_bytes
    both = {"tensor": index, "size_bytes": size}
    moves = [Transfer(**both, source=HOME, target=number, start_after=after, done_before=due)]
    if draw(st.booleans()) and due < end:
        back = draw(st.integers(due, end - 1))
        last = draw(st.integers(back + 1, end))
        moves.append(Transfer(**both, source=number, target=HOME, start_after=back, done_before=last))
    return Mapping(residencies=(*mapping.residencies, place), transfers=(*mapping.transfers, *moves))


def test_nobody_misses_a_replaced_copy() -> None:
    seen: Counter[bool] = Counter()

    @settings(
        max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
    )
    @given(copying_programs().flatmap(lambda p: st.tuples(st.just(p), copied_in(p))))
    def check(case: tuple[Program, Mapping]) -> None:
        program, mapping = case
        if validate(program, MEMORY, mapping):
            return
        found = replaced_copies(program, mapping, serving_layers(program, mapping))
        seen[bool(found)] += 1
        seconds = simulate(program, MEMORY, mapping).total_seconds
        assert seconds <= simulate(_plain(program), MEMORY, mapping).total_seconds
        assert lower_bound(program, MEMORY) <= seconds * (1 + 1e-9)
        for seed in range(4 if found else 0):
            assert not Machine(program, MEMORY, mapping, tuple(found)).run(seed), (program, mapping)

    check()
    assert min(seen[True], seen[False]) > 25, seen


def _cached(*, changed_at: int = -1) -> Program:
    """Step 1 copies a cache, which is an argument, and steps 3 and 4 change and read the copy, an output."""
    steps = tuple(
        Instruction(name=f"i{t}", compute_seconds=8.0, is_replaceable=t == 1, opcode="copy" if t == 1 else "")
        for t in range(5)
    )
    changed = (Use(step=changed_at, bytes=4, kind=UseKind.UPDATE),) if changed_at >= 0 else ()
    cache = Tensor(name="cache", size_bytes=4, is_parameter=True, uses=(Use(step=1, bytes=4), *changed))
    copy = Tensor(
        name="copy",
        size_bytes=4,
        is_output=True,
        uses=(
            Use(step=1, bytes=4, kind=UseKind.DEFINE),
            Use(step=3, bytes=1, kind=UseKind.UPDATE),
            Use(step=4, bytes=4),
        ),
    )
    return Program(name="cached", instructions=steps, tensors=(cache, copy))


def _brought(due: int = 3, back: bool = True) -> Mapping:
    place = Residency(tensor=1, layer=1, offset_bytes=0, start_step=2, end_step=5)
    moves = [Transfer(tensor=1, source=HOME, target=0, start_after=1, done_before=due, size_bytes=4)]
    if back:
        moves.append(Transfer(tensor=1, source=0, target=HOME, start_after=3, done_before=5, size_bytes=4))
    return Mapping(residencies=(place,), transfers=tuple(moves))


def test_a_cache_that_is_not_donated_is_copied_beside_other_work() -> None:
    program = _cached()
    assert validate(program, MEMORY, _brought()) == []
    line = simulate(program, MEMORY, _brought())
    assert line.elapsed_seconds.tolist() == [8.0, 0.0, 8.0, 8.0, 8.0]
    assert line.total_seconds == 32.0  # the copy hides under step 2, the way back under step 4
    at_home = simulate(program, MEMORY, Mapping())
    assert at_home.elapsed_seconds.tolist() == [8.0, 8.0, 8.0, 8.0, 8.0]
    assert at_home.layer_bytes[1].tolist() == [8, 0]


def test_doubt_leaves_the_copy_where_it_is() -> None:
    def is_replaced(program: Program, mapping: Mapping) -> bool:
        return bool(replaced_copies(program, mapping, serving_layers(program, mapping)))

    assert is_replaced(_cached(), _brought())
    assert not is_replaced(_cached(changed_at=2), _brought())  # the source is written while it is still being read
    assert is_replaced(_cached(changed_at=3), _brought())
    late = _brought(due=4)  # step 3 finds it at home
    assert not is_replaced(_cached(), late)
    assert not is_replaced(_cached(), Mapping())
    born = Mapping(residencies=(Residency(tensor=1, layer=1, offset_bytes=0, start_step=1, end_step=5),))
    assert not is_replaced(_cached(), born)


def test_a_copy_inside_a_loop_whose_source_the_loop_changes_stays() -> None:
    program = _looped()
    place = Residency(tensor=1, layer=1, offset_bytes=0, start_step=2, end_step=4)
    mapping = Mapping(
        residencies=(place,),
        transfers=(Transfer(tensor=1, source=HOME, target=0, start_after=1, done_before=3, size_bytes=4),),
    )
    assert validate(program, MEMORY, mapping) == []
    assert replaced_copies(program, mapping, serving_layers(program, mapping)) == []


def _looped() -> Program:
    """The copy stands before a loop that brings it in each round, and changes the source."""
    loop = Loop(start_step=1, end_step=4, trip_count=3)
    steps = tuple(
        Instruction(name=f"i{t}", compute_seconds=1.0, is_replaceable=t == 0, trip_count=3 if t else 1)
        for t in range(4)
    )
    source = Tensor(
        name="s",
        size_bytes=4,
        is_parameter=True,
        uses=(Use(step=0, bytes=4), Use(step=3, bytes=4, kind=UseKind.UPDATE)),
    )
    copy = Tensor(name="c", size_bytes=4, uses=(Use(step=0, bytes=4, kind=UseKind.DEFINE), Use(step=3, bytes=4)))
    return Program(name="looped", instructions=steps, tensors=(source, copy), loops=(loop,))


def test_a_replaced_copy_still_moves_its_bytes() -> None:
    """A cache that is not donated is read once whoever copies it, and the copy, an output, written once."""
    program = _cached()
    idle = tuple(replace(i, compute_seconds=0.0) for i in program.instructions)
    quick = replace(program, instructions=idle)
    read, defined = quick.replaceable_copies[1] or (0, 0)
    per_second = MEMORY.layers[0].bytes_per_second
    assert quick.uses.bytes[[read, defined]].tolist() == [4, 4]
    assert lower_bound(quick, MEMORY) >= 4 / per_second
    for mapping in (Mapping(), _brought()):
        assert lower_bound(quick, MEMORY) <= simulate(quick, MEMORY, mapping).total_seconds


def test_what_is_no_plain_copy_is_refused() -> None:
    program = _cached()
    for step in (0, 3, 4):
        steps = tuple(replace(i, is_replaceable=t == step) for t, i in enumerate(program.instructions))
        with pytest.raises(InputError, match=rf"step {step} .*reads one tensor and defines another"):
            replace(program, instructions=steps)


def test_solvers_plan_with_it_and_bounds_hold() -> None:
    program = _cached()
    found = anneal(program, MEMORY, steps=200, start=_brought())
    assert found.seconds <= 32.0
    assert capacity_bound(program, MEMORY, seconds=1.0).seconds <= 32.0
    assert found.lower_bound_seconds <= 32.0

"""Conditionals as single steps: what is valid there is valid in the program itself."""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.collapse import collapse, is_straight
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Conditional, Instruction, Program, Tensor, Use, UseKind
from tests.strategies import branching_programs, likely_mappings, small_hierarchy

MEMORY = small_hierarchy(8)


def test_a_valid_mapping_of_the_collapsed_program_is_valid() -> None:
    seen: Counter[bool] = Counter()

    @settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(branching_programs().flatmap(lambda p: st.tuples(st.just(p), likely_mappings(collapse(p).program, MEMORY))))
    def check(case: tuple[Program, Mapping]) -> None:
        program, mapping = case
        view = collapse(program)
        assert is_straight(view.program)
        if validate(view.program, MEMORY, mapping):
            return
        seen[bool(mapping.residencies and program.conditionals)] += 1
        assert validate(program, MEMORY, view.expand(mapping)) == []

    check()
    assert seen[True] > 60


def test_a_result_may_be_born_in_a_conditional() -> None:
    steps = tuple(Instruction(name=f"i{t}", compute_seconds=1.0, trip_count=0.5 if 1 <= t < 5 else 1) for t in range(6))
    define = UseKind.DEFINE
    result = Tensor(
        name="r",
        size_bytes=8,
        uses=(Use(step=2, bytes=8, kind=define), Use(step=4, bytes=8, kind=define), Use(step=5, bytes=8)),
    )
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(Use(step=3, bytes=8),))
    conditional = Conditional(edges=(1, 3, 5), weights=(0.5, 0.5))
    program = Program(name="p", instructions=steps, tensors=(result, weight), conditionals=(conditional,))
    view = collapse(program)
    assert view.program.num_steps == 3
    assert [i.compute_seconds for i in view.program.instructions] == [1.0, 2.0, 1.0]
    assert [(u.step, u.kind.name, u.bytes) for u in view.program.tensors[0].uses] == [(1, "DEFINE", 8), (2, "READ", 8)]
    assert [(u.step, u.bytes) for u in view.program.tensors[1].uses] == [(1, 4)]  # half the time
    assert view.births == {(0, 1): 2}
    home = simulate(program, MEMORY, Mapping()).total_seconds
    assert home >= simulate(view.program, MEMORY, Mapping()).total_seconds > 0

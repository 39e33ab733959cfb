"""When a prefetch begins, and which uses are kept: two details that a wrong sign would turn round."""

import pytest

from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.workloads.compiler_loop.overrides import Action, overrides_of
from tests.workloads.compiler_loop.fake import goal, program


def test_a_sliced_copy_is_asked_for_when_its_first_slice_begins() -> None:
    weight, value = goal().residencies
    slices = tuple(
        Transfer(
            tensor=0,
            source=HOME,
            target=0,
            start_after=start,
            done_before=3,
            size_bytes=25,
            slice_offset_bytes=25 * number,
        )
        for number, start in enumerate((0, 2))
    )
    for order in (slices, slices[::-1]):
        told = overrides_of(program(), Mapping(residencies=(weight, value), transfers=order))
        assert [d.start_after for d in told if d.action is Action.PREFETCH] == [0]


@pytest.mark.parametrize(("operand", "kept"), [(0, []), (1, [2])])
def test_a_use_is_not_kept_where_what_is_served_fast_may_be_written_in_place(operand: int, kept: list[int]) -> None:
    """The first operand is what an instruction writes in place, so a matcher of its results hits that too."""
    names = ("make_a", "make_b", "both", "last")
    a = (Use(step=0, bytes=4, kind=UseKind.DEFINE), Use(step=2, bytes=4, operand=operand))
    b = (
        Use(step=1, bytes=4, kind=UseKind.DEFINE),
        Use(step=2, bytes=4, operand=2),
        Use(step=3, bytes=4, operand=0),
    )
    made = Program(
        name="two",
        instructions=tuple(Instruction(name=n, compute_seconds=1.0) for n in names),
        tensors=(Tensor(name="make_a", size_bytes=4, uses=a), Tensor(name="make_b", size_bytes=4, uses=b)),
    )
    fast = (
        Residency(tensor=0, layer=1, offset_bytes=0, start_step=0, end_step=3),
        Residency(tensor=1, layer=1, offset_bytes=4, start_step=1, end_step=2),
    )
    told = overrides_of(made, Mapping(residencies=fast))
    assert [d.step for d in told if d.tensor == 1 and d.action is Action.KEEP and d.step == 2] == kept

"""What becomes one residency of XLA's intervals."""

import pytest

from mallocgame.regions import Conditional
from mallocgame.workloads.xla.mapping import _join, _Piece

BRANCHES = Conditional(edges=(45, 49, 60), weights=(0.5, 0.5))


def piece(start_step: int, end_step: int, *, offset_bytes: int = 0, born: bool = False) -> _Piece:
    return _Piece(tensor=0, offset_bytes=offset_bytes, start_step=start_step, end_step=end_step, born=born, copies=[])


@pytest.mark.parametrize("parameter", [49, 50, 53])
def test_a_branch_takes_over_at_its_parameter_wherever_that_stands(parameter: int) -> None:
    joined = _join([piece(32, 46, born=True), piece(parameter, 59)], [BRANCHES])
    assert [(p.start_step, p.end_step) for p in joined] == [(32, 59)]


def test_what_a_branch_makes_or_holds_elsewhere_or_what_had_ended_before_stays_apart() -> None:
    before = piece(32, 46, born=True)
    for other in (piece(50, 59, born=True), piece(50, 59, offset_bytes=512)):
        assert len(_join([piece(32, 46, born=True), other], [BRANCHES])) == 2
    assert len(_join([piece(32, 40, born=True), piece(50, 59)], [BRANCHES])) == 2
    assert len(_join([before, piece(50, 59)], [])) == 2

"""Copies before loops: where they are asked for."""

from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.regions import Loop
from mallocgame.workloads.compiler_loop.loop_operands import given_to_loops, place_of_copy
from mallocgame.workloads.compiler_loop.moves import WantedMapping, moves
from mallocgame.workloads.compiler_loop.overrides import Action, overrides_of
from mallocgame.workloads.xla.records import Position

OPERAND = Position(instruction="while.1", operand=0, index=(3,))
INNER = Position(instruction="while.2", operand=0, index=(1,))
OPERANDS = {(0, 8): OPERAND, (0, 6): INNER}


def program() -> Program:
    """A weight that is read before a loop of steps 2 to 7, and in a loop inside of it, of steps 4 and 5."""
    names = ("early", "wait", "head", "body", "deep.1", "deep.2", "while.2", "tail", "while.1", "end")
    counts = (1, 1, 4, 4, 8, 8, 4, 4, 1, 1)
    return Program(
        name="loops",
        instructions=tuple(
            Instruction(name=n, compute_seconds=1.0, trip_count=c) for n, c in zip(names, counts, strict=True)
        ),
        tensors=(
            Tensor(
                name="weight.0",
                size_bytes=8,
                is_parameter=True,
                hoistable=True,
                uses=(
                    Use(step=0, bytes=8, kind=UseKind.READ, operand=1),
                    Use(step=3, bytes=8, kind=UseKind.READ, operand=2),
                    Use(step=5, bytes=8, kind=UseKind.READ, operand=0),
                ),
            ),
        ),
        loops=(Loop(start_step=2, end_step=8, trip_count=4), Loop(start_step=4, end_step=6, trip_count=2)),
    )


def copied(start_after: int, done_before: int, end_step: int) -> Mapping:
    stay = Residency(tensor=0, layer=1, offset_bytes=0, start_step=start_after + 1, end_step=end_step)
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=start_after, done_before=done_before, size_bytes=8)
    return Mapping(residencies=(stay,), transfers=(copy,))


def test_a_copy_is_asked_for_by_the_outermost_loop_that_it_enters() -> None:
    uses = program().tensors[0].uses
    early, body, deep = ("early", 1), ("body", 2), ("deep.2", 0)
    for filled, served, place, step in (
        (0, uses, Position(instruction=early[0], operand=early[1]), 0),
        (2, uses[1:], OPERAND, 2),
        (3, uses[1:], Position(instruction=body[0], operand=body[1]), 3),
        (4, uses[2:], INNER, 4),
        (5, uses[2:], Position(instruction=deep[0], operand=deep[1]), 5),
    ):
        assert place_of_copy(program(), OPERANDS, 0, filled, served) == (place, step)
    assert place_of_copy(program(), {}, 0, 2, uses[1:]) == (Position(instruction="body", operand=2), 3)
    assert place_of_copy(program(), OPERANDS, 0, 9, ()) is None
    assert given_to_loops(OPERANDS) == {0}


def test_overrides_and_moves_order_copies_before_loops() -> None:
    mapping = copied(0, 2, 8)
    (order,) = (o for o in overrides_of(program(), mapping, OPERANDS) if o.action is Action.PREFETCH)
    assert (order.place, order.step, order.start_after) == (OPERAND, 2, 0)
    (plain,) = (o for o in overrides_of(program(), mapping) if o.action is Action.PREFETCH)
    assert plain.place.instruction == "body"
    late = copied(1, 2, 8)
    wanted = WantedMapping.of(program(), late, OPERANDS)
    stalls = [0.0, 0.0, 1.0, *[0.0] * 8]
    found = [o for m in moves(program(), wanted.parts, stalls, wanted) for o in m.overrides]  # type: ignore[arg-type]
    assert {o.place for o in found if o.action is Action.PREFER} == {OPERAND}

"""A tiny problem that has one of everything: solving it compiles what any other problem will call."""

from mallocgame.hierarchy import preset
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from mallocgame.solver import Problem

KIB = 1024


def tiny_problem() -> Problem:
    """Return a program of six instructions with a loop, a held parameter, an in-place update and an output, on v5e."""
    trips = (1, 1, 3, 3, 1, 1)
    instructions = tuple(
        Instruction(name=f"op.{step}", compute_seconds=1e-8, trip_count=trip, fixed_bytes=(KIB,))
        for step, trip in enumerate(trips)
    )
    held = Tensor(name="weight", size_bytes=64 * KIB, is_parameter=True, holdable=True, uses=_reads(64 * KIB, 1, 2, 5))
    read = Tensor(name="input", size_bytes=32 * KIB, is_parameter=True, uses=_reads(32 * KIB, 0, 4))
    state = Tensor(
        name="state",
        size_bytes=16 * KIB,
        uses=(
            Use(step=1, bytes=16 * KIB, kind=UseKind.DEFINE),
            Use(step=2, bytes=16 * KIB),
            Use(step=3, bytes=16 * KIB, kind=UseKind.UPDATE),
            Use(step=4, bytes=16 * KIB),
        ),
    )
    output = Tensor(
        name="output", size_bytes=16 * KIB, is_output=True, uses=(Use(step=5, bytes=16 * KIB, kind=UseKind.DEFINE),)
    )
    loops = (Loop(start_step=2, end_step=4, trip_count=3),)
    tensors = (held, read, state, output)
    return Problem(Program(name="tiny", instructions=instructions, tensors=tensors, loops=loops), preset("v5e"))


def _reads(size_bytes: int, *steps: int) -> tuple[Use, ...]:
    return tuple(Use(step=step, bytes=size_bytes) for step in steps)

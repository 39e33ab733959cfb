"""What is not recomputed, as a program with the host as its home layer: the judge prices it, every solver can play it.

One instruction per region, pass and iteration of its loop; one tensor per value and iteration, made in the forward pass
and read in the backward pass. Layer 0 is the host, layer 1 the device memory that is left. The link is the judge's: one
engine for both directions, at the slower of the two rates, and hidden behind all computing; ``decide`` prices overlap
with the chip's own figures.
"""

from collections.abc import Sequence

from mallocgame.checkpointing import CheckpointProblem, Choice
from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer
from mallocgame.mapping import Mapping
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind

HOST_BYTES = 2**42
MAX_TENSORS = 20_000


def as_program(
    problem: CheckpointProblem, choices: Sequence[Choice], budget_bytes: int, *, hbm_bytes_per_second: float
) -> tuple[Program, Hierarchy]:
    """Return the keep-or-offload problem that choices leave: values that are kept or offloaded, and entries.

    Raises:
        InputError: no memory is left for them, or there are too many.
    """
    values = stored_values(problem, choices)
    count = sum(problem.regions[problem.nodes[i].region].iterations for i in values)
    left = budget_bytes - max((region.peak_bytes for region in problem.regions), default=0) + _entry_bytes(problem)
    if count > MAX_TENSORS:
        raise InputError(f"{count} values in all iterations, expected at most {MAX_TENSORS}")
    if left <= 0 or not values:
        raise InputError("nothing is kept or offloaded within this budget: there is nothing to place")
    forward = [(r, i) for r, region in enumerate(problem.regions) for i in range(region.iterations)]
    step_of = {key: step for step, key in enumerate(forward)}
    tensors = []
    for number in values:
        node = problem.nodes[number]
        region = problem.regions[node.region]
        size = max(node.size_bytes // region.iterations, 1)
        for i in range(region.iterations):
            made = step_of[node.region, i]
            uses = (
                Use(step=made, bytes=size, kind=UseKind.DEFINE),
                Use(step=2 * len(forward) - 1 - made, bytes=size, operand=0),
            )
            tensors.append(Tensor(name=f"{node.name}[{i}]", size_bytes=size, uses=uses))
    program = Program(name="keep-or-offload", instructions=_instructions(problem, forward), tensors=tuple(tensors))
    return program, _hierarchy(problem, left, hbm_bytes_per_second)


def stored_values(problem: CheckpointProblem, choices: Sequence[Choice]) -> list[int]:
    """Return the nodes that are kept or offloaded, entries among them."""
    return [
        i
        for i, (node, choice) in enumerate(zip(problem.nodes, choices, strict=True))
        if node.name and node.size_bytes and (choice != Choice.RECOMPUTE or node.is_entry)
    ]


def choices_of(
    problem: CheckpointProblem, choices: Sequence[Choice], program: Program, mapping: Mapping
) -> list[Choice]:
    """Return choices after a mapping: a value whose tensors are not all in device memory throughout is offloaded."""
    found = list(choices)
    whole = {
        residency.tensor
        for residency in mapping.residencies
        if residency.start_step <= program.tensors[residency.tensor].uses[0].step
        and residency.end_step > program.tensors[residency.tensor].uses[-1].step
    }
    number = 0
    for i in stored_values(problem, choices):
        node = problem.nodes[i]
        iterations = problem.regions[node.region].iterations
        stays = all(number + k in whole for k in range(iterations))
        found[i] = (Choice.RECOMPUTE if node.is_entry else Choice.KEEP) if stays else Choice.OFFLOAD
        number += iterations
    return found


def _entry_bytes(problem: CheckpointProblem) -> int:
    return sum(node.size_bytes for node in problem.nodes if node.is_entry)


def _instructions(problem: CheckpointProblem, forward: Sequence[tuple[int, int]]) -> tuple[Instruction, ...]:
    regions = problem.regions
    one_way = [
        Instruction(
            name=f"forward {regions[r].name}[{i}]", compute_seconds=regions[r].forward_seconds / regions[r].iterations
        )
        for r, i in forward
    ]
    back = [
        Instruction(
            name=f"backward {regions[r].name}[{i}]", compute_seconds=regions[r].backward_seconds / regions[r].iterations
        )
        for r, i in reversed(forward)
    ]
    return (*one_way, *back)


def _hierarchy(problem: CheckpointProblem, left_bytes: int, hbm_bytes_per_second: float) -> Hierarchy:
    rate = min(problem.out_bytes_per_second, problem.in_bytes_per_second)
    host = MemoryLayer(name="host", capacity_bytes=HOST_BYTES, bytes_per_second=rate)
    device = MemoryLayer(name="HBM", capacity_bytes=left_bytes, bytes_per_second=hbm_bytes_per_second)
    link = Link(name="host-HBM", pairs=((0, 1),), bytes_per_second=rate, shared_layer=None)
    return Hierarchy(name="host-HBM", layers=(host, device), links=(link,))

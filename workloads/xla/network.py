"""Collectives: which instructions are, and how long the links between chips would need for one, by arithmetic alone.

XLA's cost model charges a collective for its memory side; the network's time is nowhere in its log. The estimates are
those of ring algorithms, which use each chip's bandwidth best: n chips, B bytes of the whole array on each,
(n - 1) / n * B for a gather, a scatter or an all-to-all, twice that for an all-reduce, B for a permute.

Source: Thakur, Rabenseifner, Gropp, Optimization of Collective Communication Operations in MPICH, 2005.
"""

import re
from dataclasses import replace

from mallocgame.program import Instruction, Program
from mallocgame.workloads.hlo.aliases import Aliases
from mallocgame.workloads.hlo.module import HloInstruction, array_bytes, leaves
from mallocgame.workloads.xla.flight import Flight, flights
from mallocgame.workloads.xla.records import XlaLog

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")


def collective_of(aliases: Aliases, name: str) -> HloInstruction | None:
    """Return the collective that an instruction starts or is, looking into fusions; None if there is none.

    A fused collective counts where it starts, not where it goes on or ends.
    """
    instruction = aliases.instruction(name)
    opcode = instruction.opcode
    if opcode.removesuffix("-start") in _KINDS:
        return instruction
    bodies = [aliases.module.computations.get(called) for called in instruction.called("calls")]
    inside = [i for body in bodies if body is not None for i in body.instructions.values()]
    if opcode == "async-start" or (opcode == "fusion" and not _goes_on(inside)):
        return next((i for i in inside if i.opcode.removesuffix("-start") in _KINDS), None)
    return None


def _goes_on(inside: list[HloInstruction]) -> bool:
    """Whether a fusion takes part in a collective that another fusion starts."""
    fused = any("async_collective_fusion_config" in i.attributes for i in inside)
    return fused and not any('custom_call_target="AsyncCollectiveStart"' in i.attributes for i in inside)


def is_collective(aliases: Aliases, name: str) -> bool:
    """Whether an instruction is or starts a collective."""
    return collective_of(aliases, name) is not None


def network_bytes(collective: HloInstruction, num_devices: int) -> int:
    """Return the bytes that each chip sends in a collective, by a ring algorithm."""
    kind = collective.opcode.removesuffix("-start")
    sizes = [array_bytes(text) for _, text in leaves(collective.shape) if "S(" not in text]
    largest = max(sizes, default=0) if collective.opcode.endswith("-start") else sum(sizes)
    count = group_size(collective, num_devices)
    if kind == "collective-permute":
        return largest
    if kind == "reduce-scatter":
        return (count - 1) * largest
    around = largest * (count - 1) // count
    return 2 * around if kind == "all-reduce" else around


def group_size(collective: HloInstruction, num_devices: int) -> int:
    """Return how many chips take part in one group."""
    listed, iota = _LISTED.search(collective.attributes), _IOTA.search(collective.attributes)
    if listed:
        return max(len([word for word in listed[1].split(",") if word]), 1)
    if iota:
        return max(int(iota[2]), 1)
    mesh = _MESH.search(collective.attributes)
    if mesh:
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
        product = 1
        for axis in re.findall(r"'([^']*)'", mesh[2]):
            product *= int(sizes.get(axis, "1"))
        return max(product, 1)
    return max(num_devices, 1)


def with_network_times(
    program: Program, log: XlaLog, aliases: Aliases, *, bytes_per_second: float, num_devices: int
) -> Program:
    """Return the program with the network's time as compute time of each collective.

    A synchronous one takes at least that long. Of an asynchronous one, its end waits for what the instructions between
    start and end, at their slowest, do not cover.
    """
    of_start: dict[int, Flight] = {flight.start_step: flight for flight in flights(log, aliases)}
    instructions = list(program.instructions)
    for step, (_, name) in enumerate(log.schedule):
        collective = collective_of(aliases, name)
        if collective is None:
            continue
        seconds = network_bytes(collective, num_devices) / bytes_per_second
        flight = of_start.get(step)
        if flight is None:
            instructions[step] = _at_least(instructions[step], seconds)
        else:
            covered = sum(log.home_seconds[between] for between in range(step + 1, flight.end_step))
            instructions[flight.end_step] = _at_least(instructions[flight.end_step], seconds - covered)
    return replace(program, instructions=tuple(instructions))


def _at_least(instruction: Instruction, seconds: float) -> Instruction:
    return replace(instruction, compute_seconds=max(instruction.compute_seconds, seconds))

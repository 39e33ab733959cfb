"""Scheduled HLO text of any backend → a trace with analytic times: for programs without a compiler estimate.

Time is a roofline: operations over the chip's peak, bytes over each layer's bandwidth. There is no compiler mapping.
"""

import math
import os
from pathlib import Path

from mallocgame.errors import InputError, TraceError
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.workloads.hlo.aliases import FORWARDING, Aliases, Place, alias_groups
from mallocgame.workloads.hlo.module import HloModule, array_bytes, leaves, parse_hlo
from mallocgame.workloads.hlo.work import operand_bytes, operations, written_bytes
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.loops import find_loops
from mallocgame.workloads.xla.records import XlaLog

# Peak operations per second (bf16, dense): Google Cloud TPU system architecture pages; NVIDIA H100 SXM data sheet.
PEAK_OPERATIONS = {
    "v4": 275e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v6e": 918e12,
    "host-v5e": 197e12,
    "h100": 989e12,
}
_OPAQUE = frozenset({"call"})  # how CPU programs wrap what runs on several threads


def trace_from_hlo(
    file: str | os.PathLike[str], hierarchy: Hierarchy, *, operations_per_second: float | None = None, name: str = ""
) -> Trace:
    """Read scheduled HLO text.

    Args:
        file: the text, as ``compiled.as_text()`` or ``xla_dump_to`` writes it.
        hierarchy: the memory to plan for.
        operations_per_second: the chip's peak; None: the preset's of that name.
        name: the trace's name; empty: the file's.

    Raises:
        InputError: no peak is known for the hierarchy.
        TraceError: not scheduled HLO text, or a kind of program that is not supported.
    """
    peak = PEAK_OPERATIONS.get(hierarchy.name) if operations_per_second is None else operations_per_second
    if peak is None or not 0 < peak < math.inf:
        raise InputError(f"no peak rate known for {hierarchy.name}: give operations per second > 0")
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(file, None, f"cannot be read as text: {error}") from error
    module = parse_hlo(text, file)
    if "is_scheduled=true" not in text.partition("\n")[0]:
        raise TraceError(file, 1, "the module is not scheduled (no is_scheduled=true): dump it after optimizations")
    program = program_from_hlo(module, peak, path=file, name=name or Path(file).name.split(".")[0])
    return Trace(
        name=program.name,
        program=program,
        hierarchy=hierarchy,
        provenance={"hlo": Path(file).name, "operations_per_second": peak},
    )


def program_from_hlo(module: HloModule, peak: float, *, path: object = "HLO", name: str = "") -> Program:
    """Return the program of a scheduled module, with times from shapes and ``peak`` operations per second."""
    aliases = alias_groups(module, path, _OPAQUE)
    log = XlaLog(path=str(path), schedule=list(_flat(aliases, module.entry)))
    loops = find_loops(log, aliases)
    instructions = []
    for step, (computation, instruction_name) in enumerate(log.schedule):
        instruction = aliases.instruction(instruction_name)
        work = operations(module, module.computations[computation], instruction)
        instructions.append(
            Instruction(
                name=instruction_name,
                compute_seconds=work / peak,
                trip_count=math.prod(x.trip_count for x in loops if x.start_step <= step < x.end_step),
                opcode=instruction.opcode,
                computation=computation,
                source=module.source(instruction),
            )
        )
    tensors = _tensors(aliases, log.schedule)
    return Program(name=name or module.name, instructions=tuple(instructions), tensors=tensors, loops=loops)


def _flat(aliases: Aliases, computation: str) -> list[tuple[str, str]]:
    """Return (computation, instruction) in schedule order, each loop's condition and body before the loop."""
    loops = {loop.instruction: loop for loop in aliases.loops}
    steps: list[tuple[str, str]] = []
    for name in aliases.module.computations[computation].instructions:
        if name in loops:
            steps += _flat(aliases, loops[name].condition) + _flat(aliases, loops[name].body)
        steps.append((computation, name))
    return steps


def _tensors(aliases: Aliases, schedule: list[tuple[str, str]]) -> tuple[Tensor, ...]:
    module = aliases.module
    uses: dict[Place, list[Use]] = {}
    sizes: dict[Place, int] = {}
    constants: set[Place] = set()
    for step, (computation_name, name) in enumerate(schedule):
        computation, instruction = module.computations[computation_name], aliases.instruction(name)
        for index, text in leaves(instruction.shape):
            group = aliases.find((name, index))
            sizes[group] = max(sizes.get(group, 0), array_bytes(text))
            if instruction.opcode == "constant":
                constants.add(group)
        if instruction.opcode in FORWARDING or instruction.opcode == "constant":
            continue
        for operand, source in enumerate(instruction.operands):
            shape = computation.instructions[source].shape
            for index, text in leaves(shape):
                read = operand_bytes(module, computation, instruction, operand) if not index else array_bytes(text)
                if read:
                    use = Use(step=step, bytes=read, operand=operand, index=index)
                    uses.setdefault(aliases.find((source, index)), []).append(use)
        for index, text in leaves(instruction.shape):
            in_place = (name, index) in aliases.in_place
            size = written_bytes(module, computation, instruction, text) if in_place else array_bytes(text)
            kind = UseKind.UPDATE if in_place else UseKind.DEFINE
            use = Use(step=step, bytes=size, kind=kind, index=index)
            uses.setdefault(aliases.find((name, index)), []).append(use)
    entry = module.computations[module.entry]
    outputs = {aliases.find((entry.root, index)) for index, _ in leaves(entry.instructions[entry.root].shape)}
    parameters = {
        aliases.find((i.name, index)): i.name
        for i in entry.instructions.values()
        if i.opcode == "parameter"
        for index, _ in leaves(i.shape)
    }
    return tuple(
        Tensor(
            name=parameters.get(group, schedule[found[0].step][1]),
            size_bytes=sizes[group],
            uses=tuple(found),
            is_parameter=group in parameters,
            is_output=group in outputs,
        )
        for group, found in uses.items()
        if sizes[group] > 0 and (group not in constants or group in parameters)
    )

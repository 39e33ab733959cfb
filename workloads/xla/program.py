"""A log and the HLO that it is about → the Program, with every byte accounted for."""

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mallocgame.errors import TraceError
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.workloads.hlo.aliases import FORWARDING, Aliases, Place, alias_groups, only_names
from mallocgame.workloads.hlo.module import HloInstruction, HloModule, argument_label, array_bytes, leaves
from mallocgame.workloads.hlo.movement import inside
from mallocgame.workloads.hlo.shapes import array
from mallocgame.workloads.xla.flight import is_asynchronous
from mallocgame.workloads.xla.groups import Access, accesses, tensor_sizes
from mallocgame.workloads.xla.records import Position, XlaLog
from mallocgame.workloads.xla.regions import Assumed, Regions, find_regions
from mallocgame.workloads.xla.reschedule import Move, copy_moves, transferred, with_moves
from mallocgame.workloads.xla.times import (
    NEST_FACTOR,
    Observation,
    StepFacts,
    StepTimes,
    asynchronous_step,
    opaque_step,
    solve_step,
)

_FOREIGN = frozenset({"custom-call", "infeed", "outfeed"})  # XLA's cost model does not look inside
_MOVES_NOTHING = FORWARDING | {"constant"}
_NEXT_TO_NOTHING = 3e-9  # seconds, a few cycles: what XLA charges where it knows nothing
MAX_REPLACED = 0.005  # of the time with everything in default memory: copies below stay where they are
MAX_UNRECONCILED = 0.01  # of all accessed bytes


@dataclass(frozen=True, kw_only=True)
class XlaProgram:
    """A program, and how its parts correspond to the compiler's."""

    program: Program
    tensor_of: dict[Place, int]  # alias group: tensor
    aliases: Aliases
    times: tuple[StepTimes, ...]
    unreconciled_bytes: int  # accesses beyond what the elapsed times allow, over one execution of each step
    hidden_seconds: float  # how much less compute than stated could take, where it is only bounded
    moves_copies: bool  # that the pass made asynchronous, to where they end
    moves: tuple[Move, ...]  # from the log's schedule to the program's: copies that the pass made asynchronous
    copies: dict[str, float]  # copy instructions: their share of the time with everything in default memory
    transferred: frozenset[str]  # copies and slices that the pass made asynchronous, as the mapping does
    replaced: dict[str, float]  # those that the pass made asynchronous and the mapping does not
    beside: frozenset[int]  # steps of asynchronous computations: XLA charges them nothing


def build_program(
    log: XlaLog,
    module: HloModule,
    hierarchy: Hierarchy,
    *,
    name: str = "",
    others: Sequence[XlaLog] = (),
    assumed: Assumed | None = None,
    move_copies: bool = False,
    transfer_only: frozenset[str] | None = None,
) -> XlaProgram:
    """Build the program.

    Args:
        log: of the compilation whose mapping is the compiler's own.
        module: the HLO before memory-space assignment.
        hierarchy: the chip's memory.
        name: the program's name; empty: the module's.
        others: logs of the same program compiled with other mappings, which show compute times that the first hides.
        assumed: trip counts and branch weights that the program does not say.
        move_copies: move copies that the pass makes asynchronous, and the mapping cannot, to where they end; those that
            matter always are.
        transfer_only: of copies that the pass makes asynchronous, those that the mapping may; None: all that it can.

    Raises:
        TraceError: the log and the HLO do not fit together, hold something unsupported, or do not reconcile.
    """
    unmoved, scheduled = log, frozenset(computation for computation, _ in log.schedule)
    aliases = alias_groups(module, log.path, scheduled=scheduled)
    for computation, instruction in log.schedule:
        if aliases.computation_of.get(instruction) != computation:
            raise TraceError(log.path, None, f"the HLO dump has no instruction {instruction} in {computation}")
    strangers = [
        other.path for other in others if (other.schedule, other.home_seconds) != (log.schedule, log.home_seconds)
    ]
    if strangers:
        raise TraceError(strangers[0], None, f"another program or cost model than {log.path}")
    sizes = tensor_sizes(log, aliases)
    early = transferred(log, aliases, sizes)
    early = early if transfer_only is None else early & transfer_only
    move_copies = move_copies or _replaced_share(log, early) > MAX_REPLACED
    moves = copy_moves(log, aliases, early, late=move_copies)
    log = with_moves(log, moves)
    regions = find_regions(log, aliases, assumed)
    touched = list(accesses(log, aliases, sizes))
    beside = _beside(log, aliases)
    times, filled = _solve((log, *others), aliases, hierarchy, regions, sizes, touched, beside)
    tensors, tensor_of = _tensors(log, aliases, sizes, zip(touched, filled, strict=True), times)
    plain = early & _plain_copies(log, tensors)
    if plain != early:
        return build_program(
            unmoved,
            module,
            hierarchy,
            name=name,
            others=others,
            assumed=assumed,
            move_copies=move_copies,
            transfer_only=plain,
        )
    instructions = _instructions(log, aliases, regions, times, early)
    copies, replaced = _copies(log, instructions, early)
    residual = sum(step.residual_bytes for step in times)
    total = sum(sum(step.access_bytes) + step.fixed_bytes for step in times)
    if residual > MAX_UNRECONCILED * total:
        worst = max(range(len(times)), key=lambda step: times[step].residual_bytes)
        where = f"most of them in {log.schedule[worst][1]}"
        reason = f"{residual} of {total} accessed bytes do not reconcile with the elapsed times, {where}"
        raise TraceError(log.path, None, reason)
    program = Program(
        name=name or module.name,
        instructions=instructions,
        tensors=tensors,
        loops=regions.loops,
        conditionals=regions.conditionals,
    )
    return XlaProgram(
        program=program,
        tensor_of=tensor_of,
        aliases=aliases,
        times=times,
        unreconciled_bytes=residual,
        moves_copies=move_copies,
        moves=moves,
        copies=copies,
        transferred=early,
        replaced=replaced,
        beside=beside,
        hidden_seconds=sum(step.hidden_seconds * i.trip_count for step, i in zip(times, instructions, strict=True)),
    )


def padding_bytes(built: XlaProgram) -> tuple[int, ...]:
    """Return how much of each tensor's size is padding: its size without the largest array that is kept in it."""
    aliases, largest = built.aliases, [0] * len(built.program.tensors)
    for name in aliases.computation_of:
        for index, text in leaves(aliases.instruction(name).shape):
            tensor = built.tensor_of.get(aliases.find((name, index)))
            if tensor is not None:
                largest[tensor] = max(largest[tensor], array_bytes(text))
    sizes = (tensor.size_bytes for tensor in built.program.tensors)
    return tuple(max(size - used, 0) if used else 0 for size, used in zip(sizes, largest, strict=True))


def _beside(log: XlaLog, aliases: Aliases) -> frozenset[int]:
    """Return the steps of asynchronous computations that XLA's timeline leaves out: they run beside others."""
    computations = {call.computation for call in aliases.asynchronous}
    charged = {row.name for row in log.simulated}
    steps = (step for step, (computation, _) in enumerate(log.schedule) if computation in computations)
    return frozenset(step for step in steps if log.schedule[step][1] not in charged)


def _plain_copies(log: XlaLog, tensors: Iterable[Tensor]) -> frozenset[str]:
    """Return the instructions that read one tensor and define another, and touch nothing else."""
    kinds: dict[int, list[UseKind]] = {}
    for tensor in tensors:
        for use in tensor.uses:
            kinds.setdefault(use.step, []).append(use.kind)
    plain = [UseKind.READ, UseKind.DEFINE]
    return frozenset(log.schedule[step][1] for step, found in kinds.items() if sorted(found) == plain)


def _replaced_share(log: XlaLog, transferred_ones: Container[str]) -> float:
    """Return the share of the time, each instruction once, of copies that the pass alone makes asynchronous."""
    replaced = {a.replaces for a in log.allocations if a.replaces and a.replaces not in transferred_ones}
    seconds = sum(log.home_seconds[step] for step, (_, name) in enumerate(log.schedule) if name in replaced)
    return seconds / (sum(log.home_seconds.values()) or 1.0)


def _copies(
    log: XlaLog, instructions: tuple[Instruction, ...], transferred_ones: Container[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the shares of the time that copies take, and of those that the pass makes asynchronous and that stay here.

    Raises:
        TraceError: the pass made something asynchronous that is no instruction of the schedule.
    """
    seconds = [log.home_seconds[step] * i.trip_count for step, i in enumerate(instructions)]
    total = sum(seconds) or 1.0
    step_of = {i.name: step for step, i in enumerate(instructions)}
    replaced = {a.replaces for a in log.allocations if a.replaces}
    strangers = replaced - step_of.keys()
    if strangers or len(replaced) < log.async_conversions:
        raise TraceError(
            log.path, None, f"{log.async_conversions} copies were made asynchronous, of unknown instructions"
        )
    copies = {i.name: seconds[step] / total for step, i in enumerate(instructions) if i.opcode == "copy"}
    staying = sorted((name for name in replaced if name not in transferred_ones), key=lambda name: step_of[name])
    return copies, {name: seconds[step_of[name]] / total for name in staying}


def _solve(
    logs: tuple[XlaLog, ...],
    aliases: Aliases,
    hierarchy: Hierarchy,
    regions: Regions,
    sizes: dict[Place, int],
    touched: list[tuple[Place, Access]],
    beside: Container[int],
) -> tuple[tuple[StepTimes, ...], list[int]]:
    """Return each step's solution, and the bytes of each access."""
    log = logs[0]
    simulated = [{row.name: row.elapsed_seconds for row in one.simulated} for one in logs]
    of_step: list[list[int]] = [[] for _ in log.schedule]
    for i, (_, access) in enumerate(touched):
        of_step[access.step].append(i)
    benefits: dict[str, dict[Position, float]] = {}
    for place, benefit in log.benefit_seconds.items():
        benefits.setdefault(place.instruction, {})[place] = benefit
    unknown = {place.instruction for place in log.unknown_bytes}
    filled = [0] * len(touched)
    solved = []
    for step, (_, name) in enumerate(log.schedule):
        instruction = aliases.instruction(name)
        rows = [touched[i] for i in of_step[step]]
        depth = sum(loop.start_step <= step < loop.end_step for loop in regions.loops)
        if instruction.opcode in FORWARDING or not math.isfinite(log.home_seconds[step]):
            elapsed, gains = (log.home_seconds[step] if instruction.opcode != "while" else 0.0), {}
        else:
            elapsed = log.home_seconds[step]
            gains = {place: gain / NEST_FACTOR**depth for place, gain in benefits.get(name, {}).items()}
        facts = StepFacts(
            home_seconds=elapsed,
            observations=tuple(
                Observation(
                    seconds=seconds[name],
                    charged_fast=tuple(access.place in one.charged_fast for _, access in rows),
                )
                for one, seconds in zip(logs, simulated, strict=True)
                if name in seconds
            ),
            benefits_seconds=tuple(gains.values()),
            movable_bytes=tuple(access.bytes for _, access in rows),
            tensor_bytes=tuple(sizes[group] for group, _ in rows),
            writes=tuple(access.writes for _, access in rows),
            gains=tuple(gains.get(access.place, 0.0) for _, access in rows),
            shape_bytes=0 if instruction.opcode in _MOVES_NOTHING else _shape_bytes(instruction, aliases),
            padded_bytes=0 if instruction.opcode in _MOVES_NOTHING else _padded_bytes(instruction, aliases),
            immovable_shape_bytes=_shape_bytes(instruction, aliases, sizes),
        )
        if step in beside:
            solution = asynchronous_step(replace(facts, home_seconds=0.0))
        else:
            solution = _explain(facts, instruction, name in unknown, hierarchy)
            if _scatters_whole(aliases, instruction):
                solution = _with_unseen(solution, rows, sizes)
        for i, size in zip(of_step[step], solution.access_bytes, strict=True):
            filled[i] = size
        solved.append(solution)
    return tuple(solved), filled


def _explain(facts: StepFacts, instruction: HloInstruction, unknown: bool, hierarchy: Hierarchy) -> StepTimes:
    """Return what a step does: as XLA's cost model says it, or by its shapes where that model does not know.

    A custom call without operands only gives a place.
    """
    solution = solve_step(facts, hierarchy)
    if is_asynchronous(instruction) and (solution.residual_bytes or not solution.fixed_bytes):
        return asynchronous_step(facts)
    if instruction.opcode not in _FOREIGN or not instruction.operands or only_names(instruction):
        return solution
    if not unknown and not solution.residual_bytes and facts.home_seconds > _NEXT_TO_NOTHING:
        return solution
    return opaque_step(facts, facts.shape_bytes)


def _scatters_whole(aliases: Aliases, instruction: HloInstruction) -> bool:
    """Whether XLA emits a scatter as one piece, into whose operands its cost model does not look."""
    if instruction.opcode != "fusion" or "kind=kCustom" not in instruction.attributes:
        return False
    return any(each.opcode == "scatter" for each in inside(aliases.module, instruction))


def _with_unseen(solution: StepTimes, rows: list[tuple[Place, Access]], sizes: dict[Place, int]) -> StepTimes:
    """Return the solution with what is said to be read and not accessed read once."""
    written = {group for group, access in rows if access.writes}
    unseen = [a.bytes == 0 and not a.writes and not a.holds and group not in written for group, a in rows]
    sized = zip(rows, unseen, solution.access_bytes, strict=True)
    return replace(
        solution,
        access_bytes=tuple(sizes[group] if missing else size for (group, _), missing, size in sized),
        unseen=frozenset(access.place for (_, access), missing in zip(rows, unseen, strict=True) if missing),
    )


def hidden_definitions(log: XlaLog, built: XlaProgram, share: float = 1e-3) -> list[str]:
    """Return instructions whose results XLA left in default memory and whose compute time that hides.

    Placing those results elsewhere in another compilation shows it. Instructions that could together change the
    program's time by less than ``share`` are left out.
    """
    program = built.program
    possible = [t.hidden_seconds * i.trip_count for t, i in zip(built.times, program.instructions, strict=True)]
    total = sum(t.compute_seconds * i.trip_count for t, i in zip(built.times, program.instructions, strict=True))
    left, chosen = sum(possible), []
    for step in sorted(range(program.num_steps), key=lambda step: -possible[step]):
        if left <= share * total:
            break
        left -= possible[step]
        chosen.append(program.instructions[step].name)
    return chosen


def _instructions(
    log: XlaLog,
    aliases: Aliases,
    regions: Regions,
    times: tuple[StepTimes, ...],
    transferred_ones: Container[str],
) -> tuple[Instruction, ...]:
    made = []
    for step, (computation, name) in enumerate(log.schedule):
        instruction = aliases.instruction(name)
        made.append(
            Instruction(
                name=name,
                compute_seconds=times[step].compute_seconds,
                trip_count=regions.executions(step),
                fixed_bytes=(times[step].fixed_bytes,) if times[step].fixed_bytes else (),
                opcode=instruction.opcode,
                computation=computation,
                source=aliases.module.source(instruction),
                is_replaceable=name in transferred_ones,
            )
        )
    return tuple(made)


def _tensors(
    log: XlaLog,
    aliases: Aliases,
    sizes: dict[Place, int],
    touched: Iterable[tuple[tuple[Place, Access], int]],
    times: tuple[StepTimes, ...],
) -> tuple[tuple[Tensor, ...], dict[Place, int]]:
    uses: dict[Place, list[Use]] = {group: [] for group in sizes}
    touched = list(touched)
    updated = {(access.step, group) for (group, access), _ in touched if access.writes and access.in_place}
    for (group, access), size in touched:
        kind = UseKind.READ if not access.writes else UseKind.UPDATE if access.in_place else UseKind.DEFINE
        opaque = times[access.step].is_opaque
        is_read = kind == UseKind.READ and access.bytes == 0 and (access.step, group) not in updated
        is_needed = access.holds or opaque or is_read  # what is read has to be there, whatever XLA charges for it
        if size == 0 and kind != UseKind.DEFINE and not is_needed:
            continue
        place = access.place
        use = Use(step=access.step, bytes=size, kind=kind, operand=place.operand, index=place.index)
        before = _written_in(uses[group], use) if kind != UseKind.READ else None
        if before is None:
            uses[group].append(use)
        else:  # two results of one instruction in one place
            uses[group][before] = replace(uses[group][before], bytes=uses[group][before].bytes + size)
    entry = aliases.module.computations[aliases.module.entry]
    outputs = {aliases.find((entry.root, index)) for index, _ in leaves(entry.instructions[entry.root].shape)}
    parameters: dict[Place, HloInstruction] = {}
    for instruction in entry.instructions.values():
        if instruction.opcode == "parameter":
            for index, _ in leaves(instruction.shape):
                parameters.setdefault(aliases.find((instruction.name, index)), instruction)
    held = {aliases.find((a.defined_at.instruction, a.defined_at.index)) for a in log.allocations if a.cross_program}
    tensors: list[Tensor] = []
    tensor_of: dict[Place, int] = {}
    for group, size in sizes.items():
        if not uses[group] and group not in parameters:
            continue
        tensor_of[group] = len(tensors)
        first = log.schedule[uses[group][0].step][1] if uses[group] else ""
        parameter = parameters.get(group)
        read = () if parameter else _read_alone(uses[group], log, aliases)
        tensors.append(
            Tensor(
                name=parameter.name if parameter else first,
                label=argument_label(parameter) if parameter else "",
                size_bytes=size,
                uses=read or tuple(uses[group]),
                is_parameter=bool(parameter or read),
                is_output=group in outputs,
                holdable=group in held and group in parameters,
            )
        )
    return tuple(tensors), tensor_of


def _read_alone(uses: list[Use], log: XlaLog, aliases: Aliases) -> tuple[Use, ...]:
    """Return how a constant is used, which is read from slow memory like a parameter; () for what something writes."""
    read = tuple(use for use in uses if use.kind == UseKind.READ)
    written = {log.schedule[use.step][1] for use in uses if use.kind != UseKind.READ}
    return read if {aliases.instruction(name).opcode for name in written} == {"constant"} else ()


def _written_in(uses: list[Use], new: Use) -> int | None:
    """Return which of ``uses`` already writes in the step of ``new``."""
    same = (i for i in range(len(uses) - 1, -1, -1) if uses[i].step == new.step and uses[i].kind != UseKind.READ)
    return next(same, None)


def _shape_bytes(instruction: HloInstruction, aliases: Aliases, tensors: Container[Place] = ()) -> int:
    """Return bytes of an instruction's operands and results that are not in ``tensors``."""
    places = _arrays(instruction, aliases)
    return sum(array_bytes(text) for place, text in places if aliases.find(place) not in tensors)


def _padded_bytes(instruction: HloInstruction, aliases: Aliases) -> int:
    """Return bytes of an instruction's operands and results as they lie in memory: a number takes a tile."""
    return sum(array(text).laid_out_bytes for _, text in _arrays(instruction, aliases))


def _arrays(instruction: HloInstruction, aliases: Aliases) -> Iterator[tuple[Place, str]]:
    computation = aliases.module.computations[aliases.computation_of[instruction.name]]
    arrays = [(instruction.name, instruction.shape)]
    arrays += [(name, computation.instructions[name].shape) for name in instruction.operands]
    yield from (((name, index), text) for name, shape in arrays for index, text in leaves(shape))

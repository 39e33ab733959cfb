"""What changes of the source would bring, where the trace shows it: donation, layout, sharding, and recomputing.

No override makes them; each is judged with the compiler's mapping left as it is, and says what to write instead.
"""

from collections.abc import Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass, replace

import numpy as np

from mallocgame.explanation.placement import Placements, TensorPlacement, put_together, take_apart
from mallocgame.explanation.remedy import NEXT_TO_NOTHING, NOT, definition_source
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline, simulate
from mallocgame.mapping import HOME, Mapping, Residency, serving_layers
from mallocgame.program import Program, Tensor, Use, UseKind
from mallocgame.text import bytes_text

MOVING = frozenset(("copy", "transpose", "reshape", "concatenate", "pad"))
BETWEEN_CHIPS = frozenset(("all-gather", "all-reduce", "all-to-all", "reduce-scatter", "collective-permute"))
DONATION, LAYOUT, SHARDING, COPYING = "donation", "layout", "sharding", "copying"
COPIES = {
    "concatenate": "puts values together (stack, concatenate, pad): keep them apart, or write each into its place of an"
    " array that is there already (.at[].set, lax.dynamic_update_slice)",
    "update": "writes into a copy of an array: donate the array, or use it no more after this",
    "duplicate": "copies an array as it is, so that a loop or a branch can hand it on or change it: use the old value"
    " no more after the change, or donate it where it is an argument",
    "slice": "cuts parts out of a larger array: keep the parts as arrays of their own, or let lax.scan hand them out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataMovement:
    """An instruction that computes nothing: it copies (a fusion, too), or talks to other chips.

    ``saved_seconds`` is what the judge says the program would save without it: all that a change of the source can
    bring. A sharding that moves fewer bytes between chips brings a part of it, and of the network's time besides.
    """

    instruction: str
    opcode: str
    kind: str  # of the change: donation, copying, layout or sharding
    seconds: float  # in one run
    saved_seconds: float
    size_bytes: int  # moved in one execution, all layers
    executions: float
    source: str
    hint: str  # what might avoid it
    ordered_by: str = NOT  # no override makes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rematerialisation:
    """A tensor that is made early and read late: made again before its late uses (``jax.checkpoint``), judged.

    What it is made from is taken to be read from layer 0 then.
    """

    tensor: str
    size_bytes: int
    instruction: str  # that makes it
    before: str  # the instruction that uses it late
    saved_seconds: float
    source: str
    hint: str
    ordered_by: str = NOT


def data_movements(
    program: Program,
    hierarchy: Hierarchy,
    mapping: Mapping,
    timeline: Timeline,
    limit: int,
    fusions: Table[int, str] | None = None,
) -> tuple[DataMovement, ...]:
    """Return instructions that only move data and take more than next to nothing, at most ``limit``, the best first.

    ``fusions`` says how those do it that only move data, by their steps.
    """
    fusions = fusions or {}
    least = 10 * NEXT_TO_NOTHING * timeline.total_seconds
    moving = [
        step
        for step, instruction in enumerate(program.instructions)
        if (instruction.opcode in MOVING | BETWEEN_CHIPS or step in fusions) and timeline.elapsed_seconds[step] > least
    ]
    moving.sort(key=lambda step: -float(timeline.elapsed_seconds[step]))
    found = []
    for step in moving[:limit]:
        instruction = program.instructions[step]
        then = simulate(without_work(program, step), hierarchy, mapping).total_seconds
        kind, hint = _hint(program, step, fusions.get(step) or instruction.opcode)
        found.append(
            DataMovement(
                instruction=instruction.name,
                opcode=instruction.opcode,
                kind=kind,
                seconds=float(timeline.elapsed_seconds[step]),
                saved_seconds=timeline.total_seconds - then,
                size_bytes=int(timeline.layer_bytes[step].sum()),
                executions=instruction.trip_count,
                source=instruction.source or _source_behind(program, step),
                hint=hint,
            )
        )
    return tuple(sorted(found, key=lambda m: (-m.saved_seconds, -m.seconds)))


def without_work(program: Program, step: int) -> Program:
    """Return the program in which the instruction of ``step`` computes and moves nothing."""
    instructions = list(program.instructions)
    instructions[step] = replace(instructions[step], compute_seconds=0.0, fixed_bytes=())
    tensors = tuple(
        replace(t, uses=tuple(replace(u, bytes=0) if u.step == step else u for u in t.uses))
        if any(u.step == step for u in t.uses)
        else t
        for t in program.tensors
    )
    return replace(program, instructions=tuple(instructions), tensors=tensors)


def _source_behind(program: Program, step: int) -> str:
    """Return the source of what first reads what an instruction makes: copies of the compiler have none themselves."""
    made = [t for t in program.tensors if t.uses and t.uses[0].step == step and t.uses[0].kind != UseKind.READ]
    later = sorted(u.step for t in made for u in t.uses if u.step > step)
    return next((program.instructions[s].source for s in later if program.instructions[s].source), "")


def _hint(program: Program, step: int, opcode: str) -> tuple[str, str]:
    """Return the kind of change that might avoid an instruction, and how to make it."""
    if opcode in BETWEEN_CHIPS:
        return SHARDING, "another sharding moves other bytes between chips"
    here = [(t, u) for t in program.tensors for u in t.uses if u.step == step]
    reads = [t for t, u in here if u.kind == UseKind.READ and t.is_parameter]
    kept = [t for t, u in here if u.kind != UseKind.READ and t.is_output]
    if opcode in ("copy", "duplicate") and any(w.size_bytes == r.size_bytes for w in kept for r in reads):
        said = f"a copy of argument {reads[0].title}: donate it (donate_argnums), and it can be written in place"
        return DONATION, said
    if opcode in COPIES:
        return COPYING, COPIES[opcode]
    made = [t for t, u in here if u.kind == UseKind.DEFINE]
    if opcode == "copy" and reads and made:
        grown = made[0].size_bytes > 1.25 * reads[0].size_bytes
        larger = f" ({bytes_text(made[0].size_bytes)}, not {bytes_text(reads[0].size_bytes)})" if grown else ""
        said = f"argument {reads[0].title} is put into another layout{larger} in every run"
        return LAYOUT, f"{said}: hand it over so (jax.experimental.layout)"
    return LAYOUT, "another layout, or order of dimensions, upstream may avoid it"


def rematerialisations(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline, limit: int
) -> tuple[Rematerialisation, ...]:
    """Return the values that it would pay to make again before late uses, each alone, the most saving first.

    Programs with conditionals, values in loops, and values made from what is overwritten since are left out.
    """
    if program.conditionals or hierarchy.num_layers != 2:
        return ()
    total = timeline.total_seconds
    serving, parts = serving_layers(program, mapping), take_apart(mapping)
    moved: list[tuple[int, int, int]] = []
    for index, tensor in enumerate(program.tensors):
        at = _late(program, index, serving[int(program.uses.first[index]) :].tolist(), parts)
        if at is not None:
            moved.append((-sum(use.bytes for use in tensor.uses[at:]), index, at))
    found = []
    for _, index, at in sorted(moved)[:limit]:
        then = simulate(*_made_again(program, hierarchy, parts, index, at, timeline)).total_seconds
        if total - then > NEXT_TO_NOTHING * total:
            found.append(_row(program, index, at, total - then))
    return tuple(sorted(found, key=lambda r: -r.saved_seconds))


def _row(program: Program, index: int, at: int, saved: float) -> Rematerialisation:
    tensor, source = program.tensors[index], definition_source(program, index)
    before = program.instructions[tensor.uses[at].step].name
    return Rematerialisation(
        tensor=tensor.title,
        size_bytes=tensor.size_bytes,
        instruction=program.instructions[tensor.definition_step].name,
        before=before,
        saved_seconds=saved,
        source=source,
        hint=f"recompute it before {before} (jax.checkpoint around what makes it, or a policy that does not save it)",
    )


def _late(program: Program, index: int, layers: list[int], parts: Placements) -> int | None:
    """Return the first use of a tensor that is slow or served by a copy after others; None: it is not to be remade."""
    tensor = program.tensors[index]
    if tensor.is_parameter or tensor.is_output or not tensor.movable or len(tensor.uses) < 2:
        return None
    first, *later = tensor.uses
    if any(use.kind != UseKind.READ or use.home_only for use in later) or first.operand >= 0:
        return None
    copies = parts.get(index, TensorPlacement()).transfers
    copied = min((x.done_before for x in copies if x.target != HOME), default=program.num_steps)
    far = first.step + 1  # what follows at once is no late use
    late = [n for n, use in enumerate(tensor.uses) if use.step > far and (not layers[n] or use.step >= copied)]
    if not late or any(program.loop_context[use.step] >= 0 for use in (first, *tensor.uses[late[0] :])):
        return None
    step = tensor.uses[late[0]].step
    inside = any(loop.start_step <= use.step < loop.end_step for loop in program.loops for use in tensor.uses)
    return None if inside or _is_overwritten(program, first.step, step) else late[0]


def _is_overwritten(program: Program, made: int, until: int) -> bool:
    """Whether something that the instruction of step ``made`` reads is written before step ``until``."""
    return any(
        use.kind != UseKind.READ and made <= use.step < until
        for tensor in program.tensors
        if any(u.step == made and u.kind != UseKind.DEFINE for u in tensor.uses)
        for use in tensor.uses
    )


def _made_again(
    program: Program, hierarchy: Hierarchy, parts: Placements, index: int, at: int, timeline: Timeline
) -> tuple[Program, Hierarchy, Mapping]:
    """Return the problem and mapping with a copy of the defining instruction before the use number ``at``."""
    tensor = program.tensors[index]
    made, step = tensor.definition_step, tensor.uses[at].step
    read = sum(u.bytes for t in program.tensors for u in t.uses if u.step == made and u.kind == UseKind.READ)
    original = program.instructions[made]
    fixed = (read + sum(original.fixed_bytes[:1]), *original.fixed_bytes[1:])
    again = replace(original, name=f"{original.name}.again", fixed_bytes=fixed)
    instructions = (*program.instructions[:step], again, *program.instructions[step:])
    late = tuple(replace(use, step=use.step + 1) for use in tensor.uses[at:])
    second = replace(tensor, name=f"{tensor.name}.again", uses=(replace(tensor.uses[0], step=step), *late))
    tensors = [_later(t, step) for t in program.tensors]
    tensors[index] = replace(tensor, uses=tensor.uses[:at])
    loops = tuple(
        replace(x, start_step=x.start_step + (x.start_step >= step), end_step=x.end_step + (x.end_step > step))
        for x in program.loops
    )
    longer = replace(program, instructions=instructions, tensors=(*tensors, second), loops=loops)
    placements = {i: _shifted(part, step) for i, part in parts.items() if i != index}
    placements[index] = _shifted(_until(parts.get(index, TensorPlacement()), step), step)
    free = hierarchy.layers[1].capacity_bytes - timeline.occupancy_bytes[step : late[-1].step, 1]
    if int(np.min(free)) >= tensor.size_bytes:
        stay = Residency(tensor=len(tensors), layer=1, offset_bytes=0, start_step=step, end_step=late[-1].step + 1)
        placements[len(tensors)] = TensorPlacement(residencies=(stay,))
    return longer, hierarchy, put_together(placements)


def _later(tensor: Tensor, step: int) -> Tensor:
    uses: Iterator[Use] = (replace(u, step=u.step + 1) if u.step >= step else u for u in tensor.uses)
    return replace(tensor, uses=tuple(uses)) if tensor.uses and tensor.uses[-1].step >= step else tensor


def _until(part: TensorPlacement, step: int) -> TensorPlacement:
    """Leave out stays that a copy fills for uses from ``step`` on, and copies back, which nothing needs any more."""
    for number in reversed(range(len(part.residencies))):
        if part.residencies[number].end_step > step and any(x.target == number for x in part.transfers):
            part = part.without(number)
    return replace(part, transfers=tuple(x for x in part.transfers if x.target != HOME))


def _shifted(part: TensorPlacement, step: int) -> TensorPlacement:
    stays = tuple(
        replace(r, start_step=r.start_step + (r.start_step >= step), end_step=r.end_step + (r.end_step > step))
        for r in part.residencies
    )
    copies = tuple(
        replace(
            x, start_after=x.start_after + (x.start_after >= step), done_before=x.done_before + (x.done_before > step)
        )
        for x in part.transfers
    )
    return TensorPlacement(residencies=stays, transfers=copies)

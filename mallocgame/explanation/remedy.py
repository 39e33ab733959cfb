"""A change of a mapping with what it saves, and whether the compiler can be told to make it."""

from dataclasses import dataclass

from mallocgame.explanation.placement import TensorPlacement
from mallocgame.mapping import HELD, HOME
from mallocgame.program import Program, UseKind

NEXT_TO_NOTHING = 1e-4  # of the time: what saves less is not told of

KEEP = "keep_in_default_memory"
PIN = "pin_in_alternate_memory"
PREFETCH = "prefetch"
LOOP = "prefetch of what the loop is given, or mallocgame.hoist"
SUGGEST = "suggestion of the whole mapping"
NOT = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change of the mapping and the judged seconds that it saves."""

    action: str
    saved_seconds: float
    ordered_by: str  # the override or flag of XLA that ``mallocgame tune`` can order it by; empty: none does
    tensors: tuple[int, ...] = ()  # whose placements change


def ordered_by(program: Program, tensor: int, placement: TensorPlacement, is_reached: bool = False) -> str:
    """Return how the compiler can be told to place a tensor so; empty where it takes no such override.

    It leaves a tensor in slow memory, keeps one in fast memory from its definition to its last use, and copies one in;
    it takes no word about when a copy back must be done, and chooses itself what it holds from one run to the next.
    What it does of its own accord where everything else is as in the mapping (``is_reached``, ``reachable``) is
    brought by suggesting the whole mapping, as ``mallocgame tune`` does.
    """
    found = _override(program, tensor, placement)
    return found or (SUGGEST if is_reached else NOT)


def _override(program: Program, tensor: int, placement: TensorPlacement) -> str:
    subject = program.tensors[tensor]
    if not placement.residencies:
        return KEEP
    if any(r.start_step == HELD for r in placement.residencies) or any(x.target == HOME for x in placement.transfers):
        return NOT
    if not placement.transfers:
        (first, *more), uses = placement.residencies, subject.uses
        whole = not more and first.start_step <= uses[0].step and uses[-1].step < first.end_step
        return PIN if whole and not subject.is_parameter else NOT
    return LOOP if is_copied_before_loop(program, tensor, placement) else PREFETCH


def is_copied_before_loop(program: Program, tensor: int, placement: TensorPlacement) -> bool:
    """Whether a copy from before a loop serves uses inside it."""
    for number, residency in enumerate(placement.residencies):
        filled = [x.done_before for x in placement.transfers if x.target == number]
        if filled:
            served = [u.step for u in program.tensors[tensor].uses if max(filled) <= u.step < residency.end_step]
            entered = [loop for loop in program.loops if max(filled) <= loop.start_step and loop.trip_count > 1]
            if any(loop.start_step <= step < loop.end_step for loop in entered for step in served):
                return True
    return False


def in_words(program: Program, tensor: int, placement: TensorPlacement) -> str:
    """Say where a tensor lives."""
    name = program.tensors[tensor].title
    if not placement.residencies:
        return f"leave {name} in slow memory"
    if any(r.start_step == HELD for r in placement.residencies):
        return f"hold {name} in fast memory from one run to the next"
    inward = [x for x in placement.transfers if x.target != HOME]
    outward = [x for x in placement.transfers if x.target == HOME]
    said = []
    if len(inward) < len(placement.residencies):
        last = "its last use" if not outward and not inward else "a later use"
        said.append(f"make {name} in fast memory and keep it to {last}")
    if inward:
        first = min(inward, key=lambda x: x.start_after)
        when = program.instructions[first.start_after].name if first.start_after >= 0 else "the program's start"
        once = " once, before the loop," if is_copied_before_loop(program, tensor, placement) else ""
        times = f" ({len(inward)} copies)" if len(inward) > 1 else ""
        said.append(f"copy {name} in{once} after {when}{times}")
    if outward:
        until = outward[-1].done_before
        where = program.instructions[until].name if until < program.num_steps else "the program's end"
        said.append(f"give its copy back time until {where}")
    return " and ".join(said)


def source_of(program: Program, step: int) -> str:
    """Return file:line of an instruction, or of the nearest one after it that has one."""
    return next((i.source for i in program.instructions[max(step, 0) :] if i.source), "")


def definition_source(program: Program, tensor: int) -> str:
    """Return file:line of what makes a tensor; of a parameter, of its first use."""
    subject = program.tensors[tensor]
    step = subject.uses[0].step if subject.uses else 0
    defined = next((u.step for u in subject.uses if u.kind != UseKind.READ), step)
    return source_of(program, step if subject.is_parameter else defined)

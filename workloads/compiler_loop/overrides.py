"""A mapping as overrides to XLA:TPU: tensor overrides, one matcher each, and their spelling as compiler options.

What the compiler obeys was found by experiment (docs/compiler_loop.md). It takes an override for a whole value
(``keep_in_default_memory``, ``pin_in_alternate_memory``, by the position that defines it) or for the copy that serves
one use (``prefetch``). It takes no override for the offset. To keep a single use in the default memory is only safe
where the instruction has no result of the same size that is to be fast: an operand's matcher also matches those.
Matchers name the size, too: the compiler compares it first, and builds a regular expression for each comparison; places
of which the same is asked share one matcher.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.mapping import HELD, Mapping, serving_layers
from mallocgame.program import Program, Use, UseKind
from mallocgame.workloads.compiler_loop.loop_operands import NONE, LoopOperands, place_of_copy
from mallocgame.workloads.xla.compiler import Options
from mallocgame.workloads.xla.records import Position

I64 = npt.NDArray[np.int64]

TENSOR_OVERRIDES = "xla_tpu_msa_tensor_overrides"
SORT_ORDER = "xla_tpu_msa_sort_order_overrides"
PREFERRED = "xla_tpu_preferred_prefetch_overrides"
MAX_IN_ORDER = 300  # of what is placed first: the compiler compares each with every value, at each of its sorts
HOIST_LIMIT = "xla_msa_explicit_prefetch_memory_limit_kib"  # up to so much of loops' operands is copied before them


_OF_THE_PASS = (
    "xla_msa_",
    "xla_tpu_msa_",
    PREFERRED,
    "xla_tpu_enforce_prefetch_fifo_order",
    "xla_tpu_sliced_prefetch_",
    "xla_tpu_memory_bound_loop_optimizer_",
)


def is_of_the_pass(option: str) -> bool:
    """Whether a compiler option is known to change nothing before memory-space assignment."""
    return option.startswith(_OF_THE_PASS)


class Action(StrEnum):
    """What the compiler is told to do."""

    KEEP = "keep_in_default_memory"
    PIN = "pin_in_alternate_memory"
    PREFETCH = "prefetch"  # then and not otherwise: else the compilation fails
    PREFER = "prefer_prefetch"  # if there is to be a copy, then about then: never refused
    FIRST = "assign_first"  # place this value before all others


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One override. ``place`` is a definition (operand -1), or for a prefetch the operand that the copy serves."""

    action: Action
    tensor: int
    place: Position
    step: int  # of the use or definition; -1: a program parameter
    start_after: int = -1  # of a prefetch: the step after which the copy starts
    turn: int = field(default=-1, compare=False)  # of what is placed first (``turns_of``); -1: alone

    def __str__(self) -> str:
        """Return it in words, for reports."""
        where = self.place.instruction + (f" operand {self.place.operand}" if self.place.operand >= 0 else "")
        where += f" {{{','.join(map(str, self.place.index))}}}" if self.place.index else ""
        when = f" after step {self.start_after}" if self.action in (Action.PREFETCH, Action.PREFER) else ""
        return f"{self.action.value} {where}{when}"


def overrides_of(program: Program, mapping: Mapping, operands: LoopOperands = NONE) -> tuple[Override, ...]:
    """Return the overrides that carry out ``mapping``, those that move the most bytes first.

    A tensor that no fast memory serves is kept in the default memory; one that is born in fast memory and served there
    to its last use is pinned; a copy toward fast memory becomes a prefetch for its first use, or for the operand of the
    loop that it enters (``operands``). Nothing is said about
    what the compiler has no override for: a tensor that is born in fast memory and leaves it, or the other way round.
    """
    serving, uses = serving_layers(program, mapping), program.uses
    found: list[Override] = []
    fast_results = _fast_results(program, serving)
    for index, tensor in enumerate(program.tensors):
        if not tensor.movable:
            continue
        rows = slice(int(uses.first[index]), int(uses.first[index + 1]))
        if not serving[rows].any():
            found += definitions(program, index, Action.KEEP)
        elif serving[rows].all() and not any(x.tensor == index for x in mapping.transfers) and not tensor.is_parameter:
            found += definitions(program, index, Action.PIN)
        else:
            found += _prefetches(program, mapping, index, operands)
            found += _kept_uses(program, index, serving[rows].tolist(), fast_results)
    weight = traffic_bytes(program)
    return tuple(sorted(found, key=lambda d: -int(weight[d.tensor])))


def _fast_results(program: Program, serving: I64) -> set[tuple[int, int]]:
    """Return step and size of results of which fast memory serves anything, and of what is written in place first.

    To keep a result in slow memory keeps all uses of that value there, also those that a copy would serve later.
    """
    uses = program.uses
    served_later = np.zeros(len(serving), dtype=np.bool_)
    for row in range(len(serving) - 1, -1, -1):
        is_last = row + 1 == len(serving) or uses.tensor[row + 1] != uses.tensor[row]
        served_later[row] = bool(serving[row]) or (not is_last and bool(served_later[row + 1]))
    flat = [use for tensor in program.tensors for use in tensor.uses]
    sizes = program.sizes_bytes[uses.tensor].tolist()
    return {
        (use.step, size)
        for use, size, layer, later in zip(flat, sizes, serving.tolist(), served_later.tolist(), strict=True)
        if use.operand <= 0 and not stays_only(use) and (layer or (later and use.kind != UseKind.READ))
    }


def traffic_bytes(program: Program) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return int64[N], the bytes that instructions move of each tensor in one run."""
    traffic = np.zeros(len(program.tensors), dtype=np.int64)
    np.add.at(traffic, program.uses.tensor, program.uses.bytes * program.trip_counts[program.uses.step])
    return traffic


def definitions(program: Program, index: int, action: Action) -> list[Override]:
    """Return ``action`` for each value of a tensor: its definitions, and the parameter."""
    tensor = program.tensors[index]
    found = []
    if tensor.is_parameter:
        found.append(Override(action=action, tensor=index, place=Position(instruction=tensor.name), step=-1))
    for use in tensor.uses:
        if use.kind != UseKind.READ and use.operand < 0 and not stays_only(use):
            place = Position(instruction=program.instructions[use.step].name, index=use.index)
            found.append(Override(action=action, tensor=index, place=place, step=use.step))
    return found


def stays_only(use: Use) -> bool:
    """Whether an instruction has nothing to do with a tensor, which must stay where it is for something under way.

    Traces of XLA write at such steps nothing into what an asynchronous collective is filling; to name the instruction
    would say something of its own results.
    """
    return use.kind == UseKind.UPDATE and use.operand < 0 and not use.index and not use.bytes


def _prefetches(program: Program, mapping: Mapping, index: int, operands: LoopOperands) -> Iterator[Override]:
    uses = program.tensors[index].uses
    for number, residency in enumerate(mapping.residencies):
        starts = [x.start_after for x in mapping.transfers if x.target == number]
        if residency.tensor != index or not starts or residency.start_step == HELD:
            continue
        fill = int(mapping.fill_boundaries[number])
        served = [use for use in uses if fill <= use.step < residency.end_step and not use.home_only]
        found = place_of_copy(program, operands, index, fill, served)
        if found is not None:
            place, step = found
            yield Override(action=Action.PREFETCH, tensor=index, place=place, step=step, start_after=min(starts))


def _kept_uses(
    program: Program, index: int, layers: Sequence[int], fast_results: set[tuple[int, int]]
) -> Iterator[Override]:
    """Keep in slow memory values of which all is to stay there, and single uses of others.

    Those only where the instruction's results of that size, which are hit too, stay there. An update in place is kept
    by the instruction's first operand, which is what dynamic-update-slice writes to.
    """
    tensor = program.tensors[index]
    kept: set[int] = set()
    for place, step, rows in values(program, index):
        if not any(layers[row] for row in rows):
            yield Override(action=Action.KEEP, tensor=index, place=place, step=step)
            kept.update(rows)
    for row, use in enumerate(tensor.uses):
        is_free = row not in kept and (use.step, tensor.size_bytes) not in fast_results
        if not layers[row] and (use.operand >= 0 or use.kind == UseKind.UPDATE) and is_free and not stays_only(use):
            index_in = use.index if use.operand >= 0 else ()
            name = program.instructions[use.step].name
            where = Position(instruction=name, operand=max(use.operand, 0), index=index_in)
            yield Override(action=Action.KEEP, tensor=index, place=where, step=use.step)


def values(program: Program, index: int) -> Iterator[tuple[Position, int, list[int]]]:
    """Yield the values that a tensor holds in turn: where each is made, at which step, and the numbers of its uses.

    Those are from its definition (a parameter has none) to the one that makes the next value. Nothing is yielded of a
    tensor that loops or branches hand on: what is inside them is another value to the compiler.
    """
    tensor = program.tensors[index]
    made = {override.step: override.place for override in definitions(program, index, Action.KEEP)}
    if len({program.instructions[use.step].computation for use in tensor.uses}) > 1:
        return
    found: list[tuple[Position, int, list[int]]] = [(made[-1], -1, [])] if -1 in made else []
    for number, use in enumerate(tensor.uses):
        if found:
            found[-1][2].append(number)
        if use.kind != UseKind.READ and made.get(use.step) == Position(
            instruction=program.instructions[use.step].name, index=use.index
        ):
            found.append((made[use.step], use.step, [number]))
    yield from found


def escape(name: str) -> str:
    r"""Return a regular expression of RE2 that matches exactly ``name``, without backslashes (shells eat them).

    Raises:
        InputError: not a name that XLA gives to instructions.

    >>> escape("fusion.12"), escape("bitcast_dynamic-update-slice_fusion.2")
    ('fusion[.]12', 'bitcast_dynamic-update-slice_fusion[.]2')
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise InputError(f"{name!r} is not the name of an instruction of XLA (is the trace anonymised, or not of XLA?)")
    return name.replace(".", "[.]")


def any_of(names: Iterable[str]) -> str:
    """Return a regular expression of RE2 that matches these names alone.

    >>> any_of(["fusion.12", "copy", "fusion.7"])
    '(copy|fusion[.](12|7))'
    """
    tails: dict[str, list[str]] = {}  # what follows the last dot, where that is a number
    found: list[str] = []
    for name in sorted(set(names)):
        stem, dot, number = name.rpartition(".")
        if dot and number.isdigit():
            tails.setdefault(stem, []).append(number)
        else:
            found.append(escape(name))
    found += [f"{escape(stem)}[.]{_one_of(numbers)}" for stem, numbers in tails.items()]
    return _one_of(found)


def _one_of(expressions: Sequence[str]) -> str:
    return expressions[0] if len(expressions) == 1 else f"({'|'.join(expressions)})"


def matcher(places: Sequence[Position], size_bytes: int | None = None) -> str:
    """Return the matcher of places (and of this size), which differ in the instruction only, as text without blanks."""
    index = f",tuple_index{{{','.join(f'index:{i}' for i in places[0].index)}}}" if places[0].index else ""
    index += f",size_gte:{size_bytes},size_lte:{size_bytes}" if size_bytes is not None else ""
    name = f"instruction_name_regex:'{any_of(place.instruction for place in places)}'"
    if places[0].operand >= 0:
        return f"hlo_operand_filter{{{name},operand_number:{places[0].operand}{index}}}"
    return f"hlo_position_matcher{{{name}{index}}}"


def options_of(
    overrides: Iterable[Override], flags: Options | None = None, sizes_bytes: Sequence[int] | I64 | None = None
) -> Options:
    """Return the compiler options that give ``overrides`` to the compiler, on top of ``flags``.

    ``sizes_bytes`` are of all tensors; with them what is kept for one use does not hit results of another size, and the
    compiler needs a fraction of the time. What is asked of many places alike is one override. Of what is to be placed
    first those named first come first, and those in one override in the compiler's own order: so only those of one
    turn, whose order does not matter, share one, unless there are more than ``MAX_IN_ORDER``.
    """
    alike: dict[tuple[Any, ...], list[Position]] = {}
    each = tuple(dict.fromkeys(overrides))
    in_order = sum(override.action is Action.FIRST for override in each) <= MAX_IN_ORDER
    for override in each:
        size = None if sizes_bytes is None else int(sizes_bytes[override.tensor])
        place = override.place
        turn = override.turn if override.turn >= 0 else -2 - override.tensor
        turn = turn if in_order and override.action is Action.FIRST else -1
        kind = (override.action, override.start_after, place.operand, place.index, size, turn)
        alike.setdefault(kind, []).append(place)
    found: dict[str, list[str]] = {TENSOR_OVERRIDES: [], SORT_ORDER: [], PREFERRED: []}
    for (action, start_after, _, _, size, _), places in alike.items():
        option, wish = _wish(action, start_after)
        found[option].append(f"overrides{{{matcher(places, size)},{wish}}}")
    return dict(flags or {}) | {option: "".join(texts) for option, texts in found.items() if texts}


def _wish(action: Action, start_after: int) -> tuple[str, str]:
    """Return the option that takes this action, and the action in its words."""
    if action is Action.FIRST:
        return SORT_ORDER, "override_options{assign_first:true}"
    if action is Action.PREFER:
        return PREFERRED, f"override_options{{logical_time:{start_after}}}"
    if action is Action.PREFETCH:
        return TENSOR_OVERRIDES, f"prefetch{{logical_time:{start_after},strict_timing:true}}"
    return TENSOR_OVERRIDES, f"{action.value}{{}}"


def environment_line(options: Options) -> str:
    """Return the options as a setting for a shell: ``LIBTPU_INIT_ARGS=…``."""
    flags = [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items()]
    return f"LIBTPU_INIT_ARGS={shlex.quote(' '.join(flags))}"

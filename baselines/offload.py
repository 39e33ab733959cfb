"""Two plain rules for a middle layer that is too small, as users know them from paging and from offloading libraries.

Both fill the layer above home (HBM, where home is the host); the faster ones get what the greedy pass of ``anneal``
adds on top, so that the rules differ from ``greedy`` and ``anneal`` in the middle layer alone. Straight programs only.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from mallocgame.baselines.anneal.construction import compile_on_top, on_top
from mallocgame.baselines.placement.partial_mapping import PartialMapping
from mallocgame.baselines.placement.placement import Copy, Placement, PlacementFactory
from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Program, UseKind
from mallocgame.solver import Incumbent, solver

MIDDLE = 1
GAPS = (4, 16, 64)  # steps without a use after which the layer-wise rule gives a tensor up
AHEAD = (2, 8, 32)  # steps that it copies ahead
RESIDENT = (0.0, 0.3, 0.6, 0.85)  # share of the layer that it fills with weights for ever


@solver(warm_up=compile_on_top, is_constructive=True)
def least_recently_used(search: Incumbent) -> None:
    """Copy a tensor into the middle layer when a step needs it; what was used longest ago makes room."""
    _check_straight(search.program)
    partial = PartialMapping(PlacementFactory(search.program, search.hierarchy))
    for plan in _paged(search.program, search.hierarchy):
        partial.add(plan)  # what no address is free for stays at home
    on_top(search, partial.mapping)


@solver(warm_up=compile_on_top, is_constructive=True)
def layerwise(search: Incumbent) -> None:
    """Keep the first weights in the middle layer; copy the others, and activations, ahead of each group of uses."""
    _check_straight(search.program)
    factory = PlacementFactory(search.program, search.hierarchy)
    found: list[tuple[float, int, Mapping]] = []
    for share in RESIDENT:
        for gap in GAPS:
            for ahead in AHEAD:
                if search.out_of_time():
                    break
                partial = PartialMapping(factory)
                _keep_weights(partial, share)
                for tensor in range(len(search.program.tensors)):
                    for plan in _grouped(search.program, tensor, gap, ahead):
                        partial.add(plan)
                found.append((search.judged(partial.mapping), len(found), partial.mapping))
    if found:
        on_top(search, min(found)[2])


def _check_straight(program: Program) -> None:
    if any(loop.trip_count > 1 for loop in program.loops):
        raise InputError(f"{program.name}: the plain rules for offloading know no loops")


def _keep_weights(partial: PartialMapping, share: float) -> None:
    program = partial.factory.program
    room = share * partial.factory.hierarchy.layers[MIDDLE].capacity_bytes
    weights = [i for i, t in enumerate(program.tensors) if t.holdable and t.movable and t.uses]
    for index in sorted(weights, key=lambda i: program.tensors[i].uses[0].step):
        room -= program.tensors[index].size_bytes
        if room < 0:
            break
        partial.add(Placement(tensor=index, layer=MIDDLE, spans=((HELD, program.num_steps),), moves=()))


def _grouped(program: Program, index: int, gap: int, ahead: int) -> Iterator[Placement]:
    """Yield one stay for each group of uses that are at most ``gap`` steps apart."""
    tensor, free_from = program.tensors[index], 0
    if not tensor.movable or any(use.home_only for use in tensor.uses):
        return
    steps = sorted({use.step for use in tensor.uses})
    cuts = [0, *(i for i in range(1, len(steps)) if steps[i] - steps[i - 1] > gap), len(steps)]
    for low, high in pairwise(cuts):
        if low == high:
            continue
        after = steps[high] if high < len(steps) else program.num_steps
        first = max(steps[low] - ahead, free_from)
        plan = _stay(program, index, (steps[low], steps[high - 1]), first, min(after, steps[high - 1] + 1 + ahead))
        yield plan
        free_from = plan.spans[0][1]


def _stay(program: Program, index: int, uses: tuple[int, int], issue: int, back_by: int) -> Placement:
    """Return the stay from one use to another: copied in from ``issue`` on, written back by ``back_by`` if need be."""
    tensor, (first, last) = program.tensors[index], uses
    is_born = {use.kind for use in tensor.uses if use.step == first} == {UseKind.DEFINE}
    writes = [use.step for use in tensor.uses if first <= use.step <= last and use.kind != UseKind.READ]
    later = [use for use in tensor.uses if use.step > last]
    is_needed = later[0].kind != UseKind.DEFINE if later else tensor.is_output
    moves = [] if is_born else [Copy(source=HOME, target=0, issue=issue, due=first)]
    end = last + 1
    if writes and is_needed:
        since = writes[-1] + 1
        due = max(back_by, since)
        end = min(max(end, due, since + 1), program.num_steps)
        moves.append(Copy(source=0, target=HOME, issue=since, due=due))
    return Placement(tensor=index, layer=MIDDLE, spans=((first if is_born else issue, end),), moves=tuple(moves))


def _paged(program: Program, hierarchy: Hierarchy) -> Iterator[Placement]:
    """Yield the stays of demand paging by bytes; addresses come later."""
    free = hierarchy.layers[MIDDLE].capacity_bytes
    size = program.sizes_bytes.tolist()
    first: dict[int, int] = {}  # tensor in the layer: the first use of its stay; what was used last stands last
    last: dict[int, int] = {}
    for step, needed in _needed(program):
        for index in needed:
            victims = [i for i in first if i not in needed and last[i] < step - 1]  # a copy back takes a step at least
            while index not in first and free < size[index] and victims:
                victim = victims.pop(0)
                begin = first.pop(victim)
                yield _stay(program, victim, (begin, last[victim]), begin, step)
                free += size[victim]
            if index in first:
                first[index] = first.pop(index)
            elif free >= size[index]:
                first[index] = step
                free -= size[index]
            last[index] = step
    for index, begin in first.items():
        yield _stay(program, index, (begin, last[index]), begin, program.num_steps)


def _needed(program: Program) -> Iterator[tuple[int, list[int]]]:
    """Yield each step that uses tensors which can move, and those."""
    uses = program.uses
    can_move = [t.movable and not any(use.home_only for use in t.uses) for t in program.tensors]
    found: dict[int, dict[int, None]] = {}
    for u in np.argsort(uses.step, kind="stable").tolist():
        if can_move[int(uses.tensor[u])]:
            found.setdefault(int(uses.step[u]), {})[int(uses.tensor[u])] = None
    yield from ((step, list(tensors)) for step, tensors in found.items())

"""The optimum of tiny programs by enumerating mappings: an oracle for tests, independent of every other solver.

Per tensor, every set of residencies (at most ``max_residencies``), each born by a definition, held, or filled by one
whole copy, and at most one write-back each, is a *plan*; ``validate`` alone decides which plans are valid. On demand
copies also come in two slices, or go from one residency of a plan to another. Plans of a tensor that serve its uses
from the same layers are a *choice*: choices are combined over tensors in order of a trivial bound, and only of those
that could be better are plans validated, judged by ``simulate``, and packed by trying all offsets that stacks of other
tensors can give.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np

from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.coherence import stale_uses
from mallocgame.judge.simulation import bytes_by_layer, occupancy, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer, serving_layers
from mallocgame.program import Program, UseKind
from mallocgame.solver import Problem, Progress, SolveResult

Span = tuple[int, int]  # the boundaries of a copy's issue and end


@dataclass
class _Choice:
    """Plans of one tensor, offsets 0, that serve its uses from the same layers."""

    problem: Problem
    candidates: list[Mapping] = field(default_factory=list)

    @cached_property
    def plans(self) -> list[tuple[Mapping, Any]]:
        """Those that are valid, and the bytes that they occupy: int64[layers, steps]."""
        valid = (m for m in self.candidates if not m.residencies or self._is_valid(m))
        return [(m, occupancy(*self.problem, m)) for m in valid]

    def _is_valid(self, mapping: Mapping) -> bool:
        layers = [*(r.layer for r in mapping.residencies), 0]  # the last is HOME's
        pairs = {tuple(sorted((layers[x.source], layers[x.target]))) for x in mapping.transfers}
        if not pairs <= {pair for link in self.problem.hierarchy.links for pair in link.pairs}:
            return False
        stale = next(stale_uses(*self.problem, mapping), None)  # validate's last rule, which refuses most
        return stale is None and not validate(*self.problem, mapping)


def brute_force(  # noqa: PLR0913 (a solver's signature, and what is enumerated)
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
    max_residencies: int = 2,
    copies: str = "whole",
    below: float = float("inf"),
) -> SolveResult:
    """Return the best mapping with at most ``max_residencies`` residencies a tensor; see ``mallocgame.solver``.

    ``copies``: "sliced" where one inward may also come in two halves, "chained" where one may also come from, or go
    to, another residency of the tensor. ``below``: only what takes fewer seconds is looked for.
    ``status`` is ``optimal`` if the time limit did not end the search; the seed does not matter.
    """
    began = time.perf_counter()
    best = start if start is not None else Mapping()
    best_seconds = simulate(program, hierarchy, best).total_seconds
    history = [(0.0, best_seconds)]
    done = seconds > 0
    problem, sizes = Problem(program, hierarchy), (max_residencies, copies)
    choices = [_choices(problem, tensor, *sizes) for tensor in range(len(program.tensors) if done else 0)]
    for floor, chosen in _by_floor(problem, choices):
        wanted = min(best_seconds, below)
        spent = time.perf_counter() - began
        if spent > seconds:
            done = False
        if floor >= wanted or not done:
            break
        for mapping in _fitting(hierarchy, chosen):
            judged = simulate(program, hierarchy, mapping).total_seconds
            packed = _pack(program, hierarchy, mapping) if judged < wanted else None
            if packed is not None:
                best, best_seconds, wanted = packed, judged, judged
                history.append((spent, judged))
        if progress is not None:
            progress(min(spent / seconds, 1.0))
    return SolveResult(
        mapping=best,
        seconds=best_seconds,
        lower_bound_seconds=best_seconds if done else 0.0,
        status="optimal" if done else "feasible",
        solve_seconds=time.perf_counter() - began,
        history=tuple(history),
    )


def _choices(problem: Problem, tensor: int, max_residencies: int, copies: str) -> list[_Choice]:
    """Return the plans of a tensor by the layers from which they serve its uses; the first serves all from home."""
    program, rows = problem.program, problem.hierarchy.layers
    moved = program.tensors[tensor]
    uses, layers = moved.uses, range(1, len(rows) if moved.movable else 1)
    fitting = [layer for layer in layers if rows[layer].capacity_bytes >= moved.size_bytes]
    found = {(0,) * len(uses): _Choice(problem, [Mapping()])}
    pieces = [piece for layer in fitting for piece in _pieces(program, tensor, layer, copies == "sliced")]
    for count in range(1, max_residencies + 1):
        for chosen in combinations(pieces, count):
            if _collide(chosen):
                continue
            whole = _join(list(chosen))
            key = tuple(0 if use.home_only else _layer_at(whole, use.step) for use in uses)
            plans = _chained(whole) if copies == "chained" and count > 1 else iter([whole])
            found.setdefault(key, _Choice(problem)).candidates.extend(plans)
    return list(found.values())


def _layer_at(mapping: Mapping, step: int) -> int:
    """Return the fastest layer with a residency that is filled at a step."""
    filled = [r.start_step for r in mapping.residencies]
    for x in mapping.transfers:
        if x.target != HOME:
            filled[x.target] = max(filled[x.target], x.done_before)
    places = zip(filled, mapping.residencies, strict=True)
    return max((r.layer for begin, r in places if begin <= step < r.end_step), default=0)


def _chained(mapping: Mapping) -> Iterator[Mapping]:
    """Yield the mapping with each choice of other residencies in the place of layer 0 (of all slices of a copy)."""
    copies = sorted({(x.source, x.target) for x in mapping.transfers})
    options = []
    for source, target in copies:
        others = [HOME, *(i for i in range(len(mapping.residencies)) if i not in (source, target))]
        options.append([(other, target) if source == HOME else (source, other) for other in others])
    for choice in product(*options):
        changed = dict(zip(copies, choice, strict=True))
        moved = (replace(x, source=s, target=t) for x in mapping.transfers for s, t in [changed[x.source, x.target]])
        yield Mapping(residencies=mapping.residencies, transfers=tuple(moved))


def _pieces(program: Program, tensor: int, layer: int, slices: bool) -> Iterator[Mapping]:
    """Yield one residency with its copy in and its copy out, in all ways that are not absurd.

    It begins when its first copy is issued: earlier would only take space. In a program without loops both slices are
    due when the residency is filled: earlier would only let the program wait.
    """
    end, uses, is_straight = program.num_steps, program.tensors[tensor].uses, not program.loops
    defined = {use.step for use in uses if use.kind == UseKind.DEFINE}
    written = {use.step for use in uses if use.kind != UseKind.READ}
    held = program.tensors[tensor].holdable
    for first in range(HELD if held else 0, end):
        for last in range(max(first, 0) + 1, end + 1):
            residency = Residency(tensor=tensor, layer=layer, offset_bytes=0, start_step=first, end_step=last)
            fills: list[tuple[Span, ...]] = [()] if first == HELD or first in defined else []
            if first != HELD:
                whole = [(issue, due) for issue in range(first, last + 1) for due in range(issue, last + 1)]
                begun = [span for span in whole if span[0] == first]
                fills += [(span,) for span in begun]
                if slices and program.tensors[tensor].size_bytes > 1:
                    fills += [(a, b) for a in begun for b in whole if a[1] == b[1] or not is_straight]
            for fill in fills:
                filled = max((due for _, due in fill), default=first)
                served = [use.step for use in uses if filled <= use.step < last]
                if not served and not (held and last == end):
                    continue
                outs: list[tuple[int, int] | None] = [None]
                if written & set(served):
                    low = min(written & set(served)) + 1
                    outs += [(issue, due) for issue in range(low, last + 1) for due in range(issue, last + 1)]
                for out in outs:
                    size = program.tensors[tensor].size_bytes
                    moves = []
                    parts = [size] if len(fill) < 2 else [size // 2, size - size // 2]
                    for number, span in enumerate(fill):
                        offset = parts[0] if number else 0
                        moves.append(_copy(tensor, HOME, 0, span, parts[number], offset))
                    if out is not None:
                        moves.append(_copy(tensor, 0, HOME, out, size))
                    yield Mapping(residencies=(residency,), transfers=tuple(moves))


def _copy(tensor: int, source: int, target: int, span: Span, size: int, offset: int = 0) -> Transfer:
    return Transfer(
        tensor=tensor,
        source=source,
        target=target,
        start_after=span[0] - 1,
        done_before=span[1],
        size_bytes=size,
        slice_offset_bytes=offset,
    )


def _collide(pieces: tuple[Mapping, ...]) -> bool:
    spans = sorted(
        (p.residencies[0].layer, max(p.residencies[0].start_step, 0), p.residencies[0].end_step) for p in pieces
    )
    return any(a[0] == b[0] and b[1] < a[2] for a, b in pairwise(spans))


def _join(parts: list[Mapping]) -> Mapping:
    residencies: list[Residency] = []
    transfers: list[Transfer] = []
    for part in parts:
        shift = len(residencies)
        residencies.extend(part.residencies)
        for x in part.transfers:
            source = x.source if x.source == HOME else x.source + shift
            target = x.target if x.target == HOME else x.target + shift
            transfers.append(replace(x, source=source, target=target))
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


def _by_floor(problem: Problem, choices: list[list[_Choice]]) -> Iterator[tuple[float, tuple[_Choice, ...]]]:
    """Yield (seconds without any wait, choice of each tensor) in ascending order."""
    program, hierarchy = problem
    speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers])
    base = bytes_by_layer(program, hierarchy, serving_layers(program, Mapping()))
    changes = [
        [bytes_by_layer(program, hierarchy, serving_layers(program, c.candidates[0])) - base for c in cs]
        for cs in choices
    ]
    found = []
    for numbers in product(*(range(len(cs)) for cs in choices)):
        table = base + sum((changes[tensor][index] for tensor, index in enumerate(numbers)), np.zeros_like(base))
        times = np.maximum(program.compute_seconds, (table / speeds).sum(axis=1)) * program.trip_counts
        found.append((float(times.sum()), numbers))
    found.sort()
    for floor, numbers in found:
        yield floor, tuple(choices[tensor][index] for tensor, index in enumerate(numbers))


def _fitting(hierarchy: Hierarchy, chosen: tuple[_Choice, ...]) -> Iterator[Mapping]:
    """Yield the combinations of valid plans that the layers are large enough for."""
    capacity = np.array([layer.capacity_bytes for layer in hierarchy.layers])
    for plans in product(*(choice.plans for choice in chosen)):
        if not (sum(filled for _, filled in plans) > capacity).any():
            yield _join([mapping for mapping, _ in plans])


def _pack(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Mapping | None:
    """Give each residency an offset that is a sum of other residencies' rounded sizes; None if none is valid."""
    grains = [hierarchy.layers[r.layer].alignment_bytes for r in mapping.residencies]
    sizes = [
        -(-program.tensors[r.tensor].size_bytes // g) * g for r, g in zip(mapping.residencies, grains, strict=True)
    ]
    options = []
    for index, r in enumerate(mapping.residencies):
        others = [s for j, s in enumerate(sizes) if j != index and mapping.residencies[j].layer == r.layer]
        sums = {sum(subset) for n in range(len(others) + 1) for subset in combinations(others, n)}
        room = hierarchy.layers[r.layer].capacity_bytes - program.tensors[r.tensor].size_bytes
        options.append(sorted(s for s in sums if s <= room))
    for offsets in product(*options):
        rows = tuple(replace(r, offset_bytes=o) for r, o in zip(mapping.residencies, offsets, strict=True))
        packed = Mapping(residencies=rows, transfers=mapping.transfers)
        if not validate(program, hierarchy, packed):
            return packed
    return None

"""Where a function is cut into regions, each a ``jax.checkpoint`` of its own: bodies of loops, and stretches between.

A stretch ends where little crosses: between the layers of a network. Among all ways to cut, the one with the least sum
of what crosses the cuts and of what the largest stretch makes inside, which is what a step that recomputes everything
must hold. Loops over layers are regions by themselves: their body is checkpointed in every iteration.
"""

import itertools
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.workloads.checkpointing.flat import Equation, FlatFunction, flatten
from mallocgame.workloads.checkpointing.graph import size_bytes
from mallocgame.workloads.checkpointing.work import Kind, work_of

PREFIX = "mallocgame/"  # of names that are put in
MAX_CUTS = 400
PIECES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
SMALLEST = 1 / 512  # of a region's largest value: below it nothing is named
_NOT_NAMED = {"broadcast_in_dim", "iota", "reshape", "transpose", "squeeze", "slice", "split", "expand_dims", "name"}
I64 = npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class EquationRange:
    """Equations [start, end) of a function; with ``body`` the one equation is a loop, and its body is the region.

    ``names`` are given to values (numbers of the function, or of the body); ``entries`` name inputs as they come in.
    """

    start: int
    end: int
    names: dict[int, str] = field(default_factory=dict)
    entries: dict[int, str] = field(default_factory=dict)
    body: FlatFunction | None = None
    length: int = 1
    label: str = ""


def cut(flat: FlatFunction, label: str = "0", *, own_names: bool = False) -> list[EquationRange]:
    """Return the regions of a function, in order, with names for everything that may be worth keeping.

    With ``own_names`` only what the user has named is named.
    """
    regions: list[EquationRange] = []
    start = 0
    loops = [i for i, e in enumerate(flat.equations) if _is_layer_loop(e)]
    for at in [*loops, len(flat.equations)]:
        points = [*_cuts(flat, start, at), at]
        for first, last in zip([start, *points], points, strict=False):
            if first < last:
                regions.append(EquationRange(start=first, end=last))
        if at < len(flat.equations):
            eqn = flat.equations[at].eqn
            body = flatten(eqn.params["jaxpr"])
            regions.append(EquationRange(start=at, end=at + 1, body=body, length=int(eqn.params["length"])))
        start = at + 1
    for number, region in enumerate(regions):
        region.label = f"{label}.{number}"
        _name(flat, region, f"{PREFIX}{label}.{number}", own_names)
    return regions


def has_effects(flat: FlatFunction, region: EquationRange) -> bool:
    """Return whether a region prints or calls back, which ``jax.checkpoint`` refuses."""
    equations = region.body.equations if region.body is not None else flat.equations[region.start : region.end]
    return any(e.eqn.effects for e in equations)


def _is_layer_loop(equation: Equation) -> bool:
    """Return whether a loop is one over layers or over time: it multiplies matrices, or keeps most of what there is."""
    if equation.primitive != "scan" or int(equation.eqn.params["length"]) < 2:
        return False
    return _flops(equation.eqn.params["jaxpr"].jaxpr) > 0


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        total += work_of(eqn).flops
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                opened = getattr(inner, "jaxpr", inner)
                if hasattr(opened, "eqns"):
                    total += _flops(opened)
    return total


def _cuts(flat: FlatFunction, start: int, end: int) -> list[int]:
    """Return where to cut equations [start, end): numbers of the equations before which a region ends."""
    if end - start < 2:
        return []
    made, size, last = _life(flat, start, end)
    crossing = np.zeros(end - start + 2, dtype=np.int64)
    np.add.at(crossing, made - start + 1, size)
    np.add.at(crossing, np.minimum(last, end) - start + 1, -size)
    crossing = np.cumsum(crossing)[: end - start + 1]  # before equation start + i
    inner = np.flatnonzero((crossing[1:-1] <= crossing[:-2]) & (crossing[1:-1] < crossing[2:])) + 1
    if len(inner) > MAX_CUTS:
        inner = np.sort(inner[np.argsort(crossing[inner], kind="stable")[:MAX_CUTS]])
    points = [start, *(start + int(i) for i in inner), end]
    return _cheapest(points, made, size, last)


def _life(flat: FlatFunction, start: int, end: int) -> tuple[I64, I64, I64]:
    """Return (int64[V], int64[V], int64[V]): of values made in [start, end) the equation, the bytes, the last reader.

    A last reader of ``end`` or more stands for one behind the stretch.
    """
    reader: dict[int, int] = {}
    for i, equation in enumerate(flat.equations):
        for v in equation.values_read:
            reader[v] = i
    reader.update((v, len(flat.equations)) for v in flat.outputs if isinstance(v, int))
    rows = [
        (i, size_bytes(flat.avals[v]), reader.get(v, i))
        for i in range(start, end)
        for v in flat.equations[i].outputs
        if flat.equations[i].primitive not in ("broadcast_in_dim", "iota")
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _cheapest(points: list[int], made: I64, size: I64, last: I64) -> list[int]:
    """Choose among cut points by dynamic programming: least crossing bytes plus the bytes of the largest stretch."""
    total = int(size.sum())
    slots = np.array([bisect_right(points, int(i)) - 1 for i in made], dtype=np.int64)
    inside = np.concatenate([[0], np.cumsum(np.bincount(slots, weights=size, minlength=len(points) - 1))])
    crosses = np.zeros((len(points), len(points)))  # [j, i]: made in [j, i) and read at or after i
    for i in range(1, len(points)):
        late = last >= points[i]
        sums = np.bincount(slots[late], weights=size[late], minlength=len(points) - 1)[:i]
        crosses[:i, i] = np.cumsum(sums[::-1])[::-1]
    best: tuple[float, list[int]] = (float("inf"), [])
    for pieces in PIECES:
        limit = max(total / pieces, float(np.max(np.diff(inside), initial=0.0)))
        cost, way = _with_limit(inside, crosses, limit)
        chosen = [points[i] for i in way[1:-1]]
        widest = max(inside[b] - inside[a] for a, b in itertools.pairwise(way))
        if cost + widest < best[0] * (1 - 1e-9):
            best = (cost + widest, chosen)
    return best[1]


def _with_limit(inside: npt.NDArray[Any], crosses: npt.NDArray[Any], limit: float) -> tuple[float, list[int]]:
    """Return (crossing bytes, cut points) of the cheapest way in which no stretch makes more than ``limit``."""
    count = len(inside)
    cost, before = np.full(count, np.inf), np.zeros(count, dtype=np.int64)
    cost[0] = 0.0
    for i in range(1, count):
        options = np.where(inside[i] - inside[:i] <= limit * (1 + 1e-9), cost[:i] + crosses[:i, i], np.inf)
        options[i - 1] = min(options[i - 1], cost[i - 1] + crosses[i - 1, i])
        before[i] = int(np.argmin(options))
        cost[i] = options[before[i]]
    way = [count - 1]
    while way[-1] > 0:
        way.append(int(before[way[-1]]))
    return float(cost[-1]), way[::-1]


def _name(flat: FlatFunction, region: EquationRange, label: str, own_names: bool) -> None:
    """Give names to a region's values and to what enters it, in place."""
    function = region.body if region.body is not None else flat
    span = (0, len(function.equations)) if region.body is not None else (region.start, region.end)
    equations = function.equations[span[0] : span[1]]
    if own_names:
        return
    named_already = {v for e in equations if e.primitive == "name" for v in (*e.values_read, *e.outputs)}
    sizes = {
        v: size_bytes(function.avals[v])
        for e in equations
        if e.primitive not in _NOT_NAMED and work_of(e.eqn).kind != Kind.FREE
        for v in e.outputs
        if v not in named_already
    }
    inputs = {v: size_bytes(function.avals[v]) for v in entering(flat, region) if v not in named_already}
    least = max([*sizes.values(), *inputs.values()], default=0) * SMALLEST
    for e in equations:
        for v in e.outputs:
            if sizes.get(v, 0) > least:
                region.names[v] = f"{label}.{e.primitive}.{len(region.names)}"
    for v, size in inputs.items():
        if size > least:
            region.entries[v] = f"{label}.input.{len(region.entries)}"


def entering(flat: FlatFunction, region: EquationRange) -> list[int]:
    """Return the inputs of a region that exist for it alone: a loop's carries, what only this stretch reads."""
    if region.body is not None:
        params = flat.equations[region.start].eqn.params
        first = int(params["num_consts"])
        return list(region.body.inputs[first : first + int(params["num_carry"])])
    given = {*flat.inputs, *flat.constants}
    inside = {v for e in flat.equations[region.start : region.end] for v in e.outputs}
    read = {v for e in flat.equations[region.start : region.end] for v in e.values_read} - inside - given
    for e in flat.equations[region.end :]:
        read.difference_update(e.values_read)
    return sorted(read - {v for v in flat.outputs if isinstance(v, int)})

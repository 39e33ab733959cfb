"""The relaxation of the whole problem: flows of all tensors, capacity at each step, instruction times, link work.

Seconds are in units of the all-in-layer-0 time and bytes in units of a layer's capacity, so that the solver's
tolerances mean the same on every program.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.flow import ContentsFlow, CopyArc, add_flow
from mallocgame.baselines.bounds.linear import Expression, LinearProgram, Terms
from mallocgame.baselines.bounds.route import route
from mallocgame.baselines.bounds.windows import Progress, pick_edges, spread
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import bytes_by_layer, home_seconds
from mallocgame.program import Program

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

TINY_TRAFFIC = 1e-5  # of the all-in-layer-0 time, and
TINY_SIZE = 1e-4  # of the smallest layer: below both, a tensor's shares may be fractions even in the integer program
MOST_ENTRIES = 10_000_000  # of the rows of capacity, some gigabytes: larger programs are not built
SMALL_WORK = 1e-5  # copies that take less of the all-in-layer-0 time are only counted in the total


@dataclass(slots=True, kw_only=True)
class StepTime:
    """The seconds of one step (all executions) over its compute time: ``excess`` >= ``gap`` - sum of saving x share."""

    step: int
    excess: int  # column, in units
    gap: float  # what all-in-layer-0 traffic takes beyond the compute time, in units; may be negative
    savings: Terms  # (column of a served share, seconds saved in units)


@dataclass(slots=True, kw_only=True)
class Relaxation:
    """The linear program and where things are in it."""

    program: Program
    hierarchy: Hierarchy
    linear: LinearProgram
    flows: list[ContentsFlow]
    steps: dict[int, StepTime]
    idle: list[list[Expression]]  # link, step: link seconds free in units (stalls apart)
    unit_seconds: float
    edges: I64
    wait: list[int] = field(default_factory=list)  # slot: column, units of waiting in it
    progress: list[Progress] = field(default_factory=list)
    num_shares: int = 0  # the first columns: all that are 0 or 1 in a mapping
    capacity_rows: list[int] = field(default_factory=list)
    shares: set[int] = field(default_factory=set)  # columns that are 0 or 1 in a mapping, those of tiny tensors apart

    @property
    def is_whole(self) -> npt.NDArray[np.bool_]:
        """bool[columns]: which the integer program keeps whole."""
        flags = np.zeros(len(self.linear.cost), dtype=np.bool_)
        flags[sorted(self.shares)] = True
        return flags

    @property
    def is_share(self) -> npt.NDArray[np.bool_]:
        """bool[columns]: which are 0 or 1 in a mapping."""
        return np.arange(len(self.linear.cost)) < self.num_shares


class OutOfTime(Exception):  # noqa: N818 (not an error: the limit is reached)
    """A relaxation was not built in time, or would not fit into memory."""


def relax(
    program: Program,
    hierarchy: Hierarchy,
    *,
    num_slots: int = 64,
    most_decisions: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Relaxation:
    """Build the relaxation.

    Args:
        program: with its loops and flags.
        hierarchy: any number of layers.
        num_slots: how finely it looks at when copies happen.
        most_decisions: beyond so many, the tensors with the least traffic are always in the fastest layer and take no
            space and no copies: a weaker bound, from a smaller program.
        stop: asked now and then.

    Raises:
        OutOfTime: ``stop`` said so, or it is too large.
    """
    linear = LinearProgram()
    flows: list[ContentsFlow] = []
    shares: set[int] = set()
    unit = home_seconds(program, hierarchy) or 1.0
    ideal = _least(program, most_decisions)
    if _entries(program, ideal) > MOST_ENTRIES:
        raise OutOfTime
    for index, tensor in enumerate(program.tensors):
        _check(stop)
        fits = [k for k, layer in enumerate(hierarchy.layers) if k > 0 and tensor.size_bytes <= layer.capacity_bytes]
        if index not in ideal and tensor.movable and fits and any(not use.home_only for use in tensor.uses):
            first = len(linear.cost)
            flows.append(
                add_flow(linear, tensor, route(program, index), (0, *fits), range(1, hierarchy.num_layers - 1))
            )
            if _matters(program, hierarchy, index, unit):
                shares.update(range(first, len(linear.cost)))
    relaxation = Relaxation(
        program=program,
        hierarchy=hierarchy,
        linear=linear,
        flows=flows,
        steps={},
        idle=[],
        unit_seconds=unit,
        edges=np.array([0, program.num_steps]),
        shares=shares,
        num_shares=len(linear.cost),
    )
    steps: tuple[Callable[[Relaxation], None], ...] = (
        lambda r: _add_times(r, ideal),
        lambda r: _add_links(r, num_slots),
        lambda r: _add_capacity(r, stop),
    )
    for add in steps:
        _check(stop)
        add(relaxation)
    return relaxation


def _check(stop: Callable[[], bool]) -> None:
    if stop():
        raise OutOfTime


def _least(program: Program, most_decisions: int | None) -> set[int]:
    """Return the movable tensors that are left over when those with most traffic have ``most_decisions`` uses."""
    if most_decisions is None:
        return set()
    uses = program.uses
    traffic = np.bincount(
        uses.tensor, weights=uses.bytes * program.trip_counts[uses.step], minlength=len(program.tensors)
    )
    order = np.argsort(-traffic, kind="stable")
    counts = np.cumsum(np.diff(uses.first)[order])
    return {i for i in order[counts > most_decisions].tolist() if program.tensors[i].movable}


def _entries(program: Program, ideal: set[int]) -> int:
    """Return about how many entries the rows of capacity have: steps between a tensor's first and last use."""
    spans = (
        tensor.uses[-1].step - (0 if tensor.is_parameter and tensor.holdable else tensor.uses[0].step)
        for index, tensor in enumerate(program.tensors)
        if tensor.movable and tensor.uses and index not in ideal
    )
    return sum(spans)


def _matters(program: Program, hierarchy: Hierarchy, index: int, unit: float) -> bool:
    """Whether a tensor is large, or its traffic long, enough to be worth a whole decision."""
    tensor, slowest = program.tensors[index], min(layer.bytes_per_second for layer in hierarchy.layers)
    traffic = sum(use.bytes * int(program.trip_counts[use.step]) for use in tensor.uses)
    room = min(layer.capacity_bytes for layer in hierarchy.layers[1:])
    return traffic / slowest >= TINY_TRAFFIC * unit or tensor.size_bytes >= TINY_SIZE * room


def work_seconds(relaxation: Relaxation, move: CopyArc) -> tuple[int, float]:
    """Return the link of a whole copy and its work over the run, in units."""
    hierarchy = relaxation.hierarchy
    index = hierarchy.link_index(move.source, move.target)
    link = hierarchy.links[index]
    size = relaxation.program.tensors[move.tensor].size_bytes
    return index, (size / link.bytes_per_second + link.latency_seconds) * move.leg.trip_count / relaxation.unit_seconds


def _add_times(relaxation: Relaxation, ideal: set[int]) -> None:
    program, hierarchy, linear, unit = (
        relaxation.program,
        relaxation.hierarchy,
        relaxation.linear,
        relaxation.unit_seconds,
    )
    speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers])
    is_ideal = np.isin(program.uses.tensor, np.array(sorted(ideal), dtype=np.int64)) & ~program.uses.home_only
    table = bytes_by_layer(program, hierarchy, np.where(is_ideal, int(np.argmax(speeds)), 0))
    scale = program.trip_counts / unit
    memory = (table / speeds).sum(axis=1) * scale
    compute = program.compute_seconds * scale
    linear.constant += float(compute.sum())
    savings: dict[int, Terms] = {}
    # layer, step: seconds by which served shares change the layer's traffic
    layer_traffic: list[dict[int, Expression]] = [{} for _ in hierarchy.layers]
    for flow in relaxation.flows:
        for index, served in flow.served.items():
            stop = flow.route.stops[index]
            if stop.free_bytes == 0:
                continue
            step, volume = stop.boundary, stop.free_bytes * scale[stop.boundary]
            for layer, share in zip(flow.layers[1:], served[1:], strict=True):
                for column, factor in share.terms:
                    saved = volume * (1.0 / speeds[0] - 1.0 / speeds[layer]) * factor
                    savings.setdefault(step, []).append((column, float(saved)))
                    for at, sign in ((0, -1.0), (layer, 1.0)):
                        expression = layer_traffic[at].setdefault(step, Expression())
                        expression.terms.append((column, float(sign * factor * volume / speeds[at])))
    for step in range(program.num_steps):
        gap, terms = float(memory[step] - compute[step]), savings.get(step, [])
        most = max(gap, 0.0) + sum(max(-saved, 0.0) for _, saved in terms)
        if most <= 0.0:
            continue
        excess = linear.column(0.0, max(most, 1e-12), 1.0)
        reach = gap + sum(max(-saved, 0.0) for _, saved in terms)
        tightened = [(column, min(saved, reach)) for column, saved in terms]
        relaxation.steps[step] = StepTime(step=step, excess=excess, gap=gap, savings=tightened)
        linear.at_least([(excess, 1.0), *tightened], gap)
    for link in hierarchy.links:
        row: list[Expression] = []
        for step in range(program.num_steps):
            free = Expression(constant=float(compute[step]))
            if step in relaxation.steps:
                free.terms.append((relaxation.steps[step].excess, 1.0))
            if link.shared_layer is not None:
                free.constant -= float(table[step, link.shared_layer] * scale[step] / speeds[link.shared_layer])
                busy = layer_traffic[link.shared_layer].get(step)
                if busy is not None:
                    free.add(busy, -1.0)
            row.append(free)
        relaxation.idle.append(row)


def _add_capacity(relaxation: Relaxation, stop: Callable[[], bool]) -> None:
    """What is present, kept or on its way fits into each layer at each step.

    Two rows a step: one with sizes rounded up to the alignment, for what is there in full (whole residencies begin at
    aligned offsets, so rounding loses nothing), and one in exact bytes with copies on their way, whose slices may sit
    next to others at any offset.
    """
    program, hierarchy = relaxation.program, relaxation.hierarchy
    steps = _used_steps(relaxation)
    if hierarchy.num_layers > 2:
        _add_joint_capacity(relaxation, stop)
        _add_ending_capacity(relaxation)
    for layer in range(1, hierarchy.num_layers):
        grain, capacity = hierarchy.layers[layer].alignment_bytes, hierarchy.layers[layer].capacity_bytes
        sizes = program.sizes_bytes
        rounded = -(-sizes // grain) * grain
        exact = _presence(relaxation, layer, sizes / capacity, stop)
        if hierarchy.num_layers == 2:  # else a copy on its way through may leave at once
            _add_flying(relaxation, layer, steps, exact, stop)
        rooms = [exact]
        if (rounded > sizes).any():
            rooms.append(_presence(relaxation, layer, rounded / (-(-capacity // grain) * grain), stop))
        for rows in rooms:
            for row in rows:
                _check(stop)
                if -sum(coefficient for _, coefficient in row) > 1.0:
                    relaxation.capacity_rows.append(len(relaxation.linear.row_bound))
                    relaxation.linear.at_least(row, -1.0)


def _add_joint_capacity(relaxation: Relaxation, stop: Callable[[], bool]) -> None:
    """What is above layer 0, wherever, fits into all layers above it together."""
    steps, hierarchy = _used_steps(relaxation), relaxation.hierarchy
    room = sum(layer.capacity_bytes for layer in hierarchy.layers[1:])
    rows: list[Terms] = [[] for _ in steps]
    for flow in relaxation.flows:
        _check(stop)
        size = relaxation.program.tensors[flow.route.tensor].size_bytes / room
        for number, there in flow.above_at.items():
            rows[bisect_left(steps, flow.route.stops[number].boundary)] += [(c, -size * f) for c, f in there.terms]
        for index, there in flow.above.items():
            leg, terms = flow.route.legs[index], [(c, -size * f) for c, f in there.terms]
            for row in rows[bisect_left(steps, leg.from_step) : bisect_left(steps, leg.to_step)]:
                row += terms
    for row in rows:
        if -sum(coefficient for _, coefficient in row) > 1.0:
            relaxation.linear.at_least(row, -1.0)


def _add_ending_capacity(relaxation: Relaxation) -> None:
    """What is in a layer before the end, for the next run, fits."""
    for layer in range(1, relaxation.hierarchy.num_layers):
        capacity = relaxation.hierarchy.layers[layer].capacity_bytes
        row: Terms = []
        for flow in relaxation.flows:
            if layer in flow.layers and flow.layers.index(layer) in flow.ending:
                size = relaxation.program.tensors[flow.route.tensor].size_bytes / capacity
                row += [(column, -size * f) for column, f in flow.ending[flow.layers.index(layer)].terms]
        if -sum(coefficient for _, coefficient in row) > 1.0:
            relaxation.linear.at_least(row, -1.0)


def _used_steps(relaxation: Relaxation) -> list[int]:
    return sorted({flow.route.stops[i].boundary for flow in relaxation.flows for i in flow.present})


def presence_columns(relaxation: Relaxation, layer: int, stop: Callable[[], bool]) -> list[list[tuple[int, int]]]:
    """Return, per step that uses a tensor, what may be in the layer in full: (0-1 column, tensor)."""
    steps = _used_steps(relaxation)
    rows: list[list[tuple[int, int]]] = [[] for _ in steps]
    for flow in relaxation.flows:
        _check(stop)
        if layer not in flow.layers:
            continue
        at, tensor = flow.layers.index(layer), flow.route.tensor
        for number, present in flow.present.items():
            row = rows[bisect_left(steps, flow.route.stops[number].boundary)]
            row.extend((column, tensor) for column, _ in present[at].terms)
        for index, kept in flow.kept.items():
            leg = flow.route.legs[index]
            items = [(column, tensor) for column, _ in kept[at].terms]
            if items:
                for row in rows[bisect_left(steps, leg.from_step) : bisect_left(steps, leg.to_step)]:
                    row += items
    return rows


def _presence(relaxation: Relaxation, layer: int, sizes: F64, stop: Callable[[], bool]) -> list[Terms]:
    """Return, per step, minus the size of all that is in the layer, as terms."""
    negative = (-sizes).tolist()
    rows = presence_columns(relaxation, layer, stop)
    return [[(column, negative[tensor]) for column, tensor in row] for row in rows]


def _add_flying(
    relaxation: Relaxation, layer: int, steps: list[int], rows: list[Terms], stop: Callable[[], bool]
) -> None:
    """What has been copied of a tensor before a step takes space during it."""
    capacity, edges = relaxation.hierarchy.layers[layer].capacity_bytes, relaxation.edges.tolist()
    for progress in relaxation.progress:
        _check(stop)
        move = progress.move
        if move.target != layer:
            continue
        size = relaxation.program.tensors[move.tensor].size_bytes / capacity
        low = bisect_left(steps, move.leg.first_issue)
        for at in range(low, bisect_left(steps, max(move.leg.to_step, move.leg.first_issue))):
            column = progress.before_step(steps[at], edges)
            if column is not None:
                rows[at].append((column, -size))


def _add_links(relaxation: Relaxation, num_slots: int) -> None:
    """A link's work fits into the time it is free, waits included: in all, and within each move's window."""
    linear = relaxation.linear
    moves = [(move, *work_seconds(relaxation, move)) for flow in relaxation.flows for move in flow.moves]
    large = [entry for entry in moves if entry[2] >= SMALL_WORK]
    relaxation.edges = pick_edges(relaxation.program.num_steps, large, num_slots)
    relaxation.wait = [linear.column(0.0, 1.0, 1.0) for _ in range(2 * len(relaxation.edges) - 1)]
    for link, idle in enumerate(relaxation.idle):
        free = Expression.of(*relaxation.wait)
        for expression in idle:
            free.add(expression)
        linear.not_above(Expression([(move.column, work) for move, at, work in moves if at == link]), free)
    relaxation.progress = spread(linear, large, relaxation.idle, relaxation.wait, relaxation.edges)

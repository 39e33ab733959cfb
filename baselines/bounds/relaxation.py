"""The relaxation of the whole problem: flows of all tensors, capacity at each step, instruction times, link work.

Seconds are in units of the all-in-layer-0 time and bytes in units of a layer's capacity, so that the solver's
tolerances mean the same on every program. Rows are built as arrays, all tensors at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.flow import ContentsFlow, CopyArc
from mallocgame.baselines.bounds.linear import LinearProgram
from mallocgame.baselines.bounds.route import LegColumn, StopColumn, routes
from mallocgame.baselines.bounds.templates import Flows, Places, add_flows, expand
from mallocgame.baselines.bounds.windows import Idle, LargeMoves, Progress, pick_edges, spread
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import bytes_by_layer, home_seconds
from mallocgame.program import Program

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

TINY_TRAFFIC = 1e-5  # of the all-in-layer-0 time, and
TINY_SIZE = 1e-4  # of the smallest layer: below both, a tensor's shares may be fractions even in the integer program
MOST_ENTRIES = 10_000_000  # of the rows of capacity, some gigabytes: larger programs are not built
SMALL_WORK = 1e-5  # copies that take less of the all-in-layer-0 time are only counted in the total


class Present(NamedTuple):
    """What may be in a layer in full during the steps ``steps[low] .. steps[high - 1]``: 0-1 columns and tensors."""

    low: I64
    high: I64
    column: I64
    tensor: I64


@dataclass(kw_only=True)
class Relaxation:
    """The linear program and where things are in it."""

    program: Program
    hierarchy: Hierarchy
    linear: LinearProgram
    columns: Flows
    unit_seconds: float
    is_tiny: Bool  # [N], of the tensors of ``columns``: their shares may be fractions
    steps: I64  # those that use a tensor of ``columns``, and the last one where something is held
    edges: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    capacity_rows: list[int] = field(default_factory=list)

    @cached_property
    def flows(self) -> list[ContentsFlow]:
        """Each tensor's flow as an object."""
        return [self.columns.flow(index) for index in range(len(self.columns.template))]

    @property
    def num_shares(self) -> int:
        """Of the first columns: those that are 0 or 1 in a mapping."""
        return int(self.columns.first_column[-1])

    @property
    def is_whole(self) -> Bool:
        """bool[columns]: which the integer program keeps whole."""
        flags = np.zeros(len(self.linear.cost), dtype=np.bool_)
        flags[: self.num_shares] = np.repeat(~self.is_tiny, np.diff(self.columns.first_column))
        return flags

    @property
    def is_share(self) -> Bool:
        """bool[columns]: which are 0 or 1 in a mapping."""
        return np.arange(len(self.linear.cost)) < self.num_shares

    def present(self, layer: int) -> Present:
        """Return what may be in a layer in full, at uses, between them, and in the last step for the next run."""
        at_use = _at_uses(self, self.columns.present, self.columns.present.layer == layer)
        kept = _on_legs(self, self.columns.kept, self.columns.kept.layer == layer)
        reloaded = _reloaded(self) if self.hierarchy.num_layers == 2 else tuple(part[:0] for part in kept)
        return Present(*(np.concatenate(parts) for parts in zip(at_use, kept, reloaded, strict=True)))


class OutOfTime(Exception):  # noqa: N818 (not an error: the limit is reached)
    """A relaxation was not built in time, or would not fit into memory."""


def relax(
    program: Program,
    hierarchy: Hierarchy,
    *,
    num_slots: int = 64,
    stop: Callable[[], bool] = lambda: False,
) -> Relaxation:
    """Build the relaxation.

    Args:
        program: with its loops and flags.
        hierarchy: any number of layers.
        num_slots: how finely it looks at when copies happen.
        stop: asked now and then.

    Raises:
        OutOfTime: ``stop`` said so, or it is too large.
    """
    linear, unit = LinearProgram(), home_seconds(program, hierarchy) or 1.0
    tensors = placed_tensors(program, hierarchy)
    if _entries(program, tensors) > MOST_ENTRIES:
        raise OutOfTime
    _check(stop)
    columns = add_flows(linear, program, hierarchy, routes(program, np.flatnonzero(tensors)))
    uses = columns.routes.stops[columns.present_stops, StopColumn.BOUNDARY]
    last = [program.num_steps - 1] if len(columns.ending.column) else []
    relaxation = Relaxation(
        program=program,
        hierarchy=hierarchy,
        linear=linear,
        columns=columns,
        unit_seconds=unit,
        is_tiny=_tiny(program, hierarchy, unit)[columns.routes.tensors],
        steps=np.unique(np.append(uses, np.array(last, dtype=np.int64))),
    )
    _check(stop)
    idle = _add_times(relaxation)
    _check(stop)
    moves, progress = _add_links(relaxation, idle, num_slots)
    _check(stop)
    _add_capacity(relaxation, moves, progress, stop)
    return relaxation


def _check(stop: Callable[[], bool]) -> None:
    if stop():
        raise OutOfTime


def placed_tensors(program: Program, hierarchy: Hierarchy) -> Bool:
    """Return bool[N]: movable tensors that fit into a layer above 0 and have a use that may be served there."""
    movable = np.array([tensor.movable for tensor in program.tensors], dtype=np.bool_)
    fits = program.sizes_bytes <= max(layer.capacity_bytes for layer in hierarchy.layers[1:])
    free = np.bincount(program.uses.tensor, weights=~program.uses.home_only, minlength=len(program.tensors)) > 0
    return movable & fits & free


def _entries(program: Program, tensors: Bool) -> int:
    """Return about how many entries the rows of capacity have: steps between a tensor's first and last use."""
    held = np.array([t.is_parameter and t.holdable for t in program.tensors], dtype=np.bool_)[tensors]
    first, last = program.uses.first[:-1][tensors], program.uses.first[1:][tensors] - 1
    steps = program.uses.step
    return int((steps[last] - np.where(held, 0, steps[first])).sum()) if len(first) else 0


def _tiny(program: Program, hierarchy: Hierarchy, unit: float) -> Bool:
    """Return bool[N]: too small, and with too little traffic, to be worth whole decisions."""
    slowest = min(layer.bytes_per_second for layer in hierarchy.layers)
    room = min(layer.capacity_bytes for layer in hierarchy.layers[1:])
    uses = program.uses
    weights = uses.bytes * np.floor(program.trip_counts[uses.step])
    traffic = np.bincount(uses.tensor, weights=weights, minlength=len(program.tensors))
    tiny: Bool = (traffic / slowest < TINY_TRAFFIC * unit) & (program.sizes_bytes < TINY_SIZE * room)
    return tiny


def work_seconds(relaxation: Relaxation, move: CopyArc) -> tuple[int, float]:
    """Return the link of a whole copy and its work over the run, in units."""
    hierarchy = relaxation.hierarchy
    index = hierarchy.link_index(move.source, move.target)
    link = hierarchy.links[index]
    size = relaxation.program.tensors[move.tensor].size_bytes
    return index, (size / link.bytes_per_second + link.latency_seconds) * move.leg.trip_count / relaxation.unit_seconds


def home_traffic(program: Program, hierarchy: Hierarchy) -> I64:
    """Return int64[T, L], bytes of one execution with everything in layer 0."""
    return bytes_by_layer(program, hierarchy, np.zeros(len(program.uses.step), dtype=np.int64))


def _add_times(relaxation: Relaxation) -> list[Idle]:
    """A step takes its compute time and an excess >= gap - sum of saving x share; return what each link has free."""
    program, hierarchy, linear = relaxation.program, relaxation.hierarchy, relaxation.linear
    speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers])
    table, scale = home_traffic(program, hierarchy), program.trip_counts / relaxation.unit_seconds
    compute = program.compute_seconds * scale
    linear.constant += float(compute.sum())
    gap = (table / speeds).sum(axis=1) * scale - compute  # what traffic takes beyond the compute time
    served, stops = relaxation.columns.served, relaxation.columns.routes.stops
    rows = np.flatnonzero(stops[served.at, StopColumn.FREE_BYTES] > 0)
    step, layer, column = stops[served.at[rows], StopColumn.BOUNDARY], served.layer[rows], served.column[rows]
    volume, factor = stops[served.at[rows], StopColumn.FREE_BYTES] * scale[step], served.factor[rows]
    saved = volume * (1.0 / speeds[0] - 1.0 / speeds[layer]) * factor
    worse = np.bincount(step, weights=np.maximum(-saved, 0.0), minlength=program.num_steps)
    chosen = np.flatnonzero(np.maximum(gap, 0.0) + worse > 0.0)
    excess = linear.add_columns(np.maximum((np.maximum(gap, 0.0) + worse)[chosen], 1e-12), cost=1.0)
    row_of = np.full(program.num_steps, -1, dtype=np.int64)
    row_of[chosen] = np.arange(len(chosen))
    there = row_of[step] >= 0
    linear.add_rows(
        np.concatenate([np.arange(len(chosen)), row_of[step[there]]]),
        np.concatenate([excess, column[there]]),
        np.concatenate([np.ones(len(chosen)), np.minimum(saved, (gap + worse)[step])[there]]),
        gap[chosen],
    )
    idle = []
    for link in hierarchy.links:
        shared, free = link.shared_layer, compute
        leaves, joins = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if shared is not None:
            free = free - table[:, shared] * scale / speeds[shared]
            leaves, joins = np.flatnonzero(layer > 0) if shared == 0 else leaves, np.flatnonzero(layer == shared)
        busy = volume * factor / speeds[shared or 0]
        idle.append(
            Idle(
                free,
                np.concatenate([chosen, step[leaves], step[joins]]),
                np.concatenate([excess, column[leaves], column[joins]]),
                np.concatenate([np.ones(len(chosen)), busy[leaves], -busy[joins]]),
            )
        )
    return idle


def _add_links(relaxation: Relaxation, idle: list[Idle], num_slots: int) -> tuple[I64, Progress]:
    """A link's work fits into the time it is free, waits included: in all, and within each move's window.

    Return which moves are large enough for windows, and how they go on.
    """
    linear, program = relaxation.linear, relaxation.program
    moves, legs = relaxation.columns.moves, relaxation.columns.routes.legs
    link, seconds = move_seconds(relaxation.columns, program, relaxation.hierarchy)
    work = seconds / relaxation.unit_seconds
    chosen = np.flatnonzero(work >= SMALL_WORK)
    large = LargeMoves(
        first_issue=legs[moves.leg[chosen], LegColumn.FIRST_ISSUE],
        last_due=legs[moves.leg[chosen], LegColumn.LAST_DUE],
        column=moves.column[chosen],
        link=link[chosen],
        work=work[chosen],
        is_back=moves.target[chosen] == 0,
    )
    relaxation.edges = pick_edges(program.num_steps, large, num_slots, afterwards=True)
    wait = linear.add_columns(np.ones(2 * len(relaxation.edges) - 1), cost=1.0)
    for number, free in enumerate(idle):
        own = np.flatnonzero(link == number)
        columns = np.concatenate([wait, free.column, moves.column[own]])
        factors = np.concatenate([np.ones(len(wait)), free.coefficient, -work[own]])
        linear.add_rows(np.zeros(len(columns), dtype=np.int64), columns, factors, -free.constant.sum(keepdims=True))
    return chosen, spread(linear, large, idle, wait, relaxation.edges)


def move_seconds(columns: Flows, program: Program, hierarchy: Hierarchy) -> tuple[I64, F64]:
    """Return each move's link, and the seconds of link time it takes over the run."""
    count = hierarchy.num_layers
    table = np.array([[hierarchy.link_index(a, b) if a != b else -1 for b in range(count)] for a in range(count)])
    speed = np.array([link.bytes_per_second for link in hierarchy.links])
    latency = np.array([link.latency_seconds for link in hierarchy.links])
    moves, routes_ = columns.moves, columns.routes
    link = table[moves.source, moves.target]
    sizes = program.sizes_bytes[routes_.tensors[moves.owner]]
    return link, (sizes / speed[link] + latency[link]) * routes_.trip_counts[moves.leg]


def _at_uses(relaxation: Relaxation, places: Places, mask: Bool | None = None) -> tuple[I64, I64, I64, I64]:
    """Return (low, high, column, tensor): the step of a use, as a half-open range of ``steps``."""
    rows = np.arange(len(places.at)) if mask is None else np.flatnonzero(mask)
    table = relaxation.columns.routes
    low = np.searchsorted(relaxation.steps, table.stops[places.at[rows], StopColumn.BOUNDARY])
    return low, low + 1, places.column[rows], table.tensors[places.owner[rows]]


def _on_legs(relaxation: Relaxation, places: Places, mask: Bool | None = None) -> tuple[I64, I64, I64, I64]:
    """Return (low, high, column, tensor): the steps of a leg, as a half-open range of ``steps``."""
    rows = np.arange(len(places.at)) if mask is None else np.flatnonzero(mask)
    table = relaxation.columns.routes
    legs = table.legs[places.at[rows]]
    low = np.searchsorted(relaxation.steps, legs[:, LegColumn.FROM_STEP])
    high = np.searchsorted(relaxation.steps, legs[:, LegColumn.TO_STEP])
    return low, np.maximum(low, high), places.column[rows], table.tensors[places.owner[rows]]


def _reloaded(relaxation: Relaxation) -> tuple[I64, I64, I64, I64]:
    """Return (low, high, column, tensor) of what is loaded again for the next run, during the last step (two layers).

    A residency lasts for a step at least, and this one serves no use: all its space is taken from there on.
    """
    ending, last = relaxation.columns.ending, np.searchsorted(relaxation.steps, relaxation.program.num_steps - 1)
    low = np.full(len(ending.column), last, dtype=np.int64)
    return low, low + 1, ending.column, relaxation.columns.routes.tensors[ending.owner]


def _add_capacity(relaxation: Relaxation, moves: I64, progress: Progress, stop: Callable[[], bool]) -> None:
    """What is present, kept or on its way fits into each layer at each step.

    Two rows a step: one with sizes rounded up to the alignment, for what is there in full (whole residencies begin at
    aligned offsets, so rounding loses nothing), and one in exact bytes with copies on their way, whose slices may sit
    next to others at any offset.
    """
    program, hierarchy = relaxation.program, relaxation.hierarchy
    if hierarchy.num_layers > 2:
        _add_joint_capacity(relaxation)
        _add_ending_capacity(relaxation)
    for layer in range(1, hierarchy.num_layers):
        _check(stop)
        grain, capacity = hierarchy.layers[layer].alignment_bytes, hierarchy.layers[layer].capacity_bytes
        sizes = program.sizes_bytes
        rounded = -(-sizes // grain) * grain
        present = relaxation.present(layer)
        owner, row = expand(present.low, present.high)
        _check(stop)
        column, tensor = present.column[owner], present.tensor[owner]
        rows, columns, factors = row, column, (-(sizes / capacity))[tensor]
        if hierarchy.num_layers == 2:  # else a copy on its way through may leave at once
            for more in (_flying(relaxation, moves, progress), _leaving(relaxation, moves, progress)):
                rows, columns = np.concatenate([rows, more[0]]), np.concatenate([columns, more[1]])
                factors = np.concatenate([factors, -more[2] / capacity])
        _check(stop)
        relaxation.capacity_rows += _add_room(relaxation, rows, columns, factors)
        if (rounded > sizes).any():
            units = -(rounded / (-(-capacity // grain) * grain))
            relaxation.capacity_rows += _add_room(relaxation, row, column, units[tensor])


def _add_room(relaxation: Relaxation, rows: I64, columns: I64, factors: F64) -> list[int]:
    """Add the rows that can be broken: terms >= -1; return their numbers."""
    count = len(relaxation.steps)
    is_tight = -np.bincount(rows, weights=factors, minlength=count) > 1.0
    number = np.cumsum(is_tight) - 1
    there = is_tight[rows]
    bounds = -np.ones(int(is_tight.sum()))
    first = relaxation.linear.add_rows(number[rows[there]], columns[there], factors[there], bounds)
    return list(range(first, first + len(bounds)))


def _add_joint_capacity(relaxation: Relaxation) -> None:
    """What is above layer 0, wherever, fits into all layers above it together."""
    room = sum(layer.capacity_bytes for layer in relaxation.hierarchy.layers[1:])
    columns = relaxation.columns
    at_use, on_leg = _at_uses(relaxation, columns.above_at), _on_legs(relaxation, columns.above)
    low, high, column, tensor = (np.concatenate(pair) for pair in zip(at_use, on_leg, strict=True))
    factor = np.concatenate([columns.above_at.factor, columns.above.factor])
    owner, row = expand(low, high)
    sizes = -(relaxation.program.sizes_bytes[tensor] / room) * factor
    _add_room(relaxation, row, column[owner], sizes[owner])


def _add_ending_capacity(relaxation: Relaxation) -> None:
    """What is in a layer before the end, for the next run, fits."""
    ending = relaxation.columns.ending
    for layer in range(1, relaxation.hierarchy.num_layers):
        rows = np.flatnonzero(ending.layer == layer)
        tensors = relaxation.columns.routes.tensors[ending.owner[rows]]
        sizes = relaxation.program.sizes_bytes[tensors] / relaxation.hierarchy.layers[layer].capacity_bytes
        factors = -sizes * ending.factor[rows]
        if -factors.sum() > 1.0:
            zeros = np.zeros(len(rows), dtype=np.int64)
            relaxation.linear.add_rows(zeros, ending.column[rows], factors, -np.ones(1))


def _flying(relaxation: Relaxation, chosen: I64, progress: Progress) -> tuple[I64, I64, F64]:
    """What has been copied of a tensor before a step takes space during it: (row, column, bytes)."""
    moves, table, steps = relaxation.columns.moves, relaxation.columns.routes, relaxation.steps
    legs = table.legs[moves.leg[chosen]]
    issue = legs[:, LegColumn.FIRST_ISSUE]
    low = np.searchsorted(steps, issue)
    high = np.searchsorted(steps, np.maximum(legs[:, LegColumn.TO_STEP], issue))
    # From the last step of the slot in which a node ends, until the next node's: what is copied during a step was
    # issued before it. (2 e: the wait at edge e; 2 e + 1: the steps between edges e and e + 1.)
    after = progress.last_slot % 2
    begins = np.append(relaxation.edges, relaxation.program.num_steps)[progress.last_slot // 2 + after] - after
    since = np.maximum(np.searchsorted(steps, begins), low[progress.move])
    until = high[progress.move].copy()
    same = progress.move[1:] == progress.move[:-1]
    until[:-1][same] = np.minimum(until[:-1][same], since[1:][same])
    again = np.isin(moves.column[chosen], relaxation.columns.ending.column)[progress.move]
    until[again] = np.minimum(until[again], len(steps) - 1)  # in the last step all of it is there (``_reloaded``)
    mask = moves.target[chosen][progress.move] > 0
    owner, row = expand(since[mask], until[mask])
    tensors = table.tensors[moves.owner[chosen]][progress.move[mask]]
    return row, progress.column[mask][owner], relaxation.program.sizes_bytes[tensors][owner].astype(np.float64)


def _leaving(relaxation: Relaxation, chosen: I64, progress: Progress) -> tuple[I64, I64, F64]:
    """What is written back takes its space until that is done, though it is not kept: (row, column, bytes).

    For each node of such a copy's window, but the last, a column: at least the copy, less what is done of it by the
    node's end, less what is kept anyway. It takes space in the steps that begin after the node before, until its end.
    """
    moves, table, edges = relaxation.columns.moves, relaxation.columns.routes, relaxation.edges
    leg, back = moves.leg[chosen], moves.target[chosen] == 0
    kept_of = np.full(len(table.stops), -1, dtype=np.int64)
    kept_of[relaxation.columns.kept.at] = relaxation.columns.kept.column
    at = np.searchsorted(edges, relaxation.steps, side="right") - 1
    slot = 2 * at + (edges[at] < relaxation.steps)  # the last one that begins before each step
    ends = np.searchsorted(slot, progress.last_slot, side="right")
    is_first = np.append(True, progress.move[1:] != progress.move[:-1])[: len(ends)]
    is_last = np.append(is_first[1:], True)[: len(ends)]
    low = np.searchsorted(relaxation.steps, table.legs[leg, LegColumn.FROM_STEP])[progress.move]
    high = np.searchsorted(relaxation.steps, table.legs[leg, LegColumn.TO_STEP])[progress.move]
    since = np.maximum(low, np.where(is_first, 0, np.roll(ends, 1)))
    until = np.minimum(high, ends)
    nodes = np.flatnonzero(back[progress.move] & ~is_last & (until > since) & (kept_of[leg] >= 0)[progress.move])
    owner = progress.move[nodes]
    waits = relaxation.linear.add_columns(np.ones(len(nodes)))
    rows, ones = np.tile(np.arange(len(nodes)), 4), np.ones(len(nodes))
    columns = np.concatenate([waits, progress.column[nodes], kept_of[leg[owner]], moves.column[chosen[owner]]])
    relaxation.linear.add_rows(rows, columns, np.concatenate([ones, ones, ones, -ones]), np.zeros(len(nodes)))
    entry, row = expand(since[nodes], until[nodes])
    tensors = table.tensors[moves.owner[chosen[owner]]]
    return row, waits[entry], relaxation.program.sizes_bytes[tensors][entry].astype(np.float64)

"""A bound at any time: prices on space, link time and the time of steps, raised and lowered by what is asked for.

Every rule that couples tensors (space, link time, the time of a step) has a price instead; each tensor then goes its
cheapest path (``paths.py``). What the paths cost, less what is for sale, is a bound for any prices that are not
negative. A step in the direction of demand less supply raises it, with each iteration linear in the program's size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.path_tables import Paths, Prices, Scratch, Use
from mallocgame.baselines.bounds.paths import cheapest_paths
from mallocgame.baselines.bounds.relaxation import home_traffic, placed_tensors
from mallocgame.baselines.bounds.route import LegColumn, Routes, StopColumn, StopKind, routes
from mallocgame.baselines.bounds.templates import fitting_layers
from mallocgame.baselines.bounds.windows import LargeMoves, pick_edges, window_slots
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import home_seconds
from mallocgame.program import Program, UseKind

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

ROUNDING = 1e-9  # of the sum of absolute values: taken off for rounding errors
NUM_SLOTS = 64


@dataclass(slots=True)
class Market:
    """The problem as prices see it: units of the all-in-layer-0 time, per step, layer, link and slot."""

    paths: Paths
    unit_seconds: float
    compute: float
    gap: F64  # [T]: what a step's traffic takes beyond its compute time
    most: F64  # [T]: the most that a step can take beyond it
    is_priced: npt.NDArray[np.bool_]  # [L, T + 1]: where space has a price; the last, between two runs
    capacity: F64  # [L]
    free: F64  # [links, slots]: link time for sale where nothing waits
    slot_of: I64  # [T]
    relief: F64  # [links, L]: units of link time that a byte of traffic gives, served by a layer
    scratch: Scratch

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.gap)


def market(program: Program, hierarchy: Hierarchy, *, num_slots: int = NUM_SLOTS) -> Market:
    """Return the problem as prices see it."""
    unit = home_seconds(program, hierarchy) or 1.0
    chosen = np.flatnonzero(placed_tensors(program, hierarchy))
    table = routes(program, chosen)
    speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers])
    scale = program.trip_counts / unit
    traffic = home_traffic(program, hierarchy)
    compute = program.compute_seconds * scale
    gap = (traffic / speeds).sum(axis=1) * scale - compute
    saving = 1.0 / speeds[0] - 1.0 / speeds
    uses = table.stops[:, StopColumn.KIND] == StopKind.USE.value
    step, size = table.stops[uses, StopColumn.BOUNDARY], table.stops[uses, StopColumn.FREE_BYTES]
    loss = max(float(-saving.min()), 0.0)
    worse = np.bincount(step, weights=size * scale[step] * loss, minlength=program.num_steps)
    edges = _edges(program, hierarchy, table, num_slots, unit)
    slots = 2 * len(edges) - 1
    low, high = window_slots(table.legs[:, LegColumn.FIRST_ISSUE], table.legs[:, LegColumn.LAST_DUE], edges)
    slot_of = 2 * np.searchsorted(edges, np.arange(program.num_steps), side="right") - 1
    free = np.zeros((len(hierarchy.links), slots))
    relief = np.zeros((len(hierarchy.links), hierarchy.num_layers))
    for number, link in enumerate(hierarchy.links):
        shared = link.shared_layer
        left = compute if shared is None else compute - traffic[:, shared] * scale / speeds[shared]
        np.add.at(free[number], slot_of, left)
        if shared == 0:
            relief[number, 1:] = 1.0 / speeds[0]
        elif shared is not None:
            relief[number, shared] = -1.0 / speeds[shared]
    after = np.arange(slots) // 2 + np.arange(slots) % 2
    capacity = np.array([layer.capacity_bytes for layer in hierarchy.layers], dtype=np.float64)
    is_priced = np.zeros((hierarchy.num_layers, program.num_steps + 1), dtype=np.bool_)
    is_priced[1:, np.append(np.unique(step), program.num_steps)] = True
    paths = _paths(program, hierarchy, table, unit, low, high, saving, scale, gap + worse, edges[after])
    return Market(
        paths=paths,
        unit_seconds=unit,
        compute=float(compute.sum()),
        gap=gap,
        most=np.maximum(gap, 0.0) + worse,
        is_priced=is_priced,
        capacity=capacity,
        free=free,
        slot_of=slot_of,
        relief=relief,
        scratch=Scratch.of(paths, _depth(table)),
    )


def _edges(program: Program, hierarchy: Hierarchy, table: Routes, num_slots: int, unit: float) -> I64:
    """Cut the schedule where the windows of much work begin or end."""
    real = np.flatnonzero(table.can_arrive & (table.stops[:, StopColumn.KIND] != StopKind.END.value))
    owner = np.repeat(np.arange(len(table.tensors)), np.diff(table.first))[real]
    work = program.sizes_bytes[table.tensors[owner]] * table.trip_counts[real] / unit
    legs, zeros = table.legs[real], np.zeros(len(real), dtype=np.int64)
    large = LargeMoves(legs[:, LegColumn.FIRST_ISSUE], legs[:, LegColumn.LAST_DUE], zeros, zeros, work, zeros > 0)
    return pick_edges(program.num_steps, large, num_slots)


def _depth(table: Routes) -> int:
    change = (table.stops[:, StopColumn.KIND] == StopKind.ENTRY.value).astype(np.int64)
    change -= table.stops[:, StopColumn.KIND] == StopKind.EXIT.value
    return int(np.cumsum(change).max(initial=0))


def _paths(  # noqa: PLR0913 (one table from all that it is made of)
    program: Program,
    hierarchy: Hierarchy,
    table: Routes,
    unit: float,
    low: I64,
    high: I64,
    saving: F64,
    scale: F64,
    reach: F64,
    begins: I64,
) -> Paths:
    tensors = [program.tensors[i] for i in table.tensors.tolist()]
    owner = np.repeat(np.arange(len(tensors)), np.diff(table.first))
    loops = np.bincount(owner, weights=table.stops[:, StopColumn.KIND] == StopKind.ENTRY.value, minlength=len(tensors))
    count = range(hierarchy.num_layers)
    link = np.array([[hierarchy.link_index(a, b) if a != b else 0 for b in count] for a in count])
    masks = {size: sum(1 << a for a in fitting_layers(hierarchy, size)) for size in {t.size_bytes for t in tensors}}
    hoistable = np.array([t.hoistable for t in tensors], dtype=np.bool_)
    return Paths(
        first=table.first,
        stops=table.stops,
        legs=table.legs,
        trips=table.trip_counts,
        slot_low=low,
        slot_high=high,
        size=program.sizes_bytes[table.tensors].astype(np.float64),
        fits=np.array([masks[t.size_bytes] for t in tensors], dtype=np.int64),
        is_output=np.array([t.is_output for t in tensors], dtype=np.int64),
        is_split=((loops > 0) & ~hoistable).astype(np.int64),
        is_held=np.array([t.holdable and t.is_parameter for t in tensors], dtype=np.int64),
        is_constant=np.array([all(u.kind == UseKind.READ for u in t.uses) for t in tensors], dtype=np.int64),
        link=link,
        link_speed=np.array([each.bytes_per_second * unit for each in hierarchy.links]),
        link_latency=np.array([each.latency_seconds / unit for each in hierarchy.links]),
        saving=saving,
        reach=np.ascontiguousarray(reach),
        scale=np.ascontiguousarray(scale, dtype=np.float64),
        begins=begins,
        counts_flying=hierarchy.num_layers == 2,
    )


@dataclass(slots=True)
class Point:
    """Prices: of a step's time, of a whole layer during a step, of a unit of link time in a slot."""

    time: F64  # [T], in [0, 1]
    space: F64  # [L, T + 1], the last between two runs
    slot: F64  # [links, slots]

    def moved(self, step: "Point", by: float, goods: Market) -> "Point":
        """Return the prices ``by`` times ``step`` further on, and back where they may be."""
        slot = np.maximum(self.slot + by * step.slot, 0.0)
        slot /= np.maximum(slot.sum(axis=0), 1.0)  # waiting is for sale at 1
        space = np.where(goods.is_priced, np.maximum(self.space + by * step.space, 0.0), 0.0)
        most = np.where(goods.most > 0.0, 1.0 - slot.sum(axis=0)[goods.slot_of], 0.0)
        return Point(np.clip(self.time + by * step.time, 0.0, np.maximum(most, 0.0)), space, slot)


def value(goods: Market, point: Point) -> tuple[float, Point]:
    """Return the bound at some prices, in units, and the demand less the supply of everything that has one."""
    paths, num_steps = goods.paths, goods.num_steps
    num_layers = len(goods.capacity)
    per_byte = point.space / goods.capacity[:, None]
    prefix = np.zeros((num_layers, num_steps + 2))
    np.cumsum(per_byte, axis=1, out=prefix[:, 1:])
    worth = point.slot[:, goods.slot_of].T @ goods.relief
    prices = Prices(prefix, point.slot, point.time, worth)
    use = Use(
        np.zeros((num_layers, num_steps + 2)),
        np.zeros(point.slot.shape),
        np.zeros(num_steps),
        np.zeros((num_steps, num_layers)),
    )
    cost = cheapest_paths(paths, prices, use, goods.scratch)
    total = point.slot.sum(axis=0)
    slack = 1.0 - point.time - total[goods.slot_of]
    excess_cost = np.minimum(slack, 0.0) * goods.most
    paid = np.array([point.space.sum(), (point.slot * goods.free).sum(), np.minimum(1.0 - total, 0.0).sum()])
    bound = goods.compute + cost + (point.time * goods.gap + excess_cost).sum() - paid[0] - paid[1] + paid[2]
    magnitude = goods.compute + abs(cost) + np.abs(point.time * goods.gap).sum() + np.abs(paid).sum()
    tight = (slack <= 1e-9) & (goods.most > 0.0)
    excess = np.where(tight, np.clip(goods.gap - use.saved, 0.0, goods.most), 0.0)
    supply = goods.free.copy()
    for number in range(len(goods.free)):
        np.add.at(supply[number], goods.slot_of, excess + use.served @ goods.relief[number])
    step = Point(
        np.where(goods.most > 0.0, goods.gap - use.saved - excess, 0.0),
        np.cumsum(use.space, axis=1)[:, :-1] / goods.capacity[:, None] - 1.0,
        use.slot - supply,
    )
    return float(bound - ROUNDING * magnitude), step


def start(goods: Market, stop: Callable[[], bool] = lambda: False) -> Point:
    """Return the best of some simple prices: a link's time costs the same in all slots, a step's time the rest.

    ``stop`` is asked now and then whether to look at no more of them.
    """
    found, best = _uniform(goods, 0, 0.0, 0.0), -np.inf
    rents = (0.0, 0.5, 1.0) if len(goods.capacity) > 2 and goods.paths.is_held.any() else (0.0,)
    for link, share, rent in product(range(len(goods.free)), (0.0, 0.5, 1.0), rents):
        if stop():
            return found
        point = _uniform(goods, link, share, rent)
        _, step = value(goods, point)
        point.time = np.where(step.time >= 0.0, point.time, 0.0)  # else it is not traffic that takes long
        bound, _ = value(goods, point)
        if bound > best:
            found, best = point, bound
    return found


def _uniform(goods: Market, link: int, share: float, rent: float) -> Point:
    """``rent``: of a place in a middle layer between two runs, beside what bringing it by the link costs then."""
    slot, space = np.zeros(goods.free.shape), np.zeros(goods.is_priced.shape)
    slot[link] = share
    space[1:-1, -1] = share * rent * goods.capacity[1:-1] / goods.paths.link_speed[link]
    return Point(np.where(goods.gap > 0.0, 1.0 - share, 0.0), space, slot)

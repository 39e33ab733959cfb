"""The judge: how long a program takes under a mapping. Bytes are conserved; nothing is free."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.hierarchy import Hierarchy
from mallocgame.judge import branches, timeline
from mallocgame.judge.replaced import replaced_copies, with_free_copies
from mallocgame.mapping import Mapping, rectangles, serving_layers
from mallocgame.program import Program, Tensor, UseKind
from mallocgame.text import seconds_text

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Counts = npt.NDArray[Any]  # int64; float64 where some are fractions


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What happens when; loops are aggregated, so a step's seconds cover all its executions.

    With conditionals all seconds and bytes are expected ones: a branch counts by its weight.
    """

    total_seconds: float
    start_seconds: F64  # float64[T], when each step starts (its wait comes before)
    elapsed_seconds: F64  # float64[T], seconds each step takes once started
    stall_seconds: F64  # float64[T + 1], wait for copies before each step; the last is the wait at the end
    layer_bytes: I64  # int64[T, L], bytes that one execution moves in each layer
    link_busy_seconds: F64  # float64[K]
    link_bytes: Counts  # [K, 2], bytes copied toward faster and toward slower layers; float64 where expected
    transfer_finish_seconds: F64  # float64[X], when the program sees each transfer complete
    occupancy_bytes: I64  # int64[T, L], bytes that residencies occupy (layer 0 is not planned, hence 0)

    def __repr__(self) -> str:
        waits = seconds_text(float(self.stall_seconds.sum()))
        return f"<Timeline: {seconds_text(self.total_seconds)}, of which {waits} waiting for copies>"


def simulate(program: Program, hierarchy: Hierarchy, mapping: Mapping, *, serving: I64 | None = None) -> Timeline:
    """Walk the schedule and return the timeline.

    The mapping is taken as it is: call ``validate`` to learn whether it is one. ``serving`` (int64[U]) overrides the
    layer each use is *charged* for; only the fidelity check needs it, to repeat a known error of XLA's own simulator.

    Source of the time model: docs/judge.md, fitted to the log of XLA:TPU's memory-space assignment.
    """
    served = serving_layers(program, mapping)
    layer_bytes = bytes_by_layer(program, hierarchy, served if serving is None else serving)
    compute = program.compute_seconds
    if program.replaceable_copies:
        replaced = replaced_copies(program, mapping, served)
        compute = compute.copy()
        compute[replaced], layer_bytes[replaced] = 0.0, 0
    num_steps, num_links = program.num_steps, len(hierarchy.links)
    elapsed, idle = np.empty(num_steps), np.empty((num_steps, num_links))
    speeds, link_layer = _speeds(hierarchy)
    counts: Counts = branches.loop_counts(program) if program.conditionals else program.trip_counts
    timeline.instruction_times(compute, counts, layer_bytes, speeds, link_layer, elapsed, idle)
    queue, position, order, work, trips = link_queues(program, hierarchy, mapping)
    table = mapping.transfer_table
    issue, due = table[:, 3] + 1, table[:, 4].copy()
    link_bytes = np.zeros((num_links, 2), dtype=trips.dtype)
    np.add.at(link_bytes, (queue // 2, queue % 2), table[:, 5] * trips)
    if program.conditionals:
        copies = branches.Copies(queue=queue, position=position, issue=issue, due=due, order=order, work=work)
        expected = branches.expected_run(program, elapsed, idle, copies)
        stall, busy, finish = expected.stall_seconds, expected.link_busy_seconds, expected.finish_seconds
        total = expected.total_seconds
        elapsed = elapsed * branches.branch_weights(program)
    else:
        stall, busy, finish = np.zeros(num_steps + 1), np.zeros(num_links), np.zeros(len(table))
        by_issue = np.argsort(issue, kind="stable")
        by_due = np.lexsort((issue, due))
        total = timeline.run(
            elapsed, idle, queue, position, issue, due, by_issue, by_due, order, work, stall, busy, finish, np.inf
        )
    start = np.cumsum(stall[:-1] + elapsed) - elapsed
    return Timeline(
        total_seconds=float(total),
        start_seconds=start,
        elapsed_seconds=elapsed,
        stall_seconds=stall,
        layer_bytes=layer_bytes,
        link_busy_seconds=busy,
        link_bytes=link_bytes,
        transfer_finish_seconds=finish,
        occupancy_bytes=occupancy(program, hierarchy, mapping),
    )


def bytes_by_layer(program: Program, hierarchy: Hierarchy, serving: I64) -> I64:
    """Return int64[T, L], the bytes that one execution of each step moves in each layer."""
    table = program.fixed_bytes(hierarchy.num_layers)
    np.add.at(table, (program.uses.step, serving), program.uses.bytes)
    return table


def link_queues(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> tuple[I64, I64, I64, F64, Counts]:
    """Return each transfer's queue, place in it, the queues, its work in link seconds, and its trip count.

    The work counts loops, not branches: it is what a transfer inside a branch takes if the branch runs.

    Returns:
        queue int64[X], position int64[X], order int64[2K, X], work float64[X], trips int64[X] (float64 where a count is
        a fraction); see ``timeline.run``.
    """
    num_queues, table = 2 * len(hierarchy.links), mapping.transfer_table
    position = np.zeros(len(table), dtype=np.int64)
    order = np.zeros((num_queues, max(len(table), 1)), dtype=np.int64)
    layers = np.append(mapping.residency_table[:, 1], 0)  # HOME, -1, is the last entry: layer 0
    source, target = layers[table[:, 1]], layers[table[:, 2]]
    link = _link_indices(hierarchy)[source, target]
    queue = 2 * link + (target < source)
    by_issue = np.argsort(table[:, 3], kind="stable")
    for q in range(num_queues):
        ids = by_issue[queue[by_issue] == q]
        order[q, : len(ids)] = ids
        position[ids] = np.arange(len(ids))
    trips, weights = _boundary_counts(program, table[:, 3] + 1, table[:, 4])
    speed = np.array([each.bytes_per_second for each in hierarchy.links])
    latency = np.array([each.latency_seconds for each in hierarchy.links])
    work = (table[:, 5] / speed[link] + latency[link]) * trips
    return queue, position, order, work, trips if weights is None else trips * weights


def occupancy(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> I64:
    """Return int64[T, L], the bytes occupied by residencies at each step (alignment not counted)."""
    change = np.zeros((program.num_steps + 1, hierarchy.num_layers), dtype=np.int64)
    residency, _, size, start, end = rectangles(program, mapping).T
    layer = mapping.residency_table[residency, 1]
    np.add.at(change, (np.maximum(start, 0), layer), size)
    np.subtract.at(change, (end, layer), size)
    occupied: I64 = np.cumsum(change, axis=0)[:-1]
    return occupied


def _link_indices(hierarchy: Hierarchy) -> I64:
    """Return int64[L, L], the link between two layers; -1 on the diagonal."""
    table = np.full((hierarchy.num_layers, hierarchy.num_layers), -1, dtype=np.int64)
    for index, link in enumerate(hierarchy.links):
        for slow, fast in link.pairs:
            table[slow, fast] = table[fast, slow] = index
    return table


def _boundary_counts(program: Program, start: I64, end: I64) -> tuple[Counts, F64 | None]:
    """Return how often each pair of boundaries is passed by loops, and with what probability (None: no branches).

    Their product is ``program.boundary_trip_count``.
    """
    whole = all(float(loop.trip_count).is_integer() for loop in program.loops)
    product: Counts = np.ones(len(start), dtype=np.int64 if whole else np.float64)
    for loop in program.loops:
        inside = (loop.start_step < start) & (start < loop.end_step) & (loop.start_step < end) & (end < loop.end_step)
        product[inside] *= int(loop.trip_count) if whole else loop.trip_count
    if not program.conditionals:
        return product, None
    weights = np.ones(len(start))
    for conditional in program.conditionals:
        for first, last, weight in conditional.branches():
            weights[(first < start) & (start < last) & (first < end) & (end < last)] *= weight
    return product, weights


def _speeds(hierarchy: Hierarchy) -> tuple[F64, I64]:
    speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers], dtype=np.float64)
    shared = [-1 if link.shared_layer is None else link.shared_layer for link in hierarchy.links]
    return speeds, np.array(shared, dtype=np.int64)


def home_seconds(program: Program, hierarchy: Hierarchy) -> float:
    """Return the time with every tensor in layer 0: the ``none`` solver's, and the unit of the game's reward."""
    return simulate(program, hierarchy, Mapping()).total_seconds


def lower_bound(program: Program, hierarchy: Hierarchy) -> float:
    """Return seconds that no valid mapping can beat (proved, and cheap; ``baselines`` holds sharper bounds).

    The larger of (1) the instructions at their fastest: fixed and home-only traffic where it must be, the rest in the
    fastest layer, and (2) the compulsory bytes of layer 0 over its bandwidth: fixed and home-only traffic, and for each
    parameter that is read, and each output, the less of using it in layer 0 and copying it whole. Copies that transfers
    may replace are taken as free in (1). In (2) they cost what they move: transfers that replace one bring all of its
    result from layer 0, and bring an output's last value back there.
    """
    copied = _copied_bytes(program)
    program = with_free_copies(program)
    uses, trips, speeds = program.uses, program.trip_counts, _speeds(hierarchy)[0]
    movable = np.array([t.movable for t in program.tensors], dtype=np.bool_)[uses.tensor]
    free = movable & ~uses.home_only
    table = bytes_by_layer(program, hierarchy, np.where(free, int(np.argmax(speeds)), 0))
    fastest = float((np.maximum(program.compute_seconds, (table / speeds).sum(axis=1)) * trips).sum())
    moved = uses.bytes * trips[uses.step]
    compulsory = float((program.fixed_bytes(hierarchy.num_layers)[:, 0] * trips).sum() + moved[~free].sum())
    moved = np.where(free, moved + copied * trips[uses.step], 0)
    home_links = [link for link in hierarchy.links if any(0 in pair for pair in link.pairs)]
    if any(link.shared_layer != 0 for link in home_links):
        return max(fastest, compulsory / float(speeds[0]))
    weights = branches.branch_weights(program)[uses.step] if program.conditionals else None
    for index, tensor in enumerate(program.tensors):
        span = slice(int(uses.first[index]), int(uses.first[index + 1]))
        stays = tensor.holdable and hierarchy.num_layers > 2  # it may be held for ever, and never come from layer 0
        if tensor.movable and not stays:
            compulsory += _compulsory_bytes(tensor, uses.kind[span], moved[span], weights, span)
    fastest_home = max(float(speeds[0]), *(link.bytes_per_second for link in home_links))
    return max(fastest, compulsory / fastest_home)


def _copied_bytes(program: Program) -> I64:
    """Return int64[U], the bytes of uses in replaceable copies that layer 0 moves even if transfers do the copy.

    With branches none: the transfers may be in one of them.
    """
    uses, copied = program.uses, np.zeros(len(program.uses.step), dtype=np.int64)
    if program.conditionals:
        return copied
    for read, defined in filter(None, program.replaceable_copies.values()):
        result = program.tensors[uses.tensor[defined]]
        copied[[read, defined]] = np.minimum(uses.bytes[[read, defined]], result.size_bytes)
    return copied


def _compulsory_bytes(tensor: Tensor, kinds: I64, moved: Counts, weights: F64 | None, span: slice) -> float:
    """Return the bytes of layer 0 that a parameter that is read, or an output, costs whatever the mapping.

    What runs only sometimes counts as often: on a path that reads it, a parameter costs at least the less of one read
    and a copy.
    """
    writes = np.flatnonzero(kinds != UseKind.READ)
    chance = np.ones(len(kinds)) if weights is None else weights[span]
    total = 0.0
    if tensor.is_parameter:
        reads, chances = (column[: int(writes[0]) if len(writes) else len(kinds)] for column in (moved, chance))
        always = float(min(reads[chances == 1.0].sum(), tensor.size_bytes))
        sometimes = chances * np.minimum(reads / chances, tensor.size_bytes)
        total += max([always, *sometimes.tolist()])
    if tensor.is_output and len(writes):
        last = int(writes[-1])
        total += float(chance[last] * min(moved[last] / chance[last], tensor.size_bytes))
    return total

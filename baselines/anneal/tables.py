"""From candidates to the arrays that the kernels read."""

import numpy as np

from mallocgame.baselines.anneal import timing
from mallocgame.baselines.anneal.assembly import Candidate
from mallocgame.baselines.anneal.space import BUCKET_BITS, BUCKET_ROOM, FIRST, MANY_STEPS
from mallocgame.baselines.anneal.state import COPIED, F64, I64, MAX_CHANGES, Choice, Tables
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program, UseKind

HIDDEN = 0.01  # weight of traffic that instructions hide now, beside traffic that they wait for


def make_tables(program: Program, hierarchy: Hierarchy, pieces: list[Candidate]) -> Tables:
    """Return the kernel's arrays for ``pieces``."""
    table = np.array(pieces, dtype=np.int64).reshape(-1, len(Candidate._fields)).T.copy()
    columns = dict(zip(Candidate._fields, table, strict=True))
    layers = hierarchy.layers
    alignment = np.array([layer.alignment_bytes for layer in layers], dtype=np.int64)
    capacity = np.array([layer.capacity_bytes for layer in layers], dtype=np.int64) // alignment * alignment
    size = program.sizes_bytes[columns["tensor"]]
    aligned = alignment[columns["layer"]]
    link_of = np.zeros((len(layers), len(layers)), dtype=np.int64)
    for slow in range(len(layers)):
        for fast in range(slow + 1, len(layers)):
            link_of[slow, fast] = hierarchy.link_index(slow, fast)
    link = link_of[columns["base"], columns["layer"]]
    hulls = [_hull(program, piece) for piece in pieces] if hierarchy.num_layers > 2 else []
    speed = np.array([x.bytes_per_second for x in hierarchy.links])
    latency = np.array([x.latency_seconds for x in hierarchy.links])
    shared = [-1 if x.shared_layer is None else x.shared_layer for x in hierarchy.links]
    trips = [program.boundary_trip_count(b, b) for b in range(program.num_steps + 1)]
    uses = program.uses
    return Tables(
        **columns,
        kin_first=np.searchsorted(columns["tensor"], columns["tensor"], side="left"),
        kin_end=np.searchsorted(columns["tensor"], columns["tensor"], side="right"),
        last_write=_last_writes(program, columns["first_use"], columns["last_use"]),
        hull_start=np.array([hull[0] for hull in hulls], dtype=np.int64),
        hull_end=np.array([hull[1] for hull in hulls], dtype=np.int64),
        size=(size + aligned - 1) // aligned * aligned,
        bytes=size,
        link=link,
        in_seconds=size / speed[link] + latency[link],
        byte_seconds=1.0 / speed[link],
        latency=latency[link],
        use_step=np.array(uses.step),
        use_bytes=np.array(uses.bytes),
        compute=np.array(program.compute_seconds),
        trips=np.array(program.trip_counts),
        context=np.array(program.loop_context),
        context_trips=np.array(trips, dtype=np.int64),
        layer_speed=np.array([layer.bytes_per_second for layer in layers]),
        alignment=alignment,
        capacity=capacity,
        link_layer=np.array(shared, dtype=np.int64),
        max_in_flight=np.array([x.max_in_flight for x in hierarchy.links], dtype=np.int64),
        weight=_weights(program, hierarchy, columns),
    )


def _last_writes(program: Program, first: I64, last: I64) -> I64:
    rows = np.arange(len(program.uses.kind))
    latest = np.maximum.accumulate(np.where(program.uses.kind != UseKind.READ, rows, -1))[last]
    found: I64 = np.where(latest >= first, latest, -1)
    return found


def _hull(program: Program, piece: Candidate) -> tuple[int, int]:
    """Return where the repeating loops that a candidate touches begin and end; (T + 1, 0): none."""
    first = piece.latest if piece.kind == COPIED else piece.start
    last = max(piece.end, piece.back_due)
    met = [x for x in program.loops if x.trip_count > 1 and x.start_step < last and x.end_step > first]
    return min((x.start_step for x in met), default=program.num_steps + 1), max((x.end_step for x in met), default=0)


def _weights(program: Program, hierarchy: Hierarchy, columns: dict[str, I64]) -> F64:
    """Return float64[C], how often each candidate is tried: by the seconds of layer 0's traffic it could save.

    That is shared out among a tensor's many candidates (by the square root of their number).
    """
    uses, speeds = program.uses, np.array([layer.bytes_per_second for layer in hierarchy.layers])
    seconds = uses.bytes / speeds[0]
    memory = (program.fixed_bytes(hierarchy.num_layers) / speeds).sum(axis=1)
    np.add.at(memory, uses.step, seconds)
    waited = np.maximum(memory - program.compute_seconds, 0.0)[uses.step]
    saved = program.trip_counts[uses.step] * (np.minimum(seconds, waited) + HIDDEN * seconds)
    until = np.concatenate([[0.0], np.cumsum(saved)])
    could_save = until[columns["last_use"] + 1] - until[columns["first_use"]]
    rivals = np.bincount(columns["tensor"], minlength=len(program.tensors))[columns["tensor"]]
    weights: F64 = (could_save + 1e-9 * max(until[-1], 1e-300)) / np.sqrt(rivals)
    if hierarchy.num_layers > 2:  # each pair of layers as often
        pairs = columns["base"] * hierarchy.num_layers + columns["layer"]
        weights = weights / np.bincount(pairs, weights=weights)[pairs]
    return weights


def empty_choice(program: Program, hierarchy: Hierarchy, tables: Tables, *, bucket_bits: int = 0) -> Choice:
    """Return the choice of nothing: everything is in layer 0. ``bucket_bits``: not as the program's length says."""
    num, num_steps, num_links = len(tables.tensor), program.num_steps, len(hierarchy.links)
    most = min(num, len(program.uses.step) * (hierarchy.num_layers - 1))  # each serves a use of its own in its layer

    bucket_bits = bucket_bits or (BUCKET_BITS if num_steps >= MANY_STEPS else num_steps.bit_length())
    num_buckets = (num_steps - 1 >> bucket_bits) + 1 if num_steps > 1 << bucket_bits else 0

    def zeros(*shape: int) -> I64:
        return np.zeros(shape, dtype=np.int64)

    layer_bytes = program.fixed_bytes(hierarchy.num_layers)
    np.add.at(layer_bytes[:, 0], program.uses.step, program.uses.bytes)
    choice = Choice(
        is_chosen=np.zeros(num, dtype=np.bool_),
        chosen=zeros(num),
        number=zeros(1),
        by_offset=zeros(2 * most + num_buckets * BUCKET_ROOM if num_buckets else most),
        listed=zeros(FIRST + num_buckets if num_buckets else 1),
        bucket_bits=zeros(1) + bucket_bits,
        is_long=np.zeros(num, dtype=np.bool_),
        issue=zeros(num),
        back=zeros(num),
        offset=zeros(num),
        cut=zeros(num),
        is_low=zeros(num),
        late=zeros(num),
        begin=zeros(num, 2),
        until=zeros(num, 2),
        span=zeros(num),
        layer_bytes=layer_bytes,
        elapsed=np.zeros(num_steps),
        idle=np.zeros((num_steps, num_links)),
        total=np.zeros(1),
        running=np.zeros(1),
        copy_issue=zeros(3 * num) - 1,
        copy_due=zeros(3 * num),
        copy_work=np.zeros(3 * num),
        order=zeros(2 * num_links, 2 * most),
        by_due=zeros(2 * num_links, 2 * most),
        queued=zeros(2 * num_links),
        window=np.array([num_steps + 1, -1]),
        heads=zeros(num_steps + 2, 2 * num_links) - 1,
        lefts=np.zeros((num_steps + 2, 2 * num_links)),
        waited=np.zeros(num_steps + 2),
        new_heads=zeros(num_steps + 2, 2 * num_links),
        new_lefts=np.zeros((num_steps + 2, 2 * num_links)),
        new_waited=np.zeros(num_steps + 2),
        stretch=zeros(2),
        head=zeros(2 * num_links),
        tail=zeros(2 * num_links),
        due=zeros(2 * num_links),
        left=np.zeros(2 * num_links),
        drawn=np.zeros(num),
        could_save=np.zeros(len(program.uses.step) + 1),
        near=zeros(2, most, 3),
        journal=zeros(MAX_CHANGES, 8),
        changes=zeros(1),
    )
    timing.all_times(tables, choice)
    return choice

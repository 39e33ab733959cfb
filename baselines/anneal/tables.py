"""From candidates to the arrays that the kernels read."""

import numpy as np

from mallocgame.baselines.anneal import timing
from mallocgame.baselines.anneal.assembly import Candidate
from mallocgame.baselines.anneal.state import COPIED, F64, I64, Choice, Tables
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program, UseKind

HIDDEN = 0.01  # weight of traffic that instructions hide now, beside traffic that they wait for


def make_tables(program: Program, hierarchy: Hierarchy, pieces: list[Candidate]) -> Tables:
    """Return the kernel's arrays for ``pieces``."""
    columns = {
        name: np.array([getattr(c, name) for c in pieces], dtype=np.int64) for name in Candidate.__dataclass_fields__
    }
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
        cumulative=np.cumsum(_weights(program, hierarchy, columns)),
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


def empty_choice(program: Program, hierarchy: Hierarchy, tables: Tables) -> Choice:
    """Return the choice of nothing: everything is in layer 0."""
    num = len(tables.tensor)
    layer_bytes = program.fixed_bytes(hierarchy.num_layers)
    np.add.at(layer_bytes[:, 0], program.uses.step, program.uses.bytes)
    choice = Choice(
        is_chosen=np.zeros(num, dtype=np.bool_),
        chosen=np.zeros(num, dtype=np.int64),
        number=np.zeros(1, dtype=np.int64),
        issue=np.zeros(num, dtype=np.int64),
        back=np.zeros(num, dtype=np.int64),
        offset=np.zeros(num, dtype=np.int64),
        cut=np.zeros(num, dtype=np.int64),
        is_low=np.zeros(num, dtype=np.int64),
        late=np.zeros(num, dtype=np.int64),
        begin=np.zeros((num, 2), dtype=np.int64),
        until=np.zeros((num, 2), dtype=np.int64),
        layer_bytes=layer_bytes,
        elapsed=np.zeros(program.num_steps),
        idle=np.zeros((program.num_steps, len(hierarchy.links))),
        total=np.zeros(1),
    )
    for step in range(program.num_steps):
        timing.step_time(tables, choice, step)
    return choice

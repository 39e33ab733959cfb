"""What is known of each decision before the game starts: one row of numbers in [0, 1] per use of a movable tensor."""

import numpy as np
import numpy.typing as npt

from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program, UseKind
from mallocgame.simulate import bytes_by_layer

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

COMMON = (
    "present",  # 1 in every row that stands for a decision, 0 in rows past the last
    "read",
    "define",
    "update",
    "home_only",  # the compiler wants this use in layer 0
    "parameter",
    "output",
    "holdable",
    "hoistable",
    "bytes_per_size",  # moved in one execution / size of the tensor: x / (1 + x)
    "trips",  # log(1 + executions) / log(1 + most executions of any step)
    "loops",  # enclosing loops / 4
    "since_last",  # log(1 + steps since the tensor's last use) / log(1 + T); 1 for a first use
    "until_next",  # log(1 + steps until the tensor's next use) / log(1 + T); 1 for a last use
    "supply_since_last",  # idle link time since the last use (or the start) / link time of a copy: x / (1 + x)
    "uses_left",  # log(1 + later uses of the tensor) / log(1 + T)
    "benefit_left",  # seconds that this and all later uses would save in the fastest layer / mean step: x / (1 + x)
    "position",  # step / T
)
PER_LAYER = (  # for each layer above 0
    "size",  # bytes / capacity, at most 1
    "benefit",  # seconds saved by serving this use there, everything else at home / mean step: x / (1 + x)
    "demand",  # link seconds of a copy from layer 0 / mean step: x / (1 + x)
)


def feature_names(num_layers: int) -> tuple[str, ...]:
    """Return the names of the columns of ``static_features``.

    >>> feature_names(2)[-3:]
    ('size.1', 'benefit.1', 'demand.1')
    """
    return COMMON + tuple(f"{name}.{layer}" for layer in range(1, num_layers) for name in PER_LAYER)


def static_features(program: Program, hierarchy: Hierarchy, order: I64, num_layers: int) -> F32:
    """Return float32[D, F] in [0, 1], the features of each decision; ``feature_names`` names the columns.

    Args:
        program: the program that is played.
        hierarchy: its memory.
        order: int64[D], the indices into ``program.uses`` in the order of play.
        num_layers: layers to have columns for, at least the hierarchy's; the columns of missing layers are 0.
    """
    uses, num_steps, trips = program.uses, program.num_steps, program.trip_counts
    tensor, step, moved, kind = uses.tensor, uses.step, uses.bytes, uses.kind
    speeds = np.array([layer.bytes_per_second for layer in hierarchy.layers])
    size = program.sizes_bytes[tensor]
    home_bytes = bytes_by_layer(program, hierarchy, np.zeros(len(tensor), dtype=np.int64))
    memory = (home_bytes / speeds).sum(axis=1)
    elapsed = np.maximum(program.compute_seconds, memory)
    unit = float((elapsed * trips).sum()) / num_steps or 1.0
    layers = range(1, hierarchy.num_layers)
    saved = np.zeros((len(tensor), num_layers))
    demand = np.zeros((len(tensor), num_layers))
    for layer in layers:
        faster = memory[step] + moved * (1.0 / speeds[layer] - 1.0 / speeds[0])
        now = np.maximum(program.compute_seconds[step], faster)
        saved[:, layer] = np.maximum(elapsed[step] - now, 0.0) * trips[step] / unit
        link = hierarchy.links[hierarchy.link_index(0, layer)]
        demand[:, layer] = (size / link.bytes_per_second + link.latency_seconds) / unit
    idle = np.concatenate([[0.0], np.cumsum((elapsed - home_bytes[:, 0] / speeds[0]) * trips)]) / unit
    first, last, since, until, supply, left, benefit_left = _along_tensors(uses.first, step, idle, saved.max(axis=1))
    log_steps = np.log1p(num_steps)
    flags = np.array(
        [(t.is_parameter, t.is_output, t.holdable, t.hoistable) for t in program.tensors], dtype=np.float64
    )
    fast = max(layers, key=lambda layer: speeds[layer])
    columns = [
        np.ones(len(tensor)),
        *(kind == wanted for wanted in (UseKind.READ, UseKind.DEFINE, UseKind.UPDATE)),
        uses.home_only,
        *flags.reshape(-1, 4)[tensor].T,
        _squash(moved / size),
        np.log1p(trips[step]) / np.log1p(trips.max(initial=1)),
        _loop_depth(program)[step] / 4.0,
        np.where(first, 1.0, np.log1p(since) / log_steps),
        np.where(last, 1.0, np.log1p(until) / log_steps),
        _squash(supply / demand[:, fast]),
        np.log1p(left) / log_steps,
        _squash(benefit_left),
        step / num_steps,
    ]
    for layer in range(1, num_layers):
        known = layer < hierarchy.num_layers
        columns += [
            np.minimum(size / hierarchy.layers[layer].capacity_bytes, 1.0) if known else np.zeros(len(tensor)),
            _squash(saved[:, layer]),
            _squash(demand[:, layer]),
        ]
    table = np.clip(np.stack(columns, axis=1)[order], 0.0, 1.0)
    return np.ascontiguousarray(table, dtype=np.float32)


def _squash(x: F64) -> F64:
    """Map [0, inf) onto [0, 1)."""
    return np.asarray(x / (1.0 + x), dtype=np.float64)


def _loop_depth(program: Program) -> I64:
    depth = np.zeros(program.num_steps, dtype=np.int64)
    for loop in program.loops:
        depth[loop.start_step : loop.end_step] += 1
    return depth


def _along_tensors(
    bounds: I64, step: I64, idle: F64, saved: F64
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], I64, I64, F64, I64, F64]:
    """Return per use: first and last of its tensor?, gaps either side, idle time before, uses and savings left."""
    count = len(step)
    owner_start, owner_end = np.repeat(bounds[:-1], np.diff(bounds)), np.repeat(bounds[1:], np.diff(bounds))
    here = np.arange(count)
    first, last = here == owner_start, here == owner_end - 1
    before = np.where(first, step, np.roll(step, 1))
    after = np.where(last, step, np.roll(step, -1))
    supply = idle[step] - np.where(first, 0.0, idle[np.minimum(before + 1, step)])
    total = np.concatenate([[0.0], np.cumsum(saved)])
    return first, last, step - before, after - step, supply, owner_end - 1 - here, total[owner_end] - total[here]

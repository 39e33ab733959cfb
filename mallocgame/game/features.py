"""What is known of each decision before the game starts: one row of numbers in [0, 1] each."""

import numpy as np
import numpy.typing as npt

from mallocgame.game.rules import Game
from mallocgame.game.rules.state import ANYWHERE, Groups, Movables

Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

COMMON = (
    "present",  # 1 in every row that stands for a decision, 0 in rows past the last
    "read",
    "define",
    "update",
    "parameter",
    "output",
    "holdable",
    "hoistable",
    "bytes_per_size",  # bytes moved in one execution / size of the tensor: x / (1 + x)
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


def static_features(game: Game) -> F32:
    """Return float32[D, F] in [0, 1], the features of each decision; ``feature_names`` names the columns."""
    rules, program, hierarchy = game.rules, game.program, game.hierarchy
    owner, step, moved = rules.groups[:, Groups.TENSOR], rules.groups[:, Groups.STEP], rules.groups[:, Groups.BYTES]
    reads, writes = rules.groups[:, Groups.READS] > 0, rules.groups[:, Groups.WRITES] > 0
    size, trips, num_steps = rules.tensors[owner, Movables.SIZE], program.trip_counts, program.num_steps
    speeds, layers = rules.layer_speed, range(1, hierarchy.num_layers)
    memory = (rules.home_bytes / speeds).sum(axis=1)
    elapsed = np.maximum(rules.compute, memory)
    unit = float((elapsed * trips).sum()) / num_steps or 1.0
    saved, demand = np.zeros((2, len(owner), hierarchy.num_layers))
    for layer in layers:
        faster = memory[step] + moved * (1.0 / speeds[layer] - 1.0 / speeds[0])
        now = np.maximum(rules.compute[step], faster)
        saved[:, layer] = np.maximum(elapsed[step] - now, 0.0) * trips[step] / unit
        link = rules.link_of[0, layer]
        demand[:, layer] = (size / rules.link_speed[link] + rules.latency[link]) / unit
    saved[rules.groups[:, Groups.HOME_ONLY] > ANYWHERE] = 0.0
    idle = np.concatenate([[0.0], np.cumsum((elapsed - rules.home_bytes[:, 0] / speeds[0]) * trips)]) / unit
    bounds = rules.tensors[:, (Movables.FIRST, Movables.END)][owner]
    first, last, since, until, supply, left, benefit_left = _along_tensors(bounds, step, idle, saved.max(axis=1))
    parameter = np.array([program.tensors[i].is_parameter for i in rules.tensors[:, Movables.INDEX]], dtype=np.bool_)
    log_steps, fast = np.log1p(num_steps), int(np.argmax(speeds[1:])) + 1
    columns = [
        np.ones(len(owner)),
        reads & ~writes,
        writes & ~reads,
        reads & writes,
        parameter[owner],
        *(rules.tensors[owner, column] > 0 for column in (Movables.IS_OUTPUT, Movables.HOLDABLE, Movables.HOISTABLE)),
        _squash(moved / size),
        np.log1p(trips[step]) / np.log1p(trips.max()),
        np.array([sum(1 for _ in program.enclosing_loops(int(at))) for at in step]) / 4.0,
        np.where(first, 1.0, np.log1p(since) / log_steps),
        np.where(last, 1.0, np.log1p(until) / log_steps),
        _squash(supply / demand[:, fast]),
        np.log1p(left) / log_steps,
        _squash(benefit_left),
        step / num_steps,
    ]
    for layer in layers:
        capacity = hierarchy.layers[layer].capacity_bytes
        columns += [np.minimum(size / capacity, 1.0), _squash(saved[:, layer]), _squash(demand[:, layer])]
    table = np.clip(np.stack(columns, axis=1)[rules.decisions], 0.0, 1.0)
    return np.ascontiguousarray(table, dtype=np.float32)


def _squash(x: F64) -> F64:
    """Map [0, inf) onto [0, 1)."""
    return np.asarray(x / (1.0 + x), dtype=np.float64)


def _along_tensors(bounds: I64, step: I64, idle: F64, saved: F64) -> tuple[Bool, Bool, I64, I64, F64, I64, F64]:
    """Return per group: first and last of its tensor?, steps either side, idle time before, groups and savings left.

    ``bounds`` int64[G, 2] are the first group of the same tensor and the end of its groups.
    """
    here = np.arange(len(step))
    first, last = here == bounds[:, 0], here == bounds[:, 1] - 1
    before = np.where(first, step, np.roll(step, 1))
    after = np.where(last, step, np.roll(step, -1))
    supply = idle[step] - np.where(first, 0.0, idle[np.minimum(before + 1, step)])
    total = np.concatenate([[0.0], np.cumsum(saved)])
    return first, last, step - before, after - step, supply, bounds[:, 1] - 1 - here, total[bounds[:, 1]] - total[here]

"""What is known before the game starts: of each decision, of what lies ahead of it, and of the program as a whole."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.game.prices import Prices, find_prices
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
    "stay_rent",  # what the space of a stay since the use before is worth / mean step: x / (1 + x); 1: none is possible
    "copy_rent",  # the same of a copy just before, and what is waited for it
    "next_rent",  # of a stay until the next use; 1: there is none
    "stays",  # how often the relaxation of ``prices.py`` takes the stay
    "copies",  # how often it takes the copy
)
FORESEEN = ("stay_rent", "copy_rent", "next_rent", "stays", "copies")  # of these, what ``prices.py`` says
OUTLOOK = (  # for each layer above 0, of each span of steps ahead
    "price",  # of the whole layer for a step / mean step: x / (1 + x)
    "wanted",  # part of the layer that all worthwhile stays would take: x / (1 + x)
)
OVERVIEW = (  # of each segment of the program, in the fastest layer
    "present",
    "position",  # of its first decision's step / T
    "length",  # log(1 + steps) / log(1 + T)
    "seconds",  # with everything in layer 0 / seconds of the program
    "size",  # means over its decisions, from here on
    "benefit",
    "demand",
    "trips",
    "price",
    "wanted",
    "stays",
    "copies",
)
SPANS_AHEAD = 14  # [0, 1), [1, 2), [2, 4), ... steps from the current one
SEGMENTS = 16  # of the program, with as many decisions each


class Foresight(NamedTuple):
    """The tables of a game, numbers in [0, 1]; the last is in mean steps.

    Attributes:
        decisions: float32[D, F], ``feature_names`` names the columns.
        outlook: float32[D, 2 (L - 1), SPANS_AHEAD], see ``OUTLOOK``.
        overview: float32[SEGMENTS, len(OVERVIEW)].
        cumulative: float64[L, T + 1], the price of each whole layer over all steps before; 0 for layer 0.
        unit_seconds: a mean step.
    """

    decisions: F32
    outlook: F32
    overview: F32
    cumulative: F64
    unit_seconds: float


def feature_names(num_layers: int) -> tuple[str, ...]:
    """Return the names of the columns of ``Foresight.decisions``.

    >>> feature_names(2)[-2:]
    ('stays.1', 'copies.1')
    """
    return COMMON + tuple(f"{name}.{layer}" for layer in range(1, num_layers) for name in PER_LAYER)


def foresee(game: Game) -> Foresight:
    """Return what is known of a game before it starts. Slow (milliseconds to tens of them)."""
    rules, program, hierarchy = game.rules, game.program, game.hierarchy
    owner, step, moved = rules.groups[:, Groups.TENSOR], rules.groups[:, Groups.STEP], rules.groups[:, Groups.BYTES]
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
    prices = [find_prices(game, i, saved[:, i], demand[:, i] * trips[step], idle) for i in layers]
    table = _decision_table(game, saved, demand, idle, prices)
    cumulative = np.zeros((hierarchy.num_layers, num_steps + 1))
    cumulative[1:] = [found.cumulative for found in prices]
    return Foresight(
        decisions=table,
        outlook=_outlook(step[rules.decisions], prices),
        overview=_overview(game, table, elapsed * trips, prices[int(np.argmax(speeds[1:]))]),
        cumulative=cumulative,
        unit_seconds=unit,
    )


def _decision_table(game: Game, saved: F64, demand: F64, idle: F64, prices: list[Prices]) -> F32:
    """Return ``Foresight.decisions``."""
    rules, program, hierarchy = game.rules, game.program, game.hierarchy
    owner, step, moved = rules.groups[:, Groups.TENSOR], rules.groups[:, Groups.STEP], rules.groups[:, Groups.BYTES]
    reads, writes = rules.groups[:, Groups.READS] > 0, rules.groups[:, Groups.WRITES] > 0
    size, trips, num_steps = rules.tensors[owner, Movables.SIZE], program.trip_counts, program.num_steps
    bounds = rules.tensors[:, (Movables.FIRST, Movables.END)][owner]
    first, last, since, until, supply, left, benefit_left = _along_tensors(bounds, step, idle, saved.max(axis=1))
    parameter = np.array([program.tensors[i].is_parameter for i in rules.tensors[:, Movables.INDEX]], dtype=np.bool_)
    log_steps, fast = np.log1p(num_steps), int(np.argmax(rules.layer_speed[1:])) + 1
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
    for layer, found in enumerate(prices, start=1):
        capacity = hierarchy.layers[layer].capacity_bytes
        following = np.where(last, np.inf, np.roll(found.rent[0], -1))
        columns += [np.minimum(size / capacity, 1.0), _squash(saved[:, layer]), _squash(demand[:, layer])]
        columns += [_squash(found.rent[0]), _squash(found.rent[1]), _squash(following), *found.chosen]
    table = np.clip(np.stack(columns, axis=1)[rules.decisions], 0.0, 1.0)
    return np.ascontiguousarray(table, dtype=np.float32)


def _outlook(step: I64, prices: list[Prices]) -> F32:
    """Return ``Foresight.outlook`` for decisions at these steps; steps past the end are free and wanted by none."""
    spans = np.concatenate([[0], 2 ** np.arange(SPANS_AHEAD)])
    rows = []
    for found in prices:
        for cumulative in (found.cumulative, np.concatenate([[0.0], np.cumsum(found.wanted)])):
            edges = cumulative[np.minimum(step[:, None] + spans, len(cumulative) - 1)]
            rows.append(_squash(np.maximum(np.diff(edges, axis=1), 0.0) / np.diff(spans)))
    return np.ascontiguousarray(np.stack(rows, axis=1), dtype=np.float32)


def _overview(game: Game, table: F32, seconds: F64, prices: Prices) -> F32:
    """Return ``Foresight.overview``."""
    step, num_steps = game.rules.groups[game.rules.decisions, Groups.STEP], game.rules.num_steps
    names = feature_names(game.hierarchy.num_layers)
    layer = int(np.argmax(game.rules.layer_speed[1:])) + 1
    mean = [names.index(name) for name in (f"size.{layer}", f"benefit.{layer}", f"demand.{layer}", "trips")]
    chosen = [names.index(f"{name}.{layer}") for name in ("stays", "copies")]
    price, total = np.diff(prices.cumulative), seconds.sum() or 1.0
    view = np.zeros((SEGMENTS, len(OVERVIEW)))
    bounds = np.arange(SEGMENTS + 1) * len(step) // SEGMENTS
    for row, begin, end in zip(view, bounds[:-1], bounds[1:], strict=True):
        if begin == end:
            continue
        stop = num_steps if end == len(step) else max(int(step[end]), int(step[begin]) + 1)
        part = slice(int(step[begin]), stop)
        row[:4] = 1.0, step[begin] / num_steps, np.log1p(stop - part.start) / np.log1p(num_steps), 0.0
        row[3] = seconds[part].sum() / total
        row[4:8] = table[begin:end, mean].mean(axis=0)
        row[8:10] = _squash(price[part].mean()), _squash(prices.wanted[part].mean())
        row[10:] = table[begin:end, chosen].mean(axis=0)
    return np.clip(view, 0.0, 1.0).astype(np.float32)


def _squash(x: F64) -> F64:
    """Map [0, inf] onto [0, 1]."""
    return np.asarray(1.0 - 1.0 / (1.0 + np.asarray(x)), dtype=np.float64)


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

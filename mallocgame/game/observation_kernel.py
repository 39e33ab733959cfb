"""The kernel that writes observations of B games into preallocated arrays (shapes: ``game/observation.py``)."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.game.rules.batch import BatchState
from mallocgame.game.rules.outcomes import Outcomes
from mallocgame.game.rules.state import Groups, Layers, Movables, Moves, Places, Rules, State
from mallocgame.jit import jit, part

Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Tables(NamedTuple):
    """``features.Foresight`` of each distinct game, padded to the longest."""

    decisions: F32  # float32[games, D, F]
    outlook: F32  # float32[games, D, 2 (L - 1), spans]
    overview: F32  # float32[games, segments, columns]
    cumulative: F64  # float64[games, L, T + 1]
    unit_seconds: F64  # float64[games]


@jit
def observe_batch(  # noqa: PLR0913 (a kernel takes arrays one by one)
    batch: BatchState,
    ended: Bool,
    tables: Tables,
    tried: F64,
    edges: I64,
    memory: F32,
    supply: F32,
    uses: F32,
    same_as: I32,
    outcomes: F32,
    outlook: F32,
    overview: F32,
    summary: F32,
) -> None:
    """Write the observations of all games; zeros (``same_as``: -1) for those that have ended.

    Args:
        batch: the games.
        ended: bool[B].
        tables: what is known of each distinct game.
        tried: float64[B, A, columns of ``Outcomes``], what each action would do.
        edges: int64[time + 1], ``ObservationConfig.time_edges``.
        memory: float32[B, 2 (L - 1), time, address], written, as are the rest.
        supply: float32[B, K, time].
        uses: float32[B, 1 + next, F + L].
        same_as: int32[B, 1 + next].
        outcomes: float32[B, A, len(OUTCOMES)].
        outlook: float32[B, 2 (L - 1), spans].
        overview: float32[B, segments, columns].
        summary: float32[B, 3 + L], the observation's ``globals``.
    """
    for b in range(batch.which.shape[0]):
        memory[b] = 0.0
        supply[b] = 0.0
        uses[b] = 0.0
        same_as[b] = -1
        outcomes[b] = 0.0
        outlook[b] = 0.0
        overview[b] = 0.0
        summary[b] = 0.0
        if ended[b]:
            continue
        game = batch.which[b]
        rules = Rules(batch.rule_ints[game], batch.rule_ints[game], batch.rule_floats[game])
        state = State(rules.layout, batch.ints[b], batch.floats[b])
        turn = state.turn[0]
        group = rules.decisions[turn]
        step = rules.groups[group, Groups.STEP]
        _write_memory(rules, state, step, rules.groups[group, Groups.TENSOR], edges, memory[b])
        _write_supply(rules, state, step, edges, supply[b])
        _write_uses(rules, state, turn, tables.decisions[game], uses[b], same_as[b])
        _write_outcomes(rules, group, tried[b], tables.cumulative[game], tables.unit_seconds[game], outcomes[b])
        for i in range(outlook.shape[1]):
            for j in range(outlook.shape[2]):
                outlook[b, i, j] = tables.outlook[game, turn, i, j]
        for i in range(overview.shape[1]):
            for j in range(overview.shape[2]):
                overview[b, i, j] = tables.overview[game, i, j]
        _write_summary(rules, state, turn, step, summary[b])


@part
def _write_memory(rules: Rules, state: State, step: int, tensor: int, edges: I64, memory: F32) -> None:
    num_steps, columns, rows = rules.num_steps, memory.shape[1], memory.shape[2]
    for plane in range(memory.shape[0]):
        for c in range(columns):
            first, last = step + edges[c], step + edges[c + 1]
            outside = (min(max(-first, 0), last - first) + min(max(last - num_steps, 0), last - first)) / (last - first)
            if outside > 0.0 and plane % 2 == 0:
                memory[plane, c, :] = outside
    begin_of_view, end_of_view = step + edges[0], step + edges[columns]
    for layer in range(1, rules.layers.shape[0]):
        plane = 2 * (layer - 1)
        cell_bytes = rules.layers[layer, Layers.CAPACITY] / rows
        for i in range(state.rect_counts[layer] - 1, -1, -1):
            end = state.rect_ends[layer, i]
            if end <= begin_of_view:
                break  # rectangles are sorted by end
            residency = state.rects[layer, i] // 2
            start = state.places[residency, Places.BEGIN]
            if state.rects[layer, i] % 2:  # the reload of a tensor held over takes its place from its copy's issue on
                start = state.copies[2 * residency, Moves.ISSUE]
            if start >= end_of_view:
                continue
            owner = rules.groups[residency, Groups.TENSOR]
            low = state.places[residency, Places.OFFSET] / cell_bytes
            high = low + rules.tensors[owner, Movables.SIZE] / cell_bytes
            for c in range(columns):
                first, last = step + edges[c], step + edges[c + 1]
                covered = min(end, last) - max(max(start, 0), first)
                if covered <= 0:
                    continue
                part = covered / (last - first)
                for r in range(int(low), min(math.ceil(high), rows)):
                    share = np.float32(part * (min(high, r + 1.0) - max(low, float(r))))
                    memory[plane, c, r] = min(memory[plane, c, r] + share, np.float32(1.0))
                    if owner == tensor:
                        memory[plane + 1, c, r] = min(memory[plane + 1, c, r] + share, np.float32(1.0))


@part
def _write_supply(rules: Rules, state: State, step: int, edges: I64, supply: F32) -> None:
    num_steps = rules.num_steps
    for c in range(supply.shape[1]):
        first, last = max(step + edges[c], 0), min(step + edges[c + 1], num_steps)
        seconds = 0.0
        for t in range(first, last):
            seconds += state.elapsed[t]
        if seconds <= 0.0:
            continue
        for link in range(rules.num_links):
            free = 0.0
            for t in range(first, last):
                free += state.idle[t, link] - state.busy[t, link]
            supply[link, c] = min(max(free / seconds, 0.0), 1.0)


@part
def _write_uses(rules: Rules, state: State, turn: int, features: F32, uses: F32, same_as: I32) -> None:
    width, num_layers = features.shape[1], rules.layers.shape[0]
    log_steps = math.log1p(rules.num_steps)
    now = rules.groups[rules.decisions[turn], Groups.STEP]
    for row in range(min(uses.shape[0], rules.decisions.shape[0] - turn)):
        group = rules.decisions[turn + row]
        tensor = rules.groups[group, Groups.TENSOR]
        for column in range(width):
            uses[row, column] = features[turn + row, column]
        for layer in range(1, num_layers):
            uses[row, width + layer - 1] = 1.0 if state.current[tensor, layer] >= 0 else 0.0
        uses[row, width + num_layers - 1] = math.log1p(rules.groups[group, Groups.STEP] - now) / log_steps
        for other in range(row + 1):
            if rules.groups[rules.decisions[turn + other], Groups.TENSOR] == tensor:
                same_as[row] = other
                break


@part
def _write_summary(rules: Rules, state: State, turn: int, step: int, summary: F32) -> None:
    home = rules.home_seconds[0]
    relative = state.total[0] / home if home > 0.0 else 1.0
    summary[0] = turn / rules.decisions.shape[0]
    summary[1] = step / rules.num_steps
    summary[2] = min(max(1.0 - relative, -1.0), 1.0)
    summary[3] = relative / (1.0 + relative)
    for layer in range(1, rules.layers.shape[0]):
        summary[3 + layer] = state.occupied[step, layer] / rules.layers[layer, Layers.CAPACITY]


@part
def _signed(x: float) -> float:
    return x / (1.0 + abs(x))


@part
def _write_outcomes(rules: Rules, group: int, tried: F64, cumulative: F64, unit: float, outcomes: F32) -> None:
    step, log_steps = rules.groups[group, Groups.STEP], math.log1p(rules.num_steps)
    size = rules.tensors[rules.groups[group, Groups.TENSOR], Movables.SIZE]
    for action in range(outcomes.shape[0]):
        outcome = tried[action]
        if outcome[Outcomes.LEGAL] == 0.0:
            continue
        outcomes[action, 0] = 1.0
        outcomes[action, 1] = _signed(outcome[Outcomes.GAIN] / unit)
        outcomes[action, 2] = _signed(outcome[Outcomes.WAIT] / unit)
        outcomes[action, 3] = math.log1p(outcome[Outcomes.AHEAD]) / log_steps
        layer = int(outcome[Outcomes.LAYER])
        rent = 0.0
        if layer > 0:
            begin, finish = int(outcome[Outcomes.BEGIN]), int(outcome[Outcomes.FINISH])
            part_of_layer = size / rules.layers[layer, Layers.CAPACITY]
            rent = max(cumulative[layer, finish] - cumulative[layer, begin], 0.0) * part_of_layer
            if action == 0:
                rent = -rent
            else:
                outcomes[action, 4] = math.log1p(max(finish - step, 0)) / log_steps
        outcomes[action, 5] = _signed(outcome[Outcomes.GAIN] / unit - rent)

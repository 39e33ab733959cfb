"""A trained network inside a mixed-integer program, exactly.

Reductions (all exact, none needs the optimum to be unchanged by luck):
- the branch whose features and inputs are fixed is a constant vector;
- a per-item embedding of one binary input is affine in it: no ReLU is left before the aggregation;
- a per-item embedding of one continuous input is piecewise linear on a segment: one binary per interior breakpoint, in
  order (the incremental formulation, whose relaxation is the convex hull of the item's graph), not one per neuron;
- neurons after the aggregation that keep their sign over the set are linear or zero; their bounds come from linear
  programs over the relaxation (so budgets count), then feed the big-M of those that remain.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.neur2ro.clock import Clock
from mallocgame.baselines.neur2ro.linear import LinearModel, LinearSet
from mallocgame.baselines.neur2ro.network import BoundBranch, BoundNetwork
from mallocgame.baselines.neur2ro.solvers import highs_program, import_highs

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
EDGE = 1e-9  # breakpoints this close to an end of the segment are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """rows of (weights . v[columns] + constant), as dense weights over ``columns``."""

    columns: I64  # [c], distinct
    weights: F64  # [rows, c]
    constant: F64  # [rows]

    def times(self, matrix: F64) -> "Affine":
        """Return matrix @ self."""
        return Affine(columns=self.columns, weights=matrix @ self.weights, constant=matrix @ self.constant)

    def plus(self, constant: F64) -> "Affine":
        return Affine(columns=self.columns, weights=self.weights, constant=self.constant + constant)


def joined(parts: list[Affine]) -> Affine:
    """Return the sum of affine vectors; columns that parts share are merged."""
    columns, place = np.unique(np.concatenate([part.columns for part in parts]), return_inverse=True)
    weights = np.zeros((len(parts[0].constant), len(columns)))
    np.add.at(weights.T, place, np.hstack([part.weights for part in parts]).T)
    return Affine(columns=columns, weights=weights, constant=np.sum([part.constant for part in parts], axis=0))


def embed_items(model: LinearModel, branch: BoundBranch, columns: I64) -> Affine:
    """Return the post-aggregation pre-activations of a branch as an affine vector, adding what the items need.

    Args:
        model: holds the decision or scenario variables already.
        branch: a set encoder at fixed features.
        columns: the variables v, int64[size], with finite bounds.
    """
    lower, upper = np.array(model.lower)[columns], np.array(model.upper)[columns]
    whole = np.array(model.integer)[columns]
    mapping = branch.mapping
    parts: list[Affine] = []
    rest = np.zeros(len(branch.post))
    for item in range(mapping.items):
        rows = slice(item * mapping.width, (item + 1) * mapping.width)
        matrix, offset = mapping.matrix[rows], mapping.offset[rows]
        used = np.flatnonzero(np.any(matrix != 0, axis=0))
        slope = branch.inputs[item] @ matrix[:, used]  # [h1, used]
        base = branch.inputs[item] @ offset + branch.bias[item]
        if len(used) == 0:
            rest += branch.post @ np.maximum(base, 0.0)
        elif len(used) == 1:
            v, low, high = columns[used], float(lower[used[0]]), float(upper[used[0]])
            binary = bool(whole[used[0]]) and low == 0.0 and high == 1.0
            parts.append(_one_input(model, branch, v, slope[:, 0], base, low, high, binary))
        else:
            pre = Affine(columns=columns[used], weights=slope, constant=base)
            spans = _interval(slope, base, lower[used], upper[used])
            parts.append(embed_relu(model, pre, *spans).times(branch.post))
    if not parts:
        return Affine(columns=np.zeros(0, np.int64), weights=np.zeros((len(rest), 0)), constant=rest)
    return joined(parts).plus(rest)


def _one_input(
    model: LinearModel, branch: BoundBranch, v: I64, slope: F64, base: F64, low: float, high: float, binary: bool
) -> Affine:
    """Embed an item whose hidden layer depends on a single variable in [low, high]."""

    def at(value: float) -> F64:
        return np.asarray(branch.post @ np.maximum(base + slope * value, 0.0))

    points = [low, high]
    if not binary:
        with np.errstate(divide="ignore", invalid="ignore"):
            breaks = np.where(slope != 0.0, -base / slope, np.inf)
        margin = EDGE * max(1.0, high - low)
        inside = np.unique(breaks[(breaks > low + margin) & (breaks < high - margin)])
        points = [low, *inside.tolist(), high]
    if len(points) == 2:
        step = (at(high) - at(low)) / (high - low) if high > low else np.zeros(len(branch.post))
        return Affine(columns=v, weights=step[:, None], constant=at(low) - step * low)
    lengths = np.diff(points)
    deltas = model.add_columns(len(lengths), upper=lengths)
    switches = model.add_columns(len(lengths) - 1, upper=1.0, integer=True)
    model.add_terms([(v, np.array([1.0])), (deltas, -np.ones(len(lengths)))], lower=low, upper=low)
    for k in range(len(switches)):
        model.add_terms([(deltas[k : k + 1], np.ones(1)), (switches[k : k + 1], -lengths[k : k + 1])], lower=0.0)
        model.add_terms(
            [(deltas[k + 1 : k + 2], np.ones(1)), (switches[k : k + 1], -lengths[k + 1 : k + 2])], upper=0.0
        )
    heights = np.array([at(point) for point in points])  # [points, rows]
    return Affine(columns=deltas, weights=(np.diff(heights, axis=0) / lengths[:, None]).T, constant=heights[0])


def _interval(weights: F64, constant: F64, lower: F64, upper: F64) -> tuple[F64, F64]:
    positive, negative = np.maximum(weights, 0.0), np.minimum(weights, 0.0)
    return positive @ lower + negative @ upper + constant, positive @ upper + negative @ lower + constant


def embed_relu(model: LinearModel, pre: Affine, low: F64, high: F64) -> Affine:
    """Return relu(pre) given bounds on each entry; only neurons that can change sign get a variable and a binary."""
    rows = len(pre.constant)
    unstable = np.flatnonzero((low < 0) & (high > 0))
    active = np.flatnonzero(low >= 0)
    outputs = model.add_columns(len(unstable), upper=high[unstable])
    switches = model.add_columns(len(unstable), upper=1.0, integer=True)
    for j, k in enumerate(unstable):
        out, on = outputs[j : j + 1], switches[j : j + 1]
        one = np.ones(1)
        model.add_terms([(out, one), (pre.columns, -pre.weights[k])], lower=float(pre.constant[k]))
        model.add_terms(
            [(out, one), (pre.columns, -pre.weights[k]), (on, np.array([-low[k]]))],
            upper=float(pre.constant[k] - low[k]),
        )
        model.add_terms([(out, one), (on, np.array([-high[k]]))], upper=0.0)
    weights = np.zeros((rows, len(pre.columns) + len(unstable)))
    weights[active, : len(pre.columns)] = pre.weights[active]
    weights[unstable, len(pre.columns) + np.arange(len(unstable))] = 1.0
    constant = np.zeros(rows)
    constant[active] = pre.constant[active]
    return Affine(columns=np.concatenate([pre.columns, outputs]), weights=weights, constant=constant)


def bound_by_lp(model: LinearModel, pre: Affine, low: F64, high: F64, clock: Clock) -> tuple[F64, F64]:
    """Tighten bounds on each entry of ``pre`` by linear programs over the model's relaxation (warm simplex)."""
    program = highs_program(model.relaxed(with_cost=False))
    low, high = low.copy(), high.copy()
    columns = pre.columns.astype(np.int32)
    optimal = import_highs().HighsModelStatus.kOptimal
    for k in range(len(pre.constant)):
        if clock.left <= 0:
            break  # the bounds at hand are valid, only wider
        for sign in (1.0, -1.0):
            end = low[k] if sign > 0 else high[k]
            if (end >= 0) == (sign > 0):
                continue  # this end is already on the stable side
            program.changeColsCost(len(columns), columns, sign * pre.weights[k])
            program.run()
            if program.getModelStatus() != optimal:
                continue
            value = sign * float(program.getInfo().objective_function_value) + float(pre.constant[k])
            slack = 1e-7 * (1.0 + abs(value))
            if sign > 0:
                low[k] = max(low[k], value - slack)
            else:
                high[k] = min(high[k], value + slack)
            if low[k] >= 0 or high[k] <= 0:
                break
    return low, high


def fix_binaries(model: LinearModel, columns: I64, clock: Clock) -> bool:
    """Fix those binary columns that the rows (a cutoff among them) keep at 0 or 1; return False if nothing is feasible.

    One linear program a column, over the relaxation: the end of [0, 1] that its optimum is not at.
    """
    program = highs_program(model.relaxed())
    optimal = import_highs().HighsModelStatus.kOptimal
    program.run()
    if program.getModelStatus() == import_highs().HighsModelStatus.kInfeasible:
        return False
    if program.getModelStatus() != optimal:
        return True
    at = np.array(program.getSolution().col_value)
    every = np.arange(model.num_columns, dtype=np.int32)
    program.changeColsCost(len(every), every, np.zeros(len(every)))
    for column in columns:
        binary = model.integer[column] and (model.lower[column], model.upper[column]) == (0.0, 1.0)
        if not binary or 1e-6 < at[column] < 1 - 1e-6:
            continue
        if clock.left <= 0:
            break  # what is fixed so far is right
        end = 1.0 if at[column] < 0.5 else 0.0
        program.changeColCost(int(column), 1.0 - 2.0 * end)
        program.run()
        known = program.getModelStatus() == optimal
        reached = abs(float(program.getInfo().objective_function_value))
        program.changeColCost(int(column), 0.0)
        if known and abs(reached - end) > 1e-6:  # the other end is out of reach
            model.lower[column] = model.upper[column] = 1.0 - end
            program.changeColBounds(int(column), 1.0 - end, 1.0 - end)
    return True


def affine_bounds(model: LinearModel, vector: Affine) -> tuple[F64, F64]:
    """Return interval bounds of an affine vector from its columns' bounds."""
    lower, upper = np.array(model.lower)[vector.columns], np.array(model.upper)[vector.columns]
    return _interval(vector.weights, vector.constant, lower, upper)


def embed_branch(
    model: LinearModel, branch: BoundBranch, columns: I64, *, tighten: bool = True, clock: Clock | None = None
) -> Affine:
    """Return the branch's encoding g of the variables as an affine vector."""
    pre = embed_items(model, branch, columns)
    low, high = affine_bounds(model, pre)
    if tighten:
        low, high = bound_by_lp(model, pre, low, high, clock or Clock())
    return embed_relu(model, pre, low, high).times(branch.out)


def embed_head(
    model: LinearModel, network: BoundNetwork, pre: Affine, *, tighten: bool = True, clock: Clock | None = None
) -> Affine:
    """Return the scaled prediction (one row) from the value layer's pre-activations."""
    low, high = affine_bounds(model, pre)
    if tighten:
        low, high = bound_by_lp(model, pre, low, high, clock or Clock())
    hidden = embed_relu(model, pre, low, high)
    return hidden.times(network.network.value_out[None]).plus(np.array([network.network.out_bias]))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSize:
    """What is left of a network in a model."""

    columns: int
    rows: int
    binaries: int
    neurons: int  # of the network, before any reduction


def adversary_model(
    network: BoundNetwork, x: F64, uncertainty: LinearSet, *, tighten: bool = True, clock: Clock | None = None
) -> tuple[LinearModel, I64, EmbeddedSize]:
    """Return the program max over xi of the prediction at plan ``x`` (as a minimisation), xi's columns and its size."""
    model = LinearModel()
    columns = model.add_set(uncertainty)
    branch, weights = network.scenario_branch(x), network.network
    fixed = weights.value_x @ network.x.encode(x[None])[0] + weights.value_bias
    encoded = embed_branch(model, branch, columns, tighten=tighten, clock=clock)
    value = embed_head(model, network, encoded.times(weights.value_xi).plus(fixed), tighten=tighten, clock=clock)
    model.set_cost(value.columns, -value.weights[0])
    model.offset = -float(value.constant[0])
    neurons = branch.bias.size + len(branch.post) + len(weights.value_bias)
    binaries = sum(model.integer) - int(uncertainty.integer.sum())
    size = EmbeddedSize(columns=model.num_columns, rows=model.num_rows, binaries=binaries, neurons=neurons)
    return model, columns, size


def embed_plan_values(
    model: LinearModel,
    network: BoundNetwork,
    x: I64,
    scenarios: F64,
    *,
    tighten: bool = False,
    clock: Clock | None = None,
) -> list[Affine]:
    """Return the scaled prediction at each stored scenario (float64[K, nxi]) as a function of the plan's columns."""
    weights = network.network
    plan = (
        embed_branch(model, network.x, x, tighten=tighten, clock=clock).times(weights.value_x).plus(weights.value_bias)
    )
    values = []
    for xi in scenarios:
        if weights.coupled:
            code = embed_branch(model, network.plan_branch(xi), x, tighten=tighten, clock=clock).times(weights.value_xi)
            pre = joined([plan, code])
        else:
            zero = np.zeros(network.features.x_map.matrix.shape[1])
            pre = plan.plus(weights.value_xi @ network.scenario_branch(zero).encode(xi[None])[0])
        values.append(embed_head(model, network, pre, tighten=tighten, clock=clock))
    return values

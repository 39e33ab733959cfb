"""Exact multiple-choice knapsack, the second stage of the knapsack and capital-budgeting problems, in microseconds.

One option is chosen per item; option 0 weighs nothing. A Lagrangian bound at the linear relaxation's price fixes most
items; the rest go through a list of undominated (weight, gain) states pruned by the same bound. Gains are real, so are
weights (integers merge better). Compiled with Numba; every kernel that calls another is in this file.
"""

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@jit
def _increments(gain: F64, weight: F64) -> tuple[F64, F64, I64, I64, I64]:
    """Return the upper hull of each item's options as (gain, weight, item, option) steps, and its base option."""
    num_items, num_options = gain.shape
    step_gain = np.empty(num_items * num_options)
    step_weight = np.empty(num_items * num_options)
    step_item = np.empty(num_items * num_options, np.int64)
    step_option = np.empty(num_items * num_options, np.int64)
    base = np.zeros(num_items, np.int64)
    count = 0
    for i in range(num_items):
        for o in range(1, num_options):
            if weight[i, o] == 0.0 and gain[i, o] > gain[i, base[i]]:
                base[i] = o
        at = base[i]
        while True:
            pick = -1
            best = 0.0
            for o in range(num_options):
                extra_weight = weight[i, o] - weight[i, at]
                extra_gain = gain[i, o] - gain[i, at]
                if extra_weight > 0.0 and extra_gain > 0.0:
                    ratio = extra_gain / extra_weight
                    if pick < 0 or ratio > best or (ratio == best and weight[i, o] > weight[i, pick]):
                        pick = o
                        best = ratio
            if pick < 0:
                break
            step_gain[count] = gain[i, pick] - gain[i, at]
            step_weight[count] = weight[i, pick] - weight[i, at]
            step_item[count] = i
            step_option[count] = pick
            count += 1
            at = pick
    return step_gain[:count], step_weight[:count], step_item[:count], step_option[:count], base


@jit
def solve_choice_knapsack(gain: F64, weight: F64, capacity: float, tolerance: float) -> tuple[float, I64]:
    """Maximise the total gain of one option per item within the capacity.

    Args:
        gain: float64[n, m].
        weight: float64[n, m], >= 0; option 0 weighs 0.
        capacity: >= 0.
        tolerance: absolute; the value returned is within it of the optimum (0 is exact up to rounding).

    Returns:
        The value and the option of each item, int64[n].

    Source: Lagrangian fixing and list dynamic programming as in Pisinger, EJOR 83 (1995),
    doi:10.1016/0377-2217(95)00015-I.
    """
    num_items, num_options = gain.shape
    step_gain, step_weight, step_item, step_option, base = _increments(gain, weight)
    choice = base.copy()
    value = 0.0
    for i in range(num_items):
        value += gain[i, base[i]]
    order = np.argsort(-step_gain / step_weight, kind="mergesort")
    room = capacity
    price = 0.0
    broken = False
    blocked = np.zeros(num_items, np.bool_)
    for s in order:
        i = step_item[s]
        if blocked[i]:
            continue
        if step_weight[s] <= room:
            room -= step_weight[s]
            value += step_gain[s]
            choice[i] = step_option[s]
        else:
            if not broken:
                price = step_gain[s] / step_weight[s]
                broken = True
            blocked[i] = True
    if not broken:
        return value, choice
    best = np.empty(num_items)
    upper = price * capacity
    for i in range(num_items):
        best[i] = -np.inf
        for o in range(num_options):
            best[i] = max(best[i], gain[i, o] - price * weight[i, o])
        upper += best[i]
    gap = upper - value - tolerance - 1e-12 * abs(upper)
    if gap <= 0.0:
        return value, choice
    margin = upper - gap - value
    width = 4096
    while True:  # a narrow search first: its better value makes the wide, exact one short
        value, choice, complete = _core(gain, weight, capacity, price, best, value, choice, upper, margin, width)
        if complete or upper - value <= margin:
            return value, choice
        width *= 16


@jit
def _core(  # noqa: C901, PLR0913 (a kernel: arrays one by one, one loop)
    gain: F64,
    weight: F64,
    capacity: float,
    price: float,
    best: F64,
    value: float,
    choice: I64,
    upper: float,
    margin: float,
    width: int,
) -> tuple[float, I64, bool]:
    """Search the options whose Lagrangian loss is under the gap, over lists of undominated states.

    A list longer than ``width`` loses the states of least bound; the last entry returned is False if that happened.
    """
    threshold = value + margin
    gap = upper - threshold
    complete = True
    num_items, num_options = gain.shape
    keep = np.zeros((num_items, num_options), np.bool_)
    second = np.full(num_items, np.inf)
    fixed = np.zeros(num_items, np.int64)
    fixed_gain = 0.0
    fixed_weight = 0.0
    num_free = 0
    free = np.empty(num_items, np.int64)
    for i in range(num_items):
        kept = 0
        for o in range(num_options):
            loss = best[i] - gain[i, o] + price * weight[i, o]
            if loss < gap:
                dominated = False
                for other in range(num_options):
                    if other == o:
                        continue
                    if weight[i, other] <= weight[i, o] and gain[i, other] >= gain[i, o]:
                        strict = weight[i, other] < weight[i, o] or gain[i, other] > gain[i, o]
                        if strict or other < o:
                            dominated = True
                            break
                if dominated:
                    continue
                keep[i, o] = True
                kept += 1
                fixed[i] = o
                if loss > 0.0:
                    second[i] = min(second[i], loss)
        if kept == 1:
            fixed_gain += gain[i, fixed[i]]
            fixed_weight += weight[i, fixed[i]]
        else:
            free[num_free] = i
            num_free += 1
    free = free[:num_free]
    free = free[np.argsort(-second[free], kind="mergesort")]
    rest_best = np.zeros(num_free + 1)
    rest_light = np.zeros(num_free + 1)
    rest_heavy = np.zeros(num_free + 1)
    for j in range(num_free - 1, -1, -1):
        i = free[j]
        light, heavy = np.inf, 0.0
        for o in range(num_options):
            if keep[i, o]:
                light = min(light, weight[i, o])
                heavy = max(heavy, weight[i, o])
        rest_best[j] = rest_best[j + 1] + best[i]
        rest_light[j] = rest_light[j + 1] + light
        rest_heavy[j] = rest_heavy[j + 1] + heavy
    if fixed_weight + rest_light[0] > capacity:
        return value, choice, complete  # what could improve on the incumbent does not fit

    size = 1024
    state_gain = np.empty(size)
    state_weight = np.empty(size)
    parent = np.empty(size, np.int64)
    option = np.empty(size, np.int64)
    state_gain[0], state_weight[0], parent[0], option[0] = fixed_gain, fixed_weight, -1, 0
    begin, end = 0, 1
    lagrange = price * capacity
    heads = np.empty(num_options, np.int64)
    for j in range(num_free):
        i = free[j]
        need = end + (end - begin) * num_options
        if need > size:
            while size < need:
                size *= 2
            grown = np.empty(size)
            grown[:end] = state_gain[:end]
            state_gain = grown
            grown = np.empty(size)
            grown[:end] = state_weight[:end]
            state_weight = grown
            longer = np.empty(size, np.int64)
            longer[:end] = parent[:end]
            parent = longer
            longer = np.empty(size, np.int64)
            longer[:end] = option[:end]
            option = longer
        for o in range(num_options):
            heads[o] = begin if keep[i, o] else end
        tail = end
        last = -np.inf
        while True:
            pick = -1
            pick_weight = np.inf
            pick_gain = -np.inf
            for o in range(num_options):
                if heads[o] < end:
                    w = state_weight[heads[o]] + weight[i, o]
                    if w < pick_weight or (w == pick_weight and state_gain[heads[o]] + gain[i, o] > pick_gain):
                        pick, pick_weight, pick_gain = o, w, state_gain[heads[o]] + gain[i, o]
            if pick < 0 or pick_weight + rest_light[j + 1] > capacity:
                break
            source = heads[pick]
            heads[pick] += 1
            if pick_gain <= last:
                continue
            bound = pick_gain + rest_best[j + 1] + lagrange - price * pick_weight
            idle = capacity - pick_weight - rest_heavy[j + 1]
            if idle > 0.0:
                bound -= price * idle
            if bound <= threshold:
                continue
            last = pick_gain
            state_gain[tail], state_weight[tail] = pick_gain, pick_weight
            parent[tail], option[tail] = source, pick
            tail += 1
        if tail == end:
            return value, choice, complete
        begin, end = end, tail
        if end - begin > width:
            complete = False
            score = state_gain[begin:end] - price * state_weight[begin:end]
            floor = np.sort(score)[end - begin - width]
            write = begin
            for read in range(begin, end):
                if score[read - begin] >= floor:
                    state_gain[write], state_weight[write] = state_gain[read], state_weight[read]
                    parent[write], option[write] = parent[read], option[read]
                    write += 1
            end = write
    if state_gain[end - 1] <= value:
        return value, choice, complete
    found = fixed.copy()
    at = end - 1
    for j in range(num_free - 1, -1, -1):
        found[free[j]] = option[at]
        at = parent[at]
    return state_gain[end - 1], found, complete


@jit
def repair_values(
    xs: F64, xis: F64, degradation: F64, cost: F64, weight: F64, repair: F64, capacity: float, tolerance: float
) -> F64:
    """Return the robust knapsack's second-stage values, float64[A, B], of every plan and scenario."""
    num_plans, num_scenarios = len(xs), len(xis)
    values = np.empty((num_plans, num_scenarios))
    for a in range(num_plans):
        chosen = np.flatnonzero(xs[a] > 0.5)
        gains = np.zeros((len(chosen), 3))
        weights = np.zeros((len(chosen), 3))
        for j, i in enumerate(chosen):
            gains[j, 2] = cost[i]
            weights[j, 1] = weight[i]
            weights[j, 2] = weight[i] + repair[i]
        for b in range(num_scenarios):
            for j, i in enumerate(chosen):
                gains[j, 1] = cost[i] - degradation[i] * xis[b, i]
            values[a, b] = -solve_choice_knapsack(gains, weights, capacity, tolerance)[0]
    return values


@jit
def late_values(xs: F64, late_gain: F64, early_gain: F64, weight: F64, budget: float, tolerance: float) -> F64:
    """Return capital budgeting's values (costs, first and second stage), float64[A, B], of every plan and scenario.

    Args:
        xs: float64[A, n] plans.
        late_gain: float64[B, n] profit of investing late.
        early_gain: float64[B, n] profit of investing early.
        weight: float64[B, n] investment costs.
        budget: B.
        tolerance: absolute.
    """
    num_plans, num_scenarios = len(xs), len(weight)
    values = np.empty((num_plans, num_scenarios))
    for a in range(num_plans):
        open_items = np.flatnonzero(xs[a] < 0.5)
        gains = np.zeros((len(open_items), 2))
        weights = np.zeros((len(open_items), 2))
        for b in range(num_scenarios):
            room = budget
            gain = 0.0
            for i in range(xs.shape[1]):
                if xs[a, i] > 0.5:
                    room -= weight[b, i]
                    gain += early_gain[b, i]
            if room < -1e-9 * budget:
                values[a, b] = np.inf
                continue
            for j, item in enumerate(open_items):
                gains[j, 1] = late_gain[b, item]
                weights[j, 1] = weight[b, item]
            values[a, b] = -gain - solve_choice_knapsack(gains, weights, max(room, 0.0), tolerance)[0]
    return values

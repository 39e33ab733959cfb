"""The cheapest way of each tensor through memory at given prices: shortest paths over where its contents are current.

Prices are on space (per layer, step and byte), on link time (per link and slot of the schedule) and on the time of
steps. A state is the set of layers in which the contents are current, a bit each. On a leg each of them is kept, which
costs its space, or dropped; copies bring them to others. A copy happens in the cheapest slot of its window. A use is
served by one layer. What holds at a loop's entry must hold at the end of its body, so inside a loop there is a row of
costs for each state at its entry.
"""

from mallocgame.baselines.bounds.path_costs import between_runs, bring, cheapest_source, fetch_again, price_leg
from mallocgame.baselines.bounds.path_tables import F64, FAR, I64, Paths, Prices, Scratch, Use
from mallocgame.jit import kernel, part


@kernel
def cheapest_paths(paths: Paths, prices: Prices, use: Use, work: Scratch) -> float:
    """Return the cost of the cheapest paths of all tensors, and add what they use to ``use``."""
    num_layers = len(paths.saving)
    total = 0.0
    for n in range(len(paths.size)):
        middle = 0  # layers in which what is held may stay for ever
        for a in range(1, num_layers - 1):
            middle |= paths.fits[n] & (1 << a)
        best, best_held, best_forced, last, walks = FAR, 0, 0, 0, 0
        for k in range(paths.first[n], paths.first[n + 1] - 1):
            price_leg(paths, prices, work, n, k)
        held = paths.fits[n] & ~1 if paths.is_held[n] else 0
        chosen = held
        while True:  # all sets of layers that hold it at the start
            forced = chosen & middle
            while True:  # all sets of those that hold it for ever
                cost, state = _walk(paths, prices, work, n, chosen, forced)
                walks += 1
                if cost < best:
                    best, best_held, best_forced, last = cost, chosen, forced, state
                if forced == 0:
                    break
                forced = (forced - 1) & chosen & middle
            if chosen == 0:
                break
            chosen = (chosen - 1) & held
        if walks > 1:
            _walk(paths, prices, work, n, best_held, best_forced)
        _trace(paths, prices, use, work, n, last, best_held, best_forced)
        total += best
    return total


@part
def _walk(paths: Paths, prices: Prices, work: Scratch, n: int, held: int, forced: int) -> tuple[float, int]:
    """Return the cost of the cheapest path, and its state after the last stop before the end.

    Held in the layers ``held`` from the run before: in those ``forced`` for ever, into the others fetched again by the
    end.
    """
    begin, end = paths.first[n], paths.first[n + 1] - 1
    num_layers = len(paths.saving)
    masks = 1 << num_layers
    states = 2 * masks if paths.is_split[n] else masks
    stay = forced if paths.is_constant[n] else 0
    level, rows = 0, 1
    cost = work.cost
    cost[0, 0, :] = FAR
    cost[0, 0, 1 | held] = between_runs(paths, prices, n, held)
    for k in range(begin, end - 1):
        _leg(paths, work, n, k, cost[level], rows, states, stay)
        kind = paths.stops[k + 1, 0]
        if kind == 1:
            _use(paths, prices, work, n, k + 1, cost[level], rows, states, stay)
        elif kind == 2:
            level += 1
            rows = masks
            cost[level, :, :] = FAR
            for mask in range(masks):
                if mask & stay == stay:
                    cost[level, mask, mask] = 0.0
        else:
            outer = 1 if level == 1 else masks
            _leave(work, k + 1 - begin, cost[level - 1], cost[level], outer, states)
            level -= 1
            rows = outer
    at = end - 1 - begin
    wanted = held & ~forced
    best, last = FAR, 0
    for state in range(states):
        before = cost[0, 0, state]
        if before >= FAR:
            continue
        mask = state % masks
        if paths.is_constant[n] and wanted:
            fetched, _, _ = fetch_again(paths, prices, work, n, mask, held, forced)
            after = before + fetched
        else:
            need = wanted | (1 if paths.is_output[n] and not mask & 1 else 0)
            after = before + work.keep[at, stay] + bring(work.arrive[at, mask], need)
        if after < best:
            best, last = after, state
    return best, last


@part
def _leg(paths: Paths, work: Scratch, n: int, k: int, cost: F64, rows: int, states: int, stay: int) -> None:
    """Go along a leg: keep some, bring some."""
    masks = 1 << len(paths.saving)
    begin, there = paths.first[n], k + 1
    stops = paths.stops
    is_dead = stops[there, 0] == 1 and not stops[there, 3] and not stops[there, 4]
    choice, keep, bring = work.leg_choice[k - begin], work.keep[k - begin], work.arrive[k - begin]
    ahead = work.ahead
    for r in range(rows):
        ahead[r, :states] = FAR
        for state in range(states):
            before = cost[r, state]
            if before >= FAR:
                continue
            if is_dead:
                if before < ahead[r, 0]:
                    ahead[r, 0] = before
                    choice[r, 0] = state << 16
                continue
            mask, is_copied = state % masks, state // masks
            kept = mask
            while True:  # the subsets of mask that have layer 0 where it has, and what must stay
                if kept & 1 == mask & 1 and kept & stay == stay:
                    base = before + keep[kept]
                    for arrive in range(masks):
                        if arrive & kept or bring[mask, arrive] >= FAR:
                            continue
                        after = base + bring[mask, arrive]
                        target = kept | arrive
                        if states > masks and target > 1 and (kept <= 1 or is_copied):
                            target += masks
                        if after < ahead[r, target]:
                            ahead[r, target] = after
                            choice[r, target] = state << 16 | kept << 8 | arrive
                if kept == 0:
                    break
                kept = (kept - 1) & mask
    _take(cost, ahead, rows, states)


@part
def _take(cost: F64, ahead: F64, rows: int, states: int) -> None:
    for r in range(rows):
        for state in range(states):
            cost[r, state] = ahead[r, state]


@part
def _worth(paths: Paths, prices: Prices, stop: I64, layer: int) -> float:
    """Return what it is worth that a layer serves the free uses of a stop."""
    step, size = stop[1], stop[8]
    saved = min(size * paths.scale[step] * paths.saving[layer], paths.reach[step])
    worth: float = prices.time[step] * saved + size * paths.scale[step] * prices.relief[step, layer]
    return worth


@part
def _use(  # noqa: PLR0913 (a kernel)
    paths: Paths, prices: Prices, work: Scratch, n: int, k: int, cost: F64, rows: int, states: int, stay: int
) -> None:
    """Pass a use: one layer serves it; what stays takes its space."""
    num_layers = len(paths.saving)
    stop, ahead = paths.stops[k], work.ahead
    contents, home, is_free = stop[3], stop[4], stop[7]
    for r in range(rows):
        for state in range(states):
            ahead[r, state] = FAR
    for layer in range(num_layers):
        if layer > 0 and (not is_free or not paths.fits[n] >> layer & 1):
            continue
        worth = _worth(paths, prices, stop, layer) if layer > 0 else 0.0
        for r in range(rows):
            for state in range(states):
                mask = state % (1 << num_layers)
                is_wrong = (home and not mask & 1) or (is_free and contents and not mask >> layer & 1)
                if cost[r, state] < FAR and not is_wrong:
                    _serve(paths, prices, work, n, k, r, state, states, layer, cost[r, state] - worth, stay)
    _take(cost, ahead, rows, states)


@part
def _serve(  # noqa: PLR0913 (a kernel)
    paths: Paths,
    prices: Prices,
    work: Scratch,
    n: int,
    k: int,
    r: int,
    state: int,
    states: int,
    layer: int,
    cost: float,
    stay: int,
) -> None:
    """Write what may follow a use that ``layer`` serves: what was written is nowhere else, other contents may stay."""
    num_layers, stop = len(paths.saving), paths.stops[k]
    masks, step, writes = 1 << num_layers, stop[1], stop[5]
    mask, is_copied = state % masks, state // masks
    stays = ((1 << layer) if writes else mask) & ~1
    there = stays
    while True:
        if there & stay == stay and (layer == 0 or there >> layer & 1):
            after = cost
            for a in range(1, num_layers):
                if there >> a & 1:
                    after += paths.size[n] * (prices.space[a, step + 1] - prices.space[a, step])
            target = there | (mask & 1)
            if writes:
                target = 1 if stop[6] else 1 << layer
                is_copied = is_copied if stop[3] and not stop[6] else 0
            if target > 1 and is_copied and states > masks:
                target += masks
            if after < work.ahead[r, target]:
                work.ahead[r, target] = after
                work.stop_choice[k - paths.first[n], r, target] = state << 16 | there << 8 | layer
        if there == 0 or writes:
            break
        there = (there - 1) & stays


@part
def _leave(work: Scratch, at: int, outer: F64, inner: F64, rows: int, states: int) -> None:
    """Leave a loop: its body began with what was current before it and is at its end."""
    masks = work.keep.shape[1]
    ahead, choice = work.ahead, work.stop_choice[at]
    ahead[:rows, :states] = FAR
    for r in range(rows):
        for state in range(states):
            before = outer[r, state]
            if before >= FAR:
                continue
            allowed = state & 1 if state >= masks else state
            for start in range(masks):
                if start & ~allowed:
                    continue
                for last in range(states):
                    if inner[start, last] < FAR and (last % masks) & start == start:
                        after = before + inner[start, last]
                        if after < ahead[r, last]:
                            ahead[r, last] = after
                            choice[r, last] = state << 16 | start
    _take(outer, ahead, rows, states)


@part
def _trace(paths: Paths, prices: Prices, use: Use, work: Scratch, n: int, last: int, held: int, forced: int) -> None:
    """Add what the path that ends in state ``last`` uses."""
    begin, end = paths.first[n], paths.first[n + 1] - 1
    num_layers = len(paths.saving)
    masks = 1 << num_layers
    stay = forced if paths.is_constant[n] else 0
    size = paths.size[n]
    bring = work.arrive[end - 1 - begin, last % masks]
    source, kept, there = last % masks, stay, held
    need = (held & ~forced) | (1 if paths.is_output[n] and not last & 1 else 0)
    arrive = need
    if paths.is_constant[n] and need:
        _, kept, arrive = fetch_again(paths, prices, work, n, source, held, forced)
        source, there = kept | 1, held | kept | arrive
    else:
        for more in range(masks):
            if more & need == need and bring[more] < bring[arrive]:
                arrive = more
    if need:
        _copies(paths, use, work, n, end - 1, source, arrive)
    _keep(paths, use, n, end - 1, kept)
    for a in range(1, num_layers):
        if there >> a & 1:
            use.space[a, use.space.shape[1] - 2] += size
            use.space[a, use.space.shape[1] - 1] -= size
    state, row = last, 0
    level, frames = 0, work.frames
    for k in range(end - 1, begin, -1):
        stop = paths.stops[k]
        if stop[0] == 1:
            choice = work.stop_choice[k - begin, row, state]
            state = choice >> 16
            for a in range(1, num_layers):
                if choice >> (8 + a) & 1:
                    use.space[a, stop[1]] += size
                    use.space[a, stop[1] + 1] -= size
            layer = choice & 255
            if layer > 0:
                step, volume = stop[1], stop[8] * paths.scale[stop[1]]
                use.saved[step] += min(volume * paths.saving[layer], paths.reach[step])
                use.served[step, layer] += volume
        elif stop[0] == 3:
            choice = work.stop_choice[k - begin, row, state]
            frames[level, 0], frames[level, 1] = row, choice >> 16
            level += 1
            row = choice & 255
        else:
            level -= 1
            row, state = frames[level, 0], frames[level, 1]
        choice = work.leg_choice[k - 1 - begin, row, state]
        state = choice >> 16
        kept, arrive = choice >> 8 & 255, choice & 255
        _keep(paths, use, n, k - 1, kept)
        if arrive:
            _copies(paths, use, work, n, k - 1, state % masks, arrive)


@part
def _keep(paths: Paths, use: Use, n: int, k: int, kept: int) -> None:
    low, high = paths.legs[k, 3], max(paths.legs[k, 3], paths.legs[k, 4])
    for a in range(1, len(paths.saving)):
        if kept >> a & 1:
            use.space[a, low] += paths.size[n]
            use.space[a, high] -= paths.size[n]


@part
def _copies(paths: Paths, use: Use, work: Scratch, n: int, k: int, mask: int, arrive: int) -> None:
    """Add the copies behind ``arrive[mask, arrive]``."""
    at = k - paths.first[n]
    copy, bring = work.copy[at], work.arrive[at, mask]
    while arrive:
        best, into = FAR, -1
        for b in range(len(copy)):
            if arrive >> b & 1:
                rest = arrive & ~(1 << b)
                price, _ = cheapest_source(copy, mask | rest, b)
                if bring[rest] + price < best:
                    best, into = bring[rest] + price, b
        arrive &= ~(1 << into)
        _, source = cheapest_source(copy, mask | arrive, into)
        link, slot = paths.link[source, into], work.slot[at, source, into]
        size = paths.size[n]
        use.slot[link, slot] += (size / paths.link_speed[link] + paths.link_latency[link]) * paths.trips[k]
        if into > 0 and paths.counts_flying:
            since, high = paths.begins[slot], paths.legs[k, 4]
            if since < high:
                use.space[into, since] += size
                use.space[into, high] -= size

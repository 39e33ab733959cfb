"""What a leg of a path costs at given prices: keeping contents in layers, copying them, and between two runs."""

from mallocgame.baselines.bounds.path_tables import F64, FAR, Paths, Prices, Scratch
from mallocgame.jit import part


@part
def price_leg(paths: Paths, prices: Prices, work: Scratch, n: int, k: int) -> None:
    """Fill ``copy``, ``slot``, ``arrive`` and ``keep`` for a leg."""
    num_layers = len(paths.saving)
    masks, at = 1 << num_layers, k - paths.first[n]
    size, fits = paths.size[n], paths.fits[n]
    low, high = paths.legs[k, 3], max(paths.legs[k, 3], paths.legs[k, 4])
    keep, copy, arrive = work.keep[at], work.copy[at], work.arrive[at]
    for mask in range(masks):
        keep[mask] = 0.0
        for a in range(1, num_layers):
            if mask >> a & 1:
                keep[mask] += size * (prices.space[a, high] - prices.space[a, low])
    arrive[:, :] = FAR
    arrive[:, 0] = 0.0
    if paths.legs[k, 0] > paths.legs[k, 1]:
        return
    copy[:, :] = FAR
    for a in range(num_layers):
        for b in range(num_layers):
            if a != b and fits >> a & 1 and fits >> b & 1:
                _price_copy(paths, prices, work, k, at, size, a, b)
    for mask in range(1, masks):
        for brought in range(1, masks):
            if brought & ~fits:
                continue
            for b in range(num_layers):
                if brought >> b & 1:
                    rest = brought & ~(1 << b)
                    price, _ = cheapest_source(copy, mask | rest, b)
                    arrive[mask, brought] = min(arrive[mask, brought], arrive[mask, rest] + price)


@part
def _price_copy(paths: Paths, prices: Prices, work: Scratch, k: int, at: int, size: float, a: int, b: int) -> None:
    """Find the cheapest slot of a copy: the later, the less space it takes on its way."""
    link, high = paths.link[a, b], paths.legs[k, 4]
    seconds = (size / paths.link_speed[link] + paths.link_latency[link]) * paths.trips[k]
    flies = b > 0 and paths.counts_flying
    best, chosen, space = FAR, 0, 0.0
    for slot in range(paths.slot_high[k], paths.slot_low[k] - 1, -1):
        if flies and paths.begins[slot] < high:
            space = size * (prices.space[b, high] - prices.space[b, paths.begins[slot]])
        price = seconds * prices.slot[link, slot] + space
        if price < best:
            best, chosen = price, slot
        if best <= space:
            break
    work.copy[at, a, b], work.slot[at, a, b] = best, chosen


@part
def cheapest_source(copy: F64, mask: int, b: int) -> tuple[float, int]:
    """Return the cost of the cheapest copy into layer ``b`` from one of ``mask``, and which."""
    best, source = FAR, -1
    for a in range(len(copy)):
        if a != b and mask >> a & 1 and copy[a, b] < best:
            best, source = copy[a, b], a
    return best, source


@part
def between_runs(paths: Paths, prices: Prices, n: int, layers: int) -> float:
    """Return what places in a set of layers cost between two runs."""
    price, last = 0.0, prices.space.shape[1] - 1
    for a in range(1, prices.space.shape[0]):
        if layers >> a & 1:
            price += paths.size[n] * (prices.space[a, last] - prices.space[a, last - 1])
    return price


@part
def fetch_again(
    paths: Paths, prices: Prices, work: Scratch, n: int, mask: int, held: int, forced: int
) -> tuple[float, int, int]:
    """Return the cost of the end of a constant, what of ``mask`` it keeps until then, and what copies bring.

    What is held and does not stay for ever is fetched again; that and where it comes from is there between two runs.
    """
    at = paths.first[n + 1] - 2 - paths.first[n]
    keep, arrive = work.keep[at], work.arrive[at]
    best, best_kept, best_brought = FAR, 0, 0
    kept = mask & ~1
    while True:  # the subsets of mask that have what stays for ever
        if kept & forced == forced:
            for brought in range(0, len(arrive), 2):
                if brought & (held & ~forced) == held & ~forced and arrive[kept | 1, brought] < FAR:
                    cost = keep[kept] + arrive[kept | 1, brought]
                    cost += between_runs(paths, prices, n, (kept | brought) & ~held)
                    if cost < best:
                        best, best_kept, best_brought = cost, kept, brought
        if kept == 0:
            break
        kept = (kept - 1) & mask & ~1
    return best, best_kept, best_brought


@part
def bring(arrive: F64, need: int) -> float:
    """Return the cost of copies that make the contents current in all layers of ``need`` once more."""
    if need == 0:
        return 0.0
    best = FAR
    for brought in range(len(arrive)):
        if brought & need == need:
            best = min(best, arrive[brought])
    return best

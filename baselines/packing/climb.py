"""Hill climbing over the order in which buffers are placed (the kernel is ``greedy.climb``).

After TVM's hill-climb allocator: lay the buffers out by first fit in the current order, pick one that ends at the peak,
and let it go earlier, or change places with an earlier buffer that is live with it. An order is taken when it is
at most as high as the best of the last few (late acceptance, Burke and Bykov, doi:10.1016/j.ejor.2016.07.012).
"""

from mallocgame.baselines.packing.budget import Budget, run_workers
from mallocgame.baselines.packing.greedy import FAR, climb, place_in_order
from mallocgame.baselines.packing.part import Part


def hill_climb(part: Part, target: int, budget: Budget, workers: int, tries: int | None = None) -> None:
    """Climb from the part's static orders, one thread per worker, until ``target`` bytes, time or ``tries`` are up."""
    s, p = part.scaled, part.problem
    goal = target // s.unit
    heights = {}
    for name, order in part.orders.items():
        if budget.spent():
            return
        heights[name] = place_in_order(order, p.first, p.last, s.size, s.alignment, s.fixed, False, FAR)[1]
    ranked = sorted(heights, key=lambda name: heights[name])
    chunk = max(1, min(20_000, 4_000_000 // p.size.size))

    def worker(number: int) -> None:
        turn = number
        left = tries
        while not budget.spent() and part.height > target and (left is None or left > 0):
            order = part.orders[ranked[turn % len(ranked)]].copy()
            turn += workers
            stale, height = 0, FAR
            while stale < 5 and not budget.spent() and (left is None or left > 0):
                moves = chunk if left is None else min(chunk, left)
                left = None if left is None else left - moves
                seed = int(part.rng.integers(1 << 31))
                offsets, found = climb(
                    order, p.first, p.last, s.size, s.alignment, s.fixed, goal, moves, seed, budget.flag
                )
                part.offer(s.bytes_of(offsets))
                stale = 0 if found < height else stale + 1
                height = min(height, found)
                if part.height <= target:
                    budget.flag[0] = 1

    run_workers([lambda number=number: worker(number) for number in range(workers)], budget)  # type: ignore[misc]

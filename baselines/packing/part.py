"""One independent part of a packing problem: what is proved and what is found so far, and searching it further."""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from mallocgame.baselines.packing import search as native
from mallocgame.baselines.packing.budget import Budget, run_workers
from mallocgame.baselines.packing.greedy import FAR, place_in_order, static_orders
from mallocgame.baselines.packing.problem import I32, I64, PackingProblem, Scaled, overlap_lists, reorder_lists

_DEEP_SPAN = 2_000_000  # above this total span a bound over the whole part at each node costs too much
_MEMO_BITS = 18


class Part:
    """Buffers that share no step with any other part; heights, bounds and offsets in bytes.

    Attributes:
        index: int64[n], the buffers' places in the whole problem.
        lower_bound: proved, bytes.
        offsets: int64[n], the lowest packing found, or None; ``height`` is its height in bytes.
    """

    def __init__(self, problem: PackingProblem, index: I64, seed: int) -> None:
        self.index = index
        self.scaled = Scaled.of(problem.take(index))
        self.problem = self.scaled.problem
        self.lower_bound = self.problem.lower_bound()
        self.orders = static_orders(self.scaled)
        self.rng = np.random.default_rng(seed)
        self.offsets: I64 | None = None
        self.height = FAR
        self._capacity = -1
        self._memo = native.Memo.empty(1)
        self._jobs: Iterator[Job] = iter(())
        self._lists: tuple[I64, I32] | None = None
        self._lock = threading.Lock()
        names = np.stack([self.problem.first, self.problem.last, self.problem.size, self.scaled.alignment])
        names = np.concatenate([names, self.scaled.fixed[None]]).T
        self._label = np.unique(names, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def offer(self, offsets: I64) -> bool:
        """Keep ``offsets`` (bytes) if they are lower than what is known; the caller vouches that they are valid."""
        height = self.problem.height(offsets)
        with self._lock:
            if height >= self.height:
                return False
            self.height, self.offsets = height, offsets
        return True

    def construct(self, *, best_fit: tuple[bool, ...], target: int, budget: Budget, at_least_one: bool) -> None:
        """Try the static orders with first fit and best fit until one is within ``target`` bytes or time is up."""
        s, p = self.scaled, self.problem
        for order in sorted(self.orders.items(), key=lambda item: item[0] != "size, width"):
            for tightest in best_fit:
                if self.height <= target or (budget.spent() and not (at_least_one and self.offsets is None)):
                    return
                limit = FAR if self.offsets is None else self.height // s.unit + 2
                offsets, height = place_in_order(
                    order[1], p.first, p.last, s.size, s.alignment, s.fixed, tightest, limit
                )
                if height < limit:
                    self.offer(s.bytes_of(offsets))

    def exclude(self, capacity: int) -> None:
        """Note that no packing has a height of at most ``capacity`` bytes."""
        unit = self.scaled.unit
        whole = not (self.scaled.size * unit - self.problem.size).any()  # then every height is a multiple of the unit
        self.lower_bound = max(self.lower_bound, (capacity // unit + 1) * unit if whole else capacity + 1)

    def search(self, capacity: int, budget: Budget, workers: int) -> int:
        """Search for a packing within ``capacity`` bytes; return a status of ``search.py``."""
        if self.lower_bound > capacity:
            return native.INFEASIBLE
        if self._capacity != capacity:
            self._capacity = capacity
            self._memo = native.Memo.empty(_MEMO_BITS)
            self._jobs = schedule(self.orders, self.rng)
        if self._lists is None:
            self._lists = overlap_lists(self.problem.first, self.problem.last)
        status = run_orders(partial(self._run, capacity=capacity, budget=budget), self._jobs, budget, workers)
        if status == native.INFEASIBLE:
            self.exclude(capacity)
        return status

    def _run(self, order: I64, by_load: bool, node_limit: int, *, capacity: int, budget: Budget) -> int:
        s, p = self.scaled, self.problem
        assert self._lists is not None
        pointers, neighbours = reorder_lists(*self._lists, order)
        offsets = np.empty(order.size, np.int64)
        instance = native.SearchTables(
            first=p.first[order],
            last=p.last[order],
            starts=np.arange(order.size + 1),
            runs=np.stack([p.first[order], p.last[order]], axis=1),
            size=s.size[order],
            alignment=s.alignment[order],
            fixed=s.fixed[order],
            max_offset=s.max_offsets(capacity)[order],
            label=self._label[order],
            twin=twins(self._label[order]),
            pointers=pointers,
            neighbours=neighbours,
            num_sections=p.num_sections,
            capacity=-(-capacity // s.unit),
            by_load=by_load,
            deep=int((p.last - p.first).sum()) <= _DEEP_SPAN,
        )
        status, _ = native.search(instance, node_limit, budget.flag, self._memo.keys, offsets)
        if status == native.SOLVED:
            found = np.empty_like(offsets)
            found[order] = offsets
            self.offer(s.bytes_of(found))
        return int(status)


Job = tuple[I64, bool, int]  # an order, whether parts are ranked by load, the most nodes


def schedule(orders: Mapping[str, I64], rng: np.random.Generator) -> Iterator[Job]:
    """Yield (order, by_load, node limit) for ever: rounds over the orders, each twice as long as the one before.

    From the third round on every second run takes a random perturbation of an order, for run times are heavy-tailed in
    the order.
    """
    n = next(iter(orders.values())).size
    for k in itertools.count(1):
        limit = min(n << k, 1 << 40)
        for name, order in orders.items():
            by_load = name.startswith("load")
            yield order, by_load, limit
            if k >= 3:
                rank = np.empty(n)
                rank[order] = np.arange(n)
                shaken = np.argsort(rank + rng.normal(0, 0.02 * 2 ** rng.integers(0, 4) * n, n))
                yield shaken.astype(np.int64), bool(rng.random() < 0.5), limit


def run_orders(run: Callable[[I64, bool, int], int], jobs: Iterator[Job], budget: Budget, workers: int) -> int:
    """Run jobs in threads until one is answered or the budget is spent; return a status of ``search.py``."""
    outcome: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        while not budget.spent():
            with lock:
                job = next(jobs)
            status = run(*job)
            if status in (native.SOLVED, native.INFEASIBLE):
                outcome.append(status)
                budget.flag[0] = 1

    run_workers([work] * workers, budget)
    if native.SOLVED in outcome:
        return native.SOLVED
    return native.INFEASIBLE if native.INFEASIBLE in outcome else native.LIMIT


def twins(label: I64) -> I64:
    """Return int64[n], the place of the previous equal label, or -1."""
    by_label = np.argsort(label, kind="stable")
    twin = np.full(label.size, -1, np.int64)
    same = label[by_label][1:] == label[by_label][:-1]
    twin[by_label[1:][same]] = by_label[:-1][same]
    return twin

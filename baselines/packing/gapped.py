"""The exact search on buffers with gaps and conflict lists, one connected component at a time; all in units.

A buffer with gaps is live in several runs of sections. A conflict list has no time: each clique of those that cover its
pairs stands for a section. Buffers with windows, which hold some of their bytes in a gap, are not for this search.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Self

import numpy as np

from mallocgame.baselines.packing import search as native
from mallocgame.baselines.packing.budget import Budget
from mallocgame.baselines.packing.clearances import FAR, Clearances
from mallocgame.baselines.packing.part import run_orders, schedule, twins
from mallocgame.baselines.packing.problem import I32, I64, reorder_lists
from mallocgame.baselines.packing.types import Buffer

_MEMO_BITS = 18
_DEEP_RUNS = 2_000_000  # above so many sections, over all buffers, the bound of the whole part costs too much

Runs = list[list[tuple[int, int]]]  # of each buffer: half-open runs of sections, in order


class Component:
    """Buffers that no conflict ties to others. ``height`` is of the lowest packing found, FAR before there is one."""

    def __init__(self, clear: Clearances, runs: Runs, index: I64, orders: Mapping[str, I64], seed: int) -> None:
        self.index = index
        self.size, self.alignment, self.fixed = (column[index] for column in clear.table[:3])
        self.offsets: I64 = np.zeros(index.size, np.int64)
        self.height = FAR
        place = np.full(clear.table.size.size, -1, np.int64)
        place[index] = np.arange(index.size)
        self._orders = {name: place[order][place[order] >= 0] for name, order in orders.items()}
        self._lists = _take_lists(clear, index, place)
        self._runs = _renumbered([runs[i] for i in index.tolist()])
        names = [
            (tuple(own), *rest)
            for own, *rest in zip(
                self._runs, self.size.tolist(), self.alignment.tolist(), self.fixed.tolist(), strict=True
            )
        ]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self._label = np.array([numbers[name] for name in names], np.int64)
        self._rng = np.random.default_rng(seed)
        self._capacity = -1
        self._memo = native.Memo.empty(1)
        self._jobs = schedule(self._orders, self._rng)

    def search(self, capacity: int, budget: Budget, workers: int) -> int:
        """Search for a packing within ``capacity`` units; return a status of ``search.py``."""
        if self._capacity != capacity:
            self._capacity = capacity
            self._memo = native.Memo.empty(_MEMO_BITS)
            self._jobs = schedule(self._orders, self._rng)
        run = partial(self._run, capacity=capacity, budget=budget)
        return run_orders(run, self._jobs, budget, workers)

    def _run(self, order: I64, by_load: bool, node_limit: int, *, capacity: int, budget: Budget) -> int:
        tables = self._tables(order, by_load, capacity)
        offsets = np.empty(order.size, np.int64)
        status, _ = native.search(tables, node_limit, budget.flag, self._memo.keys, offsets)
        if status == native.SOLVED:
            found = np.empty_like(offsets)
            found[order] = offsets
            height = int((found + self.size).max())
            if height < self.height:
                self.height, self.offsets = height, found
        return int(status)

    def _tables(self, order: I64, by_load: bool, capacity: int) -> native.SearchTables:
        runs = [self._runs[i] for i in order.tolist()]
        rows = np.array([run for own in runs for run in own], np.int64).reshape(-1, 2)
        pointers, neighbours = reorder_lists(*self._lists, order)
        label = self._label[order]
        return native.SearchTables(
            first=np.array([own[0][0] for own in runs], np.int64),
            last=np.array([own[-1][1] for own in runs], np.int64),
            starts=np.cumsum([0, *map(len, runs)]).astype(np.int64),
            runs=rows,
            size=self.size[order],
            alignment=self.alignment[order],
            fixed=self.fixed[order],
            max_offset=capacity - self.size[order],
            label=label,
            twin=twins(label),
            pointers=pointers,
            neighbours=neighbours,
            num_sections=int(rows[:, 1].max()),
            capacity=capacity,
            by_load=by_load,
            deep=int((rows[:, 1] - rows[:, 0]).sum()) <= _DEEP_RUNS,
        )


class GappedSearch:
    """All components of a problem without windows."""

    def __init__(self, components: Sequence[Component], num_buffers: int) -> None:
        self.components, self._num_buffers = components, num_buffers

    @classmethod
    def of(cls, buffers: Sequence[Buffer], clear: Clearances, orders: Mapping[str, I64], seed: int) -> Self | None:
        """Return the search, None if a buffer has a window."""
        if any((piece.bottom, piece.top) != (0, b.size_bytes) for b in buffers for piece in b.pieces):
            return None
        runs = _runs_of(clear)
        found = [Component(clear, runs, index, orders, seed + k) for k, index in enumerate(_components(clear))]
        return cls(sorted(found, key=lambda component: component.index.size), len(buffers))

    @property
    def height(self) -> int:
        """Units that the lowest packing found needs, FAR before there is one."""
        return max(component.height for component in self.components)

    @property
    def offsets(self) -> I64:
        """int64[n], of the lowest packing found."""
        offsets = np.zeros(self._num_buffers, np.int64)
        for component in self.components:
            offsets[component.index] = component.offsets
        return offsets

    def offer(self, offsets: I64) -> None:
        """Let components begin with a packing of the whole that is known."""
        for component in self.components:
            own = offsets[component.index]
            height = int((own + component.size).max())
            if height < component.height:
                component.height, component.offsets = height, own

    def search(self, capacity: int, budget: Budget, workers: int) -> int:
        """Search for a packing within ``capacity`` units; return a status of ``search.py``."""
        solved = True
        for component in self.components:
            if component.height <= capacity:
                continue
            share = budget.slice(budget.left() / 2 if component is not self.components[-1] else budget.left())
            status = component.search(capacity, share, workers)
            if status == native.INFEASIBLE:
                return native.INFEASIBLE
            solved = solved and status == native.SOLVED
        return native.SOLVED if solved else native.LIMIT


def _runs_of(clear: Clearances) -> Runs:
    """Return each buffer's runs of cliques: one after the other in time, then those of conflict lists."""
    runs: Runs = [[] for _ in range(clear.table.size.size)]
    for number, clique in enumerate(clear.cliques):
        for i in clique[:, 0].tolist():
            own = runs[i]
            if own and own[-1][1] == number:
                own[-1] = (own[-1][0], number + 1)
            else:
                own.append((number, number + 1))
    return runs


def _renumbered(runs: Runs) -> Runs:
    """Return runs of the sections that a component uses, numbered without holes."""
    used = sorted({s for own in runs for low, high in own for s in range(low, high)})
    number = {s: k for k, s in enumerate(used)}
    return [[(number[low], number[high - 1] + 1) for low, high in own] for own in runs]


def _components(clear: Clearances) -> list[I64]:
    """Return the buffers of each connected component of the conflicts."""
    pointers, other = clear.table.pointers.tolist(), clear.table.other.tolist()
    seen = [False] * (len(pointers) - 1)
    found = []
    for root in range(len(seen)):
        if seen[root]:
            continue
        seen[root] = True
        members = [root]
        for i in members:
            for j in other[pointers[i] : pointers[i + 1]]:
                if not seen[j]:
                    seen[j] = True
                    members.append(j)
        found.append(np.array(sorted(members), np.int64))
    return found


def _take_lists(clear: Clearances, index: I64, place: I64) -> tuple[I64, I32]:
    """Return (pointers, neighbours) of a component's buffers, in its own numbers."""
    table = clear.table
    own = [np.unique(place[table.other[table.pointers[i] : table.pointers[i + 1]]]) for i in index.tolist()]
    pointers = np.cumsum([0, *map(len, own)]).astype(np.int64)
    return pointers, np.concatenate(own).astype(np.int32) if own else np.zeros(0, np.int32)

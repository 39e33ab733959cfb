"""Which tensors to hold between their uses where the memory behind layer 0's link is too small: a small linear program.

With a slow layer 0 a program takes about as long as its link has bytes to carry. Those depend on the *gaps*: whether a
tensor stays above layer 0 from one use to the next, or is written back (once for each time that it is written) and
brought again. All layers above 0 count as one here. Nearly all shares of the solution are 0 or 1, since the steps of a
gap follow one another; what it holds becomes an order of candidates, from which ``construct`` takes what fits.
"""

from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from mallocgame.baselines.anneal.assembly import Candidate
from mallocgame.baselines.anneal.state import BORN, COPIED, F64, FOREVER, I64, Bool
from mallocgame.baselines.bounds.linear import LinearProgram, solve
from mallocgame.baselines.bounds.templates import expand
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program, UseKind
from mallocgame.solver import Incumbent

MOST_ENTRIES = 2_000_000  # of the rows of space: larger programs are not planned
HELD = 0.5  # share from which a gap is held
SHARE = 0.1  # of the limit, at most, for a linear program
UNLIMITED_SECONDS = 3600.0  # with a limit in steps
SHAKE = 0.15  # standard deviation of the logarithm of what a weight is shaken by


class _Gaps:
    """The linear program, and what its columns stand for."""

    def __init__(self, program: Program, hierarchy: Hierarchy, room: float) -> None:
        """Build it; ``room``: share of the layers to fill, as addresses leave some of them empty."""
        self.program, self.linear = program, LinearProgram()
        self.room = room * sum(layer.capacity_bytes for layer in hierarchy.layers[1:])
        self.middle = sum(layer.capacity_bytes for layer in hierarchy.layers[1:-1])
        self.largest = max(layer.capacity_bytes for layer in hierarchy.layers[1:])
        self.steps: list[list[int]] = []  # of each tensor: those that use it
        self.gaps: list[list[int]] = []  # of each tensor: the column of each gap between them
        self.lasting: dict[int, int] = {}  # tensor: the column of its staying for ever
        self.spans: list[tuple[int, int, int, float]] = []  # (first step, step after the last, column, bytes)
        self.used = np.zeros(program.num_steps)  # bytes of what each step uses
        self.is_built = True  # False: it would be too large
        for tensor in range(len(program.tensors)):
            self._add(tensor)
        self._add_room()

    def _add(self, index: int) -> None:
        """Add a tensor's gaps: cost of bringing it again, and of what a write makes necessary to write back."""
        tensor, uses = self.program.tensors[index], self.program.uses
        rows = range(int(uses.first[index]), int(uses.first[index + 1]))
        steps = sorted({int(uses.step[u]) for u in rows})
        self.steps.append(steps)
        self.gaps.append([])
        size = tensor.size_bytes
        if not tensor.movable or size > self.largest or not steps:
            return
        kinds: dict[int, set[int]] = {}
        moved: dict[int, int] = {}
        for u in rows:
            step = int(uses.step[u])
            kinds.setdefault(step, set()).add(int(uses.kind[u]))
            moved[step] = moved.get(step, 0) + int(uses.bytes[u])
        self.used[steps] += size
        left = sum(moved.values())
        clean = -1  # the column that is 1 where what was written last is never written back; -1: no such choice
        for step, after in pairwise(steps):
            left -= moved[step]
            needed = any(kind != UseKind.DEFINE for kind in kinds[after])
            if (not tensor.is_parameter and step == steps[0]) or any(kind != UseKind.READ for kind in kinds[step]):
                writes_again = any(kind != UseKind.READ for s in steps if s > step for kind in kinds[s])
                is_free = needed and (writes_again or not tensor.is_output)
                clean = self._column(size) if is_free else -1
            self.gaps[-1].append(self._column(min(size, left) if needed else 0.0))
            self.spans.append((step + 1, after, self.gaps[-1][-1], size))
            if clean >= 0 and needed:
                self.linear.at_least([(self.gaps[-1][-1], 1.0), (clean, -1.0)], 0.0)
        if tensor.holdable and all(kind == {int(UseKind.READ)} for kind in kinds.values()):
            self._add_lasting(index, min(size, sum(moved.values())))

    def _column(self, saved: float) -> int:
        return self.linear.column(0.0, 1.0, -saved / self.room)

    def _add_lasting(self, index: int, saved: float) -> None:
        """A constant may stay for ever, from its last use to its first, too."""
        column = self.lasting[index] = self._column(saved)
        steps, size = self.steps[index], self.program.tensors[index].size_bytes
        for gap in self.gaps[index]:
            self.linear.at_least([(gap, 1.0), (column, -1.0)], 0.0)
        self.spans += [(0, steps[0], column, size), (steps[-1] + 1, self.program.num_steps, column, size)]

    def _add_room(self) -> None:
        """What is held during a step fits beside what it uses; what stays for ever fits into the middle layers."""
        if not self.spans:
            return
        low, high, column, size = (np.array(part) for part in zip(*self.spans, strict=True))
        if (high - low).sum() > MOST_ENTRIES:
            self.is_built = False
            return
        room = np.maximum(self.room - self.used, 0.0)
        owner, step = expand(low, high)
        tight = np.bincount(step, weights=size[owner], minlength=len(room)) > room
        number, there = np.cumsum(tight) - 1, tight[step]
        self.linear.add_rows(
            number[step[there]], column[owner[there]], -size[owner[there]] / self.room, -room[tight] / self.room
        )
        sizes = [(c, self.program.tensors[i].size_bytes) for i, c in self.lasting.items()]
        if sum(size for _, size in sizes) > self.middle:
            self.linear.at_least([(c, -size / self.room) for c, size in sizes], -self.middle / self.room)

    def runs(self, shares: F64) -> list[tuple[int, int, int, bool]]:
        """Return (tensor, first step, last step, for ever) of each stretch of uses between which a tensor is held."""
        found = []
        for tensor, steps in enumerate(self.steps):
            if not self.gaps[tensor] and tensor not in self.lasting:
                continue
            if tensor in self.lasting and shares[self.lasting[tensor]] > HELD:
                found.append((tensor, steps[0], steps[-1], True))
                continue
            first = 0
            for i in range(len(steps)):
                if i == len(steps) - 1 or shares[self.gaps[tensor][i]] <= HELD:
                    if i > first:
                        found.append((tensor, steps[first], steps[i], False))
                    first = i + 1
        return found


class _Plan(NamedTuple):
    """How an order is made: share of the layers, power of a stretch's steps, steps up to which VMEM comes first."""

    room: float
    power: float
    short: int


PLANS = tuple(_Plan(*plan) for plan in product((0.97, 1.0, 0.94, 0.9), (0.5, 0.0, 1.0), (4, 40)))


class GapOrders:
    """Orders of candidates that hold what the linear program holds: of several plans, then near the best one's.

    What the best one had no place for comes earlier in the next, the rest is shaken a little: squeaky wheel
    optimization (Joslin and Clements, 1999).
    """

    def __init__(self, search: Incumbent, pieces: list[Candidate]) -> None:
        """Look up the candidates; what loops do is not known here, so a program with loops has no orders."""
        self.search, self.pieces = search, pieces
        self.random = np.random.default_rng(search.seed)
        self.tried = 0
        self.best: tuple[float, _Plan, F64, Bool] = (np.inf, PLANS[0], np.zeros(0), np.zeros(0, np.bool_))
        self._options: dict[float, list[tuple[bool, list[int], float, int]]] = {}
        self._lookup: dict[tuple[int, int, int, bool], list[int]] = {}
        steps = search.program.uses.step.tolist()
        for c, piece in enumerate(pieces):
            if piece.base == 0 and piece.kind in (BORN, COPIED, FOREVER):
                key = (piece.tensor, steps[piece.first_use], steps[piece.last_use], piece.kind == FOREVER)
                self._lookup.setdefault(key, []).append(c)
        self.is_over = any(loop.trip_count > 1 for loop in search.program.loops)

    def next(self) -> tuple[_Plan, F64, I64]:
        """Return a plan, weights of its stretches, and the order of candidates that they make."""
        _, plan, weights, is_out = self.best
        if self.tried < len(PLANS):
            plan = PLANS[self.tried]
            weights = np.ones(len(self._stretches(plan.room)))
        else:
            shaken = np.exp(SHAKE * self.random.standard_normal(len(weights)))
            weights = weights * shaken * np.where(is_out, 1.0 + 2.0 * self.random.random(len(weights)), 1.0)
        self.tried += 1
        rows = []
        for weight, (is_copied, options, size, steps) in zip(weights.tolist(), self._stretches(plan.room), strict=True):
            later = 1 if is_copied else 0 if self.pieces[options[0]].kind != FOREVER else -1
            rows.append((later, -weight * size * steps**plan.power, options[:: -1 if steps <= plan.short else 1]))
        return plan, weights, np.array([c for *_, options in sorted(rows) for c in options], dtype=np.int64)

    def learn(self, plan: _Plan, weights: F64, seconds: float, is_chosen: Bool) -> None:
        """Note what an order led to."""
        if seconds < self.best[0]:
            is_out = np.array([not is_chosen[options].any() for _, options, *_ in self._stretches(plan.room)])
            self.best = (seconds, plan, weights, is_out)

    def _stretches(self, room: float) -> list[tuple[bool, list[int], float, int]]:
        """Return (copied in, candidates from the slowest layer on, bytes, steps) of what is held with so much room."""
        if room not in self._options:
            program, hierarchy = self.search.problem
            gaps = _Gaps(program, hierarchy, room)
            limits, seconds = self.search.limits, UNLIMITED_SECONDS
            if limits.steps is None:  # else the answer would be the machine's
                seconds = min(SHARE * limits.seconds, self.search.left_seconds)
            found, shares = [], None
            if gaps.is_built:
                solution = solve(gaps.linear, seconds=seconds, stop=lambda: self.search.should_stop)
                shares = solution.columns if solution.is_solved else None
            self.is_over = shares is None
            for run in gaps.runs(shares) if shares is not None else ():
                options = sorted(self._lookup.get(run, []), key=lambda c: self.pieces[c].layer)
                if options:
                    is_copied = self.pieces[options[0]].kind == COPIED
                    found.append((is_copied, options, float(program.sizes_bytes[run[0]]), run[2] - run[1] + 1))
            self._options[room] = found
        return self._options[room]

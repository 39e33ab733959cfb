"""The timeline of a program with conditionals: each branch is walked as if it ran, and counts by its weight.

From the state of the links at a conditional's entry every branch is walked in full; its time, waits and link traffic
count by its probability. What is left afterwards of a copy that encloses the conditional is the mean over the branches
of what each of them leaves: exact for what the program waits for inside a branch and at the conditional's end; of a
copy that is waited for later, the wait of the mean is charged, not the mean of the waits (docs/judge.md).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit
from mallocgame.judge.timeline import drain, seconds_until_done
from mallocgame.program import Program
from mallocgame.regions import Conditional, nested

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """The transfers as ``timeline.run`` takes them."""

    queue: I64
    position: I64
    issue: I64
    due: I64
    order: I64
    work: F64  # consumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Expected seconds: the total, the wait at each boundary, each link's work, and when transfers are complete."""

    total_seconds: float
    stall_seconds: F64
    link_busy_seconds: F64
    finish_seconds: F64


def branch_weights(program: Program) -> F64:
    """Return float64[T], the probability of each step: the product of the weights of the branches that hold it."""
    weights = np.ones(program.num_steps)
    for conditional in program.conditionals:
        for start, end, weight in conditional.branches():
            weights[start:end] *= weight
    return weights


def loop_counts(program: Program) -> F64:
    """Return float64[T], executions of each step if every branch that holds it ran each time."""
    counts = np.ones(program.num_steps)
    for loop in program.loops:
        counts[loop.start_step : loop.end_step] *= loop.trip_count
    return counts


def expected_run(program: Program, elapsed: F64, idle: F64, copies: Copies) -> Expected:
    """Walk the schedule, forking at each conditional.

    Args:
        program: with conditionals.
        elapsed: float64[T], seconds of each step over ``loop_counts`` executions.
        idle: float64[T, K], link seconds free in that time.
        copies: ``work`` counts loops, not branches.
    """
    walk = _Walk(program, elapsed, idle, copies)
    walk.boundary(0, 1.0)
    walk.span(0, program.num_steps, -1, 1.0)
    walk.boundary(program.num_steps, 1.0)
    return Expected(
        total_seconds=float(walk.clock[0]),
        stall_seconds=walk.stall,
        link_busy_seconds=walk.busy,
        finish_seconds=walk.finish,
    )


class _Walk:
    def __init__(self, program: Program, elapsed: F64, idle: F64, copies: Copies) -> None:
        self.program, self.elapsed, self.idle, self.copies = program, elapsed, idle, copies
        num_links = idle.shape[1]
        self.head = np.zeros(2 * num_links, dtype=np.int64)
        self.tail = np.zeros(2 * num_links, dtype=np.int64)
        self.clock, self.stall = np.zeros(1), np.zeros(program.num_steps + 1)
        self.busy, self.finish = np.zeros(num_links), np.zeros(len(copies.queue))
        self.by_issue = np.argsort(copies.issue, kind="stable")
        self.by_due = np.lexsort((copies.issue, copies.due))
        boundaries = np.arange(program.num_steps + 2)
        self.first_issue = np.searchsorted(copies.issue[self.by_issue], boundaries)
        self.first_due = np.searchsorted(copies.due[self.by_due], boundaries)
        self.inside: dict[int, list[int]] = {}  # region (-1: the program): conditionals that stand directly in it
        self._nest()

    def _nest(self) -> None:
        """Find for each branch, and for the program, the conditionals that are not inside another one."""
        open_branches: list[tuple[int, int]] = []  # end, key
        self.keys: dict[tuple[int, int], int] = {}
        for region in nested((), self.program.conditionals):
            while open_branches and open_branches[-1][0] <= region.start_step:
                open_branches.pop()
            if region.kind == "conditional":
                self.inside.setdefault(open_branches[-1][1] if open_branches else -1, []).append(region.number)
            else:
                key = self.keys.setdefault((region.number, region.branch), len(self.keys))
                open_branches.append((region.end_step, key))

    def boundary(self, at: int, scale: float) -> None:
        """Wait for what is due and issue what is to be issued at a boundary."""
        self._advance(at, at, scale)

    def span(self, start: int, end: int, region: int, scale: float) -> None:
        """Run steps [start, end) and the boundaries strictly between them."""
        at = start
        for index in self.inside.get(region, ()):
            conditional = self.program.conditionals[index]
            self._steps(start, at, conditional.start_step, scale)
            if conditional.start_step > start:
                self.boundary(conditional.start_step, scale)
            self._fork(index, conditional, scale)
            at = conditional.end_step
        self._steps(start, at, end, scale)

    def _steps(self, span_start: int, start: int, end: int, scale: float) -> None:
        """Run steps [start, end) and the boundaries before each, but for the first of the whole span."""
        if start < end:
            if start > span_start:
                self.boundary(start, scale)
            self._advance(start, end, scale)

    def _advance(self, first: int, last: int, scale: float) -> None:
        c = self.copies
        _advance(
            first,
            last,
            scale,
            self.elapsed,
            self.idle,
            c.queue,
            c.position,
            c.issue,
            self.by_issue,
            self.by_due,
            self.first_issue,
            self.first_due,
            c.order,
            c.work,
            self.head,
            self.tail,
            self.stall,
            self.busy,
            self.finish,
            self.clock,
        )

    def _fork(self, index: int, conditional: Conditional, scale: float) -> None:
        work, head, tail = self.copies.work.copy(), self.head.copy(), self.tail.copy()
        left, first = np.zeros_like(work), np.full_like(head, np.iinfo(np.int64).max)
        finish, issue = self.finish.copy(), self.copies.issue
        any_inside = (issue > conditional.start_step) & (issue < conditional.end_step)
        for branch, (start, end, weight) in enumerate(conditional.branches()):
            inside = (issue > start) & (issue < end)
            self.copies.work[:] = np.where(any_inside & ~inside, 0.0, work)
            self.head[:] = head
            if start < end:
                self.tail[:] = tail + self._issued_between(conditional.start_step, start)
                self.span(start, end, self.keys[index, branch], scale * weight)
                finish[inside] = self.finish[inside]
            left += weight * np.where(any_inside, 0.0, self.copies.work)
            np.minimum(first, self.head, out=first)
        self.copies.work[:] = np.where(issue >= conditional.end_step, work, left)
        self.head[:], self.tail[:] = first, tail + self._issued_between(conditional.start_step, conditional.end_step)
        self.finish[:] = np.where(any_inside, finish, self.finish)

    def _issued_between(self, after: int, before: int) -> I64:
        """Return int64[2K], how many transfers each queue gets at boundaries after one and before the other."""
        between = (self.copies.issue > after) & (self.copies.issue < before)
        return np.bincount(self.copies.queue[between], minlength=len(self.tail)).astype(np.int64)


@jit
def _advance(  # noqa: PLR0913 (a kernel takes arrays one by one)
    first: int,
    last: int,
    scale: float,
    elapsed: F64,
    idle: F64,
    queue: I64,
    position: I64,
    issue: I64,
    by_issue: I64,
    by_due: I64,
    first_issue: I64,
    first_due: I64,
    order: I64,
    work: F64,
    head: I64,
    tail: I64,
    stall: F64,
    link_busy: F64,
    finish: F64,
    clock: F64,
) -> None:
    """Run steps [first, last) and the boundaries between them; with ``first == last`` that boundary alone.

    As ``timeline.run``; the arguments are its own, the state of the links, and ``scale``: the weight that seconds have.
    """
    num_links = idle.shape[1]
    for boundary in range(first, max(last, first + 1)):
        waited = 0.0
        next_due = first_due[boundary]
        if boundary > first or first == last:
            for phase in range(2):  # wait for what was issued before, then issue, then wait for what is due at once
                while next_due < first_due[boundary + 1]:
                    x = by_due[next_due]
                    if phase == 0 and issue[x] == boundary:
                        break
                    next_due += 1
                    q = queue[x]
                    if position[x] < head[q]:
                        continue
                    seconds = seconds_until_done(q, position[x], order, head, tail, work)
                    waited += seconds
                    for k in range(num_links):
                        _drain(k, seconds, scale, order, head, tail, work, link_busy, finish, clock[0] + waited * scale)
                    while head[q] <= position[x]:  # what rounding may have left
                        work[order[q, head[q]]] = 0.0
                        finish[order[q, head[q]]] = clock[0] + waited * scale
                        head[q] += 1
                if phase == 0:
                    for i in range(first_issue[boundary], first_issue[boundary + 1]):
                        tail[queue[by_issue[i]]] += 1
            stall[boundary] += waited * scale
            clock[0] += waited * scale
        if first == last:
            break
        clock[0] += elapsed[boundary] * scale
        for k in range(num_links):
            _drain(k, idle[boundary, k], scale, order, head, tail, work, link_busy, finish, clock[0])


@jit
def _drain(  # noqa: PLR0913 (a kernel takes arrays one by one)
    link: int,
    seconds: float,
    scale: float,
    order: I64,
    head: I64,
    tail: I64,
    work: F64,
    link_busy: F64,
    finish: F64,
    now: float,
) -> None:
    a = 2 * link
    seen_a = head[a]
    seen_b = head[a + 1]
    link_busy[link] += drain(link, seconds, order, head, tail, work) * scale
    for i in range(seen_a, head[a]):
        finish[order[a, i]] = now
    for i in range(seen_b, head[a + 1]):
        finish[order[a + 1, i]] = now

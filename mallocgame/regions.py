"""Loops and conditionals of a schedule: the spans of steps that run more than once, or only sometimes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mallocgame.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Steps ``start_step <= t < end_step`` run ``trip_count`` times each time control reaches the loop.

    At least once; an expected count may be a fraction. A loop that may not run at all is the branch of a conditional.
    """

    start_step: int
    end_step: int  # exclusive
    trip_count: float

    def contains_boundary(self, boundary: int) -> bool:
        """Whether the moment before step ``boundary`` lies inside one iteration (entry and exit lie outside)."""
        return self.start_step < boundary < self.end_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditional:
    """Branches that stand one after the other in the schedule; one runs each time control reaches the conditional.

    Branch i is the steps ``edges[i] <= t < edges[i + 1]`` and runs with probability ``weights[i]``. A branch may be
    empty. The boundaries between branches are moments of no execution: nothing is issued or waited for there.
    """

    edges: tuple[int, ...]  # of n branches n + 1 boundaries, in order
    weights: tuple[float, ...]  # n, > 0, sum 1

    @property
    def start_step(self) -> int:
        """The first branch's first step."""
        return self.edges[0]

    @property
    def end_step(self) -> int:
        """The step after the last branch."""
        return self.edges[-1]

    def branches(self) -> Iterator[tuple[int, int, float]]:
        """Yield each branch's start, end (exclusive) and weight."""
        yield from zip(self.edges[:-1], self.edges[1:], self.weights, strict=True)

    def branch_at(self, boundary: int) -> int | None:
        """Return the branch inside which the moment before step ``boundary`` lies.

        None outside the conditional (its entry and its exit included), -1 on an edge between two branches.
        """
        if not self.start_step < boundary < self.end_step:
            return None
        for branch, (start, end, _) in enumerate(self.branches()):
            if start < boundary < end:
                return branch
        return -1


class Region(NamedTuple):
    """A span of steps that control enters and leaves as one: a loop, a conditional, or one of its branches."""

    start_step: int
    end_step: int  # exclusive
    kind: str  # "loop", "conditional" or "branch"
    number: int  # of the loop or conditional in the program
    branch: int = -1


def nested(loops: Sequence[Loop], conditionals: Sequence[Conditional]) -> list[Region]:
    """Return all regions, what encloses before what is enclosed; empty branches are left out.

    A loop of the same steps as a conditional runs around it; of two conditionals of the same steps, the first does.
    """
    whole = {(c.start_step, c.end_step) for c in conditionals}
    ranked = []
    for index, loop in enumerate(loops):
        around = (loop.start_step, loop.end_step) in whole
        rank = -1 if around else 2 * len(conditionals)
        ranked.append((rank, Region(loop.start_step, loop.end_step, "loop", index)))
    for index, conditional in enumerate(conditionals):
        ranked.append((2 * index, Region(conditional.start_step, conditional.end_step, "conditional", index)))
        for branch, (start, end, _) in enumerate(conditional.branches()):
            if start < end:
                ranked.append((2 * index + 1, Region(start, end, "branch", index, branch)))
    ranked.sort(key=lambda pair: (pair[1].start_step, -pair[1].end_step, pair[0]))
    return [region for _, region in ranked]


def check_regions(name: str, num_steps: int, loops: Sequence[Loop], conditionals: Sequence[Conditional]) -> None:
    """Check that loops and branches exist and nest.

    Raises:
        InputError: which do not, and why.
    """
    for loop in loops:
        counts = np.isfinite(loop.trip_count) and loop.trip_count >= 1
        if not 0 <= loop.start_step < loop.end_step <= num_steps or not counts:
            raise InputError(f"{name}: need 0 <= start < end <= {num_steps} and trip count >= 1: {loop}")
    for conditional in conditionals:
        _check_conditional(name, num_steps, conditional)
    enclosing: list[Region] = []
    for region in nested(loops, conditionals):
        while enclosing and enclosing[-1].end_step <= region.start_step:
            enclosing.pop()
        above = enclosing[-1] if enclosing else None
        if above and (region.end_step > above.end_step or not _may_hold(above, region)):
            raise InputError(f"{name}: loops and branches must nest, these cross: {above} and {region}")
        enclosing.append(region)


def _may_hold(above: Region, region: Region) -> bool:
    """Whether ``region`` may stand directly inside ``above``: a conditional holds its branches, and nothing else."""
    return (above.kind == "conditional") == (region.kind == "branch") and (
        region.kind != "branch" or above.number == region.number
    )


def _check_conditional(name: str, num_steps: int, conditional: Conditional) -> None:
    edges, weights = conditional.edges, conditional.weights
    ordered = all(a <= b for a, b in pairwise(edges))
    if len(edges) < 2 or not 0 <= edges[0] < edges[-1] <= num_steps or not ordered:
        raise InputError(f"{name}: need edges in order within [0, {num_steps}]: {conditional}")
    if len(weights) != len(edges) - 1 or not all(weight > 0 for weight in weights):
        raise InputError(f"{name}: need a weight > 0 for each of {len(edges) - 1} branches: {conditional}")
    if not abs(sum(weights) - 1.0) < 1e-9:
        raise InputError(f"{name}: weights must sum to 1, they sum to {sum(weights)}: {conditional}")


END = -1  # as a successor: the program ends


class Flow:
    """Which stretch of steps may follow on which; a stretch lies between two neighbours of ``boundaries``."""

    def __init__(self, boundaries: Sequence[int], loops: Sequence[Loop], conditionals: Sequence[Conditional]) -> None:
        self.boundaries, self.loops, self.conditionals = list(boundaries), loops, conditionals
        self.position = {boundary: i for i, boundary in enumerate(self.boundaries)}
        self.regions = nested(loops, conditionals)
        self.parent: list[int] = []  # of each region, -1: none
        self.first_inside: dict[tuple[int, int], int] = {}  # (region, boundary): the region in it that begins there
        open_regions: list[int] = []
        for index, region in enumerate(self.regions):
            while open_regions and self.regions[open_regions[-1]].end_step <= region.start_step:
                open_regions.pop()
            self.parent.append(open_regions[-1] if open_regions else -1)
            self.first_inside.setdefault((self.parent[-1], region.start_step), index)
            open_regions.append(index)
        self.branch_regions = {(r.number, r.branch): i for i, r in enumerate(self.regions) if r.kind == "branch"}

    def successors(self) -> list[set[int]]:
        """Return, per stretch, those that may follow it; ``END`` where the program may end after it."""
        innermost = [-1] * (len(self.boundaries) - 1)
        for index, region in enumerate(self.regions):  # inner ones come later
            for i in range(self.position[region.start_step], self.position[region.end_step]):
                innermost[i] = index
        return [self._after(self.boundaries[i + 1], region) for i, region in enumerate(innermost)]

    def first(self) -> set[int]:
        """Return the stretches with which the program may begin."""
        return self._after(self.boundaries[0], -1)

    def _after(self, boundary: int, region: int) -> set[int]:
        """Return the stretches that control may reach next from ``boundary``, inside ``region``."""
        found: set[int] = set()
        seen: set[tuple[int, int]] = set()
        waiting = [(boundary, region)]
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            at, inside = place
            if at == (self.regions[inside].end_step if inside >= 0 else self.boundaries[-1]):
                waiting += self._left(at, inside, found)
            elif (inside, at) not in self.first_inside:
                found.add(self.position[at])
            else:
                waiting += self._entered(self.first_inside[inside, at])
        return found

    def _left(self, at: int, region: int, found: set[int]) -> Iterator[tuple[int, int]]:
        if region < 0:
            found.add(END)
            return
        what, above = self.regions[region], self.parent[region]
        if what.kind == "branch":
            yield self.conditionals[what.number].end_step, self.parent[above]
            return
        if what.kind == "loop" and self.loops[what.number].trip_count > 1:
            yield what.start_step, region
        yield at, above

    def _entered(self, region: int) -> Iterator[tuple[int, int]]:
        what = self.regions[region]
        if what.kind != "conditional":
            yield what.start_step, region
            return
        conditional = self.conditionals[what.number]
        for branch, (start, end, _) in enumerate(conditional.branches()):
            if start < end:
                yield start, self.branch_regions[what.number, branch]
            else:
                yield conditional.end_step, self.parent[region]

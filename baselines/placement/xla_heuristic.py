"""The default algorithm of XLA's memory-space assignment, from its published description and source, in our own form.

Buffers go by memory-boundedness, then size. Each is walked through its uses: stay where it is if the address is free
that long, else leave (with a write-back if what it holds is needed) and be copied in again, at a moment chosen by how
well the copy overlaps with instructions. Nothing here asks the judge: like the compiler, it trusts its own estimates.

What the compiler does and this does not yet: repacking, retries with other buffers taken back, sliced copies.

Source: github.com/openxla/xla, xla/service/memory_space_assignment: ``cost_analysis.cc`` (memory-boundedness),
``prefetch_interval_picker.cc`` (overlap ratios), ``algorithm.cc`` (segments, outstanding copies, copy resource).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.placement.partial_mapping import PartialMapping
from mallocgame.baselines.placement.placement import Placement, PlacementFactory
from mallocgame.mapping import HOME
from mallocgame.solver import Incumbent, solver

F64 = npt.NDArray[np.float64]

# Time that instructions take while a copy is under way, over the time of the copy; and the longest copy or wait in fast
# memory from one use to the next, over the time to copy all of that memory. libtpu keeps its own values to itself:
# these are what its mappings of the shipped traces show (libtpu 0.0.52: smallest overlap 1.02, longest wait 7.99).
MIN_OVERLAP = 1.0
PREFERRED_OVERLAP = 2.0
MAX_OVERLAP_TO_MEMORY = 8.0
MAX_TRIES = 20  # moments tried per copy


@solver(is_constructive=True)
def xla_heuristic(search: Incumbent) -> None:
    """Assign as the compiler would; the seed changes nothing. With more than two layers, the fastest one is used."""
    program, hierarchy = search.problem
    # The compiler copies inside a loop, never into it from outside.
    factory = PlacementFactory(program.without_hoisting(), hierarchy)
    layer = int(np.argmax([each.bytes_per_second for each in hierarchy.layers]))
    if layer == 0:
        return
    partial, resource = PartialMapping(factory), CopyResource(factory, layer)
    held = _hold_one(factory, partial, layer)
    boundedness = [memory_boundedness(factory, layer, tensor) for tensor in range(len(program.tensors))]
    order = sorted(range(len(program.tensors)), key=lambda i: (-boundedness[i], -program.tensors[i].size_bytes, i))
    for tensor in order:
        if search.out_of_time():
            break
        search.count()
        if tensor != held and program.tensors[tensor].movable and program.tensors[tensor].uses:
            _allocate(factory, partial, resource, layer, tensor)
    search.offer(partial.mapping)


def memory_boundedness(factory: PlacementFactory, layer: int, tensor: int) -> float:
    """Return the published sort key: seconds that memory-bound uses would save, over the root of the size.

    Uses by compute-bound instructions count only if there are no others, and then negatively.
    """
    program, hierarchy = factory.program, factory.hierarchy
    gain = 1.0 / hierarchy.layers[0].bytes_per_second - 1.0 / hierarchy.layers[layer].bytes_per_second
    benefit = -np.inf
    for use in program.tensors[tensor].uses:
        memory, compute = factory.home_memory_seconds[use.step], program.compute_seconds[use.step]
        inside = memory - use.bytes * gain
        saved = (memory - max(inside, compute) if compute < memory else inside - compute) * program.trip_counts[
            use.step
        ]
        benefit = benefit + saved if benefit > 0 and saved > 0 else max(benefit, saved)
    return float(benefit / np.sqrt(program.tensors[tensor].size_bytes))


class CopyResource:
    """Seconds of each step that copies in (0) and copies out (1) have not claimed yet, as the compiler counts them."""

    def __init__(self, factory: PlacementFactory, layer: int) -> None:
        self._factory = factory
        self._layer = layer
        once = factory.elapsed / factory.program.trip_counts
        self._left = np.stack([once, once])
        self._elapsed_before: F64 = np.concatenate([[0.0], np.cumsum(factory.elapsed)])
        memory = factory.hierarchy.layers[layer].capacity_bytes
        link = factory.hierarchy.links[factory.hierarchy.link_index(0, layer)]
        self._longest = MAX_OVERLAP_TO_MEMORY * memory / link.bytes_per_second

    def copy_seconds(self, tensor: int) -> float:
        """Return how long a copy of ``tensor`` takes alone."""
        return self._factory.work_seconds(0, self._layer, tensor)

    def claim(self, plan: Placement) -> list[tuple[int, int, F64]] | None:
        """Take the time that a plan's copies need, earliest steps first; None, with nothing taken, if one lacks it."""
        claimed: list[tuple[int, int, F64]] = []
        for move in plan.moves:
            direction = int(move.target == HOME)
            left = self._left[direction, move.issue : move.due]
            needed = self.copy_seconds(plan.tensor)
            taken = np.diff(np.minimum(np.concatenate([[0.0], np.cumsum(left)]), needed))
            if taken.sum() < needed * (1 - 1e-9):
                self.release(claimed)
                return None
            left -= taken
            claimed.append((direction, move.issue, taken))
        return claimed

    def release(self, claimed: list[tuple[int, int, F64]]) -> None:
        """Give back what ``claim`` took."""
        for direction, issue, taken in claimed:
            self._left[direction, issue : issue + len(taken)] += taken

    def may_wait(self, start: int, end: int) -> bool:
        """Whether a tensor may stay in fast memory, unused, from one boundary to another."""
        executions = self._factory.program.boundary_trip_count(start, end)
        return float(self._elapsed_before[end] - self._elapsed_before[start]) / executions <= self._longest

    def issues(self, tensor: int, due: int, earliest: int) -> Iterator[int]:
        """Yield boundaries to issue a copy at, those first whose overlap is nearest to the preferred one."""
        executions = self._factory.program.boundary_trip_count(due, due)
        boundaries = np.arange(earliest, due)
        overlap = (self._elapsed_before[due] - self._elapsed_before[earliest:due]) / executions
        ratio = overlap / self.copy_seconds(tensor)
        fits = (ratio >= MIN_OVERLAP) & (overlap <= self._longest)
        nearest = np.argsort(np.abs(ratio[fits] - PREFERRED_OVERLAP), kind="stable")
        same = [b for b in boundaries[fits][nearest].tolist() if self._factory.same_body(b, due)]
        yield from same[:MAX_TRIES]


def _hold_one(factory: PlacementFactory, partial: PartialMapping, layer: int) -> int | None:
    """Cross-program prefetch: keep the largest parameter that may and can stay from run to run."""
    tensors = factory.program.tensors
    for tensor in sorted((i for i, t in enumerate(tensors) if t.holdable), key=lambda i: (-tensors[i].size_bytes, i)):
        for plan in factory.held(tensor, layer):
            if partial.add(plan):
                return tensor
    return None


def _allocate(
    factory: PlacementFactory, partial: PartialMapping, resource: CopyResource, layer: int, tensor: int
) -> None:
    """Walk the uses: open a stay that lasts as long as its address is free, else leave this use to layer 0."""
    steps = factory.use_steps(tensor)
    first, previous = 0, 0
    while first < len(steps):
        step = steps[first]
        defined = factory.is_defined(tensor, step)
        issues = iter((step,)) if defined else resource.issues(tensor, step, previous)
        far = (i for i in range(first, len(steps) - 1) if not resource.may_wait(steps[i], steps[i + 1]))
        near = next(far, len(steps)) + 1
        served = _open(factory, partial, resource, layer, tensor, steps[first:near], issues)
        first += max(served, 1)
        previous = steps[first - 1] + 1


def _open(
    factory: PlacementFactory,
    partial: PartialMapping,
    resource: CopyResource,
    layer: int,
    tensor: int,
    steps: Sequence[int],
    issues: Iterator[int],
) -> int:
    """Open a stay at the first of ``steps``; return how many of them it serves, 0 if there is no room or no time."""
    for issue in issues:
        count = len(steps)
        while count:
            for plan in factory.stays(tensor, layer, steps[0], steps[count - 1], issue=issue):
                claimed = resource.claim(plan)
                if claimed is not None:
                    if partial.add(plan):
                        return count
                    resource.release(claimed)
            count = count - 1 if count <= 4 else count // 2
    return 0

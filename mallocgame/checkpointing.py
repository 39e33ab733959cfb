"""What a training step may keep for its backward pass: the decision problem, and its answer.

Nodes are the operations that the backward pass would run again if nothing were kept. A node that is needed is run
again, kept in device memory, or fetched from the host; running it again needs its inputs, each in one of these ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from mallocgame.errors import InputError


class Choice(IntEnum):
    """What becomes of a named value between the passes."""

    RECOMPUTE = 0
    KEEP = 1
    OFFLOAD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation of the forward pass, summed over the iterations of its loop.

    An *entry* is a region's input: it is in memory unless it is offloaded, which frees ``size_bytes``.
    """

    region: int
    seconds: float  # to run it again
    inputs: tuple[int, ...] = ()  # earlier nodes
    name: str = ""  # under which its result can be kept; empty: it cannot
    size_bytes: int = 0  # of the result, all iterations
    keep_seconds: float = 0.0  # of writing and reading it once more
    offload_seconds: float = 0.0  # of starting its copies, both ways
    is_needed: bool = False  # by the backward pass itself
    is_entry: bool = False
    origin: str = ""  # primitive, shape and source line, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRegion:
    """Operations that are recomputed together, in the order of the forward pass.

    ``peak_bytes`` is how full memory is while its backward pass runs if everything is recomputed. Regions of one
    ``stream`` share the time that hides copies.
    """

    name: str
    peak_bytes: int
    stream: int
    is_loop: bool
    iterations: int = 1
    forward_seconds: float = 0.0  # all iterations
    backward_seconds: float = 0.0  # with everything recomputed


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointProblem:
    """Keep, offload, recompute: minimise ``base_seconds`` and the choices' seconds within the memory budget.

    At region r's backward pass, memory holds ``peak_bytes`` of r and what is kept of regions up to r. What a stretch
    (no loop) keeps of its own it would recompute anyway by then, so it counts in earlier regions' sums only.

    Raises:
        InputError: nodes out of order, or that read later ones.
    """

    nodes: tuple[Node, ...]
    regions: tuple[CheckpointRegion, ...]
    base_seconds: float  # of the step without what can be recomputed
    floor_bytes: int  # of the step outside all regions, without what enters them: at least
    out_bytes_per_second: float
    in_bytes_per_second: float
    out_overlap: float
    in_overlap: float

    def __post_init__(self) -> None:
        for i, node in enumerate(self.nodes):
            if any(not 0 <= j < i for j in node.inputs) or not 0 <= node.region < len(self.regions):
                raise InputError(f"checkpoint problem: node {i} reads a later node or has no region: {node}")

    @property
    def num_streams(self) -> int:
        """How many groups of regions hide copies, each its own."""
        return max((region.stream for region in self.regions), default=-1) + 1

    def hiding_seconds(self) -> list[tuple[float, float]]:
        """Return, per stream, the seconds that hide copies to the host and copies back."""
        found = [(0.0, 0.0)] * self.num_streams
        for region in self.regions:
            out, back = found[region.stream]
            forward, backward = region.forward_seconds, region.backward_seconds
            found[region.stream] = (out + self.out_overlap * forward, back + self.in_overlap * backward)
        return found

    def seconds(self, choices: Sequence[Choice]) -> float:
        """Return the step's time under choices for all nodes, what must be recomputed included."""
        total = self.base_seconds
        for node, choice, again in zip(self.nodes, choices, self.recomputed(choices), strict=True):
            total += node.seconds * again + node.keep_seconds * (choice == Choice.KEEP)
            total += node.offload_seconds * (choice == Choice.OFFLOAD)
        return total + sum(self.exposed_seconds(choices))

    def exposed_seconds(self, choices: Sequence[Choice]) -> tuple[float, float]:
        """Return the seconds of copies (to the host, back) that nothing hides."""
        offloaded = [0] * self.num_streams
        for node, choice in zip(self.nodes, choices, strict=True):
            offloaded[self.regions[node.region].stream] += node.size_bytes * (choice == Choice.OFFLOAD)
        out = back = 0.0
        for size, (hides_out, hides_back) in zip(offloaded, self.hiding_seconds(), strict=True):
            out += max(0.0, size / self.out_bytes_per_second - hides_out)
            back += max(0.0, size / self.in_bytes_per_second - hides_back)
        return out, back

    def recomputed(self, choices: Sequence[Choice]) -> list[bool]:
        """Return which nodes run again: what is needed and not there, and what that needs."""
        wanted = [node.is_needed for node in self.nodes]
        again = [False] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            if wanted[i] and choices[i] == Choice.RECOMPUTE:
                again[i] = True
                for j in self.nodes[i].inputs:
                    wanted[j] = True
        return again

    def peak_bytes(self, choices: Sequence[Choice]) -> int:
        """Return the fullest moment under choices. An entry that nothing reads again frees its memory, too."""
        kept = [0] * len(self.regions)
        for node, choice, again in zip(self.nodes, choices, self.recomputed(choices), strict=True):
            if node.is_entry:
                kept[node.region] -= node.size_bytes * (not again)
            else:
                kept[node.region] += node.size_bytes * (choice == Choice.KEEP)
        peak, before = self.floor_bytes, 0
        for region, own in zip(self.regions, kept, strict=True):
            peak = max(peak, region.peak_bytes + before + (own if region.is_loop else 0))
            before += own
        return peak


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPlan:
    """A choice for each node; ``bound_seconds`` is proved for the problem: no choice within the budget takes less."""

    choices: tuple[Choice, ...]
    seconds: float
    peak_bytes: int
    bound_seconds: float
    is_optimal: bool

    @property
    def gap(self) -> float:
        """How far above the bound the time may be, as a share of it."""
        return (self.seconds - self.bound_seconds) / self.bound_seconds if self.bound_seconds > 0 else 0.0

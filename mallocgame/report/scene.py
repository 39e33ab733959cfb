"""What a picture of a mapping shows, in seconds and bytes, before anything is drawn."""

import colorsys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline, link_queues
from mallocgame.mapping import HOME, Mapping, rectangles
from mallocgame.program import Program

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

EVEN = (1.05 * 0.05) ** 0.5 - 0.05  # the luminance that black and white contrast alike with
LINK_BINS = 600  # columns of the picture of link use


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One residency, or one slice of it, as a rectangle of time and address."""

    name: str
    tensor: int
    color: str  # #rrggbb, the same for all boxes of a tensor
    layer: int
    start_seconds: float
    filled_seconds: float  # from here on it serves uses; before, the copy is under way
    end_seconds: float
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """One copy; ``source`` and ``target`` are boxes, or -1 for layer 0."""

    name: str
    tensor: int
    due_step: int  # that waits for it; T: the program's end
    source: int
    target: int
    issue_seconds: float
    finish_seconds: float
    size_bytes: int
    executions: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A stall before a step, and the copies that it waits for: those that are not done when all else is."""

    start_seconds: float
    end_seconds: float
    step: int  # T: the program's end
    arrows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A mapping over time; loops are aggregated, so a step covers all its executions."""

    total_seconds: float
    layers: tuple[str, ...]
    capacities_bytes: tuple[int, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    stalls: tuple[Wait, ...]
    step_edges_seconds: F64  # float64[T + 1]: step t lasts from entry t to entry t + 1, the wait before it included
    occupancy_bytes: I64  # int64[T, L]
    links: tuple[str, ...]
    link_edges_seconds: F64  # float64[B + 1]
    link_instructions: F64  # float64[K, B], share of each bin that instructions keep the link's shared layer busy
    link_copies: F64  # float64[K, B], share that copies use: each copy takes what instructions leave free


def build_scene(program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline) -> Scene:
    """Lay a judged mapping out in time."""
    # What is issued "when step b - 1 ends" happens at edges[b]; the wait before step b follows it.
    ends = timeline.start_seconds + timeline.elapsed_seconds
    edges = np.concatenate([[0.0], ends])
    edges[-1] = timeline.total_seconds
    waits = np.concatenate([timeline.start_seconds, [timeline.total_seconds]])
    before = np.concatenate([[0.0], ends])
    boxes = _boxes(program, mapping, timeline, edges)
    arrows = _arrows(program, mapping, timeline, before)
    stalled: list[int] = np.flatnonzero(timeline.stall_seconds > 0).tolist()
    bins = np.linspace(0.0, max(timeline.total_seconds, 1e-30), LINK_BINS + 1)
    instructions = _instruction_shares(program, hierarchy, timeline, bins)
    return Scene(
        total_seconds=timeline.total_seconds,
        layers=tuple(layer.name for layer in hierarchy.layers),
        capacities_bytes=tuple(layer.capacity_bytes for layer in hierarchy.layers),
        boxes=boxes,
        arrows=arrows,
        stalls=tuple(_wait(b, float(before[b]), float(waits[b]), arrows) for b in stalled),
        step_edges_seconds=edges,
        occupancy_bytes=timeline.occupancy_bytes,
        links=tuple(link.name for link in hierarchy.links),
        link_edges_seconds=bins,
        link_instructions=instructions,
        link_copies=_copy_shares(program, hierarchy, mapping, before, bins, instructions),
    )


def _wait(step: int, start: float, end: float, arrows: tuple[Arrow, ...]) -> Wait:
    due = [i for i, arrow in enumerate(arrows) if arrow.due_step == step]
    late = [i for i in due if arrows[i].finish_seconds > start]
    return Wait(start_seconds=start, end_seconds=end, step=step, arrows=tuple(late or due))


def tensor_color(tensor: int) -> str:
    """Return #rrggbb for a tensor: hues by the golden ratio, so that neighbours differ.

    >>> tensor_color(0) == tensor_color(1)
    False
    """
    hue = (0.58 + tensor * 0.6180339887498949) % 1.0
    saturation, value = ((0.45, 0.88), (0.62, 0.74), (0.32, 0.94))[tensor % 3]
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return f"#{red:02x}{green:02x}{blue:02x}"


def label_color(fill: str) -> str:
    """Return black or white, whichever contrasts more with a #rrggbb fill: at least 4.58 to 1.

    Source: relative luminance and contrast, WCAG 2.2.

    >>> label_color("#ffee88"), label_color("#483dbd")
    ('#000000', '#ffffff')
    """
    return "#000000" if luminance(fill) > EVEN else "#ffffff"


def luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb, from 0 to 1."""
    shares = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _boxes(program: Program, mapping: Mapping, timeline: Timeline, edges: F64) -> tuple[Box, ...]:
    filled: dict[int, float] = {}
    for x, transfer in enumerate(mapping.transfers):
        if transfer.target != HOME:
            done = float(timeline.transfer_finish_seconds[x])
            filled[transfer.target] = max(filled.get(transfer.target, 0.0), done)
    found = []
    for index, offset, size, start_step, end_step in rectangles(program, mapping).tolist():
        r = mapping.residencies[index]
        start, end = float(edges[max(start_step, 0)]), float(edges[end_step])
        found.append(
            Box(
                name=program.tensors[r.tensor].title,
                tensor=r.tensor,
                color=tensor_color(r.tensor),
                layer=r.layer,
                start_seconds=start,
                filled_seconds=min(max(filled.get(index, start), start), end),
                end_seconds=end,
                offset_bytes=offset,
                size_bytes=size,
            )
        )
    return tuple(found)


def _arrows(program: Program, mapping: Mapping, timeline: Timeline, before: F64) -> tuple[Arrow, ...]:
    first = {HOME: HOME}  # residency: its first box; a sliced one has a box for each of its copies, in their order
    for box, index in enumerate(rectangles(program, mapping)[:, 0].tolist()):
        first.setdefault(index, box)
    boxes = Counter(rectangles(program, mapping)[:, 0].tolist())
    seen: Counter[int] = Counter()
    found = []
    for index, x in enumerate(mapping.transfers):
        part = seen[x.target] if boxes[x.target] > 1 else 0
        seen[x.target] += 1
        found.append(
            Arrow(
                name=program.tensors[x.tensor].title,
                tensor=x.tensor,
                due_step=x.done_before,
                source=first[x.source],
                target=first[x.target] + part,
                issue_seconds=float(before[x.start_after + 1]),
                finish_seconds=float(timeline.transfer_finish_seconds[index]),
                size_bytes=x.size_bytes,
                executions=program.boundary_trip_count(x.start_after + 1, x.done_before),
            )
        )
    return tuple(found)


def _instruction_shares(program: Program, hierarchy: Hierarchy, timeline: Timeline, bins: F64) -> F64:
    shares = np.zeros((len(hierarchy.links), len(bins) - 1))
    for k, link in enumerate(hierarchy.links):
        if link.shared_layer is None:
            continue
        speed = hierarchy.layers[link.shared_layer].bytes_per_second
        busy = timeline.layer_bytes[:, link.shared_layer] / speed * program.trip_counts
        ends = timeline.start_seconds + timeline.elapsed_seconds
        shares[k] = _spread(timeline.start_seconds, ends, busy, bins)
    return shares


def _copy_shares(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, before: F64, bins: F64, instructions: F64
) -> F64:
    """Serve the copies bin by bin with what instructions leave free; half for each direction when both have work."""
    queue, _, _, work, _ = link_queues(program, hierarchy, mapping)
    issue = before[mapping.transfer_table[:, 3] + 1]
    arriving = np.zeros((2 * len(hierarchy.links), len(bins) - 1))
    at = np.clip(np.searchsorted(bins, issue, side="right") - 1, 0, len(bins) - 2)
    np.add.at(arriving, (queue, at), work)
    free = (1.0 - np.minimum(instructions, 1.0)) * np.diff(bins)
    shares = np.zeros((len(hierarchy.links), len(bins) - 1))
    waiting = np.zeros((len(hierarchy.links), 2))
    for b in range(len(bins) - 1):
        waiting += arriving[:, b].reshape(-1, 2)
        half = np.minimum(waiting, free[:, b, None] / 2)
        rest = free[:, b] - half.sum(axis=1)
        served = half + np.minimum(waiting - half, rest[:, None])  # only one direction can have more than its half left
        waiting -= served
        shares[:, b] = served.sum(axis=1)
    shares /= np.diff(bins)
    return shares


def _spread(begin: F64, end: F64, work: F64, bins: F64) -> F64:
    """Spread each ``work`` evenly over [begin, end) and return the share of each bin that it fills."""
    some = work > 0
    begin, end, work = begin[some], end[some], work[some]
    width = np.maximum(end - begin, bins[-1] * 1e-12)
    covered = np.zeros(len(bins))
    for a, w, seconds in zip(begin, width, work, strict=True):
        covered += seconds * np.clip((bins - a) / w, 0.0, 1.0)
    return np.diff(covered) / np.maximum(np.diff(bins), 1e-300)

"""Programs whose optimum is known, with the proof: a mapping whose judged time equals ``lower_bound``.

The fast layer's time x address plane is cut into rectangles, and each becomes a tensor that is used from the
rectangle's first step to its last: a perfect packing. Parameters are copied in during their first step, outputs written
back in their second. Decoys, the other tensors, stay in layer 0. Each step then computes just as long as this mapping
needs to hide its traffic and its copies. So the mapping takes the sum of the compute times, which no mapping can beat;
a tensor missing from the fast layer, or a copy at another time, makes some step memory-bound or leaves a stall.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind

F64 = npt.NDArray[np.float64]
Rng = np.random.Generator

ROWS = 64  # addresses are multiples of capacity / ROWS, rounded down to the alignment
MIN_STEPS = 2  # a rectangle's least duration: one step to be filled, one to be read
SLACK = 1e-9  # compute beyond what is needed, relative: rounding must not leave a stall
USES_PER_TENSOR = 2.9  # of a planted tensor, on average
DECOY_USES = 0.7  # per planted tensor and unit of pressure above 1, on average


@dataclass(frozen=True, slots=True)
class _Rectangle:
    start: int
    end: int  # exclusive
    low: int  # in rows
    high: int  # exclusive


def plant(name: str, hierarchy: Hierarchy, rng: Rng, decisions: int, pressure: float) -> tuple[Program, Mapping, float]:
    """Return a program, a mapping that is optimal for it, and its judged seconds.

    Args:
        name: of the program.
        hierarchy: whose fastest layer is filled.
        rng: source of all choices.
        decisions: about how many uses of movable tensors to make.
        pressure: up to 1, the part of the fast layer that the planted tensors fill; above, they fill it whole, and
            decoys bring the mean of the live bytes up to pressure x capacity.

    Raises:
        InputError: layer 0 is the fastest, or has no link to the fastest, or the fastest holds fewer than 64 units of
            its alignment.
    """
    fast = int(np.argmax([layer.bytes_per_second for layer in hierarchy.layers]))
    row_bytes = hierarchy.layers[fast].capacity_bytes // ROWS
    row_bytes -= row_bytes % hierarchy.layers[fast].alignment_bytes
    if fast == 0 or not row_bytes or all((0, fast) not in link.pairs for link in hierarchy.links):
        raise InputError(
            f"hierarchy {hierarchy.name}: planting needs a fast layer of {ROWS} aligned rows next to layer 0"
        )
    link = hierarchy.links[hierarchy.link_index(0, fast)]
    count = max(round(decisions / (USES_PER_TENSOR + DECOY_USES * max(pressure - 1.0, 0.0))), 1)
    num_steps = max(count, 2 * MIN_STEPS)
    rows = max(round(ROWS * min(pressure, 1.0)), 1)
    plan = _Plan(num_steps, fast, row_bytes)
    for rectangle in _cut(rng, num_steps, rows, count):
        plan.add(rng, rectangle)
    target = (pressure - 1.0) * ROWS * num_steps  # rows x steps
    while target > 0.0:
        target -= plan.add_decoy(rng)
    home, near = hierarchy.layers[0].bytes_per_second, hierarchy.layers[fast].bytes_per_second
    copies = np.zeros(num_steps)
    for transfer in plan.transfers:
        copies[transfer.start_after + 1] += transfer.size_bytes / link.bytes_per_second + link.latency_seconds
    home_seconds = plan.bytes[:, 0] / home
    used = copies if link.shared_layer is None else copies + home_seconds
    needed = np.maximum(home_seconds + plan.bytes[:, 1] / near, used) * (1.0 + SLACK)
    if link.shared_layer == fast:
        needed = np.maximum(needed, copies + plan.bytes[:, 1] / near) * (1.0 + SLACK)
    seconds = np.maximum(needed, 0.1 * needed.mean())
    program = Program(
        name=name,
        instructions=tuple(Instruction(name=f"step.{t}", compute_seconds=float(s)) for t, s in enumerate(seconds)),
        tensors=tuple(plan.tensors),
    )
    mapping = Mapping(residencies=tuple(plan.residencies), transfers=tuple(plan.transfers))
    best = simulate(program, hierarchy, mapping).total_seconds
    if not math.isclose(best, lower_bound(program, hierarchy), rel_tol=1e-12):
        raise AssertionError(f"{name}: planted {best} s, bound {lower_bound(program, hierarchy)} s")
    return program, mapping, best


def _cut(rng: Rng, num_steps: int, rows: int, count: int) -> list[_Rectangle]:
    """Cut the plane into at most ``count`` rectangles, the largest first, at random places."""
    whole = [_Rectangle(0, num_steps, 0, rows)]
    final: list[_Rectangle] = []
    while whole and len(whole) + len(final) < count:
        at = max(range(len(whole)), key=lambda i: _area(whole[i]))
        r = whole.pop(at)
        times = range(r.start + MIN_STEPS, r.end - MIN_STEPS + 1)
        lows = range(r.low + 1, r.high)
        long = (r.end - r.start) * rows > (r.high - r.low) * num_steps * rng.uniform(0.5, 2.0)
        if times and (long or not lows):
            cut = int(rng.choice(times))
            whole += [_Rectangle(r.start, cut, r.low, r.high), _Rectangle(cut, r.end, r.low, r.high)]
        elif lows:
            cut = int(rng.choice(lows))
            whole += [_Rectangle(r.start, r.end, r.low, cut), _Rectangle(r.start, r.end, cut, r.high)]
        else:
            final.append(r)
    return sorted(final + whole, key=lambda r: (r.start, r.low))


def _area(r: _Rectangle) -> int:
    return (r.end - r.start) * (r.high - r.low)


class _Plan:
    """Tensors and their optimal mapping as they are added; ``bytes`` int64[T, 2] in layer 0 and in the fast layer."""

    def __init__(self, num_steps: int, layer: int, row_bytes: int) -> None:
        self.num_steps, self.layer, self.row_bytes = num_steps, layer, row_bytes
        self.tensors: list[Tensor] = []
        self.residencies: list[Residency] = []
        self.transfers: list[Transfer] = []
        self.bytes = np.zeros((num_steps, 2), dtype=np.int64)

    def add(self, rng: Rng, r: _Rectangle) -> None:
        """Make ``r`` a parameter, an output or a value of the program's own."""
        size = (r.high - r.low) * self.row_bytes
        role = str(rng.choice(["parameter", "output", "value"], p=[0.4, 0.15, 0.45]))
        first = [] if role == "parameter" else [Use(step=r.start, bytes=size, kind=UseKind.DEFINE)]
        inner = [t for t in range(r.start + 1, r.end - 1) if rng.random() < 2.0 / max(r.end - r.start, 2)]
        uses = [*first, *(Use(step=t, bytes=size) for t in (*inner, r.end - 1))]
        for use in uses:
            self.bytes[use.step, 1] += use.bytes
        index, place = len(self.tensors), len(self.residencies)
        self.tensors.append(
            Tensor(
                name=f"{role}.{index}",
                size_bytes=size,
                uses=tuple(uses),
                is_parameter=role == "parameter",
                is_output=role == "output",
            )
        )
        offset = r.low * self.row_bytes
        self.residencies.append(
            Residency(tensor=index, layer=self.layer, offset_bytes=offset, start_step=r.start, end_step=r.end)
        )
        if role == "value":
            return
        inward = role == "parameter"
        issue = r.start if inward else r.start + 1
        self.transfers.append(
            Transfer(
                tensor=index,
                source=HOME if inward else place,
                target=place if inward else HOME,
                start_after=issue - 1,
                done_before=issue + 1,
                size_bytes=size,
            )
        )

    def add_decoy(self, rng: Rng) -> int:
        """Add a value that stays in layer 0; return its rows x steps."""
        size = int(rng.choice([t.size_bytes for t in self.tensors]))
        start, end = sorted(int(t) for t in rng.choice(self.num_steps, size=2, replace=False))
        uses = (Use(step=start, bytes=size, kind=UseKind.DEFINE), Use(step=end, bytes=size))
        for use in uses:
            self.bytes[use.step, 0] += use.bytes
        self.tensors.append(Tensor(name=f"decoy.{len(self.tensors)}", size_bytes=size, uses=uses))
        return size // self.row_bytes * (end + 1 - start)

"""Why a program is slower than its memory allows, and what would mend it; every figure is the judge's."""

from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mallocgame.explanation.combination import Combination, combine
from mallocgame.explanation.invariants import InvariantParameter, moved_parameters
from mallocgame.explanation.peaks import Peak, peaks
from mallocgame.explanation.reachable import MAX_WAIT
from mallocgame.explanation.remedy import Remedy
from mallocgame.explanation.slow_reads import SlowTensor, slow_tensors
from mallocgame.explanation.source_changes import (
    DataMovement,
    Rematerialisation,
    data_movements,
    rematerialisations,
)
from mallocgame.explanation.stalls import Stall, stalls
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.text import counted, seconds_text

__all__ = [
    "Combination",
    "DataMovement",
    "Explanation",
    "InvariantParameter",
    "Peak",
    "Rematerialisation",
    "Remedy",
    "SlowTensor",
    "Stall",
    "explain",
]

MAX_TRIED = 40  # stalls and tensors for which remedies are tried, the costliest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where the time of a mapping goes. Stalls and tensors come in order of cost."""

    total_seconds: float
    stalled_seconds: float
    mean_idle_bytes: int  # of fast memory, over the time of the run
    capacity_bytes: int
    stalls: tuple[Stall, ...]
    slow: tuple[SlowTensor, ...]  # read or written in slow memory, though fast memory would save time
    invariants: tuple[InvariantParameter, ...]  # copied or read from layer 0 in each iteration of a loop
    movements: tuple[DataMovement, ...]  # instructions that only move or copy data
    rematerialisations: tuple[Rematerialisation, ...]  # values that it would pay to make again before late uses
    peaks: tuple[Peak, ...]  # of each layer
    combination: Combination | None  # changes that go well together; None: no better mapping was given

    def __repr__(self) -> str:
        times = f"{seconds_text(self.total_seconds)}, of which {seconds_text(self.stalled_seconds)} waiting for copies"
        return f"<Explanation: {times}; {counted(len(self.stalls), 'stall')}, {counted(len(self.slow), 'slow tensor')}>"


def explain(
    program: Program,
    hierarchy: Hierarchy,
    mapping: Mapping,
    *,
    better: Mapping | None = None,
    limit: int = MAX_TRIED,
    padding_bytes: Sequence[int] | None = None,
    moving: Table[int, str] | None = None,
    max_wait: float = MAX_WAIT,
) -> Explanation:
    """Explain a valid mapping.

    Args:
        program: the program.
        hierarchy: its memory.
        mapping: what is explained.
        better: a valid mapping that a solver has found; the way there is cut into remedies that add up.
        limit: remedies are tried one by one for so many stalls, and so many tensors in slow memory.
        padding_bytes: of each tensor, where it is known.
        moving: how fusions that only move data do it, by their steps (``Trace.moving_fusions``).
        max_wait: how long XLA can be told to let a value wait in fast memory (``reachable.waits``).
    """
    timeline = simulate(program, hierarchy, mapping)
    fastest = max(range(1, hierarchy.num_layers), key=lambda k: hierarchy.layers[k].bytes_per_second)
    capacity = hierarchy.layers[fastest].capacity_bytes
    idle = np.maximum(capacity - timeline.occupancy_bytes[:, fastest], 0)
    seconds = timeline.elapsed_seconds + timeline.stall_seconds[:-1]
    mean_idle = int((idle * seconds).sum() / seconds.sum()) if program.num_steps and seconds.sum() > 0 else capacity
    return Explanation(
        total_seconds=timeline.total_seconds,
        stalled_seconds=float(timeline.stall_seconds.sum()),
        mean_idle_bytes=mean_idle,
        capacity_bytes=capacity,
        stalls=stalls(program, hierarchy, mapping, timeline, idle, limit),
        slow=slow_tensors(program, hierarchy, mapping, timeline, fastest, limit),
        invariants=moved_parameters(program, hierarchy, mapping),
        movements=data_movements(program, hierarchy, mapping, timeline, limit, moving or {}),
        rematerialisations=rematerialisations(program, hierarchy, mapping, timeline, limit),
        peaks=peaks(program, hierarchy, mapping, padding_bytes),
        combination=None if better is None else combine(program, hierarchy, mapping, better, max_wait),
    )

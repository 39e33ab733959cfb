"""A program under construction, in relative units: sizes and times are set at the end, to the pressure asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind

F64 = npt.NDArray[np.float64]

UNIT_BYTES = 2**20  # one unit of size before scaling
GRAIN_BYTES = 512  # sizes and traffic are multiples of this


@dataclass(slots=True)
class _Touch:
    tensor: int
    step: int
    kind: UseKind
    share: float  # bytes moved / size of the tensor


@dataclass(slots=True)
class Draft:
    """Tensors by relative size, steps by relative work; ``finish`` turns them into a ``Program``."""

    names: list[str] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    flags: list[dict[str, Any]] = field(default_factory=list)
    steps: list[tuple[str, float]] = field(default_factory=list)  # (name, work)
    touches: list[_Touch] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)

    def tensor(self, name: str, size: float, **flags: bool) -> int:
        """Add a tensor of ``size`` units and return its index; ``flags`` are fields of ``Tensor``."""
        self.names.append(name)
        self.sizes.append(size)
        self.flags.append(flags)
        return len(self.names) - 1

    def parameter(self, name: str, size: float, **flags: bool) -> int:
        """Add a tensor that the program is given, in layer 0."""
        return self.tensor(name, size, is_parameter=True, **flags)

    def step(
        self,
        name: str,
        *,
        reads: Sequence[int] = (),
        defines: Sequence[int] = (),
        updates: Sequence[int] = (),
        work: float = 1.0,
        share: float = 1.0,
    ) -> int:
        """Add an instruction that takes ``work`` units of time and return its step.

        ``share`` is the part of what it reads and updates that it really moves.
        """
        at = len(self.steps)
        self.steps.append((name, work))
        self.touches += [_Touch(tensor, at, UseKind.READ, share) for tensor in reads]
        self.touches += [_Touch(tensor, at, UseKind.UPDATE, share) for tensor in updates]
        self.touches += [_Touch(tensor, at, UseKind.DEFINE, 1.0) for tensor in defines]
        return at

    def finish(
        self, name: str, hierarchy: Hierarchy, *, capacity_pressure: float, bandwidth_pressure: float
    ) -> Program:
        """Return the program scaled so that both pressures hold.

        Args:
            name: of the program.
            hierarchy: its fastest layer and its layer 0 set the scale.
            capacity_pressure: most live bytes of movable tensors / capacity of the fastest layer.
            bandwidth_pressure: seconds that all traffic takes in layer 0 / seconds of compute.
        """
        rough = self._program(name, np.asarray(self.sizes) * UNIT_BYTES, np.zeros(len(self.steps)))
        scale = capacity_pressure * hierarchy.layers[-1].capacity_bytes / peak_live_bytes(rough)
        sizes = np.asarray(self.sizes) * UNIT_BYTES * scale
        sized = self._program(name, sizes, np.zeros(len(self.steps)))
        uses, trips = sized.uses, sized.trip_counts
        memory_seconds = float((uses.bytes * trips[uses.step]).sum()) / hierarchy.layers[0].bytes_per_second
        work = np.array([work for _, work in self.steps])
        seconds = work * (memory_seconds / bandwidth_pressure / float((work * trips).sum()))
        return replace(
            sized,
            instructions=tuple(
                replace(i, compute_seconds=float(s)) for i, s in zip(sized.instructions, seconds, strict=True)
            ),
        )

    def _program(self, name: str, sizes: F64, seconds: F64) -> Program:
        grains = np.maximum(np.rint(sizes / GRAIN_BYTES), 1).astype(np.int64)
        uses: list[list[Use]] = [[] for _ in self.names]
        for touch in self.touches:
            moved = max(round(int(grains[touch.tensor]) * touch.share), 1) * GRAIN_BYTES
            uses[touch.tensor].append(Use(step=touch.step, bytes=moved, kind=touch.kind))
        tensors = tuple(
            Tensor(name=label, size_bytes=int(grain) * GRAIN_BYTES, uses=tuple(uses[i]), **self.flags[i])
            for i, (label, grain) in enumerate(zip(self.names, grains, strict=True))
        )
        trips = np.ones(len(self.steps), dtype=np.int64)
        for loop in self.loops:
            trips[loop.start_step : loop.end_step] *= int(loop.trip_count)
        instructions = tuple(
            Instruction(name=label, compute_seconds=float(s), trip_count=int(n))
            for (label, _), s, n in zip(self.steps, seconds, trips, strict=True)
        )
        return Program(name=name, instructions=instructions, tensors=tensors, loops=tuple(self.loops))


def peak_live_bytes(program: Program) -> int:
    """Return the most bytes of movable tensors that are live in one step."""
    change = np.zeros(program.num_steps + 1, dtype=np.int64)
    for tensor, spans in zip(program.tensors, program.live_steps, strict=True):
        if tensor.movable:
            for start, end in spans:
                change[start] += tensor.size_bytes
                change[end] -= tensor.size_bytes
    return int(np.cumsum(change).max())

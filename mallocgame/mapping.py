"""The answer: where each tensor lives outside layer 0, when, and which copies bring it there and back."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mallocgame.program import Program, UseKind

I64 = npt.NDArray[np.int64]

HOME = -1  # as the source or target of a transfer: layer 0
HELD = -1  # as the start of a residency: already there when the program starts, left by the run before


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """A tensor occupies ``[offset, offset + size)`` of a layer >= 1 during steps ``start_step <= t < end_step``.

    It begins empty when a transfer into it is issued, or is born full by the tensor's ``DEFINE`` use at
    ``start_step``, or is ``HELD`` (-1) from the run before. Space is taken from the first step on; of a tensor that is
    copied in slices, each part's from its own copy's issue on (``rectangles``).
    """

    tensor: int
    layer: int
    offset_bytes: int
    start_step: int
    end_step: int  # exclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """An asynchronous copy of a tensor, issued when step ``start_after`` ends, complete before step ``done_before``.

    ``source`` and ``target`` are indices into ``Mapping.residencies``, or ``HOME`` for layer 0. ``start_after`` = -1:
    issued as the program starts; ``done_before`` = T: waited for at its end. Several transfers into one residency are
    slices of one copy: each moves ``size_bytes`` that begin ``slice_offset_bytes`` into the tensor.
    """

    tensor: int
    source: int
    target: int
    start_after: int
    done_before: int
    size_bytes: int
    slice_offset_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """Residencies outside layer 0 and the transfers between places. The empty mapping leaves everything in layer 0.

    A use is served by the fastest layer that holds the tensor at that step (``serving_layers``); with none, by layer 0.
    """

    residencies: tuple[Residency, ...] = ()
    transfers: tuple[Transfer, ...] = ()

    @cached_property
    def residency_table(self) -> I64:
        """int64[R, 5]: tensor, layer, offset_bytes, start_step, end_step."""
        rows = [(r.tensor, r.layer, r.offset_bytes, r.start_step, r.end_step) for r in self.residencies]
        return np.array(rows, dtype=np.int64).reshape(-1, 5)

    @cached_property
    def transfer_table(self) -> I64:
        """int64[X, 6]: tensor, source, target, start_after, done_before, size_bytes."""
        rows = [(x.tensor, x.source, x.target, x.start_after, x.done_before, x.size_bytes) for x in self.transfers]
        return np.array(rows, dtype=np.int64).reshape(-1, 6)

    @cached_property
    def fill_boundaries(self) -> I64:
        """int64[R]: each residency serves uses at steps >= this (the boundary where its contents are complete)."""
        fill = self.residency_table[:, 3].copy()
        for transfer in self.transfers:
            if transfer.target != HOME:
                fill[transfer.target] = max(fill[transfer.target], transfer.done_before)
        return fill


def rectangles(program: Program, mapping: Mapping) -> list[tuple[int, int, int, int, int]]:
    """Return what residencies occupy: (residency, offset_bytes, size_bytes, start_step, end_step), in their order.

    One rectangle each; of a tensor that is copied in slices one a slice, the earliest from the residency's start on.
    """
    slices: dict[int, list[Transfer]] = {}
    for transfer in mapping.transfers:
        if transfer.target != HOME:
            slices.setdefault(transfer.target, []).append(transfer)
    found = []
    for index, r in enumerate(mapping.residencies):
        parts = slices.get(index, [])
        if len(parts) < 2:
            found.append((index, r.offset_bytes, program.tensors[r.tensor].size_bytes, r.start_step, r.end_step))
            continue
        earliest = min(x.start_after for x in parts)
        for x in parts:
            start = r.start_step if x.start_after == earliest else min(x.start_after + 1, r.end_step - 1)
            found.append((index, r.offset_bytes + x.slice_offset_bytes, x.size_bytes, start, r.end_step))
    return found


def serving_layers(program: Program, mapping: Mapping) -> I64:
    """Return the layer that serves each use.

    Returns:
        int64[U], in the order of ``program.uses``: the fastest layer with a residency of the tensor that is filled at
        the use's step; 0 where there is none and for uses that the compiler wants in layer 0.
    """
    uses = program.uses
    layers = np.zeros(len(uses.tensor), dtype=np.int64)
    for residency, fill in zip(mapping.residencies, mapping.fill_boundaries, strict=True):
        first, last = uses.first[residency.tensor], uses.first[residency.tensor + 1]
        steps = uses.step[first:last]
        low = first + np.searchsorted(steps, fill, side="left")
        high = first + np.searchsorted(steps, residency.end_step, side="left")
        np.maximum(layers[low:high], residency.layer, out=layers[low:high])
    layers[uses.home_only] = 0
    return layers


def hoisted(program: Program, mapping: Mapping) -> tuple[int, ...]:
    """Return the indices of residencies that a transfer from before a loop fills and that serve uses inside it.

    Compilers cannot do this to a program parameter without a rewrite or a flag: ``mallocgame tune`` offers both.
    """
    found = []
    for index in sorted({x.target for x in mapping.transfers if x.target != HOME}):
        residency = mapping.residencies[index]
        fill = int(mapping.fill_boundaries[index])
        steps = [use.step for use in program.tensors[residency.tensor].uses if fill <= use.step < residency.end_step]
        entered = [loop for loop in program.loops if fill <= loop.start_step and loop.trip_count > 1]
        if any(loop.start_step <= step < loop.end_step for loop in entered for step in steps):
            found.append(index)
    return tuple(found)


def born_by_definition(program: Program, residency: Residency) -> bool:
    """Whether the tensor's definition writes straight into ``residency`` (a read in the same step would forbid it)."""
    kinds = {u.kind for u in program.tensors[residency.tensor].uses if u.step == residency.start_step}
    return kinds == {UseKind.DEFINE}

"""The answer: where each tensor lives outside layer 0, when, and which copies bring it there and back."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.jit import jit
from mallocgame.program import Program
from mallocgame.text import bytes_text, counted

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

    def __repr__(self) -> str:
        counts = f"{counted(len(self.residencies), 'residency')}, {counted(len(self.transfers), 'transfer')}"
        return f"<Mapping: {counts} of {bytes_text(sum(x.size_bytes for x in self.transfers))}>"

    @cached_property
    def residency_table(self) -> I64:
        """int64[R, 5]: tensor, layer, offset_bytes, start_step, end_step."""
        return _table(self.residencies, "tensor", "layer", "offset_bytes", "start_step", "end_step")

    @cached_property
    def transfer_table(self) -> I64:
        """int64[X, 6]: tensor, source, target, start_after, done_before, size_bytes."""
        return _table(self.transfers, "tensor", "source", "target", "start_after", "done_before", "size_bytes")

    @cached_property
    def fill_boundaries(self) -> I64:
        """int64[R]: each residency serves uses at steps >= this (the boundary where its contents are complete)."""
        fill = self.residency_table[:, 3].copy()
        inward = self.transfer_table[self.transfer_table[:, 2] != HOME]
        np.maximum.at(fill, inward[:, 2], inward[:, 4])
        return fill


def rectangles(program: Program, mapping: Mapping) -> I64:
    """Return what residencies occupy, in their order.

    One rectangle each; of a tensor that is copied in slices one a slice, the earliest from the residency's start on.

    Returns:
        int64[B, 5]: residency, offset_bytes, size_bytes, start_step, end_step.
    """
    table, moves = mapping.residency_table, mapping.transfer_table
    places = np.arange(len(table))
    whole = np.stack([places, table[:, 2], program.sizes_bytes[table[:, 0]], table[:, 3], table[:, 4]], axis=1)
    inward = np.flatnonzero(moves[:, 2] != HOME)
    is_sliced = np.bincount(moves[inward, 2], minlength=len(table)) > 1
    if not is_sliced.any():
        return whole
    slices = inward[is_sliced[moves[inward, 2]]]
    target, after = moves[slices, 2], moves[slices, 3]
    earliest = np.full(len(table), np.iinfo(np.int64).max)
    np.minimum.at(earliest, target, after)
    start, end = table[target, 3], table[target, 4]
    offset = table[target, 2] + np.array([mapping.transfers[x].slice_offset_bytes for x in slices], dtype=np.int64)
    start = np.where(after == earliest[target], start, np.minimum(after + 1, end - 1))
    parts = np.stack([target, offset, moves[slices, 5], start, end], axis=1)
    found = np.concatenate([whole[~is_sliced], parts])
    return found[np.argsort(found[:, 0], kind="stable")]


def serving_layers(program: Program, mapping: Mapping) -> I64:
    """Return the layer that serves each use.

    Returns:
        int64[U], in the order of ``program.uses``: the fastest layer with a residency of the tensor that is filled at
        the use's step; 0 where there is none and for uses that the compiler wants in layer 0.
    """
    uses, table = program.uses, mapping.residency_table
    layers = np.zeros(len(uses.tensor), dtype=np.int64)
    if len(table):
        # (tensor, step) as one sorted key; a span's bounds are clipped so that they stay within the tensor's keys.
        width = program.num_steps + 2
        base = table[:, 0] * width + 1
        keys = uses.tensor * width + 1 + uses.step
        low = np.searchsorted(keys, base + np.clip(mapping.fill_boundaries, -1, width - 2))
        high = np.searchsorted(keys, base + np.clip(table[:, 4], -1, width - 2))
        _raise_layers(low, high, table[:, 1].copy(), layers)
    layers[uses.home_only] = 0
    return layers


@jit
def _raise_layers(low: I64, high: I64, layer: I64, layers: I64) -> None:
    """Raise ``layers[low[i]:high[i]]`` to at least ``layer[i]``, for each i."""
    for i in range(low.shape[0]):
        for u in range(low[i], high[i]):
            layers[u] = max(layers[u], layer[i])


def _table(rows: Iterable[Any], *names: str) -> I64:
    values = chain.from_iterable(map(attrgetter(*names), rows))
    return np.fromiter(values, dtype=np.int64).reshape(-1, len(names))


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

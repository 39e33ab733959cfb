"""Which operations of a graph become kernels, what each takes, and which values are stored.

A value is stored where a heavy primitive makes or reads it, where a reduction ends, and where the program returns it;
everything else is computed inside the kernel that needs it, once for each. A kernel takes the longer of its
multiplications and its bytes, and a launch. This is XLA's producer-consumer fusion in outline, without its limits.
"""

from dataclasses import dataclass, field

from mallocgame.workloads.checkpointing.chips import Chip
from mallocgame.workloads.checkpointing.graph import Graph, Operation
from mallocgame.workloads.checkpointing.work import Kind

_SLICES = {"slice", "dynamic_slice", "gather", "split"}
_LAYOUT = {"transpose", "rev"}  # what a matrix multiplication reads as it lies
Leaves = dict[int, int]  # stored value -> bytes of it that are read


@dataclass(slots=True, kw_only=True)
class Fused:
    """A graph's kernels. Everything is per operation, or per value."""

    seconds: list[float]  # of each operation's kernel, 0 where it is fused into another
    is_stored: list[bool]
    last_read: list[int]  # last kernel (an operation) that reads a stored value, -1: none
    reads: dict[int, Leaves] = field(default_factory=dict)  # kernel -> what it reads


def fuse(graph: Graph, chip: Chip, body_seconds: dict[int, float]) -> Fused:
    """Return the kernels; ``body_seconds`` are the times of operations with a body."""
    stored = _stored(graph)
    fused = Fused(seconds=[0.0] * len(graph.operations), is_stored=stored, last_read=[-1] * len(graph.values))
    leaves: list[Leaves] = [{} for _ in graph.values]
    for v, value in enumerate(graph.values):
        if value.producer < 0 and not value.is_small:
            leaves[v] = {v: value.size_bytes}
    seen: set[tuple[int, ...]] = set()
    for number, operation in enumerate(graph.operations):
        read = _operation_leaves(operation, leaves, graph)
        ends = any(stored[v] for v in operation.outputs)
        for v in operation.outputs:
            leaves[v] = {v: graph.values[v].size_bytes} if stored[v] else read
        if ends or operation.work.kind == Kind.HEAVY:
            fused.reads[number] = read
            for v in read:
                fused.last_read[v] = number
            fused.seconds[number] = _kernel_seconds(graph, operation, read, chip, body_seconds.get(number), seen)
    return fused


def _stored(graph: Graph) -> list[bool]:
    """Return whether each value is stored."""
    stored = [value.producer < 0 and not value.is_small for value in graph.values]
    for v in graph.outputs:
        if v >= 0:
            stored[_behind_names(graph, v)] = True
    for operation in reversed(graph.operations):
        kind = operation.work.kind
        if kind in (Kind.HEAVY, Kind.REDUCE, Kind.COPY_IN, Kind.COPY_OUT):
            for v in operation.outputs:
                stored[v] = True
        if kind in (Kind.HEAVY, Kind.COPY_OUT):
            for v in operation.inputs:
                _store_operand(graph, stored, v, operation.work.flops > 0)
    return stored


def _store_operand(graph: Graph, stored: list[bool], v: int, is_matrix: bool) -> None:
    """Mark what a heavy primitive reads: through a transposition where it multiplies matrices."""
    v = _behind_names(graph, v)
    producer = graph.values[v].producer
    while is_matrix and producer >= 0 and graph.operations[producer].primitive in _LAYOUT:
        if stored[v]:
            return
        v = _behind_names(graph, graph.operations[producer].inputs[0])
        producer = graph.values[v].producer
    if not graph.values[v].is_small:
        stored[v] = True


def _behind_names(graph: Graph, v: int) -> int:
    """Return the value that a ``checkpoint_name`` kept as an operation renames."""
    producer = graph.values[v].producer
    while producer >= 0 and graph.operations[producer].name:
        v = graph.operations[producer].inputs[0]
        producer = graph.values[v].producer
    return v


def _operation_leaves(operation: Operation, leaves: list[Leaves], graph: Graph) -> Leaves:
    """Return what a kernel that computes this operation reads."""
    if len(operation.inputs) == 1 and operation.primitive not in _SLICES:
        return leaves[operation.inputs[0]]
    found: Leaves = {}
    for position, v in enumerate(operation.inputs):
        limit = operation.reads_bytes if position == 0 and operation.reads_bytes >= 0 else -1
        for leaf, size in leaves[v].items():
            size = size if limit < 0 else min(size, limit)
            found[leaf] = max(found.get(leaf, 0), size)
    return found


def _kernel_seconds(
    graph: Graph,
    operation: Operation,
    read: Leaves,
    chip: Chip,
    body_seconds: float | None,
    seen: set[tuple[int, ...]],
) -> float:
    work = operation.work
    if body_seconds is not None:
        return body_seconds
    if work.kind in (Kind.COPY_IN, Kind.COPY_OUT):
        return 0.0  # priced on the link
    if work.kind == Kind.HEAVY:
        rate = chip.wide_flops_per_second if work.is_wide else chip.flops_per_second
        return max(work.flops / rate, work.moved_bytes / chip.hbm_bytes_per_second) + chip.kernel_seconds
    written = sum(graph.values[v].size_bytes for v in operation.outputs)
    key = tuple(sorted(read))
    is_sibling = bool(key) and key in seen  # of a kernel that reads the same: one kernel with two results
    seen.add(key)
    moved = written + (0 if is_sibling else sum(read.values()))
    return moved / chip.hbm_bytes_per_second + (0.0 if is_sibling else chip.kernel_seconds)

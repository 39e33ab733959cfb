"""A training step's seconds and peak bytes, from its jaxpr alone: the judge of checkpoint policies.

Operations run in the order of the jaxpr. A stored value takes memory from the kernel that makes it to the last that
reads it; a loop's stacked results from its start; a donated argument's memory is its result's. Copies to the host hide
behind at most ``out_overlap`` of the computing of the pass that they are part of, copies back behind ``in_overlap``.
"""

from dataclasses import dataclass, field
from typing import Any

from mallocgame.workloads.checkpointing.chips import Chip
from mallocgame.workloads.checkpointing.fusion import Fused, fuse
from mallocgame.workloads.checkpointing.graph import Graph, Operation, graph_of
from mallocgame.workloads.checkpointing.work import Kind


@dataclass(slots=True, kw_only=True)
class Price:
    """What a graph takes. ``peak_bytes`` is beside its inputs."""

    compute_seconds: float = 0.0
    exposed_seconds: float = 0.0  # copies that nothing hides
    peak_bytes: int = 0
    out_bytes: int = 0  # copied to the host, all iterations
    in_bytes: int = 0
    peak_at: str = ""  # the operation at which memory is fullest
    remat_peaks: dict[int, int] = field(default_factory=dict)  # recomputation region -> peak while it runs
    named_peaks: dict[str, int] = field(default_factory=dict)  # a name inside a recomputation -> peak while it runs
    other_peak_bytes: int = 0  # outside all recomputations

    @property
    def seconds(self) -> float:
        """Computing and waiting."""
        return self.compute_seconds + self.exposed_seconds

    def scale_peaks(self, factor: float) -> None:
        """Multiply what memory a loop's body takes: nothing of it outlives an iteration."""
        self.peak_bytes = round(self.peak_bytes * factor)
        self.remat_peaks = {key: round(peak * factor) for key, peak in self.remat_peaks.items()}
        self.named_peaks = {key: round(peak * factor) for key, peak in self.named_peaks.items()}


def price_step(jaxpr: Any, chip: Chip, donated: frozenset[int] = frozenset()) -> Price:
    """Return the price of a closed jaxpr; ``donated`` are numbers of its flat inputs. Peak bytes include the inputs."""
    graph = graph_of(jaxpr)
    price = price_graph(graph, chip, donated=donated)
    arguments = sum(graph.values[v].size_bytes for v in graph.inputs if not graph.values[v].on_host)
    constants = sum(
        value.size_bytes
        for v, value in enumerate(graph.values)
        if value.producer < 0 and not value.is_small and v not in set(graph.inputs)
    )
    price.peak_bytes += arguments + constants
    price.other_peak_bytes += arguments + constants
    price.named_peaks = {name: peak + arguments + constants for name, peak in price.named_peaks.items()}
    return price


def body_seconds(graph: Graph, chip: Chip) -> dict[int, float]:
    """Return the time of each operation with a body, all its iterations."""
    return {
        n: _body_price(operation, chip).seconds * operation.length
        for n, operation in enumerate(graph.operations)
        if operation.body is not None
    }


def price_graph(graph: Graph, chip: Chip, *, donated: frozenset[int] = frozenset(), is_body: bool = False) -> Price:
    """Return the price of a graph."""
    bodies = {n: _body_price(op, chip) for n, op in enumerate(graph.operations) if op.body is not None}
    times = {n: price.seconds * graph.operations[n].length for n, price in bodies.items()}
    fused = fuse(graph, chip, times)
    total = Price()
    for number, operation in enumerate(graph.operations):
        body = bodies.get(number)
        if body is not None:
            total.out_bytes += body.out_bytes * operation.length
            total.in_bytes += body.in_bytes * operation.length
            total.exposed_seconds += body.exposed_seconds * operation.length
            total.compute_seconds += body.compute_seconds * operation.length
        else:
            total.compute_seconds += fused.seconds[number]
    if is_body:
        total.compute_seconds += _stacking_bytes(graph) / chip.hbm_bytes_per_second
    _add_copies(graph, chip, total)
    _add_peak(graph, fused, bodies, _in_place(graph, donated), total, 1.0 if is_body else chip.working_factor)
    if is_body:
        total.scale_peaks(chip.working_factor)
    return total


def _body_price(operation: Operation, chip: Chip) -> Price:
    assert operation.body is not None
    return price_graph(operation.body, chip, is_body=True)


def _stacking_bytes(graph: Graph) -> int:
    """Return what a loop's body moves to put heavy results into stacked arrays: the copy reads and writes them."""
    total = 0
    for v in graph.outputs:
        if v >= 0 and graph.values[v].producer >= 0 and not graph.values[v].on_host:
            heavy = graph.operations[graph.values[v].producer].work.kind == Kind.HEAVY
            total += 2 * graph.values[v].size_bytes * heavy
    return total


def _add_copies(graph: Graph, chip: Chip, total: Price) -> None:
    """Add this graph's own copies; what its loops copy is priced inside them."""
    out = sum(graph.values[o.inputs[0]].size_bytes for o in graph.operations if o.work.kind == Kind.COPY_OUT)
    back = sum(graph.values[o.outputs[0]].size_bytes for o in graph.operations if o.work.kind == Kind.COPY_IN)
    computing = total.compute_seconds
    count = sum(o.work.kind in (Kind.COPY_OUT, Kind.COPY_IN) for o in graph.operations)
    total.exposed_seconds += count * chip.copy_seconds
    total.out_bytes += out
    total.in_bytes += back
    total.exposed_seconds += max(0.0, out / chip.out_bytes_per_second - chip.out_overlap * computing)
    total.exposed_seconds += max(0.0, back / chip.in_bytes_per_second - chip.in_overlap * computing)


def _in_place(graph: Graph, donated: frozenset[int]) -> set[int]:
    """Return the outputs that take a donated argument's memory: matched by size, as XLA matches them by shape."""
    free: dict[int, int] = {}
    for position in donated:
        size = graph.values[graph.inputs[position]].size_bytes
        free[size] = free.get(size, 0) + 1
    found = set()
    for v in graph.outputs:
        if v >= 0 and graph.values[v].producer >= 0 and free.get(graph.values[v].size_bytes, 0) > 0:
            free[graph.values[v].size_bytes] -= 1
            found.add(v)
    return found


def _add_peak(
    graph: Graph, fused: Fused, bodies: dict[int, Price], in_place: set[int], total: Price, factor: float
) -> None:
    """Walk through the operations with what is stored, and note how full memory is.

    What a recomputation region adds to what it found counts ``factor`` times.
    """
    found: dict[int, int] = {}  # region -> live bytes as it began
    ending = _endings(graph, fused, in_place)
    is_counted = [
        fused.is_stored[v] and value.producer >= 0 and not value.on_host and v not in in_place
        for v, value in enumerate(graph.values)
    ]
    live = 0
    for number, operation in enumerate(graph.operations):
        made = sum(graph.values[v].size_bytes for v in operation.outputs if is_counted[v])
        dying = sum(graph.values[v].size_bytes for v in ending.get(number, ()))
        reused = min(made, dying) if operation.work.kind == Kind.ELEMENTWISE else 0
        body = bodies.get(number)
        inside = live + made - reused + (body.peak_bytes if body is not None else 0)
        if operation.remat >= 0:
            before = found.setdefault(operation.remat, live)
            inside += round(max(inside - before, 0) * (factor - 1.0))
        if inside > total.peak_bytes:
            total.peak_bytes, total.peak_at = inside, operation.primitive
        _note(total, operation, body, live + made, inside)
        live += made - dying
    for named in graph.names:
        if named.remat in total.remat_peaks:
            total.named_peaks[named.name] = total.remat_peaks[named.remat]


def _endings(graph: Graph, fused: Fused, in_place: set[int]) -> dict[int, list[int]]:
    """Return, per operation, the values whose memory it is the last to need.

    A loop's body writes what it stacks where it belongs: such a result ends with its last reader inside.
    """
    last = [max(fused.last_read[v], value.producer) for v, value in enumerate(graph.values)]
    for v in graph.outputs[: graph.num_kept_outputs]:
        if v >= 0:
            last[v] = len(graph.operations)
    ending: dict[int, list[int]] = {}
    for v, value in enumerate(graph.values):
        if value.producer >= 0 and fused.is_stored[v] and not value.on_host and v not in in_place:
            ending.setdefault(last[v], []).append(v)
    return ending


def _note(total: Price, operation: Operation, body: Price | None, outside: int, inside: int) -> None:
    """Remember how full memory is while a recomputation region runs."""
    if operation.remat >= 0:
        total.remat_peaks[operation.remat] = max(total.remat_peaks.get(operation.remat, 0), inside)
    elif body is None or not body.named_peaks:
        total.other_peak_bytes = max(total.other_peak_bytes, inside)
    for name, peak in body.named_peaks.items() if body is not None else ():
        total.named_peaks[name] = max(total.named_peaks.get(name, 0), outside + peak)

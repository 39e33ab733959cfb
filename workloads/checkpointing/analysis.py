"""The decision problem of a training step: what each region would recompute, what that takes, and what keeping saves.

JAX itself says what the backward pass needs: each region, with a name on every candidate, is differentiated under
``nothing_saveable``, and the recomputation is read from the jaxpr. A derivative that reads a value before its name (as
that of ``tanh`` does) keeps the operation needed whatever is saved; a value that saves nothing is then never chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from mallocgame.checkpointing import CheckpointProblem, CheckpointRegion, Node
from mallocgame.workloads.checkpointing.chips import Chip
from mallocgame.workloads.checkpointing.flat import Equation, FlatFunction, flatten
from mallocgame.workloads.checkpointing.fusion import fuse
from mallocgame.workloads.checkpointing.graph import Graph, Operation, graph_of, live_part
from mallocgame.workloads.checkpointing.price import Price, body_seconds
from mallocgame.workloads.checkpointing.regions import EquationRange, entering, has_effects
from mallocgame.workloads.checkpointing.rewrite import body_function, inputs_of, stretch_function
from mallocgame.workloads.checkpointing.work import Kind

NO_GRADIENT = {"stop_gradient", "argmax", "argmin", "floor", "ceil", "round", "sign", "eq", "ne", "lt", "le", "gt"}
NO_GRADIENT |= {"ge", "and", "or", "not", "xor", "is_finite", "shift_left", "shift_right_logical", "iota"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputation:
    """What one region runs again: its nodes (numbered within the region), in order."""

    nodes: tuple[Node, ...]
    forward_seconds: float  # all iterations
    backward_seconds: float


def active_values(flat: FlatFunction, inputs: Sequence[bool] | None = None) -> set[int]:
    """Return the values that carry a derivative: made from differentiated inputs, and of a real type."""
    flags = [True] * len(flat.inputs) if inputs is None else inputs
    active = {v for v, flag in zip(flat.inputs, flags, strict=True) if flag and _is_real(flat.avals[v])}
    for equation in flat.equations:
        if equation.primitive in NO_GRADIENT or not active.intersection(equation.values_read):
            continue
        flags = _loop_outputs(equation, active) if equation.primitive == "scan" else [True] * len(equation.outputs)
        active.update(v for v, f in zip(equation.outputs, flags, strict=True) if f and _is_real(flat.avals[v]))
    return active


def _loop_outputs(equation: Equation, active: set[int]) -> list[bool]:
    """Return which results of a loop carry a derivative: as far as the carries bring it around."""
    params = equation.eqn.params
    body = flatten(params["jaxpr"])
    first, carries = int(params["num_consts"]), int(params["num_carry"])
    flags = [v in active if isinstance(v, int) else False for v in equation.inputs]
    while True:
        inside = active_values(body, flags)
        outputs = [isinstance(v, int) and v in inside for v in body.outputs]
        more = [a or b for a, b in zip(flags[first : first + carries], outputs, strict=False)]
        if more == flags[first : first + carries]:
            return outputs
        flags[first : first + carries] = more


def _is_real(aval: Any) -> bool:
    return hasattr(aval, "dtype") and bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def analyse(
    flat: FlatFunction, region: EquationRange, active: set[int], later: Sequence[int], chip: Chip
) -> Recomputation:
    """Return what a region runs again if nothing of it is kept; ``later`` are the values read after it."""
    if has_effects(flat, region):
        return Recomputation(nodes=(), forward_seconds=0.0, backward_seconds=0.0)
    function, avals, flags, wanted = _region_function(flat, region, active, later)
    if not any(flags) or not any(wanted):
        return Recomputation(nodes=(), forward_seconds=0.0, backward_seconds=0.0)
    jaxpr = _backward_jaxpr(function, avals, flags, wanted)
    num_cotangents = sum(wanted)
    graph = live_part(graph_of(jaxpr, keep_names=True))
    cotangents = set(graph.inputs[len(graph.inputs) - num_cotangents :])
    return _nodes(graph, cotangents, _only_named(flat, region, graph), region, chip)


def _only_named(flat: FlatFunction, region: EquationRange, graph: Graph) -> set[int]:
    """Return the values of a backward graph that enter the region and are read by one ``checkpoint_name`` alone."""
    numbers = region.body.inputs if region.body is not None else inputs_of(flat, region)
    enters = set(entering(flat, region))
    values = {graph.inputs[position] for position, v in enumerate(numbers) if v in enters}
    readers: dict[int, list[Operation]] = {v: [] for v in values}
    for operation in graph.operations:
        for v in values.intersection(operation.inputs):
            readers[v].append(operation)
    return {v for v, found in readers.items() if len(found) == 1 and found[0].name}


def _region_function(
    flat: FlatFunction, region: EquationRange, active: set[int], later: Sequence[int]
) -> tuple[Callable[..., Any], list[Any], list[bool], list[bool]]:
    """Return a region as a function, the types of its inputs, and which inputs and results carry a derivative."""
    if region.body is None:
        inputs = inputs_of(flat, region)
        outputs = [v for v in later if v in active]
        function = stretch_function(flat, region, inputs, outputs)
        return function, [flat.avals[v] for v in inputs], [v in active for v in inputs], [True] * len(outputs)
    equation, body = flat.equations[region.start], region.body
    first, carries = int(equation.eqn.params["num_consts"]), int(equation.eqn.params["num_carry"])
    flags = [isinstance(v, int) and v in active for v in equation.inputs]
    outputs_active = _loop_outputs(equation, active)
    for i in range(carries):
        flags[first + i] = flags[first + i] or outputs_active[i]
    inside = active_values(body, flags)
    wanted = [isinstance(v, int) and v in inside for v in body.outputs]
    return body_function(region), [body.avals[v] for v in body.inputs], flags, wanted


def _backward_jaxpr(
    function: Callable[..., Any], avals: Sequence[Any], flags: Sequence[bool], wanted: Sequence[bool]
) -> Any:
    """Return the jaxpr of (inputs, cotangents) -> gradients of a region under ``nothing_saveable``."""
    checkpointed = jax.checkpoint(function, policy=jax.checkpoint_policies.nothing_saveable)
    struct: Any = jax.ShapeDtypeStruct
    shapes = [struct(aval.shape, aval.dtype) for aval in avals]
    kept = [i for i, flag in enumerate(wanted) if flag]

    def backward(values: list[Any], cotangents: list[Any]) -> Any:
        def of_active(*active: Any) -> list[Any]:
            given = iter(active)
            merged = [next(given) if flag else value for flag, value in zip(flags, values, strict=True)]
            results = checkpointed(*merged)
            return [results[i] for i in kept]

        _, pull = jax.vjp(of_active, *(value for flag, value in zip(flags, values, strict=True) if flag))
        return pull(cotangents)

    outputs = jax.eval_shape(lambda values: [function(*values)[i] for i in kept], shapes)
    return jax.make_jaxpr(backward)(shapes, [struct(o.shape, o.dtype) for o in outputs])


def _nodes(
    graph: Graph, cotangents: set[int], only_named: set[int], region: EquationRange, chip: Chip
) -> Recomputation:
    """Read the recomputation from a region's backward graph."""
    fused = fuse(graph, chip, body_seconds(graph, chip))
    is_linear = [v in cotangents for v in range(len(graph.values))]
    for operation in graph.operations:
        if any(is_linear[v] for v in operation.inputs):
            for v in operation.outputs:
                is_linear[v] = True
    numbers: dict[int, int] = {}  # operation -> node
    found: list[dict[str, Any]] = []
    demanded: set[int] = set()
    backward = 0.0
    for n, operation in enumerate(graph.operations):
        producers = [graph.values[v].producer for v in operation.inputs]
        nodes = [numbers[p] for p in producers if p in numbers]
        if any(is_linear[v] for v in operation.outputs):
            backward += fused.seconds[n]
            demanded.update(nodes)
            continue
        numbers[n] = len(found)
        is_entry = bool(only_named.intersection(operation.inputs))
        found.append(_node(graph, operation, fused.seconds[n], nodes, region, chip, is_entry))
    for v in graph.outputs:
        if v >= 0 and graph.values[v].producer in numbers:
            demanded.add(numbers[graph.values[v].producer])
    again = sum(row["seconds"] for row in found)
    return Recomputation(
        nodes=tuple(Node(**row, is_needed=i in demanded) for i, row in enumerate(found)),
        forward_seconds=again,
        backward_seconds=backward * region.length + again,
    )


def _node(
    graph: Graph,
    operation: Operation,
    seconds: float,
    inputs: list[int],
    region: EquationRange,
    chip: Chip,
    is_entry: bool,
) -> dict[str, Any]:
    name = operation.name
    size = graph.values[operation.outputs[0]].size_bytes * region.length if name else 0
    source = operation.inputs[0] if operation.inputs else -1
    producer = graph.values[source].producer if source >= 0 else -1
    is_heavy = producer >= 0 and graph.operations[producer].work.kind == Kind.HEAVY
    touches = 0.0 if is_entry else _touches(is_heavy, region.body is not None)
    return {
        "region": 0,
        "seconds": seconds * region.length,
        "inputs": tuple(inputs),
        "name": name,
        "size_bytes": size,
        "keep_seconds": touches * size / chip.hbm_bytes_per_second,
        "offload_seconds": 2 * chip.copy_seconds * region.length if name else 0.0,
        "is_entry": is_entry,
        "origin": operation.origin,
    }


def _touches(is_heavy: bool, is_loop: bool) -> float:
    """Return how often keeping a value moves it through memory: into the stack of a loop and out, or to store it."""
    if is_loop:
        return 4.0 if is_heavy else 3.0
    return 0.0 if is_heavy else 2.0


def build_problem(
    parts: Sequence[Recomputation], regions: Sequence[EquationRange], judged: Price, peaks: Sequence[int], chip: Chip
) -> CheckpointProblem:
    """Put the regions together; ``judged`` is the step with everything recomputed, ``peaks`` of it per region."""
    nodes: list[Node] = []
    rows: list[CheckpointRegion] = []
    for r, (part, region) in enumerate(zip(parts, regions, strict=True)):
        offset = len(nodes)
        nodes += [replace(node, region=r, inputs=tuple(offset + j for j in node.inputs)) for node in part.nodes]
        is_loop = region.body is not None
        rows.append(
            CheckpointRegion(
                name=region.label,
                peak_bytes=peaks[r],
                stream=1 + sum(row.is_loop for row in rows) if is_loop else 0,
                is_loop=is_loop,
                iterations=region.length,
                forward_seconds=part.forward_seconds,
                backward_seconds=part.backward_seconds,
            )
        )
    entries = sum(node.size_bytes for node in nodes if node.is_entry)  # they may be what fills memory there
    return CheckpointProblem(
        nodes=tuple(nodes),
        regions=tuple(rows),
        base_seconds=max(judged.seconds - sum(node.seconds for node in nodes), 0.0),
        floor_bytes=max(judged.other_peak_bytes - entries, 0),
        out_bytes_per_second=chip.out_bytes_per_second,
        in_bytes_per_second=chip.in_bytes_per_second,
        out_overlap=chip.out_overlap,
        in_overlap=chip.in_overlap,
    )

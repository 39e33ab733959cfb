"""A jaxpr as a flat list of operations on numbered values: calls inlined, renamings followed.

What only renames a value (``name``, ``reshape``, barriers) makes no operation and no new value. Bodies of ``scan`` stay
whole: the operation's ``body`` is their graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mallocgame.workloads.checkpointing.work import Kind, Work, work_of

INLINED = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}
INLINED |= {"custom_vjp_call_jaxpr", "xla_call", "remat", "custom_lin"}
RENAMING = {"name", "reshape", "squeeze", "expand_dims", "optimization_barrier", "copy_p", "pvary", "reduce_precision"}
RENAMING |= {"sharding_constraint", "mesh_cast", "stop_gradient", "copy"}
REMAT = {"checkpoint", "remat2", "remat"}


@dataclass(slots=True, kw_only=True)
class Value:
    """One array. ``producer`` is the operation that makes it, -1 for an input."""

    size_bytes: int
    producer: int = -1
    on_host: bool = False
    is_small: bool = False  # made from nothing (iota, a broadcast scalar): never stored


@dataclass(slots=True, kw_only=True)
class Operation:
    """One primitive. ``remat`` numbers the recomputation region it belongs to, -1: none."""

    primitive: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    work: Work
    remat: int = -1
    body: "Graph | None" = None
    length: int = 1
    num_carry: int = 0
    num_consts: int = 0
    reads_bytes: int = -1  # of its first input, where it reads only a part; -1: all
    name: str = ""  # of a ``checkpoint_name`` that is kept as an operation
    origin: str = ""


@dataclass(slots=True, kw_only=True)
class Named:
    """A ``checkpoint_name`` that was met: the value, and the operation that would come next."""

    name: str
    value: int
    at: int
    remat: int


@dataclass(slots=True, kw_only=True)
class Graph:
    """A jaxpr, flat."""

    values: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)  # -1: a literal
    names: list[Named] = field(default_factory=list)
    num_remats: int = 0
    num_kept_outputs: int | None = None  # the others are stacked: written where they belong

    def new_value(self, aval: Any, producer: int = -1, is_small: bool = False) -> int:
        """Add a value of a JAX type and return its number."""
        on_host = "host" in str(getattr(aval, "memory_space", "")).lower()
        self.values.append(Value(size_bytes=size_bytes(aval), producer=producer, on_host=on_host, is_small=is_small))
        return len(self.values) - 1


def size_bytes(aval: Any) -> int:
    """Return the bytes of an array of this type, 0 for tokens and keys without a size."""
    shape, dtype = getattr(aval, "shape", None), getattr(aval, "dtype", None)
    if shape is None or dtype is None:
        return 0
    count = 1
    for size in shape:
        count *= int(size)
    width = getattr(dtype, "itemsize", 8)
    return 0 if str(dtype) == "float0" else count * int(width)


def graph_of(jaxpr: Any, *, keep_names: bool = False, num_whole: int = -1) -> Graph:
    """Return the graph of a (closed or open) jaxpr.

    With ``keep_names`` a ``checkpoint_name`` is an operation. Inputs from ``num_whole`` on are slices of stacked
    arrays: cut out where they are first read.
    """
    opened = getattr(jaxpr, "jaxpr", jaxpr)
    graph = Graph()
    environment: dict[Any, int] = {}
    for var in opened.constvars:
        environment[var] = graph.new_value(var.aval)
    builder = _Builder(graph, keep_names)
    for position, var in enumerate(opened.invars):
        environment[var] = graph.new_value(var.aval)
        graph.inputs.append(environment[var])
        if 0 <= num_whole <= position and not graph.values[environment[var]].on_host:
            builder.stack(environment, var)
    builder.run(opened, environment, -1)
    graph.outputs = [environment.get(var, -1) if not _is_literal(var) else -1 for var in opened.outvars]
    return graph


def live_part(graph: Graph) -> Graph:
    """Return the same graph without operations that no output needs. Values keep their numbers."""
    wanted = [False] * len(graph.values)
    for v in graph.outputs:
        if v >= 0:
            wanted[v] = True
    kept: list[Operation] = []
    for operation in reversed(graph.operations):
        if any(wanted[v] for v in operation.outputs):
            kept.append(operation)
            for v in operation.inputs:
                wanted[v] = True
    kept.reverse()
    values = [replace(value, producer=-1, is_small=value.producer >= 0 or value.is_small) for value in graph.values]
    for number, operation in enumerate(kept):
        for v in operation.outputs:
            values[v] = replace(graph.values[v], producer=number)
    return replace(graph, values=values, operations=kept, names=[])


def _is_literal(var: Any) -> bool:
    return hasattr(var, "val")


class _Builder:
    """Walks a jaxpr and appends to a graph."""

    def __init__(self, graph: Graph, keep_names: bool = False) -> None:
        self.graph = graph
        self.keep_names = keep_names
        self.slices: dict[int, int] = {}  # slice that was not read yet -> its stacked array

    def stack(self, environment: dict[Any, int], var: Any) -> None:
        """Make an input a slice of a stacked array."""
        value = self.graph.new_value(var.aval)
        self.slices[value] = environment[var]
        environment[var] = value

    def _cut_out(self, values: Sequence[int], remat: int) -> None:
        for v in values:
            if v in self.slices:
                size = self.graph.values[v].size_bytes
                self.graph.values[v].producer = len(self.graph.operations)
                work = Work(kind=Kind.ELEMENTWISE)
                self.graph.operations.append(
                    Operation(
                        primitive="dynamic_slice",
                        inputs=(self.slices.pop(v),),
                        outputs=(v,),
                        work=work,
                        remat=remat,
                        reads_bytes=size,
                    )
                )

    def run(self, jaxpr: Any, environment: dict[Any, int], remat: int) -> None:
        for eqn in jaxpr.eqns:
            self._equation(eqn, environment, remat)

    def _equation(self, eqn: Any, environment: dict[Any, int], remat: int) -> None:
        name = eqn.primitive.name
        if name in INLINED:
            inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
            if inner is not None and self._inline(eqn, inner, environment, remat):
                return
        is_kept = self.keep_names and name == "name"
        if name in RENAMING and len(eqn.invars) == len(eqn.outvars) and not is_kept:
            self._rename(eqn, environment, remat)
            return
        self._append(eqn, environment, remat)

    def _inline(self, eqn: Any, inner: Any, environment: dict[Any, int], remat: int) -> bool:
        opened = getattr(inner, "jaxpr", inner)
        if len(opened.invars) != len(eqn.invars):
            return False
        if eqn.primitive.name in REMAT and eqn.params.get("differentiated") and remat < 0:
            remat = self.graph.num_remats
            self.graph.num_remats += 1
        local: dict[Any, int] = {}
        for var in opened.constvars:
            local[var] = self.graph.new_value(var.aval)
        for var, outer in zip(opened.invars, eqn.invars, strict=True):
            local[var] = self._read(outer, environment)
        self.run(opened, local, remat)
        for var, result in zip(eqn.outvars, opened.outvars, strict=True):
            environment[var] = self._read(result, local)
        return True

    def _rename(self, eqn: Any, environment: dict[Any, int], remat: int) -> None:
        for source, target in zip(eqn.invars, eqn.outvars, strict=True):
            environment[target] = self._read(source, environment)
        if eqn.primitive.name == "name":
            value = environment[eqn.outvars[0]]
            at = len(self.graph.operations)
            self.graph.names.append(Named(name=str(eqn.params["name"]), value=value, at=at, remat=remat))

    def _read(self, var: Any, environment: dict[Any, int]) -> int:
        if not _is_literal(var):
            return environment[var]
        return self.graph.new_value(var.aval, is_small=True)

    def _append(self, eqn: Any, environment: dict[Any, int], remat: int) -> None:
        inputs = tuple(self._read(var, environment) for var in eqn.invars if not _is_literal(var))
        self._cut_out(inputs, remat)
        number = len(self.graph.operations)
        outputs = []
        for var in eqn.outvars:
            environment[var] = self.graph.new_value(var.aval, number)
            outputs.append(environment[var])
        operation = Operation(
            primitive=eqn.primitive.name,
            inputs=inputs,
            outputs=tuple(outputs),
            work=work_of(eqn),
            remat=remat,
            origin=_origin(eqn),
        )
        if eqn.primitive.name == "name":
            operation.name = str(eqn.params["name"])
        if eqn.primitive.name == "scan":
            _read_scan(operation, eqn)
        elif eqn.primitive.name in ("while", "cond"):
            _read_branches(operation, eqn)
        elif eqn.primitive.name in ("dynamic_slice", "gather", "slice"):
            operation.reads_bytes = size_bytes(eqn.outvars[0].aval)
        self.graph.operations.append(operation)


def _origin(eqn: Any) -> str:
    """Return what made a value, for people: primitive and shape."""
    return f"{eqn.primitive.name} {getattr(eqn.outvars[0].aval, 'str_short', lambda: '')()}" if eqn.outvars else ""


def _read_scan(operation: Operation, eqn: Any) -> None:
    operation.num_carry, operation.num_consts = int(eqn.params["num_carry"]), int(eqn.params["num_consts"])
    operation.length = int(eqn.params["length"])
    operation.body = graph_of(eqn.params["jaxpr"], num_whole=operation.num_carry + operation.num_consts)
    operation.body.num_kept_outputs = operation.num_carry


def _read_branches(operation: Operation, eqn: Any) -> None:
    """Take the body of a while loop once, as nobody knows how often; of a conditional the longest branch."""
    if eqn.primitive.name == "while":
        operation.body = graph_of(eqn.params["body_jaxpr"])
        return
    graphs: Sequence[Graph] = [graph_of(branch) for branch in eqn.params["branches"]]
    weigh: Callable[[Graph], float] = lambda graph: sum(op.work.flops + op.work.moved_bytes for op in graph.operations)  # noqa: E731
    operation.body = max(graphs, key=weigh) if graphs else None

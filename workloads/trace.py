"""Traces as files: a program, its memory, the compiler's own mapping and estimates, and where all that came from.

The format is versioned JSON, gzip-compressed if the name ends in ``.gz``; docs/trace_format.md describes it for
readers that do not use this package.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from mallocgame.collapse import is_straight
from mallocgame.errors import InputError, printable
from mallocgame.files import MAX_INTEGER, StrPath
from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer
from mallocgame.mapping import Mapping
from mallocgame.program import Conditional, Instruction, Loop, Program, Tensor, Use, UseKind
from mallocgame.text import counted
from mallocgame.workloads.formats import strict_json
from mallocgame.workloads.formats.mapping_file import decode_mapping, encode_mapping, load_mapping, save_mapping
from mallocgame.workloads.formats.strict_json import Node

__all__ = ["TRACE_FORMAT", "TRACE_VERSION", "Trace", "load_mapping", "load_trace", "save_mapping", "save_trace"]

TRACE_FORMAT = "mallocgame-trace"
TRACE_VERSION = 3  # 2: with conditionals and trip counts that are fractions; 3: and replaceable copies

MAX_LAYERS = 64
MAX_LOOPS = 1000
_MAX_LOOP_WORK = 20_000_000  # loops x steps: checking a program takes that many operations
_MAX_TOTAL = float(2**62)  # bytes that a run may touch: sums stay exact in int64

Scalar = str | int | float | bool | None
Value = Scalar | tuple[Scalar, ...]

_FLAGS = ("is_parameter", "is_output", "movable", "holdable", "hoistable")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one compilation of one program says.

    ``estimates`` holds the compiler's figures (units in the keys), one number or one a step; ``provenance`` says how
    the trace was made: versions, chip, options. Both may be empty.
    """

    name: str
    program: Program
    hierarchy: Hierarchy
    mapping: Mapping | None = None  # the compiler's own
    estimates: dict[str, Value] = field(default_factory=dict)
    provenance: dict[str, Value] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = f"{counted(self.program.num_steps, 'instruction')}, {counted(len(self.program.tensors), 'tensor')}"
        own = "with" if self.mapping is not None else "without"
        return f"<Trace {self.name}: {size}, on {self.hierarchy.name}, {own} a mapping of the compiler's>"

    @property
    def padding_bytes(self) -> tuple[int, ...] | None:
        """How much of each tensor's size is padding; None where that is not known."""
        known = self.estimates.get("tensor_padding_bytes")
        if not isinstance(known, tuple) or len(known) != len(self.program.tensors):
            return None
        return tuple(size if isinstance(size, int) else 0 for size in known)

    @property
    def moving_fusions(self) -> dict[int, str]:
        """How fusions that only move data do it (``hlo.movement``), by their steps; empty where that is not known."""
        steps, kinds = (self.estimates.get(f"moving_fusion_{what}") for what in ("steps", "kinds"))
        if not isinstance(steps, tuple) or not isinstance(kinds, tuple):
            return {}
        found = zip(steps, kinds, strict=False)
        return {s: str(kind) for s, kind in found if isinstance(s, int) and 0 <= s < self.program.num_steps}


def save_trace(path: StrPath, trace: Trace) -> None:
    """Write ``trace``; the same trace gives the same bytes.

    What is not printable in provenance and estimates is written as an escape.

    Raises:
        TraceError: the file cannot be written.
    """
    mapping = None if trace.mapping is None else encode_mapping(trace.mapping, trace.program)
    value = {
        "format": TRACE_FORMAT,
        "version": _version(trace.program),
        "name": trace.name,
        "provenance": _encode_values(trace.provenance),
        "hierarchy": encode_hierarchy(trace.hierarchy),
        "program": _encode_program(trace.program),
        "mapping": mapping,
        "estimates": _encode_values(trace.estimates),
    }
    strict_json.write(path, value)


def _version(program: Program) -> int:
    """Return the oldest version that can say what a program has."""
    return 3 if program.replaceable_copies else 1 if is_straight(program) else 2


def load_trace(path: StrPath) -> Trace:
    """Read a trace.

    Raises:
        TraceError: the file is not a complete, consistent trace of a known version.
    """
    node = strict_json.read(path)
    version = strict_json.check_header(node, TRACE_FORMAT, *range(1, TRACE_VERSION + 1))
    keys = ("format", "version", "name", "provenance", "hierarchy", "program", "mapping", "estimates")
    _, _, name, provenance, hierarchy, program, mapping, estimates = node.fields(*keys)
    memory = decode_hierarchy(hierarchy)
    decoded = _decode_program(program, memory, version)
    own = None
    if mapping.value is not None:
        residencies, transfers = mapping.fields("residencies", "transfers")
        own = decode_mapping(residencies, transfers, decoded)
    return Trace(
        name=name.text(),
        program=decoded,
        hierarchy=memory,
        mapping=own,
        estimates=_decode_values(estimates),
        provenance=_decode_values(provenance),
    )


def _encode_values(values: dict[str, Value]) -> dict[str, Any]:
    def plain(value: Value) -> Any:
        if isinstance(value, tuple):
            return [plain(entry) for entry in value]
        return printable(value) if isinstance(value, str) else value

    return {printable(key): plain(value) for key, value in sorted(values.items())}


def _decode_values(node: Node) -> dict[str, Value]:
    if not isinstance(node.value, dict):
        node.fail("expected an object of strings, numbers and arrays of them")
    found: dict[str, Value] = {}
    for key, value in node.value.items():
        if not key.isprintable():
            node.fail(f"key {key[:40]!r} is not printable")
        entries = value if isinstance(value, list) else [value]
        for entry in entries:
            if not isinstance(entry, (str, int, float, bool, type(None))):
                Node(node.path, f"{node.where}.{key}", value).fail("expected strings, numbers, true, false or null")
            if isinstance(entry, str) and not entry.isprintable():
                Node(node.path, f"{node.where}.{key}", value).fail("expected strings of printable characters")
        found[key] = tuple(value) if isinstance(value, list) else value
    return found


def encode_hierarchy(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return the JSON object that files hold of a hierarchy."""
    layers, links = hierarchy.layers, hierarchy.links
    return {
        "name": hierarchy.name,
        "layers": {
            "name": [layer.name for layer in layers],
            "capacity_bytes": [layer.capacity_bytes for layer in layers],
            "bytes_per_second": [layer.bytes_per_second for layer in layers],
            "alignment_bytes": [layer.alignment_bytes for layer in layers],
        },
        "links": {
            "name": [link.name for link in links],
            "pairs": [[list(pair) for pair in link.pairs] for link in links],
            "bytes_per_second": [link.bytes_per_second for link in links],
            "shared_layer": [-1 if link.shared_layer is None else link.shared_layer for link in links],
            "latency_seconds": [link.latency_seconds for link in links],
            "max_in_flight": [link.max_in_flight for link in links],
        },
    }


def decode_hierarchy(node: Node) -> Hierarchy:
    """Read the JSON object of a hierarchy.

    Raises:
        TraceError: it is none.
    """
    name, layer_table, link_table = node.fields("name", "layers", "links")
    num_layers, columns = layer_table.columns("name", "capacity_bytes", "bytes_per_second", "alignment_bytes")
    if num_layers > MAX_LAYERS:
        layer_table.fail(f"has {num_layers} layers, expected at most {MAX_LAYERS}")
    rows = zip(columns[0].texts(), columns[1].integers(1), columns[2].reals(), columns[3].integers(1), strict=True)
    layers = tuple(
        MemoryLayer(name=text, capacity_bytes=capacity, bytes_per_second=speed, alignment_bytes=alignment)
        for text, capacity, speed, alignment in rows
    )
    keys = ("name", "pairs", "bytes_per_second", "shared_layer", "latency_seconds", "max_in_flight")
    _, columns = link_table.columns(*keys)
    links = []
    shared = columns[3].integers(-1, num_layers - 1)
    link_rows = zip(columns[0].texts(), columns[2].reals(), columns[4].reals(), columns[5].integers(1), strict=True)
    for i, (text, speed, latency, limit) in enumerate(link_rows):
        pairs = [_pair(pair, num_layers) for pair in columns[1].items()[i].items()]
        links.append(
            Link(
                name=text,
                pairs=tuple(pairs),
                bytes_per_second=speed,
                shared_layer=None if shared[i] < 0 else shared[i],
                latency_seconds=latency,
                max_in_flight=limit,
            )
        )
    text = name.text()
    try:
        return Hierarchy(name=text, layers=layers, links=tuple(links))
    except InputError as error:
        node.fail(str(error))


def _pair(node: Node, num_layers: int) -> tuple[int, int]:
    ends = node.integers(0, num_layers - 1)
    if len(ends) != 2:
        node.fail(f"expected a pair of layers, got {len(ends)}")
    return ends[0], ends[1]


def _encode_program(program: Program) -> dict[str, Any]:
    instructions, tensors = program.instructions, program.tensors
    uses = [(index, use) for index, tensor in enumerate(tensors) for use in tensor.uses]
    encoded: dict[str, Any] = {
        "name": program.name,
        "instructions": {
            "name": [i.name for i in instructions],
            "compute_seconds": [float(i.compute_seconds) for i in instructions],
            "trip_count": [_plain_count(i.trip_count) for i in instructions],
            "fixed_bytes": [list(i.fixed_bytes) for i in instructions],
            "opcode": [i.opcode for i in instructions],
            "computation": [i.computation for i in instructions],
            "source": [i.source for i in instructions],
        },
        "loops": {
            "start_step": [loop.start_step for loop in program.loops],
            "end_step": [loop.end_step for loop in program.loops],
            "trip_count": [_plain_count(loop.trip_count) for loop in program.loops],
        },
        "tensors": {
            "name": [t.name for t in tensors],
            "size_bytes": [t.size_bytes for t in tensors],
            **{flag: [bool(getattr(t, flag)) for t in tensors] for flag in _FLAGS},
            **({"label": [t.label for t in tensors]} if any(t.label for t in tensors) else {}),
        },
        "uses": {
            "tensor": [index for index, _ in uses],
            "step": [use.step for _, use in uses],
            "bytes": [use.bytes for _, use in uses],
            "kind": [use.kind.name.lower() for _, use in uses],
            "operand": [use.operand for _, use in uses],
            "index": [list(use.index) for _, use in uses],
            "home_only": [bool(use.home_only) for _, use in uses],
        },
    }
    if _version(program) > 1:
        encoded["conditionals"] = {
            "edges": [list(conditional.edges) for conditional in program.conditionals],
            "weights": [[float(weight) for weight in conditional.weights] for conditional in program.conditionals],
        }
    if program.replaceable_copies:
        encoded["replaceable_copies"] = list(program.replaceable_copies)
    return encoded


def _plain_count(count: float) -> float:
    return int(count) if float(count).is_integer() else float(count)


def _decode_program(node: Node, hierarchy: Hierarchy, version: int) -> Program:
    keys = ("name", "instructions", "loops", "tensors", "uses", *("conditionals", "replaceable_copies")[: version - 1])
    name, instruction_table, loop_table, tensor_table, use_table, *more = node.fields(*keys)
    instructions = _decode_instructions(instruction_table, hierarchy.num_layers, version)
    copies = set(more[1].integers(0, len(instructions) - 1) if version > 2 else ())
    if copies:
        instructions = tuple(replace(i, is_replaceable=step in copies) for step, i in enumerate(instructions))
    loops = _decode_loops(loop_table, len(instructions), version)
    conditionals = _decode_conditionals(more[0], len(instructions)) if more else ()
    tensors = _decode_tensors(tensor_table, use_table, len(instructions))
    text = name.text()
    try:
        program = Program(name=text, instructions=instructions, tensors=tensors, loops=loops, conditionals=conditionals)
    except InputError as error:
        node.fail(str(error))
    _check_magnitudes(node, program, hierarchy)
    return program


def _decode_instructions(node: Node, num_layers: int, version: int) -> tuple[Instruction, ...]:
    keys = ("name", "compute_seconds", "trip_count", "fixed_bytes", "opcode", "computation", "source")
    _, (names, seconds, trips, fixed, opcodes, computations, sources) = node.columns(*keys)
    fixed_bytes = []
    for entry in fixed.items():
        row = tuple(entry.integers(0))
        if len(row) > num_layers:
            entry.fail(f"has {len(row)} layers, the hierarchy has {num_layers}")
        fixed_bytes.append(row)
    texts = (column.texts() for column in (names, opcodes, computations, sources))
    rows = zip(*texts, seconds.reals(), _counts(trips, version), fixed_bytes, strict=True)
    return tuple(
        Instruction(
            name=name,
            opcode=opcode,
            computation=computation,
            source=source,
            compute_seconds=compute,
            trip_count=trip_count,
            fixed_bytes=moved,
        )
        for name, opcode, computation, source, compute, trip_count, moved in rows
    )


def _decode_loops(node: Node, num_steps: int, version: int) -> tuple[Loop, ...]:
    count, (starts, ends, trips) = node.columns("start_step", "end_step", "trip_count")
    if count > MAX_LOOPS or count * num_steps > _MAX_LOOP_WORK:
        node.fail(f"{count} loops over {num_steps} steps are too many to check, expected at most {MAX_LOOPS}")
    rows = zip(starts.integers(0, num_steps), ends.integers(0, num_steps), _counts(trips, version), strict=True)
    return tuple(Loop(start_step=start, end_step=end, trip_count=trip_count) for start, end, trip_count in rows)


def _counts(node: Node, version: int) -> list[int] | list[float]:
    """Return trip counts: whole in version 1, later also expected ones, which may be fractions."""
    if version == 1:
        return node.integers(1)
    values = node.reals()
    for i, value in enumerate(values):
        if not 0 < value <= MAX_INTEGER:
            Node(node.path, f"{node.where}[{i}]", value).fail(f"expected a number in (0, {MAX_INTEGER}], got {value}")
    return [int(value) if value.is_integer() else value for value in values]


def _decode_conditionals(node: Node, num_steps: int) -> tuple[Conditional, ...]:
    count, (edges, weights) = node.columns("edges", "weights")
    if count > MAX_LOOPS or count * num_steps > _MAX_LOOP_WORK:
        node.fail(f"{count} conditionals over {num_steps} steps are too many to check, expected at most {MAX_LOOPS}")
    rows = zip(edges.items(), weights.items(), strict=True)
    return tuple(Conditional(edges=tuple(a.integers(0, num_steps)), weights=tuple(b.reals())) for a, b in rows)


def _decode_tensors(node: Node, use_table: Node, num_steps: int) -> tuple[Tensor, ...]:
    labelled = isinstance(node.value, dict) and "label" in node.value
    num_tensors, (names, sizes, *more) = node.columns("name", "size_bytes", *_FLAGS, *(("label",) if labelled else ()))
    flags, texts, sizes_bytes = more[: len(_FLAGS)], names.texts(), sizes.integers(1)
    labels = more[-1].texts() if labelled else [""] * num_tensors
    set_flags = [column.booleans() for column in flags]
    uses = _decode_uses(use_table, num_tensors, num_steps)
    return tuple(
        Tensor(
            name=texts[i],
            size_bytes=sizes_bytes[i],
            uses=tuple(uses[i]),
            label=labels[i],
            **{flag: column[i] for flag, column in zip(_FLAGS, set_flags, strict=True)},
        )
        for i in range(num_tensors)
    )


def _decode_uses(node: Node, num_tensors: int, num_steps: int) -> list[list[Use]]:
    count, columns = node.columns("tensor", "step", "bytes", "kind", "operand", "index", "home_only")
    tensors, steps = columns[0].integers(0, num_tensors - 1), columns[1].integers(0, num_steps - 1)
    sizes, operands, home_only = columns[2].integers(0), columns[4].integers(-1), columns[6].booleans()
    kinds, indices = columns[3].texts(), [tuple(entry.integers(0)) for entry in columns[5].items()]
    known = {kind.name.lower(): kind for kind in UseKind}
    uses: list[list[Use]] = [[] for _ in range(num_tensors)]
    for i in range(count):
        if kinds[i] not in known:
            columns[3].items()[i].fail(f"expected one of {', '.join(known)}, got {kinds[i]!r}")
        if i and tensors[i] < tensors[i - 1]:
            columns[0].items()[i].fail("uses must be ordered by tensor, then by step")
        uses[tensors[i]].append(
            Use(
                step=steps[i],
                bytes=sizes[i],
                kind=known[kinds[i]],
                operand=operands[i],
                index=indices[i],
                home_only=home_only[i],
            )
        )
    return uses


def _check_magnitudes(node: Node, program: Program, hierarchy: Hierarchy) -> None:
    """Refuse figures whose sums would leave int64 or float64."""
    trips = [instruction.trip_count for instruction in program.instructions]
    touched = sum(sum(i.fixed_bytes) * i.trip_count for i in program.instructions)
    touched += sum(use.bytes * trips[use.step] for tensor in program.tensors for use in tensor.uses)
    stored = sum(tensor.size_bytes for tensor in program.tensors) * max(trips, default=1)
    if max(touched, stored) > _MAX_TOTAL:
        node.fail(f"one run touches {max(touched, stored):.3g} bytes, more than {_MAX_TOTAL:.3g}")
    speeds = [layer.bytes_per_second for layer in hierarchy.layers] + [x.bytes_per_second for x in hierarchy.links]
    seconds = sum(float(i.trip_count) * i.compute_seconds for i in program.instructions)
    seconds += max(touched, stored) / min(speeds)
    seconds += sum(link.latency_seconds for link in hierarchy.links) * max(trips, default=1)
    if not seconds < 1e100:
        node.fail(f"one run takes {seconds:.3g} seconds; times, trip counts or bandwidths are out of range")

"""The flows of many tensors at once: those whose routes are of one kind have the same rows, on columns of their own.

``add_flow`` builds one flow of each kind; a flow's columns, rows and places are copied from there.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.flow import ContentsFlow, add_flow
from mallocgame.baselines.bounds.linear import Expression, LinearProgram
from mallocgame.baselines.bounds.route import Routes, StopColumn
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
FLAGS = (
    StopColumn.NEEDS_CONTENTS,
    StopColumn.NEEDS_HOME,
    StopColumn.WRITES,
    StopColumn.WRITES_HOME,
    StopColumn.IS_FREE,
)


class Places(NamedTuple):
    """Where columns stand: ``at`` is a row of ``Routes.stops`` or ``Routes.legs``."""

    owner: I64  # index into ``Routes.tensors``
    at: I64
    layer: I64
    column: I64
    factor: F64


class Moves(NamedTuple):
    """The copies of all flows, see ``CopyArc``."""

    owner: I64  # index into ``Routes.tensors``
    leg: I64  # row of ``Routes.legs``
    source: I64
    target: I64
    column: I64


class Flows(NamedTuple):
    """The columns of all flows, by what they say; see ``ContentsFlow``."""

    routes: Routes
    first_column: I64  # [N + 1]
    templates: list[ContentsFlow]
    template: I64  # [N]
    served: Places
    present: Places
    present_stops: I64  # rows of ``Routes.stops``: uses during which something may be in a layer
    kept: Places
    above_at: Places
    above: Places
    ending: Places
    moves: Moves

    def flow(self, index: int) -> ContentsFlow:
        """Return the flow of ``routes.tensors[index]`` as an object."""
        template = self.templates[int(self.template[index])]
        return template.shifted(int(self.first_column[index]), self.routes.route(index))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """A flow on the columns 0, 1, ..., its rows, and its tables: (stop or leg, layer, column, factor) a row."""

    flow: ContentsFlow
    linear: LinearProgram
    tables: dict[str, F64]


def add_flows(linear: LinearProgram, program: Program, hierarchy: Hierarchy, routes: Routes) -> Flows:
    """Add the columns and rows of all tensors of ``routes``, in their order."""
    kinds, kind = _kinds(program, hierarchy, routes)
    templates = [_template(program, hierarchy, routes, index) for index in kinds]
    widths = np.array([len(t.linear.cost) for t in templates], dtype=np.int64)
    first = np.zeros(len(kind) + 1, dtype=np.int64)
    np.cumsum(widths[kind], out=first[1:])
    start = len(linear.cost)
    linear.add_columns(np.ones(int(first[-1])))
    first += start
    _copy_rows(linear, templates, kind, first)

    def places(name: str) -> Places:
        owner, rows = _stack([t.tables[name] for t in templates], kind)
        at = routes.first[owner] + rows[:, 0].astype(np.int64)
        column = first[owner] + rows[:, 2].astype(np.int64)
        return Places(owner, at, rows[:, 1].astype(np.int64), column, rows[:, 3])

    owner, rows = _stack([t.tables["moves"] for t in templates], kind)
    whole = rows.astype(np.int64)
    return Flows(
        routes=routes,
        first_column=first,
        templates=[t.flow for t in templates],
        template=kind,
        served=places("served"),
        present=places("present"),
        present_stops=places("uses").at,
        kept=places("kept"),
        above_at=places("above_at"),
        above=places("above"),
        ending=places("ending"),
        moves=Moves(owner, routes.first[owner] + whole[:, 0], whole[:, 1], whole[:, 2], first[owner] + whole[:, 3]),
    )


def _kinds(program: Program, hierarchy: Hierarchy, routes: Routes) -> tuple[list[int], I64]:
    """Return one tensor of each kind and the kind of each (indices into ``routes.tensors``)."""
    codes = routes.stops[:, StopColumn.KIND] + 8 * routes.can_arrive
    for bit, flag in enumerate(FLAGS):
        codes = codes + (routes.stops[:, flag] << (4 + bit))
    text = codes.astype(np.int16).tobytes()
    known: dict[tuple[bytes, tuple[int, ...], bool, bool, bool], int] = {}
    found: list[int] = []
    kind = np.zeros(len(routes.tensors), dtype=np.int64)
    for index, tensor in enumerate(program.tensors[i] for i in routes.tensors.tolist()):
        stops = text[2 * int(routes.first[index]) : 2 * int(routes.first[index + 1])]
        held = tensor.holdable and tensor.is_parameter
        key = (stops, fitting_layers(hierarchy, tensor.size_bytes), tensor.is_output, tensor.hoistable, held)
        if key not in known:
            known[key] = len(found)
            found.append(index)
        kind[index] = known[key]
    return found, kind


def fitting_layers(hierarchy: Hierarchy, size_bytes: int) -> tuple[int, ...]:
    """Return layer 0 and those above it that can hold so many bytes."""
    fits = (k for k, layer in enumerate(hierarchy.layers) if k > 0 and size_bytes <= layer.capacity_bytes)
    return (0, *fits)


def _template(program: Program, hierarchy: Hierarchy, routes: Routes, index: int) -> _Template:
    tensor, linear = program.tensors[int(routes.tensors[index])], LinearProgram()
    layers = fitting_layers(hierarchy, tensor.size_bytes)
    flow = add_flow(linear, tensor, routes.route(index), layers, range(1, hierarchy.num_layers - 1))

    def table(rows: list[tuple[int, int, Expression]]) -> F64:
        terms = [(at, layer, column, factor) for at, layer, place in rows for column, factor in place.terms]
        return np.array(terms, dtype=np.float64).reshape(-1, 4)

    def above_home(tables: dict[int, list[Expression]]) -> F64:
        return table([(at, layer, p) for at, ps in tables.items() for layer, p in zip(layers[1:], ps[1:], strict=True)])

    moves = [(move.leg_index, move.source, move.target, move.column) for move in flow.moves]
    tables = {
        "served": above_home(flow.served),
        "present": above_home(flow.present),
        "uses": np.array([(at, 0, 0, 0) for at in flow.present], dtype=np.float64).reshape(-1, 4),
        "kept": above_home(flow.kept),
        "above_at": table([(at, 0, place) for at, place in flow.above_at.items()]),
        "above": table([(at, 0, place) for at, place in flow.above.items()]),
        "ending": table([(0, layers[at], place) for at, place in flow.ending.items()]),
        "moves": np.array(moves, dtype=np.float64).reshape(-1, 4),
    }
    return _Template(flow=flow, linear=linear, tables=tables)


def _stack(tables: list[F64], kind: I64) -> tuple[I64, F64]:
    """Return, for one table after the other of ``kind``, whose row each is, and the rows."""
    lengths = np.array([len(table) for table in tables], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    owner, rows = expand(starts[kind], starts[kind] + lengths[kind])
    return owner, np.concatenate(tables)[rows] if tables else np.zeros((0, 4))


def expand(low: I64, high: I64) -> tuple[I64, I64]:
    """Return (i, number) for each number in the half-open ranges ``low[i] .. high[i]``, range by range.

    >>> [part.tolist() for part in expand(np.array([3, 0]), np.array([5, 1]))]
    [[0, 0, 1], [3, 4, 0]]
    """
    counts = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(len(low)), counts)
    return owner, np.arange(len(owner)) + np.repeat(low - (np.cumsum(counts) - counts), counts)


def _copy_rows(linear: LinearProgram, templates: list[_Template], kind: I64, first: I64) -> None:
    terms = [
        np.column_stack([np.array(t.linear.row_index), np.array(t.linear.column_index), np.array(t.linear.coefficient)])
        for t in templates
    ]
    bounds = [np.array(t.linear.row_bound)[:, None] for t in templates]
    counts = np.array([len(b) for b in bounds], dtype=np.int64)[kind]
    owner, rows = _stack(terms, kind)
    rows_before = np.cumsum(counts) - counts
    linear.add_rows(
        rows_before[owner] + rows[:, 0].astype(np.int64),
        first[owner] + rows[:, 1].astype(np.int64),
        rows[:, 2],
        _stack(bounds, kind)[1].ravel(),
    )

"""A mapping as a point of the relaxation: where a window search keeps its choices."""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.flow import ContentsFlow, PerLayer
from mallocgame.baselines.bounds.relaxation import Relaxation
from mallocgame.baselines.bounds.route import StopKind
from mallocgame.mapping import HOME, Mapping, serving_layers

F64 = npt.NDArray[np.float64]


def encode(relaxation: Relaxation, mapping: Mapping) -> F64:
    """Return float64[columns] with every share of the flows at 0 or 1 as ``mapping`` has it (two layers).

    Auxiliary columns stay 0: whoever fixes shares leaves those free.
    """
    point = np.zeros(len(relaxation.linear.cost))
    program = relaxation.program
    serving = serving_layers(program, mapping)
    filled: dict[int, list[tuple[int, int]]] = {}
    for r, fill in zip(mapping.residencies, mapping.fill_boundaries.tolist(), strict=True):
        filled.setdefault(r.tensor, []).append((fill, r.end_step))
    copies: dict[int, list[tuple[bool, int]]] = {}
    for x in mapping.transfers:
        inward = x.target != HOME
        due = int(mapping.fill_boundaries[x.target]) if inward else x.done_before
        copies.setdefault(x.tensor, []).append((inward, due))
    for flow in relaxation.flows:
        tensor = flow.route.tensor
        first, last = int(program.uses.first[tensor]), int(program.uses.first[tensor + 1])
        fast = set(program.uses.step[first:last][serving[first:last] > 0].tolist())
        _encode_flow(point, flow, fast, filled.get(tensor, []), copies.get(tensor, []))
    return point


def _encode_flow(
    point: F64, flow: ContentsFlow, fast: set[int], spans: list[tuple[int, int]], copies: list[tuple[bool, int]]
) -> None:
    stops, legs = flow.route.stops, flow.route.legs
    for index, served in flow.served.items():
        _set(point, served, stops[index].boundary in fast)
    for index, present in flow.present.items():
        step = stops[index].boundary
        _set(point, present, any(fill <= step < end for fill, end in spans) and not stops[index].writes_home)
    for index, kept in flow.kept.items():
        low, high = legs[index].from_step, legs[index].to_step
        since = low - 1 if stops[index].kind is StopKind.USE else low
        until = high if stops[index + 1].kind in (StopKind.EXIT, StopKind.END) else high + 1
        stays = any(fill <= since and end >= until for fill, end in spans)
        _set(point, kept, stays)
    for move in flow.moves:
        leg = legs[move.leg_index]
        inward = move.target != 0
        if move.is_reload:
            point[move.column] = any(way and due == stops[-1].boundary for way, due in copies)
        elif any(way == inward and leg.first_due <= due <= leg.last_due for way, due in copies):
            point[move.column] = 1.0


def _set(point: F64, shares: PerLayer, is_on: bool) -> None:
    for expression in shares[1:]:
        for column, _ in expression.terms:
            point[column] = float(is_on)

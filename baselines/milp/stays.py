"""Read a 0-1 point of the relaxation as *stays*: what is in fast memory, from which use to which, how it got there."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.flow import CopyArc, Flow, PerLayer
from mallocgame.baselines.bounds.linear import Expression
from mallocgame.baselines.bounds.relaxation import Relaxation
from mallocgame.baselines.bounds.route import Leg, StopKind
from mallocgame.baselines.milp.copy_window import copy_window

F64 = npt.NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Back:
    """A copy out of a stay: issued at ``issue`` or later, complete by ``due`` at the latest, in one loop body.

    ``written`` tells which contents it saves: the boundary after their last write, or after the entry of a loop in
    which copies are made in every iteration.
    """

    written: int
    issue: int
    due: int
    trip_count: float
    column: int  # the move's, in the relaxation


@dataclass(slots=True, kw_only=True)
class Stay:
    """A tensor in a fast layer during steps ``[start, end)`` at least; ``fill``: the window of the copy that brings it.

    ``start`` is -1 for what is held; with a ``fill`` it is where the copy must be complete, and the space is needed
    from the copy's issue on.
    """

    tensor: int
    layer: int
    start: int
    end: int
    fill: Leg | None = None
    fill_column: int = -1
    is_reload: bool = False
    back: list[Back] = field(default_factory=list)
    worth: float = 0.0  # seconds saved by the uses it serves, at most


def stays(relaxation: Relaxation, point: F64) -> list[Stay]:
    """Return the stays of a point whose shares are 0 or 1 (anything above one half counts as 1); two layers only."""
    return [stay for flow in relaxation.flows for stay in _of_flow(relaxation, flow, point)]


def _is_on(expressions: PerLayer | None, at: int, point: F64) -> bool:
    return expressions is not None and _value(expressions[at], point) > 0.5


def _value(expression: Expression, point: F64) -> float:
    return expression.constant + sum(coefficient * float(point[column]) for column, coefficient in expression.terms)


def _of_flow(relaxation: Relaxation, flow: Flow, point: F64) -> list[Stay]:  # noqa: C901 (one decision table)
    path, tensor = flow.route, flow.route.tensor
    program = relaxation.program
    chosen = [move for move in flow.moves if point[move.column] > 0.5]
    fills = {move.leg_index: move for move in chosen if move.source == 0 and not move.is_reload}
    backs = {move.leg_index: move.column for move in chosen if move.target == 0}
    found: list[Stay] = []
    open_stay: Stay | None = None
    reload = next((move for move in chosen if move.is_reload), None)
    if reload is not None:
        open_stay = Stay(tensor=tensor, layer=reload.target, start=-1, end=0)
    for k, leg in enumerate(path.legs):
        stop = path.stops[k + 1]
        stays_on = _is_on(flow.kept.get(k), 1, point) and open_stay is not None
        if k in backs and open_stay is not None:
            issue, due = copy_window(program, leg)
            back = Back(written=leg.first_issue, issue=issue, due=due, trip_count=leg.trip_count, column=backs[k])
            open_stay.back.append(back)
            if not stays_on:  # the source must outlast the boundary of issue
                open_stay.end = max(open_stay.end, issue + 1)
        if open_stay is not None and stays_on:
            open_stay.end = max(open_stay.end, stop.boundary)
        elif open_stay is not None:
            found.append(open_stay)
            open_stay = None
        if k in fills and open_stay is None:
            _, due = copy_window(program, leg)
            open_stay = Stay(tensor=tensor, layer=fills[k].target, start=due, end=stop.boundary, fill=leg)
            open_stay.fill_column = fills[k].column
        if stop.kind is not StopKind.USE:
            continue
        if _is_on(flow.present.get(k + 1), 1, point):
            if open_stay is None and not stop.needs_contents:
                open_stay = Stay(tensor=tensor, layer=flow.layers[1], start=stop.boundary, end=stop.boundary + 1)
            if open_stay is not None:
                open_stay.end = max(open_stay.end, stop.boundary + 1)
                speeds = relaxation.hierarchy.layers
                gain = 1.0 / speeds[0].bytes_per_second - 1.0 / speeds[open_stay.layer].bytes_per_second
                open_stay.worth += stop.free_bytes * gain * int(program.trip_counts[stop.boundary])
        elif open_stay is not None:
            found.append(open_stay)
            open_stay = None
    if open_stay is not None:
        found.append(open_stay)
    for stay in found:
        stay.end = min(stay.end, program.num_steps)
    found = [stay for stay in found if stay.end > max(stay.start, 0)]
    if reload is not None:
        found.append(_reload(relaxation, reload))
    return found


def _reload(relaxation: Relaxation, move: CopyArc) -> Stay:
    end = relaxation.program.num_steps
    return Stay(
        tensor=move.tensor,
        layer=move.target,
        start=end,
        end=end,
        fill=move.leg,
        is_reload=True,
        fill_column=move.column,
    )

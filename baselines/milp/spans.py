"""When in the schedule each column of the relaxation decides something."""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.bounds.relaxation import Relaxation

I64 = npt.NDArray[np.int64]


def column_spans(relaxation: Relaxation) -> I64:
    """Return int64[columns, 2]: half-open step spans of shares; auxiliary columns span the whole schedule."""
    num_steps = relaxation.program.num_steps
    spans = np.zeros((len(relaxation.linear.cost), 2), dtype=np.int64)
    spans[:, 1] = num_steps + 1
    for flow in relaxation.flows:
        legs, stops = flow.route.legs, flow.route.stops
        for index, kept in flow.kept.items():
            for expression in kept[1:]:
                for column, _ in expression.terms:
                    spans[column] = legs[index].from_step, legs[index].to_step + 1
        for move in flow.moves:
            spans[move.column] = legs[move.leg_index].from_step, legs[move.leg_index].to_step + 1
        for table in (flow.served, flow.present):
            for index, shares in table.items():
                for expression in shares[1:]:
                    for column, _ in expression.terms:
                        spans[column] = stops[index].boundary, stops[index].boundary + 1
    return spans

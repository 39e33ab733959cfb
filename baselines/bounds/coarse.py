"""A program without its small tensors, which are served for nothing: what bounds it bounds the whole program.

The fastest layer takes what they move, and none of its space. Each mapping of the program is then one of the rest: its
steps take no longer, leave each link no less time (what a step gained counts as waiting), and there are fewer copies.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program

Bool = npt.NDArray[np.bool_]


def may_coarsen(hierarchy: Hierarchy) -> bool:
    """Return whether serving tensors by the fastest layer cannot slow a link or a step."""
    speeds = [layer.bytes_per_second for layer in hierarchy.layers]
    fastest = len(speeds) - 1
    return speeds[fastest] == max(speeds) and all(link.shared_layer != fastest for link in hierarchy.links)


def without(program: Program, hierarchy: Hierarchy, is_small: Bool) -> Program:
    """Return the program whose ``is_small`` (bool[N]) tensors are traffic of the fastest layer, home-only uses apart.

    It has no replaceable copies: those that are must be free already (``with_free_copies``).
    """
    fixed, uses = program.fixed_bytes(hierarchy.num_layers), program.uses
    small = is_small[uses.tensor]
    layer = np.where(uses.home_only, 0, hierarchy.num_layers - 1)
    np.add.at(fixed, (uses.step[small], layer[small]), uses.bytes[small])
    rows = zip(program.instructions, fixed.tolist(), strict=True)
    instructions = (replace(each, fixed_bytes=tuple(row), is_replaceable=False) for each, row in rows)
    kept = (tensor for tensor, small in zip(program.tensors, is_small.tolist(), strict=True) if not small)
    return replace(program, instructions=tuple(instructions), tensors=tuple(kept))

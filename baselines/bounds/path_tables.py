"""What shortest paths through memory go along, their prices, what they use, and room for the work."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

FAR = 1e300


class Paths(NamedTuple):
    """What paths go along: routes, and what prices multiply. Seconds are in units."""

    first: I64  # [N + 1], see ``Routes``
    stops: I64
    legs: I64
    trips: F64
    slot_low: I64  # [S]: the slots of the window of each leg's copies
    slot_high: I64
    size: F64  # [N], bytes
    fits: I64  # [N]: layers that can hold it, a bit each
    is_output: I64  # [N], 0 or 1
    is_split: I64  # [N]: it may not be hoisted, and a loop uses it
    is_held: I64  # [N]
    is_constant: I64  # [N]: nothing writes it
    link: I64  # [L, L]: which link copies
    link_speed: F64  # bytes per unit
    link_latency: F64  # units
    saving: F64  # [L]: units that a byte takes less in a layer than in layer 0
    reach: F64  # [T]: what the step can save
    scale: F64  # [T]: trips
    begins: I64  # [slots]: the first step that begins after a slot
    counts_flying: bool  # whether what is on its way takes space


class Prices(NamedTuple):
    """What space, link time and the time of a step cost."""

    space: F64  # [L, T + 2]: of a byte in all steps before; the step after the last is the moment between two runs
    slot: F64  # [links, slots]: of a unit of link time
    time: F64  # [T]: of a unit of what a step takes beyond its compute time
    relief: F64  # [T, L]: worth of a byte of a step's traffic that a layer serves, for the links (times trips)


class Use(NamedTuple):
    """What the cheapest paths use, to be filled."""

    space: F64  # [L, T + 2]: change of bytes at each step, the moment between two runs after them
    slot: F64  # [links, slots]: units of link time
    saved: F64  # [T]: units that a step takes less
    served: F64  # [T, L]: bytes times trips that a layer serves


class Scratch(NamedTuple):
    """Room for the work on one tensor at a time."""

    cost: F64  # [depth, rows, states]
    leg_choice: I64  # [stops, rows, states]
    stop_choice: I64
    copy: F64  # [stops, L, L]: of a leg, the cost of a copy
    slot: I64  # [stops, L, L]: and where it happens
    arrive: F64  # [stops, masks, masks]: from a set of layers, the cost of copies into another
    keep: F64  # [stops, masks]
    ahead: F64  # [rows, states]
    frames: I64  # [depth, 2]: where a path came into the loops that it is traced back through

    @classmethod
    def of(cls, paths: Paths, depth: int) -> "Scratch":
        """Return room for any of ``paths``, loops nested ``depth`` deep."""
        num_layers, longest = len(paths.saving), int(np.diff(paths.first).max(initial=1))
        masks = 1 << num_layers
        return cls(
            np.empty((depth + 1, masks, 2 * masks)),
            np.zeros((longest, masks, 2 * masks), np.int64),
            np.zeros((longest, masks, 2 * masks), np.int64),
            np.empty((longest, num_layers, num_layers)),
            np.zeros((longest, num_layers, num_layers), np.int64),
            np.empty((longest, masks, masks)),
            np.empty((longest, masks)),
            np.empty((masks, 2 * masks)),
            np.zeros((depth + 1, 2), np.int64),
        )

"""What a player sees: the memory around the current step, the next decisions, what each action would do, what is
wanted later, the links' free time, the program as a whole, and the score.

Every array is float32 (``same_as``: int32), bounded and free of NaN, and its shape depends on the number of layers and
links alone, never on the program: games of different programs stack. A finished game shows zeros.

==========  ===========================  ==============================================================================
key         shape of one game            contents
==========  ===========================  ==============================================================================
memory      [2 (L - 1), time, address]   plane 2 (l - 1): the part of each cell of layer l that residencies take; plane
                                         2 (l - 1) + 1: the part that the tensor of the current decision takes. Columns
                                         are spans of steps around the current one (``time_edges``), short near it; what
                                         lies before the first or after the last step counts as taken
supply      [K, time]                    free link seconds / seconds of the program, over the same spans, per link
uses        [1 + next_uses, F]           the current decision, then the next ones in order of play; the columns are
                                         ``use_names``; rows past the last decision are 0
same_as     [1 + next_uses] int32        the first row that concerns the same tensor; -1 past the last decision
outcomes    [A, len(OUTCOMES)]           what each legal action would do, exactly; 0 for the others
outlook     [2 (L - 1), 14]              what fast memory will be worth, and how much of it is wanted, in spans of steps
                                         ahead that double (``features.OUTLOOK``)
overview    [16, len(OVERVIEW)]          the program in segments of as many decisions each (``features.OVERVIEW``)
globals     [3 + L]                      see ``global_names``
==========  ===========================  ==============================================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from mallocgame.errors import InputError
from mallocgame.game.features import FORESEEN, OUTLOOK, OVERVIEW, SEGMENTS, SPANS_AHEAD, feature_names

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Observations(TypedDict):
    """The arrays of one game, or of B games (one more leading axis)."""

    memory: F32
    supply: F32
    uses: F32
    same_as: I32
    outcomes: F32
    outlook: F32
    overview: F32
    globals: F32


OUTCOMES = (  # s(x) = x / (1 + |x|); times are in mean steps of the program with everything in layer 0
    "legal",
    "gain",  # s(what the action saves at once)
    "wait",  # s(what is waited in addition for copies, the new one and those that it delays)
    "ahead",  # log(1 + steps from the copy's issue to now) / log(1 + T), 0: there is none
    "lasts",  # log(1 + steps from now to where the tensor may go) / log(1 + T), 0: it is not in fast memory
    "net",  # s(gain less what the space that it takes is worth, see ``prices.py``)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationConfig:
    """Sizes of the observation.

    Raises:
        InputError: a size below 1 (``next_uses`` may be 0).
    """

    past_cells: int = 6  # columns of the grid before the current step
    future_cells: int = 10  # columns from the current step on
    address_cells: int = 32  # rows of the grid
    next_uses: int = 8  # decisions shown after the current one

    def __post_init__(self) -> None:
        if min(self.past_cells, self.future_cells, self.address_cells) < 1 or self.next_uses < 0:
            raise InputError(f"need cells >= 1 and next_uses >= 0: {self}")

    @property
    def time_edges(self) -> I64:
        """int64[time + 1], the columns' edges in steps from the current one; widths double away from it.

        >>> ObservationConfig(past_cells=3, future_cells=4).time_edges.tolist()
        [-4, -2, -1, 0, 1, 2, 4, 8]
        """
        past = [-(2**i) for i in reversed(range(self.past_cells))]
        future = [2**i for i in range(self.future_cells)]
        return np.array([*past, 0, *future], dtype=np.int64)


def use_names(num_layers: int) -> tuple[str, ...]:
    """Return the names of the columns of ``uses``: static features, then what the state adds.

    ``resident.l``: the tensor is in layer l now and may stay. ``ahead``: log(1 + steps from now) / log(1 + T).
    """
    return (*feature_names(num_layers), *(f"resident.{layer}" for layer in range(1, num_layers)), "ahead")


FORESIGHT = ("outcomes", "outlook", "overview")  # what is known by trying and by looking at the whole program


def plain_columns(num_layers: int) -> list[int]:
    """Return the columns of ``uses`` that need no foresight."""
    return [i for i, name in enumerate(use_names(num_layers)) if name.split(".")[0] not in FORESEEN]


def global_names(num_layers: int) -> tuple[str, ...]:
    """Return the names of the entries of ``globals``.

    ``decided``: decisions taken / D. ``position``: step / T. ``score``: the return so far, cut at -1. ``time``:
    x / (1 + x) of simulated / all-in-layer-0 seconds. ``taken.l``: the part of layer l taken in the current step.
    """
    return ("decided", "position", "score", "time", *(f"taken.{layer}" for layer in range(1, num_layers)))


def observation_shapes(config: ObservationConfig, num_layers: int, num_links: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of one game's observation."""
    time = config.past_cells + config.future_cells
    rows = 1 + config.next_uses
    return {
        "memory": (2 * (num_layers - 1), time, config.address_cells),
        "supply": (num_links, time),
        "uses": (rows, len(use_names(num_layers))),
        "same_as": (rows,),
        "outcomes": (2 * num_layers - 1, len(OUTCOMES)),
        "outlook": ((num_layers - 1) * len(OUTLOOK), SPANS_AHEAD),
        "overview": (SEGMENTS, len(OVERVIEW)),
        "globals": (len(global_names(num_layers)),),
    }


def observation_space(config: ObservationConfig, num_layers: int, num_links: int) -> spaces.Dict:
    """Return the space of one game's observation."""
    shapes = observation_shapes(config, num_layers, num_links)
    boxes: dict[str, spaces.Space[object]] = {}
    for key, shape in shapes.items():
        if key == "same_as":
            boxes[key] = spaces.Box(-1, config.next_uses, shape, dtype=np.int32)
        else:
            low = -1.0 if key in ("globals", "outcomes") else 0.0
            boxes[key] = spaces.Box(low, 1.0, shape, dtype=np.float32)
    return spaces.Dict(boxes)


def observation_arrays(
    config: ObservationConfig, num_layers: int, num_links: int, leading: Sequence[int]
) -> Observations:
    """Return zeroed arrays for ``leading`` games, e.g. ``(64,)``."""
    shapes = observation_shapes(config, num_layers, num_links)
    lead = tuple(leading)
    return {
        "memory": np.zeros(lead + shapes["memory"], dtype=np.float32),
        "supply": np.zeros(lead + shapes["supply"], dtype=np.float32),
        "uses": np.zeros(lead + shapes["uses"], dtype=np.float32),
        "same_as": np.full(lead + shapes["same_as"], -1, dtype=np.int32),
        "outcomes": np.zeros(lead + shapes["outcomes"], dtype=np.float32),
        "outlook": np.zeros(lead + shapes["outlook"], dtype=np.float32),
        "overview": np.zeros(lead + shapes["overview"], dtype=np.float32),
        "globals": np.zeros(lead + shapes["globals"], dtype=np.float32),
    }


def copied(observations: Observations, row: int | None = None) -> Observations:
    """Return a copy, of one row if given."""
    o, part = observations, slice(None) if row is None else row
    return {
        "memory": o["memory"][part].copy(),
        "supply": o["supply"][part].copy(),
        "uses": o["uses"][part].copy(),
        "same_as": o["same_as"][part].copy(),
        "outcomes": o["outcomes"][part].copy(),
        "outlook": o["outlook"][part].copy(),
        "overview": o["overview"][part].copy(),
        "globals": o["globals"][part].copy(),
    }

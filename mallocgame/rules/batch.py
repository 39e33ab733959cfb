"""B games in one Numba call, of the same or of different programs, stacked in rows of two buffers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.rules.game import Game

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


class BatchState(NamedTuple):
    """B games. Row b is game b; rows are padded to the largest game. May be passed to Numba kernels."""

    rule_ints: I64  # int64[G, ...], ``Rules`` of each distinct game, see ``rules_views``
    rule_floats: F64  # float64[G, ...]
    start_ints: I64  # int64[G, ...], its initial state
    start_floats: F64
    which: I64  # int64[B], the game that a row plays
    ints: I64  # int64[B, ...], see ``state_views``
    floats: F64  # float64[B, ...]


def make_batch(games: Sequence[Game], which: I64) -> BatchState:
    """Return B = len(which) fresh games; ``which[b]`` indexes ``games``; all must have the same number of layers."""
    raise NotImplementedError


def batch_reset(batch: BatchState, rows: Bool) -> None:
    """Start games anew, in place, where ``rows`` bool[B] is True (change ``batch.which`` before to swap the game)."""
    raise NotImplementedError


def batch_mask(batch: BatchState, masks: Bool) -> None:
    """Write legal actions into ``masks`` bool[B, A]; all False for terminal games."""
    raise NotImplementedError


def batch_step(batch: BatchState, actions: I64, rewards: F64, done: Bool, masks: Bool) -> None:
    """Step every game that is not terminal, in place, in one Numba call.

    Args:
        actions: int64[B]; an illegal action is counted as Drop with reward NaN never: see ``illegal`` in env.
        rewards: float64[B], written; 0 for games that were terminal already.
        done: bool[B], written: terminal now.
        masks: bool[B, A], written: legal actions of the next decision.
    """
    raise NotImplementedError

"""B games in one Numba call, of the same or of different programs, stacked in rows of two buffers."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.game.rules.game import Game
from mallocgame.game.rules.state import DECISIONS, pack_rules, rules_views, state_views
from mallocgame.game.rules.step import do_step, write_mask
from mallocgame.jit import jit

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Array = TypeVar("Array", I64, F64)


class BatchState(NamedTuple):
    """B games. Row b is game b; rows are padded to the largest game. May be passed to Numba kernels.

    In a kernel, ``g = which[b]; r = rules_views(rule_ints[g], rule_floats[g])`` and then
    ``s = state_views(r.dims, ints[b], floats[b])`` give the ``Rules`` and the ``State`` of row b.
    """

    rule_ints: I64  # int64[G, ...], ``Rules`` of each distinct game, see ``rules_views``
    rule_floats: F64  # float64[G, ...]
    start_ints: I64  # int64[G, ...], its initial state
    start_floats: F64
    which: I64  # int64[B], the game that a row plays
    ints: I64  # int64[B, ...], see ``state_views``
    floats: F64  # float64[B, ...]


def make_batch(games: Sequence[Game], which: I64) -> BatchState:
    """Return B = len(which) fresh games; ``which[b]`` indexes ``games``.

    Raises:
        InputError: no games, games with different numbers of layers, or an index outside ``games``.
    """
    if not games or len({game.hierarchy.num_layers for game in games}) != 1:
        raise InputError("a batch needs at least one game, and all with the same number of layers")
    rows = np.array(which, dtype=np.int64)
    if rows.ndim != 1 or (rows < 0).any() or (rows >= len(games)).any():
        raise InputError(f"a batch needs indices below {len(games)}, got {which}")
    packed = [pack_rules(game.rules) for game in games]
    batch = BatchState(
        rule_ints=_stack([ints for ints, _ in packed]),
        rule_floats=_stack([floats for _, floats in packed]),
        start_ints=_stack([game.start.ints for game in games]),
        start_floats=_stack([game.start.floats for game in games]),
        which=rows,
        ints=np.zeros((len(rows), max(len(game.start.ints) for game in games)), dtype=np.int64),
        floats=np.zeros((len(rows), max(len(game.start.floats) for game in games)), dtype=np.float64),
    )
    batch_reset(batch, np.ones(len(rows), dtype=np.bool_))
    return batch


def _stack(arrays: list[Array]) -> Array:
    table = np.zeros((len(arrays), max(len(array) for array in arrays)), dtype=arrays[0].dtype)
    for row, array in zip(table, arrays, strict=True):
        row[: len(array)] = array
    return table


@jit
def batch_reset(batch: BatchState, rows: Bool) -> None:
    """Start games anew, in place, where ``rows`` bool[B] is True (change ``batch.which`` before to swap the game)."""
    for b in range(rows.shape[0]):
        if rows[b]:
            batch.ints[b] = batch.start_ints[batch.which[b]]
            batch.floats[b] = batch.start_floats[batch.which[b]]


@jit
def batch_mask(batch: BatchState, masks: Bool) -> None:
    """Write legal actions into ``masks`` bool[B, A]; all False for terminal games."""
    for b in range(masks.shape[0]):
        game = batch.which[b]
        r = rules_views(batch.rule_ints[game], batch.rule_floats[game])
        write_mask(r, state_views(r.dims, batch.ints[b], batch.floats[b]), masks[b])


@jit
def batch_step(batch: BatchState, actions: I64, rewards: F64, done: Bool, illegal: Bool, masks: Bool) -> None:
    """Step every game, in place, in one Numba call.

    Args:
        actions: int64[B]. An illegal one leaves its game as it is; so does any action in a terminal game.
        rewards: float64[B], written; 0 where nothing was done.
        done: bool[B], written: terminal now (every group is decided).
        illegal: bool[B], written: the game was not terminal and the action illegal.
        masks: bool[B, A], written: legal actions of the next decision.
    """
    for b in range(actions.shape[0]):
        game = batch.which[b]
        r = rules_views(batch.rule_ints[game], batch.rule_floats[game])
        s = state_views(r.dims, batch.ints[b], batch.floats[b])
        rewards[b] = 0.0
        illegal[b] = False
        if s.turn[0] < r.dims[DECISIONS]:
            reward = do_step(r, s, actions[b])
            illegal[b] = np.isnan(reward)
            if not illegal[b]:
                rewards[b] = reward
        done[b] = s.turn[0] >= r.dims[DECISIONS]
        write_mask(r, s, masks[b])

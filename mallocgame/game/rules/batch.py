"""B games in one Numba call, of the same or of different programs, stacked in rows of two buffers."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.game.rules.copying import copy_live
from mallocgame.game.rules.game import Game
from mallocgame.game.rules.outcomes import Outcomes, write_outcomes
from mallocgame.game.rules.state import Rules, State
from mallocgame.game.rules.step import do_step, write_mask
from mallocgame.jit import kernel

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Array = TypeVar("Array", I64, F64)

NO_ACTIONS = np.empty(0, dtype=np.int64)


class BatchState(NamedTuple):
    """B games. Row b is game b; rows are padded to the largest game. May be passed to Numba kernels.

    In a kernel, ``g = which[b]; r = Rules(rule_ints[g], rule_ints[g], rule_floats[g])`` and then
    ``s = State(r.layout, ints[b], floats[b])`` give the rules and the state of row b.
    """

    rule_ints: I64  # int64[G, ...], ``Rules.ints`` of each distinct game
    rule_floats: F64  # float64[G, ...]
    start_ints: I64  # int64[G, ...], its initial state
    start_floats: F64
    which: I64  # int64[B], the game that a row plays
    ints: I64  # int64[B, ...], ``State.ints``
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
    batch = BatchState(
        rule_ints=_stack([game.rules.ints for game in games]),
        rule_floats=_stack([game.rules.floats for game in games]),
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


def batch_reset(batch: BatchState, rows: Bool) -> None:
    """Start games anew, in place, where ``rows`` bool[B] is True (change ``batch.which`` before to swap the game)."""
    batch.ints[rows] = batch.start_ints[batch.which[rows]]
    batch.floats[rows] = batch.start_floats[batch.which[rows]]


class Trial(NamedTuple):
    """States in which actions are tried, and what comes of them."""

    ints: I64  # int64[B, ...], as ``BatchState.ints``
    floats: F64  # float64[B, ...]
    behind: Bool  # bool[B], the row is to be copied first: its game was started or moved elsewhere
    outcomes: F64  # float64[B, A, columns of ``Outcomes``]; B = 0: nothing is tried


def make_trial(batch: BatchState, num_actions: int) -> Trial:
    """Return what ``batch_step`` needs to try every action of every row; with ``num_actions`` 0 it tries none."""
    rows = len(batch.which) if num_actions else 0
    return Trial(
        ints=np.zeros((rows, batch.ints.shape[1]), dtype=np.int64),
        floats=np.zeros((rows, batch.floats.shape[1])),
        behind=np.ones(rows, dtype=np.bool_),
        outcomes=np.zeros((rows, num_actions, len(Outcomes))),
    )


def batch_mask(batch: BatchState, masks: Bool, trial: Trial | None = None) -> None:
    """Write legal actions into ``masks`` bool[B, A], and what comes of them; all False for terminal games."""
    rewards, flags = np.empty(len(masks)), np.empty((2, len(masks)), dtype=np.bool_)
    batch_step(batch, NO_ACTIONS, rewards, flags[0], flags[1], masks, trial or make_trial(batch, 0))


@kernel
def batch_step(
    batch: BatchState, actions: I64, rewards: F64, done: Bool, illegal: Bool, masks: Bool, trial: Trial
) -> None:
    """Step every game, in place, in one Numba call.

    Args:
        batch: the games.
        actions: int64[B]. An illegal one leaves its game as it is; so does any action in a terminal game. int64[0]:
            no game is stepped (so that masks are not compiled by themselves).
        rewards: float64[B], written; 0 where nothing was done.
        done: bool[B], written: terminal now (every group is decided).
        illegal: bool[B], written: the game was not terminal and the action illegal.
        masks: bool[B, A], written: legal actions of the next decision, all False for terminal games.
        trial: its outcomes are written for the next decision, if there is room for any.
    """
    for b in range(masks.shape[0]):
        game = batch.which[b]
        r = Rules(batch.rule_ints[game], batch.rule_ints[game], batch.rule_floats[game])
        s = State(r.layout, batch.ints[b], batch.floats[b])
        rewards[b] = 0.0
        illegal[b] = False
        if actions.shape[0] > 0 and s.turn[0] < r.num_decisions:
            reward = do_step(r, s, actions[b])
            illegal[b] = np.isnan(reward)
            if not illegal[b]:
                rewards[b] = reward
                if trial.outcomes.shape[0] > 0 and not trial.behind[b]:
                    do_step(r, State(r.layout, trial.ints[b], trial.floats[b]), actions[b])
        done[b] = s.turn[0] >= r.num_decisions
        write_mask(r, s, masks[b])
        if trial.outcomes.shape[0] > 0:
            copy = State(r.layout, trial.ints[b], trial.floats[b])
            if trial.behind[b]:
                copy_live(r, copy, s)
                trial.behind[b] = False
            write_outcomes(r, s, copy, masks[b], trial.outcomes[b])

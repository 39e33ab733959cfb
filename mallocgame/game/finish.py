"""Decide what focusing left in layer 0, once a mapping is found: small tensors, one at a time."""

import time

import numpy as np

from mallocgame.game import rules
from mallocgame.game.rules.state import Groups, Movables
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program


def finish(
    program: Program,
    focused: Program,
    hierarchy: Hierarchy,
    mapping: Mapping,
    seconds: float = float("inf"),
    *,
    moves: float = float("inf"),
) -> Mapping:
    """Return ``mapping`` with more tensors in fast memory, if the game says that this is faster; else as it is.

    The game of the whole program is played as ``mapping`` plays it. Then each tensor that only ``program`` may move,
    those that move the most bytes first, asks to stay in the fastest layer, or to be copied there for each use, and
    keeps what makes the program faster.

    Args:
        focused: the program that ``mapping`` was made for, see ``Program.focused``.
        seconds: time limit.
        moves: limit in decisions played, in whole games: the same on every machine.
    """
    if focused.num_decisions == program.num_decisions:
        return mapping
    until = time.monotonic() + seconds
    game = rules.make_game(program, hierarchy)
    owners = game.rules.tensors[game.rules.groups[game.rules.decisions, Groups.TENSOR], Movables.INDEX]
    uses = program.uses
    traffic = np.bincount(uses.tensor, uses.bytes * program.trip_counts[uses.step], len(program.tensors))
    left = [i for i in np.unique(owners).tolist() if not focused.tensors[i].movable]
    best, wanted = rules.decode(game, rules.actions_of(game, mapping), stop=lambda: time.monotonic() > until)
    if best == float("inf"):
        return mapping
    games = moves / max(game.num_decisions, 1) - 1.0
    for tensor in sorted(left, key=lambda i: -traffic[i]):
        for action in (game.num_actions - 1, game.num_actions - 2):
            if time.monotonic() > until or games < 1.0:
                break
            games -= 1.0
            trial = np.where(owners == tensor, action, wanted)
            found, taken = rules.decode(game, trial)
            if found < best:
                best, wanted = found, taken
                break
    return rules.mapping_of(game, wanted)

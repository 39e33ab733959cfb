"""The game's rules as pure functions over flat arrays (docs/rules.md).

One decision per *group* (all uses of one movable tensor in one step), in schedule order, ties by tensor. Action 0 is
Drop (serve it from layer 0); 1 + 2(l - 1) copies the tensor into layer l first; 2 + 2(l - 1) finds it there (or, for a
definition, writes it there; at the first use of a holdable parameter, finds it held from the run before).
"""

from mallocgame.game.rules.batch import BatchState, Trial, batch_mask, batch_reset, batch_step, make_batch, make_trial
from mallocgame.game.rules.game import (
    Game,
    actions_of,
    apply,
    copy_state,
    decode,
    initial_state,
    is_terminal,
    legal_actions,
    make_game,
    mapping_of,
    step,
    to_mapping,
    total_seconds,
)
from mallocgame.game.rules.outcomes import Outcomes
from mallocgame.game.rules.state import Rules, State

__all__ = [
    "BatchState",
    "Game",
    "Outcomes",
    "Rules",
    "State",
    "Trial",
    "actions_of",
    "apply",
    "batch_mask",
    "batch_reset",
    "batch_step",
    "copy_state",
    "decode",
    "initial_state",
    "is_terminal",
    "legal_actions",
    "make_batch",
    "make_game",
    "make_trial",
    "mapping_of",
    "step",
    "to_mapping",
    "total_seconds",
]

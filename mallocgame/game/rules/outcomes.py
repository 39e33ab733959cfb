"""What each legal action would do next, exactly: it is taken in a copy of the state, and undone. Numba kernels."""

from enum import IntEnum

from mallocgame.game.rules.copying import undo
from mallocgame.game.rules.state import Bool, Groups, Movables, Moves, Places, Rules, State
from mallocgame.game.rules.step import act
from mallocgame.game.rules.views import F64
from mallocgame.jit import part


class Outcomes(IntEnum):
    """Columns of an outcome; those of an illegal action are 0."""

    LEGAL = 0
    GAIN = 1  # simulated seconds that the action saves, negative where it costs some
    WAIT = 2  # of these, what is waited for copies in addition
    AHEAD = 3  # steps from the issue of the copy that it makes (or moves) to the decision's, 0: none
    BEGIN = 4  # space that it takes in addition: of steps [BEGIN, FINISH); Drop gives it back
    FINISH = 5
    LAYER = 6  # of that space, 0: none


@part
def write_outcomes(r: Rules, s: State, trial: State, mask: Bool, outcomes: F64) -> None:
    """Write the outcome of each action.

    Args:
        r: the game.
        s: the state, unchanged.
        trial: a state that goes on as ``s`` does, and does so afterwards.
        mask: bool[A], the legal actions.
        outcomes: float64[A, columns of ``Outcomes``].
    """
    turn = s.turn[0]
    for action in range(outcomes.shape[0]):
        for column in range(outcomes.shape[1]):
            outcomes[action, column] = 0.0
        if turn >= r.num_decisions or not mask[action]:
            continue
        outcomes[action, Outcomes.LEGAL] = 1.0
        group = r.decisions[turn]
        if (action == 0) != (s.served[group] < 0):  # else it leaves all as it is
            act(r, trial, action)
            _describe(r, s, trial, group, outcomes[action])
            undo(r, trial, s, group)


@part
def _describe(r: Rules, s: State, after: State, group: int, outcome: F64) -> None:
    """Compare the states before and after an action at ``group``."""
    tensor, step = r.groups[group, Groups.TENSOR], r.groups[group, Groups.STEP]
    outcome[Outcomes.GAIN] = s.total[0] - after.total[0]
    wait = after.total[0] - s.total[0]
    for k in range(r.tensors[tensor, Movables.FIRST], r.tensors[tensor, Movables.END]):
        if s.served[k] != after.served[k]:
            wait -= after.elapsed[r.groups[k, Groups.STEP]] - s.elapsed[r.groups[k, Groups.STEP]]
    outcome[Outcomes.WAIT] = wait
    place, before = after.served[group], s.served[group]
    if place < 0:
        outcome[Outcomes.BEGIN] = max(s.places[before, Places.BEGIN], 0)
        outcome[Outcomes.FINISH] = s.places[before, Places.FINISH]
        outcome[Outcomes.LAYER] = s.places[before, Places.LAYER]
        return
    outcome[Outcomes.LAYER] = after.places[place, Places.LAYER]
    outcome[Outcomes.FINISH] = after.places[place, Places.FINISH]
    if place == group:
        outcome[Outcomes.BEGIN] = max(after.places[place, Places.BEGIN], 0)
        if after.copies[2 * place, Moves.QUEUE] >= 0:
            outcome[Outcomes.AHEAD] = max(step - after.copies[2 * place, Moves.ISSUE], 0)
    else:
        outcome[Outcomes.BEGIN] = s.places[place, Places.FINISH]

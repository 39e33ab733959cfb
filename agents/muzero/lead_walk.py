"""Changed leads: what a search does with the simulations that a tree has no use for.

The tree tries what is next to the lead, one or two decisions away from it near the root; the searches of the next moves
would try the same again. A walk changes several decisions at once among those that come soon, and goes on from a lead
that is a little slower, too (simulated annealing: Metropolis et al., doi:10.1063/1.1699114), as
``game/variation_kernel.py`` does with whole games: before the first move all over the game (``planning.py``), then in
the searches of the moves.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.game.rules.copying import copy_live
from mallocgame.game.rules.state import Groups, Movables, Rules, State
from mallocgame.game.rules.step import take
from mallocgame.game.variation_kernel import (
    LAST,
    NEAR,
    SETTLED,
    SINGLE,
    SWAP,
    below,
    copy_to,
    differing,
    drawn,
    uniform,
)
from mallocgame.jit import kernel, part

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

SPAN = 32  # decisions from the root on among which a change begins
AROUND = 8  # decisions before and after a change within which the next one of the same lead begins
REACH = 64  # decisions from the root on that a change may be about: later uses of its tensors come near in time
AHEAD = 1e-9  # share of the time that counts as ahead
TEMPERATURE = 3e-4  # share of the time that a lead may be slower, at first; falls to 0 over a walk


class Walk(NamedTuple):
    """Scratch of a walk over games of D decisions."""

    current: I64  # int64[D], the lead that is changed next
    reached: F64  # float64[D], seconds after each of its decisions
    wanted: I64  # int64[D]
    taken: I64  # int64[D]
    trial: F64  # float64[D], seconds
    ints: I64  # a state
    floats: F64
    random: U64  # uint64[1]


@part
def walk_from(
    r: Rules, root: State, walk: Walk, decision_of: I64, num_actions: int, final: float, share: float
) -> tuple[int, float]:
    """Change the current lead once; return the root action of the changed one and its seconds at the end.

    It is ``current`` from now on unless it is too slow. It is played until ``SETTLED`` decisions after the last change;
    if it then differs in time and is not too slow, to its end, since what it pays may come late (then ``current`` is
    legal and ``reached`` true). Else the rest is taken to be as it was.

    Args:
        r: the game.
        root: where it stands, unchanged.
        walk: where the walk is.
        decision_of: int64[groups], the decision that is about a group, -1: none.
        num_actions: A.
        final: seconds at the end of the fastest lead.
        share: temperature, as a share of the seconds.
    """
    begin, end = root.turn[0], r.num_decisions
    now = walk.reached[end - 1]
    copy_to(walk.wanted, walk.current)
    _change(r, walk, decision_of, begin, num_actions)
    _, last = differing(walk.wanted, walk.current)
    if last < 0:
        return int(walk.current[begin]), float(now)
    slack = -share * now * math.log(1.0 - uniform(walk.random))
    s = State(r.layout, walk.ints, walk.floats)
    copy_live(r, s, root)
    until = min(last + SETTLED, end - 1)
    for i in range(begin, until + 1):
        walk.taken[i] = take(r, s, walk.wanted[i])
        walk.trial[i] = s.total[0]
    change = walk.trial[until] - walk.reached[until]
    if change > slack:
        return int(walk.taken[begin]), float(now + change)
    if abs(change) > AHEAD * now:
        for i in range(until + 1, end):
            walk.taken[i] = take(r, s, walk.wanted[i])
            walk.trial[i] = s.total[0]
        if walk.trial[end - 1] - now > slack:
            return int(walk.taken[begin]), float(walk.trial[end - 1])
    else:
        for i in range(until + 1, end):
            walk.taken[i], walk.trial[i] = walk.wanted[i], walk.reached[i]
    for i in range(begin, end):
        walk.current[i], walk.reached[i] = walk.taken[i], walk.trial[i]
    return int(walk.taken[begin]), float(walk.reached[end - 1])


@kernel
def walk_window(  # noqa: PLR0913 (a kernel takes arrays one by one)
    r: Rules,
    ints: I64,
    floats: F64,
    walk: Walk,
    decision_of: I64,
    num_actions: int,
    count: int,
    share: float,
    best: I64,
    final: float,
) -> float:
    """Change the current lead ``count`` times from the state ``ints``, ``floats`` on, which stays as it is.

    What is faster than ``final`` is written to ``best`` int64[D]; its seconds are returned, else ``final``.
    """
    root = State(r.layout, ints, floats)
    for _ in range(count):
        _, found = walk_from(r, root, walk, decision_of, num_actions, final, share)
        if found < final * (1.0 - AHEAD):
            final = found
            copy_to(best, walk.current)
    return final


@kernel
def advance(r: Rules, ints: I64, floats: F64, walk: Walk, count: int) -> None:
    """Follow the current lead for up to ``count`` decisions; make it legal and ``reached`` true if it was not."""
    s, is_true = State(r.layout, ints, floats), True
    begin = s.turn[0]
    until = min(begin + count, r.num_decisions)
    for i in range(begin, r.num_decisions):
        if i == until:
            if is_true:
                return
            rest = State(r.layout, walk.ints, walk.floats)
            copy_live(r, rest, s)
            s = rest
        action, expected = take(r, s, walk.current[i]), walk.reached[i]
        is_true = is_true and action == walk.current[i] and abs(s.total[0] - expected) <= AHEAD * expected
        walk.current[i], walk.reached[i] = action, s.total[0]


@part
def _change(r: Rules, walk: Walk, decision_of: I64, begin: int, num_actions: int) -> None:
    """Want something else for some of the decisions that come soon."""
    random, end = walk.random, r.num_decisions
    at = begin + below(random, min(SPAN, end - begin))
    while True:
        action = below(random, num_actions)
        kind = uniform(random)
        if kind < SWAP:
            _swap(r, walk, decision_of, begin, at, num_actions - 1)
        elif kind < SWAP + SINGLE:
            walk.wanted[at] = action
        else:
            group = r.decisions[at]
            tensor = r.groups[group, Groups.TENSOR]
            low, high = r.tensors[tensor, Movables.FIRST], r.tensors[tensor, Movables.END]
            one, other = low + below(random, high - low + 1), low + below(random, high - low + 1)
            for g in range(min(one, other), max(one, other)):
                if begin <= decision_of[g] < begin + REACH:
                    walk.wanted[decision_of[g]] = action
        if uniform(random) < LAST:
            return
        at = min(max(at + below(random, 2 * AROUND + 1) - AROUND, begin), end - 1)


@part
def _swap(r: Rules, walk: Walk, decision_of: I64, begin: int, at: int, fastest: int) -> None:
    """Leave one tensor that is used about then in layer 0, and let some others of those stay in fast memory."""
    low, high = max(at - NEAR, begin), min(at + NEAR, r.num_decisions)
    incoming, leaving, chosen = drawn(walk.random, walk.wanted, low, high)
    if incoming == 0:
        return
    _want(r, walk, decision_of, begin, leaving, 0)
    for k in range(incoming):
        _want(r, walk, decision_of, begin, chosen[k], fastest)


@part
def _want(r: Rules, walk: Walk, decision_of: I64, begin: int, at: int, action: int) -> None:
    """Want ``action`` for the uses within reach of the tensor of decision ``at``: all, or those that are out."""
    tensor = r.groups[r.decisions[at], Groups.TENSOR]
    for g in range(r.tensors[tensor, Movables.FIRST], r.tensors[tensor, Movables.END]):
        later = decision_of[g]
        if begin <= later < begin + REACH and (action == 0 or walk.wanted[later] == 0):
            walk.wanted[later] = action

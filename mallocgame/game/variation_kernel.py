"""Changed games of one program, as Numba kernels; ``variations.py`` says what they are for.

Random numbers: SplitMix64 (Steele, Lea and Flood, doi:10.1145/2660193.2660195), one uint64 of state.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.game.rules.copying import copy_live
from mallocgame.game.rules.state import Rules, State
from mallocgame.game.rules.step import do_step, play
from mallocgame.jit import kernel, part

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

SWAP, SINGLE = 0.4, 0.3  # chances of the kinds of change; the rest are runs of uses
NEAR = 6  # decisions before and after a swap's first that take part in it
MOST_IN = 3  # tensors that a swap brings in
LAST = 0.5  # chance that a change is the last of its game
AROUND = 16  # decisions before and after a change within which the next one begins
SETTLED = 16  # decisions after the last change in which it may still make up for what it lost, but for
SLACK = 1e-3  # this share of the time, and ten times the temperature: else the game is not played to its end


class Walk(NamedTuple):
    """A walk from game to game. D decisions, A actions, K marks; the last five are scratch."""

    random: U64  # uint64[1]
    owner: I64  # int64[D], tensor of each decision
    uses: I64  # int64[D], decisions by tensor, then step
    first: I64  # int64[tensors + 1], tensor i has uses[first[i]:first[i + 1]]
    cumulated: F64  # float64[D, A], over the chances of each action
    doubt: F64  # float64[D], cumulated, over the chances that a change begins there
    current: I64  # int64[D], the game that is changed next
    totals: F64  # float64[D], seconds after each of its decisions
    best: I64  # int64[D]
    seconds: F64  # float64[2], of the best and of the current game
    marks: I64  # int64[K, ...], states of the current game before each ``stride`` decisions
    mark_floats: F64  # float64[K, ...]
    known: I64  # int64[1], of these, how many are true
    wanted: I64  # int64[D]
    taken: I64  # int64[D]
    trial: F64  # float64[D], seconds
    limits: F64  # float64[D]
    ints: I64
    floats: F64


@part
def uniform(random: U64) -> float:
    """Return a number in [0, 1)."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@part
def below(random: U64, count: int) -> int:
    """Return an integer in [0, count)."""
    return int(uniform(random) * count)


@part
def copy_to(target: I64 | F64, source: I64 | F64) -> None:
    """Copy an array. (Numba's own ``[:] =`` compiles the text of errors too, for seconds.)"""
    for i in range(source.shape[0]):
        target[i] = source[i]


@kernel
def vary(rules: Rules, walk: Walk, count: int, stride: int, temperature: float) -> int:
    """Play ``count`` changed games; return how many decisions that took."""
    moves = 0
    for _ in range(count):
        copy_to(walk.wanted, walk.current)
        change(walk)
        begin, end = differing(walk.wanted, walk.current)
        if begin < 0:
            continue
        mark = begin // stride
        moves += reach(rules, walk, mark, stride)
        slack = (SLACK + 10.0 * temperature) * walk.seconds[1]
        copy_to(walk.trial, walk.totals)
        for i in range(walk.totals.shape[0]):
            walk.limits[i] = walk.totals[i] + slack if i >= end + SETTLED else np.inf
        copy_to(walk.taken, walk.wanted)
        state = State(rules.layout, walk.ints, walk.floats)
        copy_live(rules, state, State(rules.layout, walk.marks[mark], walk.mark_floats[mark]))
        seconds = play(rules, state, walk.wanted, walk.taken, walk.trial, walk.limits)
        moves += state.turn[0] - mark * stride
        loss = seconds / walk.seconds[1] - 1.0
        if loss <= 0.0 or (temperature > 0.0 and uniform(walk.random) < np.exp(-loss / temperature)):
            copy_to(walk.current, walk.taken)
            copy_to(walk.totals, walk.trial)
            walk.seconds[1] = seconds
            walk.known[0] = min(walk.known[0], mark + 1)
            if seconds <= walk.seconds[0]:
                walk.seconds[0] = seconds
                copy_to(walk.best, walk.taken)
    return moves


@part
def differing(one: I64, other: I64) -> tuple[int, int]:
    """Return the first and the last index where two arrays differ, -1 where they do not."""
    begin, end = -1, -1
    for i in range(one.shape[0]):
        if one[i] != other[i]:
            begin = i if begin < 0 else begin
            end = i
    return begin, end


@part
def reach(rules: Rules, walk: Walk, mark: int, stride: int) -> int:
    """See that the mark ``mark`` is known; return how many decisions that took."""
    moves = 0
    while walk.known[0] <= mark:
        before = walk.known[0] - 1
        state = State(rules.layout, walk.marks[before + 1], walk.mark_floats[before + 1])
        copy_live(rules, state, State(rules.layout, walk.marks[before], walk.mark_floats[before]))
        for i in range(before * stride, min((before + 1) * stride, rules.num_decisions)):
            do_step(rules, state, walk.current[i])
            moves += 1
        walk.known[0] += 1
    return moves


@part
def change(walk: Walk) -> None:
    """Change a few of the wanted actions, most likely where there is doubt, often several near each other."""
    random, wanted = walk.random, walk.wanted
    length, num_actions = walk.cumulated.shape
    at = min(int(np.searchsorted(walk.doubt, uniform(random))), length - 1)
    while True:
        action = int(np.searchsorted(walk.cumulated[at], uniform(random)))
        if action == wanted[at] or action >= num_actions:
            action = below(random, num_actions)
        kind = uniform(random)
        if kind < SWAP:
            swap(walk, at)
        elif kind < SWAP + SINGLE:
            wanted[at] = action
        else:
            low, high = walk.first[walk.owner[at]], walk.first[walk.owner[at] + 1]
            one, other = below(random, high - low + 1), below(random, high - low + 1)
            for i in range(low + min(one, other), low + max(one, other)):
                wanted[walk.uses[i]] = action
        if uniform(random) < LAST:
            return
        at = min(max(at + below(random, 2 * AROUND + 1) - AROUND, 0), length - 1)


@part
def drawn(random: U64, wanted: I64, begin: int, end: int) -> tuple[int, int, tuple[int, int, int]]:
    """Draw a swap among ``begin`` to ``end``: how many decisions come in (0: no swap), which leaves, and which come."""
    inside = 0
    for i in range(begin, end):
        inside += wanted[i] > 0
    outside = end - begin - inside
    if inside == 0 or outside == 0:
        return 0, 0, (0, 0, 0)
    incoming = 1 + below(random, min(MOST_IN, outside))
    leaving = nth(wanted, begin, end, True, below(random, inside))
    chosen = (
        nth(wanted, begin, end, False, below(random, outside)),
        nth(wanted, begin, end, False, below(random, outside)),
        nth(wanted, begin, end, False, below(random, outside)),
    )
    return incoming, leaving, chosen


@part
def swap(walk: Walk, at: int) -> None:
    """Leave one tensor that is used about now in layer 0, and let some others of those stay in fast memory."""
    wanted, fastest = walk.wanted, walk.cumulated.shape[1] - 1
    incoming, leaving, chosen = drawn(walk.random, wanted, max(at - NEAR, 0), min(at + NEAR, wanted.shape[0]))
    if incoming == 0:
        return
    for i in range(walk.first[walk.owner[leaving]], walk.first[walk.owner[leaving] + 1]):
        wanted[walk.uses[i]] = 0
    for k in range(incoming):
        for i in range(walk.first[walk.owner[chosen[k]]], walk.first[walk.owner[chosen[k]] + 1]):
            if wanted[walk.uses[i]] == 0:
                wanted[walk.uses[i]] = fastest


@part
def nth(wanted: I64, begin: int, end: int, inside: bool, rank: int) -> int:
    """Return the decision of that rank among those, from ``begin`` on, that stay in fast memory (or do not)."""
    for i in range(begin, end):
        if (wanted[i] > 0) == inside:
            if rank == 0:
                return i
            rank -= 1
    return end - 1

"""What fast memory is worth at each step: prices of a relaxation of the whole program, found before the game starts.

Each decision may be served by a stay since the tensor's use before, by a copy just before, or by layer 0. Addresses,
chains of stays and copies that wait for one another are left out; what remains is that no step holds more than the
layer's capacity. Where more is wanted the price rises, where less it falls (multiplicative weights on the Lagrangian
dual); a decision takes what leaves it the most after rent.

Source of the rule: Arora, Hazan and Kale, doi:10.4086/toc.2012.v008a006.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.game.rules import Game
from mallocgame.game.rules.state import Groups, Movables

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

ROUNDS = 60
FIRST_RATE, LAST_RATE = 0.6, 0.06
LEAST = 1e-3  # of the first price: what falls may rise again


class Prices(NamedTuple):
    """The relaxation of a game in one layer. Values are in mean steps of the program with everything in layer 0.

    Attributes:
        cumulative: float64[T + 1], the price of the whole layer over all steps before.
        wanted: float64[T], the part of the layer that all that saves anything would take together, staying if it can.
        rent: float64[2, G], of a stay since the use before and of a copy; infinite where there is none.
        chosen: float64[2, G], how often in the last half of the rounds each was taken, 0 to 1.
    """

    cumulative: F64
    wanted: F64
    rent: F64
    chosen: F64


def find_prices(game: Game, layer: int, benefit: F64, copy_work: F64, idle: F64) -> Prices:
    """Return the prices of a layer.

    Args:
        game: the game.
        layer: above 0.
        benefit: float64[G], what serving a group there saves, everything else at home, in mean steps.
        copy_work: float64[G], link time of a copy from layer 0 in all executions, mean steps.
        idle: float64[T + 1], link time free before each step with everything in layer 0, cumulated, mean steps.
    """
    rules = game.rules
    end = rules.groups[:, Groups.STEP] + 1
    owner = rules.groups[:, Groups.TENSOR]
    part = rules.tensors[owner, Movables.SIZE] / game.hierarchy.layers[layer].capacity_bytes
    begins, extra = _ways(game, copy_work, idle)
    worthwhile = (benefit > 0) & np.isfinite(extra).any(axis=0)
    widest = np.where(np.isfinite(extra[0]), begins[0], begins[1])
    area = float((part * (end - widest))[worthwhile].sum())
    wanted = _load(widest, end, part * worthwhile, rules.num_steps)
    scarce = wanted > 1.0  # elsewhere memory is free
    first = max(benefit[worthwhile].sum() / max(area, 1.0), 1e-12)
    price = np.where(scarce, first, 0.0)
    chosen, total = np.zeros((2, len(end))), np.zeros_like(price)
    kept = ROUNDS // 2
    for number in range(ROUNDS):
        gain = benefit - _rent(price, begins, end, part) - extra
        stays = (gain[0] > 0) & (gain[0] >= gain[1])
        taken = np.stack([stays, (gain[1] > 0) & ~stays])
        if number >= ROUNDS - kept:
            chosen += taken
            total += price
        rate = FIRST_RATE * (LAST_RATE / FIRST_RATE) ** (number / ROUNDS)
        excess = _load(begins, end, part * taken, len(price)) - 1.0
        price = np.where(scarce, np.maximum(price * np.exp(rate * np.clip(excess, -1.0, 1.0)), LEAST * first), 0.0)
    mean = total / kept
    cumulative = np.concatenate([[0.0], np.cumsum(mean)])
    return Prices(cumulative, wanted, _rent(mean, begins, end, part) + extra, chosen / kept)


def _ways(game: Game, copy_work: F64, idle: F64) -> tuple[I64, F64]:
    """Return int64[2, G], the step from which a stay and a copy take space; and float64[2, G], what they cost besides.

    A copy begins where the free link time from there to the use is its work; what is missing is waited for.
    """
    groups = game.rules.groups
    step, reads, owner = groups[:, Groups.STEP], groups[:, Groups.READS] > 0, groups[:, Groups.TENSOR]
    first = np.arange(len(step)) == game.rules.tensors[owner, Movables.FIRST]
    before = np.where(first, -1, np.roll(step, 1))
    holdable = game.rules.tensors[owner, Movables.HOLDABLE] > 0
    stay = np.where(reads, np.maximum(before, 0), step)
    possible = ~reads | ~first | holdable
    copy = np.searchsorted(idle, idle[step] - copy_work, side="right") - 1
    copy = np.minimum(np.maximum(copy, before + 1), step)
    late = np.maximum(copy_work - (idle[step] - idle[copy]), 0.0)
    extra = np.stack([np.where(possible, 0.0, np.inf), np.where(reads, late, np.inf)])
    return np.stack([stay, copy]).astype(np.int64), extra


def _rent(price: F64, begins: I64, end: I64, part: F64) -> F64:
    total = np.concatenate([[0.0], np.cumsum(price)])
    return np.asarray(part * (total[end] - total[begins]))


def _load(begins: I64, end: I64, part: F64, num_steps: int) -> F64:
    """Return float64[T], the sum of the parts, float64[ways, G], that are taken over [begin, end)."""
    size = num_steps + 1
    change = np.bincount(begins.ravel(), part.ravel(), size) - np.bincount(
        np.broadcast_to(end, begins.shape).ravel(), part.ravel(), size
    )
    return np.cumsum(change)[:num_steps]

"""Greedy over the random policy (GORP), and how far ahead a game makes one look: its effective horizon.

At every decision GORP tries each sequence of k actions, plays ``rollouts`` games to the end at random after each, and
takes the first action of the sequence with the best mean. It needs nothing but the rules, so what it reaches says how
hard a game is for learning: if k steps of look-ahead and m rollouts are enough, the effective horizon is at most
k + log_A(m), A the number of actions.

Source: Laidlaw, Russell, Dragan, "Bridging RL Theory and Practice with the Effective Horizon", NeurIPS 2023,
arXiv 2304.09853 (algorithm 1, definition 5.3).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.game.batch import MallocGameBatch
from mallocgame.hierarchy import Hierarchy
from mallocgame.jit import jit
from mallocgame.judge.simulation import home_seconds
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Incumbent, Problem, solver
from mallocgame.warm_up import tiny_problem

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


MAX_ROLLOUTS = 4096


@jit
def random_legal(masks: Bool, draws: F64, actions: I64) -> None:
    """Write a uniformly random legal action of each row into ``actions`` int64[B] (0 where none is legal).

    ``masks`` is bool[B, A]; ``draws`` float64[B] in [0, 1) is the randomness.
    """
    for b in range(masks.shape[0]):
        count = 0
        for a in range(masks.shape[1]):
            count += masks[b, a]
        skip = int(draws[b] * count)
        actions[b] = 0
        for a in range(masks.shape[1]):
            if masks[b, a]:
                if skip == 0:
                    actions[b] = a
                    break
                skip -= 1


class Gorp:
    """A game and its rollouts: ``play`` an episode, ``best`` is the best mapping that any game has met."""

    def __init__(
        self, program: Program, hierarchy: Hierarchy, *, look_ahead: int = 1, rollouts: int = 8, seed: int = 0
    ) -> None:
        """Make room for ``rollouts`` games after every sequence of ``look_ahead`` actions.

        Raises:
            InputError: ``look_ahead`` or ``rollouts`` below 1; see ``MallocGameBatch``.
        """
        if look_ahead < 1 or rollouts < 1:
            raise InputError(f"need look_ahead >= 1 and rollouts >= 1, got {look_ahead} and {rollouts}")
        self.root = MallocGameBatch([(program, hierarchy)], 1, observe=False)
        self.sequences = np.array(list(product(range(self.root.num_actions), repeat=look_ahead)), dtype=np.int64)
        self.rollouts = rollouts
        self.batch = MallocGameBatch([(program, hierarchy)], rollouts * len(self.sequences), observe=False)
        self.best, self.best_seconds = Mapping(), self.root.seconds(0)
        self._random = np.random.default_rng(seed)

    def play(self, stop: Callable[[], bool] = lambda: False) -> float:
        """Play an episode, or what of it there is time for until ``stop`` says so, and return its judged seconds."""
        self.root.reset()
        while not self.root.done[0] and not stop():
            self.root.step([self.best_action(stop)])
        self._keep(self.root, 0)
        return self.root.seconds(0)

    def best_action(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Return the action of the best mean; the rollouts are left at their ends, or where ``stop`` ended them."""
        batch = self.batch
        batch.copy_from(self.root, 0)
        possible = np.ones(batch.batch_size, dtype=np.bool_)
        rows = np.arange(batch.batch_size)
        for column in self.sequences.T:
            actions = np.repeat(column, self.rollouts)
            possible &= batch.action_masks[rows, actions] | batch.done  # past the end, one sequence is like another
            actions[~possible] = 0
            batch.step(actions)
        while not batch.done.all() and not stop():
            random_legal(batch.action_masks, self._random.random(batch.batch_size), actions)
            batch.step(actions)
        seconds = batch.all_seconds()
        self._keep(batch, int(np.argmin(seconds)))
        means = np.where(possible, seconds, np.inf).reshape(-1, self.rollouts).mean(axis=1)
        return int(self.sequences[int(np.argmin(means)), 0])

    def _keep(self, batch: MallocGameBatch, row: int) -> None:
        if batch.seconds(row) < self.best_seconds:
            self.best, self.best_seconds = batch.to_mapping(row), batch.seconds(row)


def _compile(_: Problem, **_options: Any) -> None:
    Gorp(*tiny_problem(), rollouts=1).play()


@solver(warm_up=_compile)
def gorp(search: Incumbent) -> None:
    """Play GORP with k = 1 and 1, 2, 4, ... rollouts; an episode is a step."""
    rollouts = 1
    while not search.out_of_time() and rollouts <= MAX_ROLLOUTS:
        player = Gorp(*search.problem, rollouts=rollouts, seed=search.seed)
        player.play(search.out_of_time)
        search.offer(player.best)
        search.count()
        rollouts *= 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveHorizon:
    """How far ahead GORP must look to come within ``tolerance`` of ``target_seconds`` (of the time it saves).

    ``horizon`` is the least k + log_A(rollouts) that reached it in at least half of the seeds, infinite if none did;
    ``look_ahead`` and ``rollouts`` attain it (0 if none did). ``medians`` holds (k, rollouts, median judged seconds).
    """

    horizon: float
    look_ahead: int
    rollouts: int
    num_actions: int
    target_seconds: float
    tolerance: float
    medians: tuple[tuple[int, int, float], ...]


def effective_horizon(
    program: Program,
    hierarchy: Hierarchy,
    *,
    target_seconds: float | None = None,
    tolerance: float = 0.1,
    look_aheads: Sequence[int] = (1, 2, 3),
    max_horizon: float = 4.0,
    seeds: Sequence[int] = (0, 1, 2),
) -> EffectiveHorizon:
    """Measure the effective horizon of a game with GORP.

    Args:
        program: what is played.
        hierarchy: its memory.
        target_seconds: what counts as solved (then it stops at the horizon); by default the best time that any of the
            runs made here has met.
        tolerance: a run has reached the target if it saves at least 1 - tolerance of what the target saves.
        look_aheads: k, the lengths of the sequences that are tried.
        max_horizon: rollouts go 1, 2, 4, ... while k + log_A(rollouts) stays within this; a run takes about
            A ** horizon * D ** 2 / 2 decisions.
        seeds: of the runs; at least half must reach the target.

    Raises:
        InputError: nothing to try.
    """
    if not look_aheads or min(look_aheads) < 1 or not seeds:
        raise InputError(f"need a look-ahead of 1 or more and a seed, got {look_aheads} and {seeds}")
    num_actions = 2 * hierarchy.num_layers - 1
    home = best = home_seconds(program, hierarchy)
    runs: dict[tuple[int, int], list[float]] = {}
    pairs = sorted(
        (k + math.log(2**i, num_actions), k, 2**i)
        for k in look_aheads
        for i in range(64)
        if k + math.log(2**i, num_actions) <= max_horizon + 1e-9
    )
    for _, look_ahead, rollouts in pairs:
        times = runs.setdefault((look_ahead, rollouts), [])
        for seed in seeds:
            player = Gorp(program, hierarchy, look_ahead=look_ahead, rollouts=rollouts, seed=seed)
            times.append(player.play())
            best = min(best, player.best_seconds)
        if target_seconds is not None and _reached(times, home, target_seconds, tolerance):
            break  # no later pair has a smaller horizon
    target = best if target_seconds is None else target_seconds
    reached = (pair for pair in pairs if _reached(runs.get(pair[1:], ()), home, target, tolerance))
    horizon, look_ahead, rollouts = next(reached, (math.inf, 0, 0))
    return EffectiveHorizon(
        horizon=horizon,
        look_ahead=look_ahead,
        rollouts=rollouts,
        num_actions=num_actions,
        target_seconds=target,
        tolerance=tolerance,
        medians=tuple((k, m, float(np.median(times))) for (k, m), times in runs.items()),
    )


def _reached(times: Sequence[float], home: float, target: float, tolerance: float) -> bool:
    """Whether at least half of the runs save enough."""
    enough = home - (1.0 - tolerance) * (home - target)
    return 0 < len(times) <= 2 * sum(time <= enough for time in times)

"""How fast the environment is: ``python -m tests.benchmarks.game_env [TRACE...]``; the rules: ``...benchmarks.game``.

Random legal play on shipped traces, in processor time of this process, medians of 5 runs of at least 0.3 s. "rules" is
Numba alone, as in ``tests/benchmarks/game.py``; the other columns are calls from Python, masks included.
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium
import numpy as np

import mallocgame  # noqa: F401 (registers MallocGame-v0)
from mallocgame.baselines.play.gorp import random_legal
from mallocgame.game.batch import MallocGameBatch
from mallocgame.workloads.make import find_programs

TRACES = ("alexnet-v5e", "mobilenet-v5e", "llama_decode-v5e", "gpt2_training-v5e")
COLUMNS = (
    "trace",
    "decisions",
    "batch 1",
    "batch 64",
    "batch 1 + obs",
    "batch 64 + obs",
    "env.step",
    "vec 64",
    "obs us",
)


def rate(work: Callable[[], int]) -> float:
    """Return the median of steps per second; ``work`` returns the steps it made."""
    work()
    found = []
    for _ in range(5):
        begun, steps = time.process_time(), 0
        while time.process_time() - begun < 0.3:
            steps += work()
        found.append(steps / (time.process_time() - begun))
    return median(found)


def batch_rate(programs: Any, size: int, *, observe: bool) -> float:
    """Return steps per second of ``MallocGameBatch``, all games together."""
    batch = MallocGameBatch(programs, size, observe=observe)
    random, actions = np.random.default_rng(0), np.zeros(size, dtype=np.int64)

    def episode() -> int:
        batch.reset()
        while not batch.done.all():
            random_legal(batch.action_masks, random.random(size), actions)
            batch.step(actions)
        return size * batch.games[0].num_decisions

    return rate(episode)


def env_rate(programs: Any) -> float:
    """Return steps per second of the Gymnasium environment: full observation, fresh arrays, info."""
    env = gymnasium.make("MallocGame-v0", programs=programs, disable_env_checker=True).unwrapped
    random, actions = np.random.default_rng(0), np.zeros(1, dtype=np.int64)

    def episode() -> int:
        _, info = env.reset()
        steps, done = 0, False
        while not done:
            random_legal(info["action_mask"][None].view(np.bool_), random.random(1), actions)
            _, _, done, _, info = env.step(actions[0])
            steps += 1
        return steps

    return rate(episode)


def vector_rate(programs: Any, size: int) -> float:
    """Return steps per second of the vector environment, all games together."""
    envs = gymnasium.make_vec("MallocGame-v0", num_envs=size, programs=programs)
    random, actions = np.random.default_rng(0), np.zeros(size, dtype=np.int64)
    state = {"info": envs.reset(seed=0)[1]}

    def steps() -> int:
        for _ in range(50):
            random_legal(state["info"]["action_mask"].view(np.bool_), random.random(size), actions)
            state["info"] = envs.step(actions)[4]
        return 50 * size

    return rate(steps)


def main(traces: list[str]) -> None:
    """Print steps per second, a row per trace."""
    print("  ".join(f"{column:>14}" for column in COLUMNS))
    for name in traces or TRACES:
        programs = find_programs(suite=name)
        plain, many = (batch_rate(programs, size, observe=False) for size in (1, 64))
        seen, seen_many = (batch_rate(programs, size, observe=True) for size in (1, 64))
        decisions = MallocGameBatch(programs, 1).games[0].num_decisions
        rates = (plain, many, seen, seen_many, env_rate(programs), vector_rate(programs, 64))
        cells = [name, str(decisions), *(f"{value:.0f}" for value in rates), f"{1e6 / seen_many - 1e6 / many:.1f}"]
        print("  ".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Is play as fast as in another checkout? ``python -m tests.benchmarks.game_speed --against FOLDER [--rounds 3]``.

Both checkouts play the same games in turn, each in a process of its own, kernels warm; printed are processor times of a
step (``copy``: of a copied state) in microseconds, medians over the rounds, and the median of the ratios of a round.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import geometric_mean, median

import numpy as np

from mallocgame.baselines.play.gorp import random_legal
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.rules import actions_of, copy_state, decode, legal_actions, step
from mallocgame.workloads import suite

TRACES = ("lstm-v5e", "mobilenet-v5e", "llama_decode-v5e", "gpt2_training-v5e", "resnet50_training-v5e")
KINDS = ("batch", "observed", "replay", "random", "python", "copy")


def microseconds(work: Callable[[], int], least: float = 0.25) -> float:
    """Return the processor time of a step; ``work`` returns the steps it made."""
    work()
    begun, steps = time.process_time(), 0
    while time.process_time() - begun < least:
        steps += work()
    return (time.process_time() - begun) / steps * 1e6


def measure(name: str) -> dict[str, float]:
    """Return the time of each kind of play on a trace."""
    trace = suite.load(name)
    pair = (trace.program.without_hoisting(), trace.hierarchy)
    many, one = MallocGameBatch([pair], 32, observe=False), MallocGameBatch([pair], 1)
    game = many.games[0]
    wanted = actions_of(game, trace.mapping)
    random = np.random.default_rng(1).integers(game.num_actions, size=game.num_decisions)

    def roll(batch: MallocGameBatch) -> int:
        rng, size, steps = np.random.default_rng(0), batch.batch_size, 0
        actions = np.zeros(size, dtype=np.int64)
        batch.reset()
        while not batch.done.all():
            random_legal(batch.action_masks, rng.random(size), actions)
            batch.step(actions)
            steps += size
        return steps

    def from_python() -> int:
        state = copy_state(game, game.start)
        for action in wanted[:200].tolist():
            step(game, state, action if legal_actions(game, state)[action] else 0)
        return min(game.num_decisions, 200)

    return {
        "batch": microseconds(lambda: roll(many)),
        "observed": microseconds(lambda: roll(one)),
        "replay": microseconds(lambda: len(decode(game, wanted)[1])),
        "random": microseconds(lambda: len(decode(game, random)[1])),
        "python": microseconds(from_python),
        "copy": microseconds(lambda: len([copy_state(game, game.start)])),
    }


def run(folder: str) -> dict[str, dict[str, float]]:
    """Measure a checkout in a process of its own."""
    environment = dict(os.environ, PYTHONPATH=folder)
    command = [sys.executable, __file__, "--here"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder)
    found: dict[str, dict[str, float]] = json.loads(answer.stdout)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="speed of play, here and in another checkout")
    parser.add_argument("--against", help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="print this checkout's figures as JSON")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps({name: measure(name) for name in TRACES}))
        return
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    rounds = [(run(arguments.against), run(here)) for _ in range(arguments.rounds)]
    print("trace                   kind      before us   now us  now / before")
    for kind in KINDS:
        ratios = []
        for name in TRACES:
            before, now = ([one[i][name][kind] for one in rounds] for i in (0, 1))
            ratios.append(median(b / a for a, b in zip(before, now, strict=True)))
            print(f"{name:<23} {kind:<8} {median(before):10.2f} {median(now):8.2f} {ratios[-1]:13.3f}", flush=True)
        print(f"{'geometric mean':<23} {kind:<8} {'':>19} {geometric_mean(ratios):13.3f}")


if __name__ == "__main__":
    main()

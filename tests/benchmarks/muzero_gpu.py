"""What a GPU brings: moves a second in self-play and updates a second, in at most five minutes.

``python -m tests.benchmarks.muzero_gpu --device gpu`` (with ``--tiny`` in seconds, to try it anywhere): on
moe_decode-v5e, rows of JSON: steps of the rules with observations, self-play with 16 simulations in the learned model
and on the rules by number of games, and updates by batch size, losses not read back. Everything is compiled before its
window begins; the rules run on all cores that the process may use.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import jax
import numpy as np

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.devices import choose, device_kind
from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import make_any_search
from mallocgame.agents.muzero.search import Key, key_of
from mallocgame.agents.muzero.selfplay import SelfPlay
from mallocgame.game.batch import MallocGameBatch
from mallocgame.solver import Problem
from mallocgame.system import num_cores
from mallocgame.workloads import suite

Row = dict[str, Any]
TRACE = "moe_decode-v5e"


def main() -> None:
    """Print a row for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, help="of each measurement, by default 8, tiny 0.5")
    chosen = parser.parse_args()
    choose(chosen.device)
    trace = suite.load("alexnet-v5e" if chosen.tiny else TRACE)
    problem = Problem(trace.program.without_hoisting().focused(Config().focus_fraction), trace.hierarchy)
    seconds = chosen.seconds or (0.5 if chosen.tiny else 8.0)
    sizes = (16, 32) if chosen.tiny else (256, 1024, 4096)
    batches = (16, 32) if chosen.tiny else (128, 512, 2048)
    about = {"device": device_kind(), "cores": num_cores(), "trace": trace.name, "seconds": seconds}
    begun = time.monotonic()
    rows = chain(_rules(problem, sizes, seconds), _plays(problem, sizes, seconds), _updates(batches, seconds))
    for row in rows:
        print(json.dumps(about | row), flush=True)
    sys.stderr.write(f"{time.monotonic() - begun:.0f} s in all\n")


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Return units of work a second, the first call not counted."""
    work()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        done += work()
    return round(done / (time.perf_counter() - begun), 1)


def _rules(problem: Problem, sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    for size in sizes:
        batch, random = MallocGameBatch([problem], size), np.random.default_rng(0)

        def step(batch: MallocGameBatch = batch, random: np.random.Generator = random) -> int:
            if batch.done.all():
                batch.reset()
            batch.step(np.where(batch.action_masks, random.random(batch.action_masks.shape), -1.0).argmax(axis=1))
            return batch.batch_size

        yield {"what": "rules, steps/s", "games": size, "rate": _rate(step, seconds)}


def _plays(problem: Problem, sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    for model in ("learned", "rules"):
        for size in sizes if model == "learned" else sizes[:2]:
            config = Config(model=model, num_simulations=16, num_games=size, moves_in_flight=2**31)
            probe = MallocGameBatch([problem], 1)
            network = Model(config, probe.num_actions)
            learner, _ = make_learner(network, probe.observations, 0)
            search = make_any_search(network, num_simulations=16, explore=True)
            play, key = SelfPlay([problem], config, search, 0), key_of(0)

            def advance(play: SelfPlay = play, weights: Any = learner.target, key: Key = key) -> int:
                play.advance(weights, key)
                return play.num_games

            yield {"what": f"self-play, {model}, moves/s", "games": size, "rate": _rate(advance, seconds)}


def _updates(sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    for size in sizes:
        config = replace(Config(), batch_size=size)
        probe = MallocGameBatch([Problem(*_first())], size)
        model = Model(config, probe.num_actions)
        learner, update = make_learner(model, probe.observations, 0)
        steps = config.unroll_steps
        policies = np.full((size, steps + 1, probe.num_actions), 1.0 / probe.num_actions, dtype=np.float32)
        observations = {name: np.array(array) for name, array in probe.observations.items()}
        batch = {
            "observations": observations,
            "next_observations": observations,
            "actions": np.zeros((size, steps), dtype=np.int32),
            "rewards": np.zeros((size, steps), dtype=np.float32),
            "values": np.zeros((size, steps + 1), dtype=np.float32),
            "policies": policies,
            "mask": np.ones((size, steps + 1), dtype=np.float32),
            "weights": np.ones(size, dtype=np.float32),
        }
        held = [learner]

        def run(held: list[Any] = held, batch: Row = batch, update: Any = update) -> int:
            for _ in range(8):
                held[0], losses = update(held[0], batch, 1e-3)
            jax.block_until_ready(losses.total)
            return 8

        yield {"what": "updates/s", "batch": size, "rate": _rate(run, seconds)}


def _first() -> tuple[Any, Any]:
    trace = suite.load("alexnet-v5e")
    return trace.program, trace.hierarchy


if __name__ == "__main__":
    main()

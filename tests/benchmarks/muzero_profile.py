"""Where the time of training goes: ``python -m tests.benchmarks.muzero_profile [TRACE] --steps 27000``.

A new agent trains on the trace; a third as many moves come before, among them the first games, which are not searched.
Printed are moves and updates a second, and each function's own seconds (Python's profiler), the largest first.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.trainer import Trainer
from mallocgame.workloads import suite


def main() -> None:
    """Train, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", default="bert_training-v5e")
    parser.add_argument("--steps", type=int, default=27_000, help="moves that are looked at")
    parser.add_argument("--rows", type=int, default=20)
    chosen = parser.parse_args()
    trace = suite.load(chosen.trace)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer([(trace.program, trace.hierarchy)], Config(), Path(folder) / "run", seed=0)
        trainer.train(steps=chosen.steps // 3)
        steps, updates = trainer.steps, int(trainer.learner.updates)
        profile, begun = cProfile.Profile(), time.perf_counter()
        profile.runcall(trainer.train, steps=steps + chosen.steps)
        seconds = time.perf_counter() - begun
        print(
            f"{chosen.trace}: {(trainer.steps - steps) / seconds:.0f} moves a second,"
            f" {(int(trainer.learner.updates) - updates) / seconds:.1f} updates a second"
        )
    found = [(own, where) for where, (_, _, own, _, _) in pstats.Stats(profile).stats.items()]  # type: ignore[attr-defined]
    for own, (file, _, name) in sorted(found, reverse=True)[: chosen.rows]:
        print(f"{100 * own / seconds:5.1f} % {own:8.2f} s  {Path(file).stem}.{name}")


if __name__ == "__main__":
    main()

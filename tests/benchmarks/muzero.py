"""What the agent reaches, how fast it plays, and what the search adds.

``python -m tests.benchmarks.muzero train TRACE... --seconds 60 --seeds 1``: per trace an agent from scratch, beside
XLA's own mapping, masked random play in as many episodes, and annealing in the same time. No loops hoisted.
``python -m tests.benchmarks.muzero play RUN TRACE... --simulations 0,16,64``: a trained agent on traces, greedy play.
``python -m tests.benchmarks.muzero throughput``: moves and simulations a second, and where the time goes.
Rows are printed as a table and appended to ``--out`` as JSON lines; rows already there are not run again.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.muzero.config import Config
from agents.muzero.learner import make_learner
from agents.muzero.networks import Model
from agents.muzero.run import RunFolder
from agents.muzero.search import make_search
from agents.muzero.selfplay import play, shapes_of
from agents.muzero.trainer import Trainer
from baselines.anneal import anneal
from mallocgame.batch import MallocGameBatch
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program
from mallocgame.simulate import home_seconds, simulate
from workloads import suite

Row = dict[str, Any]


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "play", "throughput"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--simulations", default="0,16,64")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.part == "throughput":
        _print(_throughput())
        return
    done = _read(chosen.out)
    rows = []
    for row in _train(chosen, done) if chosen.part == "train" else _play(chosen):
        rows.append(row)
        if chosen.out is not None and row not in done:
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    _print(rows)


def _read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _print(rows: list[Row]) -> None:
    columns = list(rows[0]) if rows else []
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")


def _open(name: str) -> tuple[Program, Hierarchy, float]:
    trace = suite.load(name)
    assert trace.mapping is not None
    xla = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
    return trace.program.without_hoisting(), trace.hierarchy, xla


def _train(chosen: argparse.Namespace, done: list[Row]) -> Any:
    config = Config.from_toml(chosen.config) if chosen.config else Config()
    for name in chosen.names:
        program, hierarchy, xla = _open(name)
        key = {"trace": name, "seconds": chosen.seconds, "seeds": chosen.seeds}
        old = [row for row in done if all(row.get(k) == v for k, v in key.items())]
        if old:
            yield old[0]
            continue
        found, episodes = [], []
        for seed in range(chosen.seeds):
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer([(program, hierarchy)], config, Path(folder) / "run", seed=seed)
                trainer.train(seconds=chosen.seconds)
                found.append(trainer.best[program.name].seconds)
                episodes.append(trainer.episodes)
        focused = program.focused(config.focus_fraction)
        rough = _random(focused, hierarchy, int(statistics.median(episodes)))
        annealed = anneal(program, hierarchy, seconds=chosen.seconds).seconds
        yield key | {
            "decisions": focused.num_decisions,
            "episodes": int(statistics.median(episodes)),
            "home_ms": home_seconds(program, hierarchy) * 1e3,
            "xla_ms": xla * 1e3,
            "random_ms": rough * 1e3,
            "anneal_ms": annealed * 1e3,
            "muzero_ms": statistics.median(found) * 1e3,
            "speedup_over_xla": xla / statistics.median(found),
        }


def _random(program: Program, hierarchy: Hierarchy, episodes: int) -> float:
    """Return the best seconds of masked uniform play in ``episodes`` games."""
    random, best, size = np.random.default_rng(0), float("inf"), 32
    batch = MallocGameBatch([(program, hierarchy)], size, observe=False)
    for _ in range(max(episodes // size, 1)):
        batch.reset()
        while not batch.done.all():
            noise = np.where(batch.action_masks, random.random(batch.action_masks.shape), -1.0)
            batch.step(noise.argmax(axis=1))
        best = min(best, float(batch.all_seconds().min()))
    return best


def _play(chosen: argparse.Namespace) -> Any:
    folder = RunFolder(Path(chosen.names[0]))
    for name in chosen.names[1:]:
        program, hierarchy, xla = _open(name)
        pair = (program.focused(folder.config().focus_fraction), hierarchy)
        probe = MallocGameBatch([pair], 1)
        config = folder.check(shapes_of(probe), probe.num_actions)
        model = Model(config, probe.num_actions)
        learner, _ = make_learner(model, probe.observations, 0)
        weights = folder.load_parameters(learner)
        row: Row = {"trace": name, "decisions": pair[0].num_decisions, "xla_ms": xla * 1e3}
        for count in (int(text) for text in chosen.simulations.split(",")):
            search = make_search(model, num_simulations=count, explore=False)
            (_, seconds) = next(play(pair, search, weights, jax.random.key(0), 1))
            row[f"x XLA, {count} simulations"] = xla / seconds
        row["x XLA, random"] = xla / _random(pair[0], hierarchy, 32)
        yield row


def _throughput() -> list[Row]:
    """Return moves a second at batch 64 with and without search, on moe_decode-v5e; medians of 5 windows."""
    program, hierarchy, _ = _open("moe_decode-v5e")
    rows = []
    for count in (0, 8, 16, 32):
        config = Config(num_simulations=count)
        batch = MallocGameBatch([(program.focused(config.focus_fraction), hierarchy)], 64)
        model = Model(config, batch.num_actions)
        learner, _ = make_learner(model, batch.observations, 0)
        search = make_search(model, num_simulations=count, explore=True)
        key, spent = jax.random.key(0), {"search": [], "environment": []}
        for move in range(60):
            begun = time.perf_counter()
            action = np.asarray(search(learner.target, batch.observations, batch.action_masks, key).action)
            middle = time.perf_counter()
            batch.step(action)
            if move >= 10:
                spent["search"].append(middle - begun)
                spent["environment"].append(time.perf_counter() - middle)
        searching, stepping = (statistics.median(spent[part]) for part in ("search", "environment"))
        whole = searching + stepping
        rows.append(
            {
                "simulations": count,
                "moves_per_second": 64 / whole,
                "simulations_per_second": 64 * count / whole,
                "search_share": searching / whole,
                "environment_share": stepping / whole,
            }
        )
    return rows


if __name__ == "__main__":
    main()

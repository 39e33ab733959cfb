"""What the agent reaches, how fast it plays, and what the search adds.

``python -m tests.benchmarks.muzero train TRACE... --seeds 1``: per trace (none named: all) an agent from scratch (or
from ``--weights``), for ``--seconds`` or as long as ``BUDGETS`` says, beside XLA's own mapping, masked random play in
as many games, and 10 s of annealing (from scratch: and of GORP). No loops hoisted unless ``--hoist``;
``--variations 0`` keeps to self-play.
``python -m tests.benchmarks.muzero play RUN TRACE... --simulations 0,16,64``: a trained agent on traces, greedy play.
``python -m tests.benchmarks.muzero pretrain RUN``: the generalist that ships: what ``play`` finds in
``DEMONSTRATION_STEPS`` moves of all shipped traces but those of ``HELD_OUT`` programs is imitated.
``python -m tests.benchmarks.muzero throughput``: moves and simulations a second, and where the time goes.
Rows are printed as a table and appended to ``--out`` as JSON lines; rows already there are not run again.
``tests.benchmarks.muzero_report`` prints them again, with a summary, and draws the learning curves.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import make_any_search
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.search import key_of, make_search
from mallocgame.agents.muzero.selfplay import play as play_games
from mallocgame.agents.muzero.selfplay import shapes_of
from mallocgame.agents.muzero.trainer import Trainer, TrainingReport
from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.play.gorp import gorp
from mallocgame.baselines.play.play import play
from mallocgame.game.batch import MallocGameBatch
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.program import Program
from mallocgame.workloads import suite
from tests.benchmarks.muzero_report import read, table

Row = dict[str, Any]
HELD_OUT = ("vit", "mobilenet", "graph_network", "winograd", "llama_decode_batch16", "decode_loop", "bert_training")
PRETRAINING = Path("agents/muzero/generalist.toml")
DEMONSTRATION_STEPS = 400_000
ANNEAL_SECONDS = 10.0
CURVE_POINTS = 30
BUDGETS = ((200, 30.0), (900, 60.0), (math.inf, 300.0))  # below so many decisions: seconds of training


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "play", "pretrain", "throughput"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, help="train: by the number of decisions if not given")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--simulations", help="train: a row for each; play: a column for each")
    parser.add_argument("--weights", type=Path, help="train: start from this agent")
    parser.add_argument("--hybrid", action="store_true", help="train: imitate the annealed mapping, then improve")
    parser.add_argument("--variations", type=int, help="train: of the best game for each game played; 0: none")
    parser.add_argument("--hoist", action="store_true", help="train: with copies hoisted out of loops")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.part == "throughput":
        table(_throughput())
        table([_shares(chosen.seconds or 60.0)])
        return
    if chosen.part == "pretrain":
        _pretrain(Path(chosen.names[0]))
        return
    done = read(chosen.out)
    rows = []
    for row in _train(chosen, done) if chosen.part == "train" else _play(chosen):
        rows.append(row)
        if chosen.out is not None and row not in done:
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    table([{name: value for name, value in row.items() if name != "curves"} for row in rows])


def _open(name: str, *, hoist: bool = False) -> tuple[Program, Hierarchy, float]:
    trace = suite.load(name)
    assert trace.mapping is not None
    xla = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
    return trace.program if hoist else trace.program.without_hoisting(), trace.hierarchy, xla


def _train(chosen: argparse.Namespace, done: list[Row]) -> Iterator[Row]:
    config = Config.from_toml(chosen.config) if chosen.config else Config()
    if chosen.weights is not None and not chosen.config:
        config = RunFolder(chosen.weights).fine_tuning()
    if chosen.variations is not None:
        config = replace(config, variations=chosen.variations)
    counts = [int(text) for text in (chosen.simulations or str(config.num_simulations)).split(",")]
    for name in chosen.names or suite.names(base=True):
        for count in counts:
            key = {"trace": name, "simulations": count, "budget": chosen.seconds or "by size", "seeds": chosen.seeds}
            key |= {"variations": config.variations, "hybrid": chosen.hybrid, "hoist": chosen.hoist}
            key |= {"scratch": chosen.weights is None}
            old = [row for row in done if all(row.get(k) == v for k, v in key.items())]
            settings = replace(config, num_simulations=count)
            yield old[0] if old else key | _train_one(name, settings, chosen)


def _train_one(name: str, config: Config, chosen: argparse.Namespace) -> Row:
    program, hierarchy, xla = _open(name, hoist=chosen.hoist)
    anneal(program, hierarchy, seconds=0.1)  # compiles
    annealed = anneal(program, hierarchy, seconds=ANNEAL_SECONDS)
    starts = [annealed.mapping] if chosen.hybrid else []
    focused = program.focused(config.focus_fraction)
    seconds = chosen.seconds or next(budget for limit, budget in BUDGETS if focused.num_decisions < limit)
    found, means, episodes, curves = [], [], [], []
    for seed in range(chosen.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            pairs = [(program, hierarchy)]
            trainer = Trainer(pairs, config, run, seed=seed, starts=starts, weights=chosen.weights)
            reports: list[TrainingReport] = []
            trainer.train(seconds=seconds, report=reports.append, report_seconds=seconds / CURVE_POINTS)
            best = trainer.best[program.name]
            found.append(best.seconds)
            means.append(best.home_seconds / math.exp(reports[-1].mean_return))
            episodes.append(trainer.episodes)
            curves.append([_point(row, program.name, xla, best.home_seconds) for row in reports if row.episodes])
    rough = _random(focused, hierarchy, int(statistics.median(episodes)))
    best_seconds = statistics.median(found)
    row = {"gorp 10 s": xla / gorp(program, hierarchy, seconds=ANNEAL_SECONDS).seconds} if not chosen.weights else {}
    return row | {
        "decisions": focused.num_decisions,
        "seconds": seconds,
        "games": int(statistics.median(episodes)),
        "xla_ms": xla * 1e3,
        "x XLA": xla / best_seconds,
        "worst seed": xla / max(found),
        "mean game": xla / statistics.median(means),
        "random": xla / rough,
        "greedy": xla / greedy(program, hierarchy).seconds,
        "anneal 10 s": xla / annealed.seconds,
        "curves": curves,
    }


def _point(row: TrainingReport, name: str, xla: float, home: float) -> list[float]:
    """Return seconds, and the best and the mean game as multiples of XLA's speed."""
    values = (row.elapsed_seconds, xla / row.best[name], xla / home * math.exp(row.mean_return))
    return [round(value, 4) for value in values]


def _pretrain(folder: Path) -> None:
    names = [name for name in suite.names(base=True) if name.rsplit("-", 1)[0] not in HELD_OUT]
    pairs, starts = [], []
    for name in names:
        program, hierarchy, _ = _open(name)
        pairs.append((replace(program, name=name), hierarchy))
        starts.append(play(program, hierarchy, steps=DEMONSTRATION_STEPS, annealing=False).mapping)
    trainer = Trainer(pairs, Config.from_toml(PRETRAINING), folder, starts=starts)
    trainer.train(steps=1, report=_tell, report_seconds=30.0)


def _tell(report: TrainingReport) -> None:
    sys.stdout.write(
        f"{report.elapsed_seconds:.0f} s: {report.updates} updates, {report.steps} moves, {report.episodes} games, "
        f"mean return {report.mean_return:.3f}, losses {report.losses}\n"
    )
    sys.stdout.flush()


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


def _play(chosen: argparse.Namespace) -> Iterator[Row]:
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
        for count in (int(text) for text in (chosen.simulations or "0,16,64").split(",")):
            search = make_any_search(model, num_simulations=count, explore=False)
            _, _, seconds = next(play_games(pair, search, weights, key_of(0), 1))
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
        key = key_of(0)
        spent: dict[str, list[float]] = {"search": [], "environment": []}
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


def _shares(seconds: float) -> Row:
    """Return what a training run on moe_decode-v5e spends its time on, from the first searched move on."""
    pair = _open("moe_decode-v5e")[:2]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer([pair], Config(), Path(folder) / "run")
        trainer.train(steps=2 * trainer.play.num_games * trainer.play.batch.games[0].num_decisions)  # compiles
        spent: dict[str, float] = {}
        timed = (
            ("search", trainer.play, "search"),
            ("environment", trainer.play.batch, "step"),
            ("learner", trainer, "_learn"),
            ("variations", trainer, "_vary"),
        )
        for part, owner, name in timed:
            setattr(owner, name, _clocked(getattr(owner, name), spent, part))
        trainer._searching = trainer.play.search
        steps, updates, before = trainer.steps, int(trainer.learner.updates), trainer.spent_seconds
        trainer.train(seconds=before + seconds)
        whole = trainer.spent_seconds - before
        row: Row = {"moves_per_second": (trainer.steps - steps) / whole}
        row["updates_per_second"] = (int(trainer.learner.updates) - updates) / whole
        return row | {f"{part}_share": spent[part] / whole for part, _, _ in timed}


def _clocked(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    """Add the time of each call to ``spent[part]``, but for what other clocked functions take in it."""

    def clocked(*arguments: Any) -> Any:
        begun, elsewhere = time.perf_counter(), sum(spent.values())
        result = jax.block_until_ready(function(*arguments))
        own = time.perf_counter() - begun - (sum(spent.values()) - elsewhere)
        spent[part] = spent.get(part, 0.0) + own
        return result

    return clocked


if __name__ == "__main__":
    main()

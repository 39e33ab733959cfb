"""What each part of the agent is worth at equal time: the agent whole, and with one part taken away.

``python -m tests.benchmarks.muzero_ablation --seconds 10 --seeds 3 --out FILE [TRACE...]`` (none named: ``TRACES``,
ten that leave something to find; fixed before anything was run). Multiples of XLA's speed, hoisting allowed, one core,
medians of the seeds; kernels and compiled searches are warm. With ``--cpu`` a solver's clock is the CPU time of the
process.

- ``whole``: the shipped agent.
- ``network``: without it there are no games, no search and no guide, and ``play`` is left.
- ``search``: no tree search, only the network's own games.
- ``guide``: the local search of the game draws its changes evenly.
- ``annealing``: no annealing before and after the game (it is no part of what is learned).
- ``features``, ``teachers``: other weights, ``--features RUN`` and ``--teachers RUN``, made by
  ``python -m tests.benchmarks.muzero_pretrain PROGRAMS RUN --without features`` (or ``teachers``), as long as those of
  ``--same RUN`` (a column ``same``: the same training with nothing taken away).

Rows that are in the file are not run again, ``--limit`` seconds after the beginning none is begun; ``--summary`` only
prints the file.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mallocgame import solver as frame
from mallocgame.agents.muzero import solver as agent
from mallocgame.agents.muzero.solver import PRETRAINED, muzero
from mallocgame.baselines.play.play import play
from mallocgame.game.local_search import refine
from mallocgame.game.rules import Game
from mallocgame.judge.simulation import simulate
from mallocgame.solver import Incumbent, SolveResult
from mallocgame.workloads import suite
from tests.benchmarks.muzero_report import read, table

Row = dict[str, Any]
Run = Callable[..., SolveResult]
TRACES = (
    *("resnet50_training-v5e", "bert_training-v5e", "strassen_deep-v4", "gpt2_training-v4", "unet_training-v6e"),
    *("winograd-v6e", "moe_decode-v5e", "graph_network-v5e", "wavenet-v4", "diffusion_step-v5e"),
)
WEIGHTS = ("same", "features", "teachers")


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=math.inf)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--summary", action="store_true")
    for name in WEIGHTS:
        parser.add_argument(f"--{name}", type=Path, help="a run; none: no such column")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    if chosen.cpu:
        frame.time.perf_counter = time.process_time
    variants, begun = _variants(chosen), time.monotonic()
    for name in () if chosen.summary else chosen.traces or TRACES:
        for variant, run in variants.items():
            key = {"trace": name, "without": variant, "seconds": chosen.seconds, "seeds": chosen.seeds}
            key |= {"cpu": chosen.cpu}
            is_due = time.monotonic() - begun < chosen.limit
            if is_due and not any(key.items() <= row.items() for row in read(chosen.out)):
                row = key | {"x XLA": _speeds(name, run, chosen)}
                with chosen.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    report(read(chosen.out))


def _variants(chosen: argparse.Namespace) -> dict[str, Run]:
    variants: dict[str, Run] = {"whole": muzero, "network": play, "search": _without_search}
    variants |= {"guide": _unguided, "annealing": _game_alone}
    for name in WEIGHTS:
        if (folder := getattr(chosen, name)) is not None:
            variants[name] = _with(folder)
    return variants


def _speeds(name: str, run: Run, chosen: argparse.Namespace) -> list[float]:
    trace = suite.load(name)
    assert trace.mapping is not None
    problem = trace.program, trace.hierarchy
    xla = simulate(*problem, trace.mapping).total_seconds
    run(*problem, seconds=0.2)  # what JAX compiles depends on the chip
    return [xla / run(*problem, seconds=chosen.seconds, seed=seed).seconds for seed in range(chosen.seeds)]


def _without_search(*problem: Any, **limits: Any) -> SolveResult:
    return muzero(*problem, simulations=0, **limits)


def _with(folder: Path) -> Run:
    return lambda *problem, **limits: muzero(*problem, run=folder, **limits)


def _unguided(*problem: Any, **limits: Any) -> SolveResult:
    relay = agent.relay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "relay", lambda *parts, guide: relay(*parts))
        return muzero(*problem, run=PRETRAINED, **limits)


def _game_alone(*problem: Any, **limits: Any) -> SolveResult:
    def relay(search: Incumbent, game: Game, begin: Any, _: Any, *, guide: Any) -> None:
        refine(search, game, begin, seed=search.seed, guide=guide)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "relay", relay)
        patch.setattr(agent, "open_by_annealing", lambda search, _: search.mapping)
        return muzero(*problem, **limits)


def report(rows: list[Row]) -> None:
    """Print, for each setting, the medians of a trace and what is lost, in the geometric mean, without each part."""
    settings = ("seconds", "seeds", "cpu")
    for setting in dict.fromkeys(tuple(row[name] for name in settings) for row in rows):
        group = [row for row in rows if tuple(row[name] for name in settings) == setting]
        print("\n" + ", ".join(f"{name} {value}" for name, value in zip(settings, setting, strict=True)) + "\n")
        lines = [
            {"trace": name} | {row["without"]: statistics.median(row["x XLA"]) for row in group if row["trace"] == name}
            for name in dict.fromkeys(row["trace"] for row in group)
        ]
        table(lines)
        for part in [part for part in dict.fromkeys(row["without"] for row in group) if part != "whole"]:
            both = [line for line in lines if "whole" in line and part in line]
            if both:
                ratios = [line[part] / line["whole"] for line in both]
                mean, worst, best = statistics.geometric_mean(ratios), min(ratios), max(ratios)
                print(f"- {part}: {mean:.4f} of the whole ({worst:.4f} to {best:.4f}) on {len(both)} traces")


if __name__ == "__main__":
    main()

"""Annealing beside another checkout's: ``python -m tests.benchmarks.anneal --against DIR [--seconds S] [TRACE...]``.

Both run in turn, seed by seed, on this core, each in a process of its own with its kernels warm, from the compiler's
mapping. One row a trace: judged milliseconds (geometric mean over the seeds), how many times as fast the mappings of
this checkout are, and how many times as many moves a second it makes. Rows go to ``--out``, and are not made again.

``--starts [TRACE...]``: what mappings lose when annealing takes them over, before it makes a move: the compiler's, and
that of 200,000 decisions of ``play`` in the game alone.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallocgame.baselines.anneal.construction import prepared
from mallocgame.baselines.anneal.start import adopt
from mallocgame.baselines.anneal.tables import empty_choice
from mallocgame.baselines.play.play import play
from mallocgame.cli.cases import open_case
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.solver import Incumbent, Limits
from tests.benchmarks.solvers import geometric_mean

TRACES = ("graph_network-v4", "wavenet-v4", "winograd-v4", "gpt2_training-v4", "strassen_deep-v6e")
TRACES += ("unet_training-v5e", "bert_training-v4", "resnet50_training-v4")
HERE = Path(__file__).parents[2]
CHILD = """
import json, sys, time
from mallocgame.baselines.anneal import anneal, kernel
from mallocgame.cli.cases import open_case

run, spent, moves = kernel.anneal, 0.0, 0

def counted(*arguments):
    global spent, moves
    begun = time.perf_counter()
    total = run(*arguments)
    spent, moves = spent + time.perf_counter() - begun, moves + next(x for x in arguments[4:] if isinstance(x, int))
    return total

kernel.anneal = counted
for line in sys.stdin:
    name, seconds, seed = json.loads(line)
    case = open_case(name, hoist=True, bound_seconds=0)
    anneal.prepare(case.problem)
    spent, moves = 0.0, 0
    result = anneal(*case.problem, seconds=seconds, seed=seed, start=case.compiler_mapping)
    print(json.dumps({"judged_seconds": result.seconds, "moves_per_second": moves / max(spent, 1e-9)}), flush=True)
"""


class Checkout:
    """A process that anneals with the code of one checkout."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=folder, env=environment, stdin=-1, stdout=-1, text=True
        )

    def anneal(self, name: str, seconds: float, seed: int) -> dict[str, float]:
        """Return the judged seconds and the moves a second of one run."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, seconds, seed]) + "\n")
        self.process.stdin.flush()
        row: dict[str, float] = json.loads(self.process.stdout.readline())
        return row


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of the docs."""
    lines = ["| trace | before, ms | now, ms | times as fast | times as many moves a second |", "|---|---|---|---|---|"]
    gains, rates = [], []
    for name in dict.fromkeys(row["trace"] for row in rows):
        pairs = [row for row in rows if row["trace"] == name]
        before = geometric_mean([row["before"]["judged_seconds"] for row in pairs])
        now = geometric_mean([row["now"]["judged_seconds"] for row in pairs])
        rate = geometric_mean([row["now"]["moves_per_second"] / row["before"]["moves_per_second"] for row in pairs])
        gains.append(before / now)
        rates.append(rate)
        lines.append(f"| {name} | {1e3 * before:.4f} | {1e3 * now:.4f} | {before / now:.3f} | {rate:.1f} |")
    return "\n".join([*lines, f"| geometric mean | | | {geometric_mean(gains):.3f} | {geometric_mean(rates):.1f} |"])


def starts(names: Sequence[str]) -> str:
    """Return the table of what mappings lose when they are taken over."""
    lines = ["| trace | compiler's, ms | taken over | play's, ms | taken over |", "|---|---|---|---|---|"]
    for name in names:
        case = open_case(name, hoist=True, bound_seconds=0)
        search = Incumbent(case.problem, Limits(steps=200_000))
        play.improve(search, annealing=False)
        pieces, tables, _ = prepared(Incumbent(case.problem, Limits(steps=1)))
        cells = [name]
        for mapping in (case.compiler_mapping or Mapping(), search.mapping or Mapping()):
            assert tables is not None
            choice, seconds = empty_choice(*case.problem, tables), simulate(*case.problem, mapping).total_seconds
            adopt(case.problem.program, tables, pieces, choice, mapping)
            cells += [f"{1e3 * seconds:.4f}", f"{100 * (float(choice.total[0]) / seconds - 1):+.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", metavar="TRACE", default=TRACES)
    parser.add_argument("--against", type=Path, metavar="DIR", help="the other checkout; without it, only the table")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/anneal.jsonl"))
    parser.add_argument("--starts", action="store_true")
    arguments = parser.parse_args()
    if arguments.starts:
        print(starts(arguments.traces))
        return
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    if arguments.against:
        done = {(row["trace"], row["seconds"], row["seed"]) for row in rows}
        other, own = Checkout(arguments.against.resolve()), Checkout(HERE)
        for name in arguments.traces:
            for seed in range(arguments.seeds):
                which = (name, arguments.seconds, seed)
                if which in done:
                    continue
                row = {"trace": name, "seconds": arguments.seconds, "seed": seed}
                rows.append({**row, "before": other.anneal(*which), "now": own.anneal(*which)})
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
    print(report(rows))


if __name__ == "__main__":
    main()

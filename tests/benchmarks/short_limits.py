"""``best`` beside its best member at short limits: ``python -m tests.benchmarks.short_limits [TRACE...]``.

Ten hard traces, three seeds, limits of 3 and 10 seconds: ``anneal`` and ``best`` in turn from the better of the
compiler's mapping and ``greedy``'s, kernels warm, on the cores that this process may use. A row is appended to
``--out`` as soon as it is made and is not made again; ``--report`` only prints the table: how many times as fast as the
compiler's mapping, in the geometric mean over the seeds, and the worst seed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallocgame.baselines.placement.greedy import greedy
from mallocgame.cli.cases import open_case
from mallocgame.evaluation import find_solver
from mallocgame.system import num_cores
from tests.benchmarks.solvers import geometric_mean

TRACES = ("winograd-v5e", "winograd-v4", "wavenet-v4", "graph_network-v6e", "resnet50_training-v4", "decode_loop-v4")
TRACES += ("gpt2_training-v4", "strassen_deep-v4", "unet_training-v5e", "bert_training-v4")
SOLVERS = ("anneal", "best")
LIMITS = (3.0, 10.0)
SEEDS = 3
GREEDY_SECONDS = 10.0
Row = dict[str, Any]


def measure(name: str, done: set[tuple[Any, ...]], out: Path) -> None:
    """Append the rows of a trace that are missing."""
    wanted = [(name, s, seed, solver) for s in LIMITS for seed in range(SEEDS) for solver in SOLVERS]
    if done.issuperset(wanted):
        return
    case = open_case(name, hoist=True, bound_seconds=0)
    assert case.compiler_mapping is not None
    greedy.prepare(case.problem)
    start = greedy(*case.problem, seconds=GREEDY_SECONDS, start=case.compiler_mapping).mapping
    compiler_seconds = greedy(*case.problem, seconds=0.0, start=case.compiler_mapping).seconds
    for which in wanted:
        if which in done:
            continue
        _, seconds, seed, solver = which
        solve, _ = find_solver(solver)
        result = solve(*case.problem, seconds=seconds, seed=seed, start=start)
        row = {"trace": name, "seconds": seconds, "seed": seed, "solver": solver, "judged_seconds": result.seconds}
        row |= {"compiler_seconds": compiler_seconds, "lower_bound_seconds": result.lower_bound_seconds}
        row |= {"solve_seconds": round(result.solve_seconds, 3), "cores": num_cores()}
        with out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def report(rows: Sequence[Row]) -> str:
    """Return the table of the docs."""
    columns = [(seconds, solver) for seconds in LIMITS for solver in SOLVERS]
    lines = [f"| trace | {' | '.join(f'{solver}, {seconds:g} s' for seconds, solver in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    means: dict[tuple[float, str], list[float]] = {column: [] for column in columns}
    for name in dict.fromkeys(row["trace"] for row in rows):
        cells = []
        for seconds, solver in columns:
            own = [r for r in rows if (r["trace"], r["seconds"], r["solver"]) == (name, seconds, solver)]
            gains = [row["compiler_seconds"] / row["judged_seconds"] for row in own]
            cells.append(f"{geometric_mean(gains):.3f} ({min(gains):.3f})" if gains else "")
            means[seconds, solver] += [geometric_mean(gains)] if gains else []
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = [f"{geometric_mean(gains):.3f}" if gains else "" for gains in means.values()]
    return "\n".join([*lines, f"| geometric mean | {' | '.join(cells)} |"])


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", metavar="TRACE", default=TRACES)
    parser.add_argument("--out", type=Path, default=Path("docs/results/short_limits.jsonl"))
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()

    def rows() -> list[Row]:
        path: Path = arguments.out
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    if not arguments.report:
        done = {(row["trace"], row["seconds"], row["seed"], row["solver"]) for row in rows()}
        for name in arguments.traces:
            measure(name, done, arguments.out)
    print(report(rows()))


if __name__ == "__main__":
    main()

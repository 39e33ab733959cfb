"""The agent beside what it has to beat, at equal time: ``anneal``, ``play``, ``best``, ``muzero`` and ``trained``.

``muzero`` is the shipped agent as a solver; ``trained`` trains it on the trace for half of the time, from greedy's
mapping, and then solves it.

``python -m tests.benchmarks.muzero_table --seconds 10 --out FILE [TRACE...]`` (none named: all 84), ``--no-hoist``,
``--solvers anneal,play``, ``--seeds 3``. ``--sample``: every seventh trace by number of decisions, from the fourth on
(12 traces; fixed before anything was run), every other one of these first. Kernels, searches and updates are compiled.
With ``--cpu`` a solver's clock is the CPU time of the process, all threads together: what to use on a loaded machine.
Rows hold the improvements of the first seed, (seconds, multiple of XLA's speed): how long the agent takes to what
``play`` ends with. Rows that are in the file are not run again, ``--limit`` seconds after the beginning none is begun;
``--summary`` only prints the file; with ``--from-solvers docs/results/solvers.jsonl`` the rows of as many ``--seconds``
that ``tests.benchmarks.solvers`` measured, of traces where all of ``--solvers`` are there.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mallocgame import solver as frame
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.solver import PRETRAINED, muzero
from mallocgame.agents.muzero.trainer import Trainer
from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.play.play import play
from mallocgame.baselines.portfolio import best
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.program import Program
from mallocgame.workloads import suite
from tests.benchmarks import solvers
from tests.benchmarks.muzero_report import read, table

Row = dict[str, Any]
SOLVERS = {"anneal": anneal, "play": play, "best": best, "muzero": muzero}
NAMES = (*SOLVERS, "trained")
LARGEST = 30  # traces over which the worth of learning is told, too
NEAR, FAR = 0.99, 0.97  # of the best other solver's speed: close to it, and behind
TRAINED_SHARE = 0.4  # of the time, before what training saves and finishes
SAMPLE = slice(3, None, 7)  # of all traces by number of decisions


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--solvers", help="default: all; of --from-solvers those that it measures")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--limit", type=float, default=math.inf)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--hoist", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--from-solvers", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.summary and chosen.from_solvers is not None:
        _print(from_solvers(solvers.read(chosen.from_solvers), chosen.seconds, _names(chosen, SOLVERS)))
        return
    if chosen.out is None:
        parser.error("--out FILE is needed")
    if chosen.cpu:
        frame.time.perf_counter = time.process_time
    names = chosen.traces or (sample() if chosen.sample else suite.names(base=True))
    begun = time.monotonic()
    for name in () if chosen.summary else names:
        for solver in _names(chosen, NAMES):
            if time.monotonic() - begun > chosen.limit:
                break
            key = {"trace": name, "solver": solver, "seconds": chosen.seconds, "hoist": chosen.hoist, "cpu": chosen.cpu}
            key |= {"seeds": chosen.seeds}
            if not any(key.items() <= row.items() for row in read(chosen.out)):
                row = key | _run(name, solver, chosen)
                with chosen.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    _print(read(chosen.out))


def _names(chosen: argparse.Namespace, default: Iterable[str]) -> list[str]:
    return chosen.solvers.split(",") if chosen.solvers else list(default)


def sample() -> list[str]:
    """Return the twelve traces that stand for all, in the order in which they are run."""
    decisions = {name: suite.load(name).program.num_decisions for name in suite.names(base=True)}
    chosen = sorted(decisions, key=lambda name: (decisions[name], name))[SAMPLE]
    return chosen[::2] + chosen[1::2]


def from_solvers(rows: list[Row], seconds: float, names: list[str]) -> list[Row]:
    """Return rows of ``tests.benchmarks.solvers`` as this table's; programs without loops count in both modes."""
    rows = [row for row in rows if row["solver"] in names and row["speedup_over_xla"]]
    rows = [row for row in rows if row["seconds"] == seconds and row["seed"] == 0]
    found = []
    for hoist, group in ((True, [row for row in rows if row["hoist"]]), (False, solvers.without_hoisting(rows))):
        has: dict[str, set[str]] = {}
        for row in group:
            has.setdefault(row["trace"], set()).add(row["solver"])
        for row in group:
            if has[row["trace"]] == set(names):
                own = {"trace": row["trace"], "solver": row["solver"], "x XLA": row["speedup_over_xla"]}
                own |= {"seconds": seconds, "hoist": hoist, "cpu": False, "seeds": 1}
                own |= {"decisions": row["num_decisions"]}
                found.append(own | ({"history": row["history"]} if row.get("history") else {}))
    return sorted(found, key=lambda row: (not row["hoist"], row["trace"], names.index(row["solver"])))


def _run(name: str, solver: str, chosen: argparse.Namespace) -> Row:
    trace = suite.load(name)
    assert trace.mapping is not None
    program = trace.program if chosen.hoist else trace.program.without_hoisting()
    xla = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
    if solver == "trained":
        _trained(program, trace.hierarchy, 1.0, 0)
        runs = [_trained(program, trace.hierarchy, chosen.seconds, seed) for seed in range(chosen.seeds)]
        speeds = [xla / seconds for seconds, _ in runs]
        spent = statistics.median(spent for _, spent in runs)
        return {"x XLA": statistics.median(speeds), "worst": min(speeds), "solve_seconds": spent}
    solve = SOLVERS[solver]
    solve(program, trace.hierarchy, seconds=0.2)  # what JAX compiles depends on the program
    results = [solve(program, trace.hierarchy, seconds=chosen.seconds, seed=seed) for seed in range(chosen.seeds)]
    speeds = [xla / result.seconds for result in results]
    spent = statistics.median(result.solve_seconds for result in results)
    found = [(round(when, 3), round(xla / seconds, 6)) for when, seconds in results[0].history]
    return {"x XLA": statistics.median(speeds), "worst": min(speeds), "solve_seconds": spent, "history": found}


def _trained(program: Program, hierarchy: Hierarchy, seconds: float, seed: int) -> tuple[float, float]:
    """Train the shipped agent on a program, let it solve it; return the best mapping's seconds and the time taken."""
    clock = frame.time.perf_counter
    begun = clock()
    start = greedy(program, hierarchy).mapping
    with tempfile.TemporaryDirectory() as folder:
        config = RunFolder(PRETRAINED).fine_tuning()
        run = Path(folder) / "run"
        trainer = Trainer([(program, hierarchy)], config, run, seed=seed, starts=[start], weights=PRETRAINED)
        trainer.train(seconds=max(TRAINED_SHARE * seconds - (clock() - begun), 0.1))
        best = trainer.best[program.name].mapping
        left = max(seconds - (clock() - begun), 0.1)  # training has saved and decided small tensors in this time, too
        found = muzero(program, hierarchy, seconds=left, seed=seed, run=run, start=best)
        return found.seconds, clock() - begun


def _print(rows: list[Row]) -> None:
    """Print a table for each setting, and how the agent stands against the best of the others."""
    settings = ("seconds", "hoist", "cpu", "seeds")
    for setting in dict.fromkeys(tuple(row[name] for name in settings) for row in rows):
        group = [row for row in rows if tuple(row[name] for name in settings) == setting]
        print("\n" + ", ".join(f"{name} {value}" for name, value in zip(settings, setting, strict=True)) + "\n")
        lines = [
            {"trace": name} | {row["solver"]: row["x XLA"] for row in group if row["trace"] == name}
            for name in dict.fromkeys(row["trace"] for row in group)
        ]
        table(lines)
        whole = [line for line in lines if len(line) == max(map(len, lines))]
        for solver in [name for name in whole[0] if name != "trace"]:
            print(f"- {solver}: geometric mean {_mean([line[solver] for line in whole]):.4f}")
        if "muzero" in whole[0]:
            ratios = [
                line["muzero"] / max(v for k, v in line.items() if k not in ("trace", "muzero")) for line in whole
            ]
            near, far = sum(ratio >= NEAR for ratio in ratios), sum(ratio < FAR for ratio in ratios)
            ends = f"worst {min(ratios):.4f}, best {max(ratios):.4f}"
            print(f"- muzero against the best other: {_mean(ratios):.4f}, {ends}")
            print(
                f"- within 1 % of it on {near} of {len(ratios)} ({near / len(ratios):.0%}), behind by over 3 % on {far}"
            )
            _print_worth_of_learning(group)


def _print_worth_of_learning(group: list[Row]) -> None:
    """Print after what share of ``play``'s time the agent has, within 0.01 %, what ``play`` ends with."""
    histories = {(row["trace"], row["solver"]): row["history"] for row in group if "history" in row}
    sizes = {row["trace"]: row.get("decisions", 0) for row in group}
    names = [name for name, solver in histories if solver == "play" and (name, "muzero") in histories]
    largest = sorted(names, key=lambda name: -sizes[name])[:LARGEST]
    for which, chosen in {"": names, f", on the {LARGEST} largest traces": largest}.items():
        shares = [_share(histories[name, "play"], histories[name, "muzero"]) for name in chosen]
        if shares and (not which or len(largest) < len(names)):
            reached = f"{sum(map(math.isfinite, shares))} of {len(shares)} get there"
            median = f"{statistics.median(shares):.2f} of its time (median; {reached})"
            print(f"- muzero has what play ends with after {median}{which}")


def _share(play_found: list[tuple[float, float]], agent_found: list[tuple[float, float]]) -> float:
    """Return the agent's seconds over ``play``'s until the last that ``play`` found; infinite: never."""
    last, goal = play_found[-1]
    times = [when for when, speed in agent_found if speed >= goal * (1 - 1e-4)]
    return times[0] / max(last, 1e-3) if times else math.inf


def _mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


if __name__ == "__main__":
    main()

"""Does a network pay where second stages are slow? Seconds to a plan within 1 % of the best, with and without one.

python -m tests.benchmarks.neur2ro_slow train FOLDER [--instances 40]
python -m tests.benchmarks.neur2ro_slow ablation FOLDER [--count 3] [--seconds 60] [--cpu-clock]
python -m tests.benchmarks.neur2ro_slow summary

Three problems: facility location with single sourcing, unit commitment, memory mapping with 40 tensors and contention.
With --cpu-clock limits and times are CPU seconds: fair on a machine whose load changes.
Training instances draw from seeds (12345, k), held-out ones from (99, k). Rows: docs/results/neur2ro_slow.csv.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from mallocgame.baselines.neur2ro.data import DataPlan, generate, load_examples
from mallocgame.baselines.neur2ro.learned import LearnedConfig, solve_learned
from mallocgame.baselines.neur2ro.network import PRESETS, Network, load_network, save_network
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.problems.commitment import CommitmentProblem
from mallocgame.baselines.neur2ro.problems.facility import FacilityProblem
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
from mallocgame.baselines.neur2ro.references import solve_average
from mallocgame.baselines.neur2ro.result import RobustResult
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from mallocgame.baselines.neur2ro.train import TrainConfig, suited_preset, train
from tests.benchmarks.neur2ro import DOCS, append_row, rows_of

PATH = DOCS / "neur2ro_slow.csv"
WITHIN = 0.01


class LargeMemory(MemoryProblem):
    """Memory mapping with 40 tensors."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        return cls.random(rng, tensors=40, steps=40, budget=5)

    @classmethod
    def sample_small(cls, rng: np.random.Generator) -> Self:
        """Return an instance to train on: 12 to 32 tensors, whose second stages take a tenth of the time."""
        tensors = int(rng.integers(12, 33))
        return cls.random(rng, tensors=tensors, steps=tensors, budget=max(2, tensors // 8))


PROBLEMS: dict[str, type[TwoStageProblem]] = {
    "facility": FacilityProblem,
    "commitment": CommitmentProblem,
    "memory-40": LargeMemory,
}


def fit(folder: Path, names: list[str], instances: int) -> None:
    """Generate labels (a run that was stopped goes on) and train one network a problem."""
    for name in names:
        if (folder / name / "network.json").exists():
            continue
        sample = LargeMemory.sample_small if name == "memory-40" else PROBLEMS[name].sample
        plan = DataPlan(instances=instances, plans=8, scenarios=8, worst_cases=0, per_shard=5, near_average=4)
        spent = generate(sample, plan, folder / name / "data", processes=1)
        preset = suited_preset(sample, None)
        config = TrainConfig(size=PRESETS[preset], epochs=400, seconds=200.0, batch_plans=8, batch_scenarios=8)
        network, history = train(load_examples(folder / name / "data", plan), config, {"problem": name})
        save_network(network, folder / name)
        error = network.about["validation_mae_scaled"]
        print(f"{name}: labels {spent:.0f} s, fit {history[-1].seconds:.0f} s, held-out error {error:.4f}", flush=True)


def ablation(folder: Path, names: list[str], methods: list[str], count: int, seconds: float) -> None:
    """Run the methods side by side on held-out instances, in turn, and append a row a run."""
    done = {(row["problem"], row["instance"], row["method"]) for row in rows_of(PATH)}
    for k in range(count):
        for name in names:
            kind = PROBLEMS[name]
            if not (folder / name / "network.json").exists():
                print(f"{name}: no network in {folder}; train it first", flush=True)
                continue
            network = load_network(folder / name)
            problem = kind.sample(np.random.default_rng([99, k]))
            for method in methods:
                if (name, str(k), method) in done:
                    continue
                began = time.process_time()
                result = _run(method, problem, network, seconds)
                improvements = [(row.seconds, row.main) for row in result.history]
                row = {
                    "problem": name,
                    "instance": k,
                    "method": method,
                    "used_network": result.used_network,
                    "worst_case": round(result.worst_case, 6),
                    "exact": result.worst_case_exact,
                    "seconds": round(result.seconds + result.evaluation_seconds, 2),
                    "cpu_seconds": round(time.process_time() - began, 2),
                    "improvements": " ".join(f"{at:.2f}:{value:.6g}" for at, value in improvements),
                }
                append_row(PATH, row)
                print(row, flush=True)


def _run(method: str, problem: TwoStageProblem, network: Network, seconds: float) -> RobustResult:
    used = None if method.endswith("without-network") else network
    if method == "average":
        return solve_average(problem, seconds=seconds)
    if method.startswith("search"):
        return solve_search(problem, used, SearchConfig(seconds=seconds))
    return replace(solve_learned(problem, used, LearnedConfig(seconds=seconds)), method=method)


def seconds_within(row: dict[str, str], best: float) -> float:
    """Return when the run first had a plan within 1 % of ``best``; inf if never."""
    limit = best + WITHIN * abs(best)
    for word in row["improvements"].split():
        at, value = word.split(":")
        if float(value) <= limit * (1 + 1e-6):
            return float(at)
    return float(row["seconds"]) if float(row["worst_case"]) <= limit else float("inf")


def summary() -> None:
    """Print median seconds to within 1 % of the best plan known, a problem and method a row."""
    rows = rows_of(PATH)
    best = {
        (row["problem"], row["instance"]): min(
            float(other["worst_case"])
            for other in rows
            if (other["problem"], other["instance"]) == (row["problem"], row["instance"]) and other["exact"] == "True"
        )
        for row in rows
        if row["exact"] == "True"
    }
    print("| problem | method | network | instances | within 1 % | median s to within 1 % | median gap % at the end |")
    print("|---|---|---|---|---|---|---|")
    for name in PROBLEMS:
        for method in dict.fromkeys(row["method"] for row in rows):
            mine = [row for row in rows if row["problem"] == name and row["method"] == method]
            if not mine:
                continue
            times = [seconds_within(row, best[name, row["instance"]]) for row in mine]
            gaps = [100 * (float(row["worst_case"]) / best[name, row["instance"]] - 1) for row in mine]
            reached = sum(np.isfinite(times))
            used = "yes" if mine[0]["used_network"] == "True" else "no"
            shown = f"{statistics.median(times):.1f}"
            gap = f"{statistics.median(gaps):.2f}"
            print(f"| {name} | {method} | {used} | {len(mine)} | {reached} | {shown} | {gap} |")


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "ablation", "summary"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/slow"))
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--instances", type=int, default=160)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cpu-clock", action="store_true")
    parser.add_argument("--methods", default="average,search,search-without-network,learned,learned-without-network")
    arguments = parser.parse_args()
    if arguments.cpu_clock:
        time.perf_counter = time.process_time
    if arguments.what == "train":
        fit(arguments.folder, arguments.problems.split(","), arguments.instances)
    elif arguments.what == "ablation":
        names = arguments.problems.split(",")
        ablation(arguments.folder, names, arguments.methods.split(","), arguments.count, arguments.seconds)
    else:
        summary()


if __name__ == "__main__":
    main()

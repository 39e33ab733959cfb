"""Robust against nominal memory plans on the shipped traces (run by ``tests.benchmarks.neur2ro memory``)."""

from pathlib import Path
from typing import Any

from mallocgame.baselines.neur2ro.exact import solve_exact, solve_nominal, solve_static
from mallocgame.baselines.neur2ro.methods import judge
from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem, Variant
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from mallocgame.workloads.trace import load_trace
from tests.benchmarks.neur2ro import ROOT, append_row, rows_of

TRACES = (
    "gpt2_training-v5e",
    "resnet50_training-v5e",
    "llama_decode-v5e",
    "moe_decode-v5e",
    "lstm-v5e",
    "mlp-v5e",
    "gpt2_training-v4",
    "resnet50_training-v4",
)
SETTINGS: tuple[tuple[Variant, int, int], ...] = (("bandwidth", 14, 3), ("bucket", 14, 0), ("size", 10, 2))


def memory(path: Path) -> None:
    """Append one row per trace and variant: costs in microseconds of each method's plan, judged exactly."""
    done = {(row["trace"], row["variant"]) for row in rows_of(path)}
    for variant, tensors, budget in SETTINGS:
        for name in TRACES:
            if (name, variant) in done:
                continue
            trace = load_trace(ROOT / "workloads" / "traces" / f"{name}.json.gz")
            problem = MemoryProblem.from_program(
                trace.program, trace.hierarchy, variant=variant, tensors=tensors, steps=20, budget=budget
            )
            found = {
                "nominal": solve_nominal(problem),
                "static": solve_static(problem, seconds=15.0),
                "improved": solve_search(problem, None, SearchConfig(seconds=10.0, quiet_restarts=3)),
                "exact": solve_exact(problem, seconds=20.0),
            }
            row: dict[str, Any] = {
                "trace": name,
                "variant": variant,
                "budget": budget,
                "tensors": problem.num_tensors,
                "gaps": len(problem.gaps),
                "capacity_mib": round(problem.capacity, 2),
                "size_mib": round(float(problem.size.sum()), 2),
            }
            for label, result in found.items():
                costs = judge(problem, result.x, samples=50)
                row[f"{label}_worst_us"] = round(costs.worst_case, 4)
                row[f"{label}_sampled_mean_us"] = round(costs.sampled_mean, 4)
                row[f"{label}_seconds"] = round(result.seconds, 2)
            bound, best = found["exact"].lower_bound, found["exact"].worst_case
            row["exact_gap_percent"] = round(100 * (best - bound) / best, 4)
            robust = min(row["improved_worst_us"], row["exact_worst_us"])
            row["nominal_regret_percent"] = round(100 * (row["nominal_worst_us"] - robust) / robust, 4)
            row["improved_gap_to_exact_percent"] = round(100 * (row["improved_worst_us"] - best) / best, 4)
            append_row(path, row)
            print(row, flush=True)

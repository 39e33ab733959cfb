"""Robust memory plans on shipped traces: nominal, static and robust, judged by ``simulate``; no network is used.

python -m tests.benchmarks.neur2ro memory [--seconds 40]   (rows: docs/results/neur2ro_memory_plans.csv)

Temporaries grow up to 1.5 times or neighbours take up to half of the bandwidth (budgeted: not both at their worst). All
three start from the same solver (anneal) with the same seconds; 50 scenarios are sampled for the mean.
"""

from pathlib import Path
from typing import Any

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.neur2ro.memory_plan import ScenarioJudge, plan_memory
from mallocgame.baselines.neur2ro.memory_scenarios import MemoryUncertainty
from mallocgame.cli.robust_memory import plan_rows
from mallocgame.workloads import suite
from tests.benchmarks.neur2ro import append_row, rows_of

TRACES = (
    "gpt2_training-v5e",
    "bert-v5e",
    "resnet50_training-v5e",
    "unet-v5e",
    "llama_decode-v5e",
    "moe_decode-v5e",
    "vit-v6e",
    "lstm_training-v5e",
    "mobilenet-v4",
    "wavenet-v5e",
)


def memory(path: Path, seconds: float) -> None:
    """Append one row per trace and plan."""
    done = {row["trace"] for row in rows_of(path)}
    uncertainty = MemoryUncertainty(growth=1.5, contention=0.5)
    for name in TRACES:
        if name in done:
            continue
        case = suite.load(name)
        anneal(case.program, case.hierarchy, seconds=0.01)
        plans = plan_memory(case.program, case.hierarchy, uncertainty, solver=anneal, seconds=seconds)
        for row in plan_rows(plans, ScenarioJudge(case.program, case.hierarchy, uncertainty), 50):
            shown: dict[str, Any] = {"trace": name, "used_network": False, "limit_seconds": seconds}
            shown |= {key: round(value, 9) if isinstance(value, float) else value for key, value in row.items()}
            shown |= {"robust_is_static": plans.robust_is_static, "evaluations": plans.evaluations}
            append_row(path, shown)
            print(shown, flush=True)


def memory_summary(path: Path) -> None:
    """Print one line a trace."""
    rows = rows_of(path)
    print("\nmemory plans, ms: worst case / mean of 50 samples / as compiled; no network")
    print("| trace | nominal | static | robust | price of robustness % | worst case saved % | |")
    print("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["trace"] for row in rows):
        mine = {row["plan"]: row for row in rows if row["trace"] == name}
        cells = []
        for plan in ("nominal", "static", "robust"):
            keys = ("worst_seconds", "sampled_mean_seconds", "nominal_seconds")
            cells.append(" / ".join(f"{1e3 * float(mine[plan][key]):.3f}" for key in keys))
        worst = {plan: float(row["worst_seconds"]) for plan, row in mine.items()}
        saved = 100 * (1 - worst["robust"] / worst["nominal"])
        note = "robust = static" if mine["robust"]["robust_is_static"] == "True" else ""
        price = float(mine["robust"]["price_percent"])
        print(f"| {name} | {' | '.join(cells)} | {price:.2f} | {saved:.2f} | {note} |")

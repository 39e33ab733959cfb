"""Measure the robust solvers; each finished instance is a CSV row in docs/results/, and a later run goes on from there.

python -m tests.benchmarks.neur2ro knapsack --modes improved,paper --limit 252
python -m tests.benchmarks.neur2ro capital-budgeting --seconds 60 --count 3
python -m tests.benchmarks.neur2ro memory
python -m tests.benchmarks.neur2ro summary
"""

import argparse
import csv
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.baselines.neur2ro.ccg import CcgConfig, solve_paper
from mallocgame.baselines.neur2ro.exact import solve_nominal, solve_static
from mallocgame.baselines.neur2ro.formats import read_branch_and_price
from mallocgame.baselines.neur2ro.improved import ImprovedConfig, solve_improved
from mallocgame.baselines.neur2ro.kadaptability import solve_k_adaptability
from mallocgame.baselines.neur2ro.network import Network, load_network
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting, scoring_scenarios
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem, read_knapsack
from mallocgame.baselines.neur2ro.registry import pretrained
from mallocgame.baselines.neur2ro.result import RobustResult
from tests.paths import ROOT, SHARED_DATA

DOCS = ROOT / "docs" / "results"
CLASSES = ("UN", "WC", "ASC", "SC")
SIZES = (20, 30, 40, 50, 60, 70, 80)
PUBLISHED_MEDIAN = {20: 1.552, 30: 1.038, 40: 1.181, 50: 0.794, 60: 0.311, 70: 0.416, 80: 0.205}
PUBLISHED_SECONDS = {20: 4.75, 30: 7.5, 40: 12.5, 50: 11.0, 60: 29.0, 70: 13.5, 80: 15.0}  # mean of the four classes


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row, with a header if the file is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def warm_up(network: Network) -> None:
    """Compile the kernels (minutes the first time on a busy machine), so that no instance is charged for it."""
    rng = np.random.default_rng(0)
    small = KnapsackProblem.generate(rng, n=6, kind="SC", deviation=0.2, delta=0.5, fill=0.4)
    solve_improved(small, network, ImprovedConfig(seconds=5.0, quiet_restarts=1))
    budgeting = CapitalBudgeting.generate(rng, n=5)
    budgeting.values(budgeting.sample_first_stage(rng, 2), budgeting.sample_scenarios(rng, 2))


def knapsack(modes: list[str], limit: int) -> None:
    """Solve the public knapsack instances, strata first: every n and class once before any twice."""
    folder, path = SHARED_DATA / "robust_knapsack", DOCS / "neur2ro_knapsack.csv"
    published = read_branch_and_price(folder / "branch_and_price.csv")
    network = load_network(pretrained("knapsack"))
    done = {(row["instance"], row["mode"]) for row in rows_of(path)}
    warm_up(network)
    order = itertools.product(("0.5", "0.1", "1"), ("0.15", "0.1", "0.2"), SIZES, CLASSES)
    for delta, deviation, n, kind in itertools.islice(order, limit):
        name = f"RKP_{kind}_n{n}_R1000_H100_h40_dev{deviation}_d{delta}"
        problem = read_knapsack(folder / name)
        for mode in modes:
            if (name, mode) in done:
                continue
            result: RobustResult
            if mode == "paper":
                result = solve_paper(problem, network, CcgConfig(seconds=15.0, program_seconds=4.0))
            elif mode == "nominal":
                result = solve_nominal(problem)
            else:
                with_network = network if mode == "improved" else None
                result = solve_improved(problem, with_network, ImprovedConfig(seconds=4.0 + n / 10))
            best = published[name]
            row = {
                "instance": name,
                "class": kind,
                "n": n,
                "mode": mode,
                "profit": round(-result.worst_case, 3),
                "reference_profit": best.profit,
                "reference_proved": best.solved,
                "error_percent": round(100 * (best.profit + result.worst_case) / best.profit, 4),
                "seconds": round(result.seconds, 3),
                "evaluation_seconds": round(result.evaluation_seconds, 3),
                "scenarios": len(result.scenarios),
                "bound_profit": round(-result.lower_bound, 3),
                "stopped": result.stopped,
            }
            append_row(path, row)
            print(f"{name} {mode}: error {row['error_percent']} %, {row['seconds']} s", flush=True)


def capital_budgeting(seconds: float, count: int) -> None:
    """Compare with k-adaptability at equal budgets, on unfloored generated instances, by the published scoring."""
    path = DOCS / "neur2ro_capital_budgeting.csv"
    done = {(row["instance"], row["budget_seconds"]) for row in rows_of(path)}
    warm_up(load_network(pretrained("knapsack")))
    common = scoring_scenarios()
    search = ImprovedConfig(seconds=seconds, quiet_restarts=1_000_000)  # use the whole budget, as k-adaptability does
    for index, n in itertools.product(range(count), (10, 20, 30, 40, 50)):
        name = f"CB_n{n}_no{index + 1}"
        if (name, str(seconds)) in done:
            continue
        problem = CapitalBudgeting.generate(np.random.default_rng([n, index]), n=n)
        solvers: dict[str, Callable[[], RobustResult]] = {
            "improved": lambda p=problem: solve_improved(p, None, search),  # type: ignore[misc]
            "k2": lambda p=problem: solve_k_adaptability(p, seconds=seconds),  # type: ignore[misc]
            "static": lambda p=problem: solve_static(p, seconds=seconds),  # type: ignore[misc]
            "nominal": lambda p=problem: solve_nominal(p),  # type: ignore[misc]
        }
        found = {label: solver() for label, solver in solvers.items()}
        own = np.array([result.worst_scenario for result in found.values()])
        judged = np.vstack([common, own])
        values = {label: float(problem.values(r.x[None], judged).max()) for label, r in found.items()}
        best = min(values.values())
        row: dict[str, Any] = {"instance": name, "n": n, "budget_seconds": seconds}
        for label, result in found.items():
            row[f"{label}_profit"] = round(-values[label], 5)
            row[f"{label}_error_percent"] = round(100 * (values[label] - best) / abs(best), 4)
            row[f"{label}_seconds"] = round(result.seconds, 2)
        row["k2_stopped"] = found["k2"].stopped
        append_row(path, row)
        print(row, flush=True)


def summary() -> None:
    """Print medians per n and class beside the published figures."""
    rows = rows_of(DOCS / "neur2ro_knapsack.csv")
    for mode in sorted({row["mode"] for row in rows}):
        mine = [row for row in rows if row["mode"] == mode]
        print(f"\nknapsack, {mode}: {len(mine)} of 252 instances; median error % against branch and price")
        print("| n | all | published | UN | WC | ASC | SC | mean s | published s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for n in SIZES:
            of_n = [row for row in mine if row["n"] == str(n)]
            if not of_n:
                continue
            cells = [_median(row for row in of_n if row["class"] == kind) for kind in CLASSES]
            seconds = statistics.mean(float(row["seconds"]) for row in of_n)
            head = f"| {n} | {_median(of_n)} | {PUBLISHED_MEDIAN[n]} | "
            print(head + " | ".join(cells) + f" | {seconds:.1f} | {PUBLISHED_SECONDS[n]:.1f} |")
    budgeting = rows_of(DOCS / "neur2ro_capital_budgeting.csv")
    if budgeting:
        print("\ncapital budgeting: median error % against the best of the four")
        print("| n | budget s | instances | improved | k2 | static | nominal |\n|---|---|---|---|---|---|---|")
    for n, seconds in sorted({(int(row["n"]), float(row["budget_seconds"])) for row in budgeting}):
        group = [row for row in budgeting if int(row["n"]) == n and float(row["budget_seconds"]) == seconds]
        labels = ("improved", "k2", "static", "nominal")
        medians = [statistics.median(float(row[f"{label}_error_percent"]) for row in group) for label in labels]
        print(f"| {n} | {seconds:g} | {len(group)} | " + " | ".join(f"{m:.3f}" for m in medians) + " |")


def _median(rows: Iterable[dict[str, str]]) -> str:
    values = [float(row["error_percent"]) for row in rows]
    return f"{statistics.median(values):.3f}" if values else ""


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("knapsack", "capital-budgeting", "memory", "summary"))
    parser.add_argument("--modes", default="improved,paper")
    parser.add_argument("--limit", type=int, default=252, help="knapsack instances")
    parser.add_argument("--seconds", type=float, default=60.0, help="capital budgeting: per instance and method")
    parser.add_argument("--count", type=int, default=3, help="capital budgeting: instances per size")
    arguments = parser.parse_args()
    DOCS.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if arguments.what == "knapsack":
        knapsack(arguments.modes.split(","), arguments.limit)
    elif arguments.what == "capital-budgeting":
        capital_budgeting(arguments.seconds, arguments.count)
    elif arguments.what == "memory":
        from tests.benchmarks.neur2ro_memory import memory

        memory(DOCS / "neur2ro_memory.csv")
    else:
        summary()
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

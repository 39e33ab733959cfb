"""Measure the robust solvers; each finished instance is a CSV row in docs/results/, and a later run goes on from there.

python -m tests.benchmarks.neur2ro knapsack --modes average,learned,learned-without-network,search,paper --limit 252
python -m tests.benchmarks.neur2ro held-out --modes average,learned,learned-without-network,search --limit 28
python -m tests.benchmarks.neur2ro main-program
python -m tests.benchmarks.neur2ro device --device cuda
python -m tests.benchmarks.neur2ro loans --modes average,search --seconds 30 --limit 72
python -m tests.benchmarks.neur2ro capital-budgeting --seconds 60 --count 3
python -m tests.benchmarks.neur2ro memory --seconds 40
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

from mallocgame.baselines.neur2ro.arg_max import ArgMaxProgram, CcgConfig
from mallocgame.baselines.neur2ro.ccg import adversary, solve_paper
from mallocgame.baselines.neur2ro.formats import read_branch_and_price
from mallocgame.baselines.neur2ro.kadaptability import solve_k_adaptability
from mallocgame.baselines.neur2ro.learned import LearnedConfig, solve_learned
from mallocgame.baselines.neur2ro.methods import run
from mallocgame.baselines.neur2ro.network import Network, load_network
from mallocgame.baselines.neur2ro.problem import TwoStageProblem
from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting, scoring_scenarios
from mallocgame.baselines.neur2ro.problems.knapsack import KnapsackProblem, read_knapsack
from mallocgame.baselines.neur2ro.problems.loans import read_loans
from mallocgame.baselines.neur2ro.references import solve_average, solve_nominal, solve_static
from mallocgame.baselines.neur2ro.registry import pretrained
from mallocgame.baselines.neur2ro.result import RobustResult
from mallocgame.baselines.neur2ro.search import SearchConfig, solve_search
from tests.paths import ROOT, SHARED_DATA

DOCS = ROOT / "docs" / "results"
CLASSES = ("UN", "WC", "ASC", "SC")
SIZES = (20, 30, 40, 50, 60, 70, 80)
PUBLISHED_MEDIAN = {20: 1.552, 30: 1.038, 40: 1.181, 50: 0.794, 60: 0.311, 70: 0.416, 80: 0.205}
PUBLISHED_SECONDS = {20: 4.75, 30: 7.5, 40: 12.5, 50: 11.0, 60: 29.0, 70: 13.5, 80: 15.0}  # mean of the four classes


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row, with a header if the file is new."""
    new = not path.exists()
    if not new and rows_of(path)[:1] and list(rows_of(path)[0]) != list(row):
        raise SystemExit(f"{path} has other columns, of an older version: move it away")
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
    solve_search(small, network, SearchConfig(seconds=5.0, quiet_restarts=1))
    budgeting = CapitalBudgeting.generate(rng, n=5)
    budgeting.values(budgeting.sample_first_stage(rng, 2), budgeting.sample_scenarios(rng, 2))


def knapsack(modes: list[str], limit: int, path: Path, device: str | None) -> None:
    """Solve the public knapsack instances, strata first: every n and class once before any twice."""
    folder = SHARED_DATA / "robust_knapsack"
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
            result = _solved(mode, problem, network, 4.0 + n / 10, device)
            best = published[name]
            row = {
                "instance": name,
                "class": kind,
                "n": n,
                "mode": mode,
                "used_network": result.used_network,
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


def _solved(
    mode: str, problem: TwoStageProblem, network: Network, search_seconds: float, device: str | None = None
) -> RobustResult:
    """Run one mode: "learned" gets 2 s, the paper's method 8 s, the searches ``search_seconds``."""
    if mode == "paper":
        return solve_paper(problem, network, CcgConfig(seconds=8.0, program_seconds=2.0))
    if mode == "learned":
        return solve_learned(problem, network, LearnedConfig(seconds=2.0, device=device))
    if mode == "learned-without-network":
        return solve_learned(problem, None, LearnedConfig(seconds=2.0))
    if mode in ("search", "search-without-network"):
        return solve_search(problem, network if mode == "search" else None, SearchConfig(seconds=search_seconds))
    references = {"average": solve_average, "nominal": solve_nominal, "static": solve_static}
    return references[mode](problem, seconds=20.0)


def held_out(modes: list[str], limit: int, path: Path) -> None:
    """Solve generated instances of the public kind, in the same order of strata; errors are to the best mode."""
    network = load_network(pretrained("knapsack"))
    done = {(row["instance"], row["mode"]) for row in rows_of(path)}
    warm_up(network)
    order = itertools.product((0.5, 0.1, 1.0), (0.15, 0.1, 0.2), SIZES, CLASSES)
    for delta, deviation, n, kind in itertools.islice(order, limit):
        name = f"{kind}_n{n}_dev{deviation}_d{delta}"
        rng = np.random.default_rng([77, n, CLASSES.index(kind), round(100 * deviation), round(10 * delta)])
        problem = KnapsackProblem.generate(rng, n=n, kind=kind, deviation=deviation, delta=delta, fill=40 / 101)
        for mode in modes:
            if (name, mode) in done:
                continue
            result = _solved(mode, problem, network, 4.0 + n / 10)
            row = {
                "instance": name,
                "class": kind,
                "n": n,
                "mode": mode,
                "used_network": result.used_network,
                "profit": round(-result.worst_case, 3),
                "exact": result.worst_case_exact,
                "seconds": round(result.seconds + result.evaluation_seconds, 3),
                "stopped": result.stopped,
            }
            append_row(path, row)
            print(row, flush=True)


def held_out_summary(path: Path) -> None:
    """Print the median error of each mode against the best of all modes, by n."""
    rows = rows_of(path)
    if not rows:
        return
    best = {name: max(float(row["profit"]) for row in rows if row["instance"] == name) for name in _names(rows)}
    print("\nheld-out knapsack: median error % against the best of the modes")
    print("| mode | network | " + " | ".join(f"n = {n}" for n in SIZES) + " |\n|---|---|" + "---|" * len(SIZES))
    for mode in dict.fromkeys(row["mode"] for row in rows):
        mine = [row for row in rows if row["mode"] == mode]
        cells = []
        for n in SIZES:
            errors = [100 * (1 - float(row["profit"]) / best[row["instance"]]) for row in mine if row["n"] == str(n)]
            cells.append(f"{statistics.median(errors):.3f}" if errors else "")
        used = "yes" if mine[0]["used_network"] == "True" else "no"
        print(f"| {mode} | {used} | " + " | ".join(cells) + " |")


def _names(rows: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(row["instance"] for row in rows))


def main_program(seconds: float = 4.0, rounds: int = 4) -> None:
    """Print how far the main program of ``paper`` closes in ``seconds`` as the loop adds scenarios (WC)."""
    network, config = load_network(pretrained("knapsack")), CcgConfig()
    print("| n | scenarios | objective | bound | gap % | s |\n|---|---|---|---|---|---|")
    for n in SIZES:
        problem = read_knapsack(SHARED_DATA / "robust_knapsack" / f"RKP_WC_n{n}_R1000_H100_h40_dev0.15_d0.5")
        bound = network.bind(problem)
        program = ArgMaxProgram(bound, problem, config)
        x = problem.deterministic(problem.mean_scenario()).x
        for _ in range(rounds):
            _, xi = adversary(bound, problem, x, seconds=2.0, config=config)
            began = time.perf_counter()
            value, x = program.solve(xi, x, seconds=seconds)
            spent = time.perf_counter() - began
            gap = 100 * (value - program.bound) / abs(value)
            print(
                f"| {n} | {len(program.branches)} | {value:.1f} | {program.bound:.1f} | {gap:.2f} | {spent:.1f} |",
                flush=True,
            )


def device_speed(device: str, plans: int = 4096, scenarios: int = 64, repeats: int = 5) -> None:
    """Time the network's predictions of plan-scenario pairs on NumPy and on a device, and compare what they say."""
    network = load_network(pretrained("knapsack"))
    for n in (20, 80):
        rng = np.random.default_rng(n)
        problem = KnapsackProblem.generate(rng, n=n, kind="WC", deviation=0.15, delta=0.5, fill=40 / 101)
        xs, xis = problem.sample_first_stage(rng, plans), problem.sample_scenarios(rng, scenarios)
        found: dict[str, Any] = {}
        for label, bound in (("NumPy", network.bind(problem)), (device, network.bind(problem, device))):
            bound.predict(xs[:64], xis)
            times = []
            for _ in range(repeats):
                began = time.perf_counter()
                found[label] = bound.predict(xs, xis)
                times.append(time.perf_counter() - began)
            rate = plans * scenarios / statistics.median(times) / 1e6
            print(f"n = {n}, {label}: {rate:.2f} million pairs a second", flush=True)
        apart = np.abs(found["NumPy"] - found[device]).max() / np.abs(found["NumPy"]).max()
        print(f"n = {n}: largest difference {apart:.1e} of the largest value")


def loans(modes: list[str], seconds: float, limit: int, sizes: list[int]) -> None:
    """Solve the public loans instances, strata first: every size with every number of factors before another budget."""
    folder, path = SHARED_DATA / "robust_capital_budgeting_loans", DOCS / "neur2ro_loans.csv"
    published = read_branch_and_price(folder / "branch_and_price.csv")
    done = {(row["instance"], row["mode"]) for row in rows_of(path)}
    order = itertools.product((40, 60, 80, 20), (8, 4, 6), sizes)
    for h, factors, n in itertools.islice(order, limit):
        name = f"RC_N{n}_R100_H100_h{h}_C1_0.2_C2_0.2_M{factors}_F0.8_Lambda0.12_Mu1.2_Ro5_no1"
        problem, best = read_loans(folder / name), published[name]
        for mode in modes:
            if (name, mode) in done:
                continue
            result = run(mode, problem, None, seconds=seconds)
            error = 100 * (best.profit + result.worst_case) / best.profit
            row = {
                "instance": name,
                "n": n,
                "mode": mode,
                "used_network": result.used_network,
                "profit": round(-result.worst_case, 4),
                "reference_profit": best.profit,
                "reference_proved": best.solved,
                "reference_seconds": best.seconds,
                "error_percent": round(error, 4),
                "exact": result.worst_case_exact,
                "limit_seconds": seconds,
                "seconds": round(result.seconds + result.evaluation_seconds, 2),
                "stopped": result.stopped,
            }
            append_row(path, row)
            print(f"{name} {mode}: error {error:.4f} %, {row['seconds']} s", flush=True)


def capital_budgeting(seconds: float, count: int) -> None:
    """Compare with k-adaptability at equal budgets, on unfloored generated instances, by the published scoring."""
    path = DOCS / "neur2ro_capital_budgeting.csv"
    done = {(row["instance"], row["budget_seconds"]) for row in rows_of(path)}
    warm_up(load_network(pretrained("knapsack")))
    common = scoring_scenarios()
    search = SearchConfig(seconds=seconds, quiet_restarts=1_000_000)  # use the whole budget, as k-adaptability does
    for index, n in itertools.product(range(count), (10, 20, 30, 40, 50)):
        name = f"CB_n{n}_no{index + 1}"
        if (name, str(seconds)) in done:
            continue
        problem = CapitalBudgeting.generate(np.random.default_rng([n, index]), n=n)
        solvers: dict[str, Callable[[], RobustResult]] = {
            "search": lambda p=problem: solve_search(p, None, search),  # type: ignore[misc]
            "k2": lambda p=problem: solve_k_adaptability(p, seconds=seconds),  # type: ignore[misc]
            "average": lambda p=problem: solve_average(p),  # type: ignore[misc]
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
        used = "with" if mine[0]["used_network"] == "True" else "without"
        print(
            f"\nknapsack, {mode} ({used} a network): {len(mine)} of 252 instances; median error % to branch and price"
        )
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
        print("\ncapital budgeting: median error % against the best of the five")
        print(
            "| n | budget s | instances | search | k2 | average | static | nominal |\n|---|---|---|---|---|---|---|---|"
        )
    for n, seconds in sorted({(int(row["n"]), float(row["budget_seconds"])) for row in budgeting}):
        group = [row for row in budgeting if int(row["n"]) == n and float(row["budget_seconds"]) == seconds]
        labels = ("search", "k2", "average", "static", "nominal")
        medians = [statistics.median(float(row[f"{label}_error_percent"]) for row in group) for label in labels]
        print(f"| {n} | {seconds:g} | {len(group)} | " + " | ".join(f"{m:.3f}" for m in medians) + " |")


def loans_summary() -> None:
    """Print the loans instances by size: medians and largest errors against branch and price."""
    rows = rows_of(DOCS / "neur2ro_loans.csv")
    if not rows:
        return
    print("\nloans: error % against branch and price (3,600 s); no method used a network")
    print("| n | mode | instances | median | largest | median s |\n|---|---|---|---|---|---|")
    for n, mode in sorted({(int(row["n"]), row["mode"]) for row in rows}):
        mine = [row for row in rows if row["n"] == str(n) and row["mode"] == mode]
        errors = [float(row["error_percent"]) for row in mine]
        seconds = statistics.median(float(row["seconds"]) for row in mine)
        print(f"| {n} | {mode} | {len(mine)} | {statistics.median(errors):.3f} | {max(errors):.3f} | {seconds:.1f} |")


def _median(rows: Iterable[dict[str, str]]) -> str:
    values = [float(row["error_percent"]) for row in rows]
    return f"{statistics.median(values):.3f}" if values else ""


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        choices=("knapsack", "held-out", "main-program", "device", "capital-budgeting", "loans", "memory", "summary"),
    )
    parser.add_argument("--modes", default="average,learned,learned-without-network,search")
    parser.add_argument("--limit", type=int, default=252, help="instances")
    parser.add_argument("--seconds", type=float, default=60.0, help="budgeting, loans and memory: per run")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10, 20, 30, 40, 50, 100], help="loans: numbers of items"
    )
    parser.add_argument("--count", type=int, default=3, help="capital budgeting: instances per size")
    parser.add_argument("--rows", type=Path, default=DOCS / "neur2ro_knapsack.csv", help="knapsack: where rows go")
    parser.add_argument("--cpu-clock", action="store_true", help="limits and times in CPU seconds: fair under load")
    parser.add_argument("--device", help="learned, device: PyTorch device of the predictions (cuda)")
    arguments = parser.parse_args()
    DOCS.mkdir(parents=True, exist_ok=True)
    if arguments.cpu_clock:
        time.perf_counter = time.process_time
    began = time.perf_counter()
    if arguments.what == "knapsack":
        knapsack(arguments.modes.split(","), arguments.limit, arguments.rows, arguments.device)
    elif arguments.what == "held-out":
        held_out(arguments.modes.split(","), arguments.limit, DOCS / "neur2ro_held_out.csv")
    elif arguments.what == "main-program":
        main_program()
    elif arguments.what == "device":
        device_speed(arguments.device or "cpu")
    elif arguments.what == "capital-budgeting":
        capital_budgeting(arguments.seconds, arguments.count)
    elif arguments.what == "loans":
        loans(arguments.modes.split(","), arguments.seconds, arguments.limit, arguments.sizes)
    elif arguments.what == "memory":
        from tests.benchmarks.neur2ro_memory import memory

        memory(DOCS / "neur2ro_memory_plans.csv", arguments.seconds)
    else:
        summary()
        loans_summary()
        held_out_summary(DOCS / "neur2ro_held_out.csv")
        from tests.benchmarks.neur2ro_memory import memory_summary

        memory_summary(DOCS / "neur2ro_memory_plans.csv")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

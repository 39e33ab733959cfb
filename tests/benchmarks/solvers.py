"""Solvers on the shipped suite: ``python -m tests.benchmarks.solvers [--seconds S] [--solvers A,B] [TRACE...]``.

One JSON row per trace, solver and set of rules (with and without copies hoisted out of loops) is appended to ``--out``;
rows that are there already are not computed again, so a stopped run goes on where it was. ``--shard I/N`` takes every
N-th trace, for several processes on one file. ``--workers N`` gives solvers that can use several cores so many, and
their rows a name of their own. ``--synthetic N,...`` adds generated programs of about N decisions, which have no
compiler mapping. ``--summary`` only prints the tables of the file; ``--report`` writes them to
``docs/solvers_table.md`` and draws ``docs/img/solvers.png`` (speed-ups by trace) and
``docs/img/solvers_scaling.png`` (solver time against decisions). Of a solver with a date in its name, an earlier
tree's, only the bounds and the best mappings count.

Kernels are compiled before a clock starts; the agent, which compiles for a program, too, solves each once for a moment
first. Rows hold the improvements, (seconds, multiple of XLA's speed).
"""

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from functools import cache
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mallocgame.cli.cases import open_case, prove_bound
from mallocgame.evaluation import Case, make_case
from mallocgame.evaluation import run as run_solver
from mallocgame.files.writing import atomic_path
from mallocgame.hierarchy import preset
from mallocgame.report.comparison import PALETTE, save_comparison
from mallocgame.solver import Limits, Problem
from mallocgame.workloads import suite
from mallocgame.workloads.synthetic.generate import Recipe, generate
from mallocgame.workloads.trace import Trace

Row = dict[str, Any]
DOCS = Path("docs")
WORKERS = " --workers "  # in the name of a solver that was told how many cores it has
EARLIER = ", 20"  # in the name of an earlier tree's solver: its date
NEAR = 1.01  # a mapping this close to the final one counts as found
TIGHT, CLOSE = 0.02, 0.05  # proved gaps that count as closed, and as nearly closed
COMPILES = frozenset({"muzero"})  # solvers that compile for a program
WARM_UP_SECONDS = 0.2  # of such a solver on a program before it is measured there
SAME = 1 + 1e-9  # below this ratio two judged times are the same


def key(row: Row) -> tuple[Any, ...]:
    """Return what makes a row unique."""
    return row["trace"], row["solver"], row["hoist"], row["seconds"], row["seed"]


@cache
def digest(name: str) -> str:
    """Return a digest of a shipped trace's file (empty: a file of the user's, or generated)."""
    return hashlib.sha256(suite.path(name).read_bytes()).hexdigest()[:12] if name in suite.names() else ""


def read(path: Path) -> list[Row]:
    """Return the rows of a file that were measured on the traces as they are now; none if there is no file."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["digest"] == digest(row["trace"])]


def measure(case: Case, solver: str, seconds: float, seed: int, workers: int | None) -> Row:
    """Run one solver on one case and return its row."""
    if solver.partition(":")[0] in COMPILES:
        run_solver(case, solver, limits=Limits(seconds=WARM_UP_SECONDS), seed=seed, workers=workers)
    cpu, begun = time.process_time(), time.perf_counter()
    judged = run_solver(case, solver, limits=Limits(seconds=seconds), seed=seed, workers=workers)
    spent, cpu = time.perf_counter() - begun, time.process_time() - cpu
    assert judged.judged_seconds is not None, f"{solver} on {case.name}: {judged.violations[0]}"
    near = next((when for when, found in judged.history if found <= NEAR * judged.judged_seconds), spent)
    return {
        **judged.row(),
        "cpu_seconds": round(cpu, 3),
        "near_seconds": round(near, 3),
        "num_decisions": case.program.num_decisions,
        "seed": seed,
        "seconds": seconds,
        "history": rounded(judged.history, judged.xla_judged_seconds),
    }


def rounded(history: Iterable[tuple[float, float]], xla_seconds: float | None) -> list[tuple[float, float]]:
    """Return improvements, (seconds, judged seconds), as (seconds, multiple of XLA's speed); none where it is unknown.

    >>> rounded([(0.25, 4.0), (0.5, 4.0 - 1e-9), (1.00012, 2.0)], 4.0)
    [(0.25, 1.0), (1.0, 2.0)]
    """
    found: dict[float, float] = {}  # the first time of each speed
    for when, seconds in history if xla_seconds is not None else ():
        found.setdefault(round(xla_seconds / seconds, 6), round(when, 3))
    return [(when, speed) for speed, when in found.items()]


def synthetic_case(size: int, bound_seconds: float) -> Case:
    """Return a generated training program of about ``size`` decisions on v5e."""
    hierarchy = preset("v5e")
    program = generate(Recipe(family="training", decisions=size), seed=size, hierarchy=hierarchy).program
    trace = Trace(name=program.name, program=program, hierarchy=hierarchy, mapping=None, provenance={"chip": "v5e"})
    bound = prove_bound(Problem(program, hierarchy), bound_seconds)
    return make_case(trace, chip="v5e", lower_bound_seconds=bound)


def run(arguments: argparse.Namespace) -> None:
    """Measure what is missing and append it."""
    done = {key(row) for row in read(arguments.out)}
    names = arguments.traces or list(suite.names(base=True))
    names += [f"synthetic-{size}" for size in arguments.synthetic.split(",") if size]
    of_workers = f"{WORKERS}{arguments.workers}" if arguments.workers else ""
    index, of = (int(part) for part in arguments.shard.split("/"))
    for name in names[index::of]:
        for hoist in (True, False):
            solvers = arguments.solvers.split(",")
            wanted = [(s, (name, s + of_workers, hoist, arguments.seconds, arguments.seed)) for s in solvers]
            missing = [solver for solver, which in wanted if which not in done]
            if not missing:
                continue
            begun = time.perf_counter()
            if name.startswith("synthetic-"):
                case = synthetic_case(int(name.partition("-")[2]), arguments.bound_seconds)
            else:
                case = open_case(name, hoist=hoist, bound_seconds=arguments.bound_seconds)
            if not hoist and not any(loop.trip_count > 1 for loop in case.program.loops):
                continue  # the same as with hoisting
            bound_seconds = time.perf_counter() - begun
            for solver in missing:
                row = measure(case, solver, arguments.seconds, arguments.seed, arguments.workers)
                row |= {
                    "trace": name,
                    "solver": solver + of_workers,
                    "hoist": hoist,
                    "bound_seconds": round(bound_seconds, 2),
                    "digest": digest(name),
                }
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
                ratio = "" if row["speedup_over_xla"] is None else f", {row['speedup_over_xla']:.3f}x XLA"
                milliseconds, gap = 1e3 * row["judged_seconds"], 100 * row["gap"]
                print(f"{name} {solver} hoist={hoist}: {milliseconds:.4f} ms{ratio}, gap {gap:.2f} %", flush=True)


def labelled(rows: Iterable[Row]) -> list[Row]:
    """Give rows the time limit as a part of their solver's name."""
    return [{**row, "solver": f"{row['solver']} {row['seconds']:g} s"} for row in rows]


def is_shown(row: Row) -> bool:
    """Whether a row is of the solvers as they are, on as many cores as they are given without asking."""
    return EARLIER not in row["solver"] and WORKERS not in row["solver"]


def sharpened(rows: Iterable[Row]) -> list[Row]:
    """Give every row the best bound that any solver proved for its program; what holds with hoisting holds without."""
    bounds: dict[tuple[str, bool], float] = {}
    rows = list(rows)
    for row in rows:
        for hoist in {row["hoist"], False}:
            at = row["trace"], hoist
            bounds[at] = max(bounds.get(at, 0.0), row["lower_bound_seconds"])
    found = []
    for row in rows:
        is_own = WORKERS in row["solver"]  # whether a core more proves more is what such rows say
        bound = row["lower_bound_seconds"] if is_own else bounds[row["trace"], row["hoist"]]
        bound = min(bound, row["judged_seconds"])
        found.append({**row, "lower_bound_seconds": bound, "gap": 1 - bound / row["judged_seconds"]})
    return found


def without_hoisting(rows: Sequence[Row]) -> list[Row]:
    """Return one row a trace and solver: the one without hoisting where there are two."""
    last = {(row["trace"], row["solver"]): row for row in sorted(rows, key=lambda row: not row["hoist"])}
    return list(last.values())


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return exp(sum(log(value) for value in values) / len(values))


def summary(rows: Sequence[Row]) -> str:
    """Return the tables of the docs."""
    lines = []
    for title, group in (
        ("loop hoisting allowed", [row for row in rows if row["hoist"]]),
        ("without loop hoisting", without_hoisting(rows)),
    ):
        chosen = [row for row in group if row["speedup_over_xla"] is not None]
        lines += [f"\n{title}:\n"]
        lines += ["| solver | traces | geometric mean | median | slower than XLA | gap <= 2 % | gap <= 5 % |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for solver in dict.fromkeys(row["solver"] for row in chosen if is_shown(row)):
            own = [row for row in chosen if row["solver"] == solver]
            gains = [row["speedup_over_xla"] for row in own]
            slower = sum(gain * SAME < 1 for gain in gains)
            cells = f"{geometric_mean(gains):.3f} | {statistics.median(gains):.3f} | {slower}"
            lines.append(f"| {solver} | {len(own)} | {cells} | {_closed([row['gap'] for row in own])} |")
        gaps = [row["gap"] for row in fastest(row for row in chosen if WORKERS not in row["solver"])]
        lines.append(f"| the fastest of any run | {len(gaps)} | | | | {_closed(gaps)} |")
    return "\n".join(lines)


def fastest(rows: Iterable[Row]) -> list[Row]:
    """Return one row a trace: the best mapping of any run."""
    best = {row["trace"]: row for row in sorted(rows, key=lambda row: -float(row["judged_seconds"]))}
    return list(best.values())


def _closed(gaps: Sequence[float]) -> str:
    counts = [sum(gap <= most for gap in gaps) for most in (TIGHT, CLOSE)]
    return " | ".join(f"{count} ({100 * count / len(gaps):.0f} %)" for count in counts)


def by_workers(rows: Sequence[Row]) -> str:
    """Return how much more cores bring, on the traces that all numbers of them were tried on; empty: none were."""
    tried = [row for row in rows if WORKERS in row["solver"] and row["speedup_over_xla"] is not None]
    names = sorted({row["solver"] for row in tried})
    of = {(row["trace"], row["hoist"], row["solver"]): row for row in tried}
    cases = [case for case in {at[:2] for at in of} if all((*case, name) in of for name in names)]
    if not cases:
        return ""
    lines = [f"\non {len({name for name, _ in cases})} traces, {max(row['seconds'] for row in tried):g} s each:\n"]
    lines += ["| solver | geometric mean | mean gap | gap <= 2 % |", "|---|---|---|---|"]
    for name in names:
        own = [of[*case, name] for case in cases]
        mean, closed = statistics.mean(row["gap"] for row in own), sum(row["gap"] <= TIGHT for row in own)
        gain = geometric_mean([row["speedup_over_xla"] for row in own])
        lines.append(f"| {name} | {gain:.4f} | {100 * mean:.1f} % | {closed} of {len(own)} |")
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """Return one line a trace: XLA's time, each solver's speed-up, the best gap; ``*`` marks rows without hoisting."""
    solvers = list(dict.fromkeys(row["solver"] for row in rows if is_shown(row)))
    lines = [f"| trace | decisions | XLA ms | bound ms | {' | '.join(solvers)} | least gap |"]
    lines.append("|---" * (len(solvers) + 5) + "|")
    for name, hoist in dict.fromkeys((row["trace"], row["hoist"]) for row in rows):
        own = {row["solver"]: row for row in rows if (row["trace"], row["hoist"]) == (name, hoist)}
        first = next(iter(own.values()))
        if first["xla_judged_seconds"] is None:
            continue
        cells = [f"{own[s]['speedup_over_xla']:.3f}" if s in own else "" for s in solvers]
        times = f"{1e3 * first['xla_judged_seconds']:.4f} | {1e3 * first['lower_bound_seconds']:.4f}"
        gap = min(row["gap"] for row in own.values())
        mark = "" if hoist else "*"
        lines.append(f"| {name}{mark} | {first['num_decisions']} | {times} | {' | '.join(cells)} | {100 * gap:.1f} % |")
    return "\n".join(lines)


def scaling(path: Path, rows: Sequence[Row]) -> None:
    """Draw seconds until within 1 % of the final mapping against the number of decisions, by solver."""
    figure = Figure(figsize=(7, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, solver in enumerate(dict.fromkeys(row["solver"] for row in rows)):
        own = [row for row in rows if row["solver"] == solver and row["hoist"]]
        sizes = np.array([row["num_decisions"] for row in own])
        spent = np.array([max(row["near_seconds"], 1e-3) for row in own])
        axis.loglog(sizes, spent, "o", markersize=4, alpha=0.7, color=PALETTE[i % len(PALETTE)], label=solver)
    axis.set_xlabel("decisions (uses of movable tensors)")
    axis.set_ylabel("seconds until within 1 % of its final mapping")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path)


def report(rows: Sequence[Row]) -> None:
    """Write the tables and draw both pictures of the docs."""
    tried = rows
    rows = [row for row in rows if WORKERS not in row["solver"]]
    title = "<!-- written by python -m tests.benchmarks.solvers --report -->\n# Solvers on the shipped suite\n"
    notes = "`*`: without hoisting; solvers' columns: times as fast as the compiler's mapping; least gap: of any run.\n"
    text = "\n".join([title, summary(rows).strip(), by_workers(tried), "", notes, table(rows)])
    with atomic_path(DOCS / "solvers_table.md") as path:
        path.write_text(text + "\n", "utf-8")
    rows = [row for row in rows if is_shown(row)]
    shown = [row for row in without_hoisting(rows) if row["xla_judged_seconds"] is not None]
    save_comparison(DOCS / "img/solvers.png", shown, list(dict.fromkeys(row["solver"] for row in shown)))
    scaling(DOCS / "img/solvers_scaling.png", rows)


def main() -> None:
    """Run, or print what a file holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", metavar="TRACE")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--bound-seconds", type=float, default=5.0)
    parser.add_argument("--solvers", default="xla-heuristic,anneal,best")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="0/1", metavar="I/N")
    parser.add_argument("--synthetic", default="", metavar="N,...")
    parser.add_argument("--out", type=Path, default=Path("docs/results/solvers.jsonl"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.summary or arguments.report):
        run(arguments)
    rows = labelled(sharpened(read(arguments.out)))
    if arguments.summary:
        print(table(rows), summary(rows), sep="\n")
    if arguments.report:
        report(rows)


if __name__ == "__main__":
    main()

"""Memory and time against size: ``python -m tests.benchmarks.scale [--sizes N,...] [--plot FILE]``.

Synthetic training programs of about N decisions on v5e. Each of parse (the trace file), validate and simulate (of the
greedy mapping), greedy, anneal, best and bound runs in a process of its own: seconds from call to answer, kernels
warm, and the most memory that the process took. Solvers get ``--seconds``; the judged times say who found what. One
JSON row each is appended to ``--out``; what is there is not measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mallocgame.baselines.bounds import capacity_bound
from mallocgame.evaluation import find_solver
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.report.comparison import PALETTE
from mallocgame.solver import Problem
from mallocgame.workloads.synthetic.generate import Recipe, generate
from mallocgame.workloads.trace import Trace, load_trace, save_trace

SOLVERS = ("greedy", "anneal", "best")
WHAT = ("parse", "validate", "simulate", *SOLVERS, "bound")
Row = dict[str, Any]


def program_file(folder: Path, size: int, mapping: Mapping | None = None) -> Path:
    """Write the trace of a generated program of about ``size`` decisions; return where it is."""
    hierarchy = preset("v5e")
    program = generate(Recipe(family="training", decisions=size), seed=size, hierarchy=hierarchy).program
    path = folder / f"{size}.json.gz"
    save_trace(
        path,
        Trace(name=program.name, program=program, hierarchy=hierarchy, mapping=mapping, provenance={"chip": "v5e"}),
    )
    return path


def measure(what: str, path: Path, seconds: float) -> Row:
    """Return a row: seconds, peak memory, and what the solver's mapping takes."""
    begun = time.perf_counter()
    trace = load_trace(path)
    spent = time.perf_counter() - begun
    row: Row = {"decisions": trace.program.num_decisions, "what": what}
    problem, greedy = Problem(trace.program, trace.hierarchy), trace.mapping or Mapping()
    work: dict[str, Callable[[], object]] = {
        "validate": lambda: validate(*problem, greedy),
        "simulate": lambda: simulate(*problem, greedy).total_seconds,  # of the start of anneal and best
        "bound": lambda: capacity_bound(*problem, seconds=seconds, integer=False).seconds,
    }
    if what in SOLVERS:
        solve, _ = find_solver(what)
        solve.prepare(problem)
        start = None if what == "greedy" else greedy
        work[what] = lambda: solve(*problem, seconds=seconds, start=start).seconds
    if what == "simulate":
        simulate(*problem, greedy)
    if what in work:
        begun = time.perf_counter()
        found = work[what]()
        spent = time.perf_counter() - begun
        row["value"] = found if isinstance(found, float) else None
    return row | {"seconds": round(spent, 4), "memory_bytes": peak_memory_bytes(), "limit": seconds}


def peak_memory_bytes() -> int:
    """Return the most memory that this process took (``ru_maxrss`` would begin with what its parent took)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def run(sizes: list[int], seconds: float, out: Path) -> None:
    """Measure what is missing, each in a process of its own."""
    done = {(row["size"], row["what"]) for row in read(out)}
    for size in sizes:
        if all((size, what) in done for what in WHAT):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = program_file(Path(folder), size)
            trace = load_trace(path)
            greedy, _ = find_solver("greedy")
            greedy.prepare(Problem(trace.program, trace.hierarchy))  # else a first call spends its limit on compiling
            mapping = greedy(trace.program, trace.hierarchy, seconds=seconds).mapping
            path = program_file(Path(folder), size, mapping)
            for what in WHAT:
                if (size, what) in done:
                    continue
                command = [sys.executable, "-m", "tests.benchmarks.scale", "--one", what, "--trace", str(path)]
                answer = subprocess.run(
                    [*command, "--seconds", str(seconds)], check=True, capture_output=True, text=True
                ).stdout
                row = {"size": size, **json.loads(answer.splitlines()[-1])}
                with out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def read(path: Path) -> list[Row]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def draw(path: Path, rows: list[Row]) -> None:
    """Draw seconds and memory against decisions."""
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for i, what in enumerate(WHAT):
        own = sorted((row for row in rows if row["what"] == what), key=lambda row: row["decisions"])
        sizes = [row["decisions"] for row in own]
        style: Row = {"color": PALETTE[i % len(PALETTE)], "label": what, "marker": "o", "markersize": 4}
        left.loglog(sizes, [max(row["seconds"], 1e-4) for row in own], **style)
        right.loglog(sizes, [row["memory_bytes"] / 2**20 for row in own], **style)
    for axis, label in ((left, "seconds"), (right, "most memory of the process, MiB")):
        axis.set_xlabel("decisions")
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="5000,20000,100000")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/scale.jsonl"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", choices=WHAT, help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.trace, arguments.seconds)))
    elif arguments.plot:
        draw(arguments.plot, read(arguments.out))
    else:
        run([int(size) for size in arguments.sizes.split(",")], arguments.seconds, arguments.out)


if __name__ == "__main__":
    main()

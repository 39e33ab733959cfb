"""The loop with the compiler, over programs and chips: ``python -m tests.benchmarks.compiler_loop --out FILE``.

Each case is one run of ``mallocgame tune``; its row is added to FILE (JSON lines) as soon as it is done, and a case
that is in FILE already is not run again. ``--report`` prints table and summary of what FILE holds. Programs of the zoo
are named with their module, as in ``--programs parallel:fsdp_step,idioms:sinkhorn``. ``--only large`` leaves out
programs of less than 600 instructions. ``--tables`` writes docs/compiler_loop_table.md from the rows in docs/results.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mallocgame.baselines.anneal import anneal
from mallocgame.errors import InputError, TraceError
from mallocgame.workloads import suite
from mallocgame.workloads.compiler_loop.settings import LARGE, Settings
from mallocgame.workloads.compiler_loop.tune import tune
from mallocgame.workloads.models import MODELS
from mallocgame.workloads.program_reference import ProgramReference, parse_reference
from mallocgame.workloads.xla.compiler import Compiler
from tests.benchmarks import zoo
from tests.benchmarks.compiler_loop_table import report, write_page
from tests.paths import ROOT

RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "compiler_loop_table.md"
GROUPS = {  # of the page: rows
    "suite": "compiler_loop.jsonl",
    "suite, 300 s": "compiler_loop_300s.jsonl",
    "zoo": "compiler_loop_zoo.jsonl",
    "several chips": "compiler_loop_chips.jsonl",
}
SOLVERS = RESULTS / "solvers.jsonl"  # best mappings known, by python -m tests.benchmarks.solvers


def main() -> None:
    """Run what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("compiler_loop.jsonl"))
    parser.add_argument("--programs", default=",".join(MODELS))
    parser.add_argument("--chips", default="v5e,v4,v6e")
    parser.add_argument("--seconds", type=float, default=40.0, help="search budget a program")
    parser.add_argument("--large-seconds", type=float, default=60.0, help=f"the same for {LARGE} instructions or more")
    parser.add_argument("--solver-seconds", type=float, default=6.0, help="of the solver, each time")
    parser.add_argument("--full-chips", default="v5e", help="chips for which default and best are compiled to the end")
    parser.add_argument("--full-steps", type=int, default=400, help="and of programs of at most so many instructions")
    parser.add_argument("--evaluations", type=int, help="a limit in compilations: the same on a busy machine")
    parser.add_argument("--lanes", type=int, default=1, help="that plan and compile in turn")
    parser.add_argument("--report", action="store_true", help="only print what there is")
    parser.add_argument("--only", choices=("all", "small", "large"), default="all", help=f"than {LARGE} instructions")
    parser.add_argument("--tables", action="store_true", help=f"only write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.tables:
        known = best_known(SOLVERS)
        found = {name: [with_known(row, known) for row in read(RESULTS / file)] for name, file in GROUPS.items()}
        write_page(PAGE, {name: rows for name, rows in found.items() if rows})
        return
    rows = read(options.out)
    if not options.report:
        known = best_known(SOLVERS)
        with Compiler(ready=options.lanes) as compiler:
            for program, chip in wanted(options):
                if f"{program}-{chip}" not in {row["case"] for row in rows}:
                    row = run(program, chip, options, known, compiler)
                    rows.append(row)
                    append(options.out, row)
    report(rows, sys.stdout)


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield programs and chips: of the suite, those that are shipped for one chip."""
    shipped = suite.names(base=True)
    for chip in options.chips.split(","):
        for program in options.programs.split(","):
            if ":" in program:
                size = "small"
            elif f"{program}-{chip}" in shipped:
                size = "small" if steps_of(program, chip) < LARGE else "large"
            else:
                continue
            if options.only in ("all", size):
                yield program, chip


def run(
    program: str, chip: str, options: argparse.Namespace, known: dict[str, float], compiler: Compiler
) -> dict[str, Any]:
    """Tune one program for one chip."""
    case = f"{program}-{chip}"
    start = time.perf_counter()
    try:
        reference, target = reference_of(program, chip)
        steps = 0 if ":" in program else steps_of(program, chip)
        seconds = options.large_seconds if steps >= LARGE else options.seconds
        full = chip in options.full_chips.split(",") and steps <= options.full_steps
        found = tune(
            reference,
            chip=target,
            settings=Settings(
                solve=anneal,
                seconds=seconds,
                solver_seconds=options.solver_seconds,
                evaluations=options.evaluations,
                full=full,
                lanes=options.lanes,
            ),
            compiler=compiler,
        )
    except (InputError, TraceError) as error:
        return {"case": case, "error": str(error)[:300]}
    row = found.figures() | {
        "case": case,
        "steps": found.trace.program.num_steps,
        "known_seconds": known.get(case),
        "chip": chip,
        "history": found.history,
    }
    row["orders"] = sum(str(value).count("overrides{") for value in found.options.values())
    row["flags"] = {key: value for key, value in found.options.items() if "overrides" not in key}
    row["seconds"], row["date"] = seconds, time.strftime("%Y-%m-%d")
    row["run_seconds"] = time.perf_counter() - start
    del row["options"]
    sys.stderr.write(
        f"{case}: {found.default_seconds / found.judged_seconds:.3f} times in {row['run_seconds']:.0f} s\n"
    )
    return row


def steps_of(program: str, chip: str) -> int:
    """Return how many instructions a program of the suite has."""
    return suite.load(f"{program}-{chip}").program.num_steps


def reference_of(program: str, chip: str) -> tuple[ProgramReference, str]:
    """Return a program of the suite or the zoo, and what it is compiled for: several chips for those that are split."""
    if ":" not in program:
        return parse_reference(f"mallocgame.workloads.models:{program}"), chip
    module, _, name = program.partition(":")
    several = module == "parallel"
    half = f"data={zoo.DEVICES[chip] // 2},model=2"
    mesh = "" if not several else half if name.startswith("two_axes") else f"data={zoo.DEVICES[chip]}"
    return parse_reference(program, folder=str(zoo.FOLDER), mesh=mesh), zoo.SEVERAL[chip] if several else chip


def best_known(path: Path) -> dict[str, float]:
    """Return the judged seconds of the best mapping that the solvers' benchmark has found for each trace."""
    found: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        if row["valid"]:
            found[row["trace"]] = min(found.get(row["trace"], float("inf")), row["judged_seconds"])
    return found


def with_known(row: dict[str, Any], known: dict[str, float]) -> dict[str, Any]:
    """Return a row whose headroom counts from the best mapping that is known now, not when it was run."""
    seconds = [s for s in (row.get("known_seconds"), known.get(row["case"])) if s is not None]
    return row | {"known_seconds": min(seconds, default=None)}


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row, on a line of its own even if the last one was cut off."""
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, of which the last may have been cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


if __name__ == "__main__":
    main()

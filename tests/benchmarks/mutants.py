"""Mutation testing: ``python -m tests.benchmarks.mutants [--target NAME] [--sample 60] [--seed 0] [--minutes 6]``.

One small change at a time is made to a module (a comparison, a sign, a constant, a boolean, a min for a max, a
condition turned round), and the tests that run the changed line are run until one fails. Rows go to
docs/results/mutants.jsonl; what is there, for the module as it is, is not tried again. ``--again`` tries again what
survived, ``--thorough`` with all examples of each property and everything imported anew; ``--report`` prints the table
and the survivors.
"""

import argparse
import hashlib
import json
import os
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.mutation.changes import Mutant, mutant, places
from tests.benchmarks.mutation.equivalent import why_equivalent
from tests.benchmarks.mutation.trying import Bench, Target
from tests.paths import ROOT

ROWS = ROOT / "docs/results/mutants.jsonl"
_AS_PYTHON = (("NUMBA_DISABLE_JIT", "1"),)
_COHERENCE = "tests/judge/test_coherence.py"
_VALIDATION = (_COHERENCE, "tests/judge/test_validation.py", "tests/judge/test_branches.py")
_GAME = ("tests/game/test_rules.py", "tests/game/test_space.py")
_FEW_WALKS = (*_AS_PYTHON, ("MALLOCGAME_WALKS", "40"))
_SOLVERS = "tests/baselines/solvers/"
TARGETS = {
    "validation": Target("mallocgame/judge/validation.py", _VALIDATION),
    "coherence": Target("mallocgame/judge/coherence.py", _VALIDATION),
    "simulation": Target(
        "mallocgame/judge/simulation.py",
        (_COHERENCE, "tests/judge/test_simulation.py", "tests/judge/test_branches.py"),
    ),
    "branches": Target("mallocgame/judge/branches.py", (_COHERENCE, "tests/judge/test_branches.py"), _AS_PYTHON),
    "addresses": Target("mallocgame/game/rules/addresses.py", _GAME, _FEW_WALKS),
    "retime": Target("mallocgame/game/rules/retime.py", _GAME, _FEW_WALKS),
    "overrides": Target("workloads/compiler_loop/overrides.py", ("tests/workloads/compiler_loop/test_overrides.py",)),
    "replay": Target("agents/muzero/replay.py", ("tests/agents/muzero/test_replay.py",)),
    "trace": Target("workloads/trace.py", ("tests/workloads/test_trace.py",)),
    "files": Target("mallocgame/files/reading.py", ("tests/test_files.py",)),
    "writing": Target("mallocgame/files/writing.py", ("tests/test_files.py",)),
    "buffers": Target(
        "baselines/packing/buffers.py",
        ("tests/baselines/packing/test_buffers.py", "tests/baselines/packing/test_general.py"),
    ),
    "clearances": Target("baselines/packing/clearances.py", ("tests/baselines/packing/test_general.py",), _AS_PYTHON),
    "windows": Target("baselines/bounds/windows.py", (f"{_SOLVERS}test_bound.py", f"{_SOLVERS}test_exact.py")),
}


def source_of(target: Target) -> str:
    """Return a target's module as it is."""
    return (ROOT / target.module).read_text(encoding="utf-8")


def sampled(name: str, sample: int, seed: int) -> list[Mutant]:
    """Return some of a target's mutants, the same for the same source."""
    source = source_of(TARGETS[name])
    every = places(source)
    return [mutant(source, place) for place in random.Random(f"{seed} {name}").sample(every, min(sample, len(every)))]


def digest(name: str) -> str:
    """Return a short name of a module's content."""
    return hashlib.sha256(source_of(TARGETS[name]).encode()).hexdigest()[:12]


def read_rows(path: Path) -> dict[tuple[str, str, int, str], dict[str, Any]]:
    """Return the last row of each mutant."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["target"], row["digest"], row["line"], row["change"]): row for row in rows}


def _equivalent(name: str, line: int, change: str) -> str:
    target = TARGETS[name]
    return why_equivalent(target.module, source_of(target).splitlines()[line - 1], change)


def run(name: str, wanted: list[Mutant], rows: Path, deadline: float, *, thorough: bool) -> None:
    """Try mutants until the deadline, in a process of its own; one row each."""
    kills = Counter(row["by"] for row in read_rows(rows).values() if row["target"] == name and row["by"])
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            print(f"{name}: not all could be tried", flush=True)
        return
    code = 1
    try:
        with tempfile.TemporaryDirectory(prefix="mallocgame-mutants-") as folder:
            bench = Bench(TARGETS[name], Path(folder), kills, thorough=thorough)
            for each in wanted:
                if time.monotonic() > deadline:
                    break
                begun = time.monotonic()
                found = bench.attempt(each)
                row = {"target": name, "digest": digest(name), "line": each.line, "change": each.change}
                row |= {"result": found.result, "by": found.by, "seconds": round(time.monotonic() - begun, 2)}
                with rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                if found.result in ("survived", "unreached"):
                    print(f"  {TARGETS[name].module}:{each.line}: {each.change} ({found.result})", flush=True)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def report(path: Path) -> Iterator[str]:
    """Yield a table of what was tried on the modules as they are, and the survivors."""
    rows = read_rows(path)
    yield "| module | mutants | tried | caught | equivalent | survive | caught of those that differ |"
    yield "|---|---|---|---|---|---|---|"
    survivors: list[str] = []
    total, total_caught, total_same = 0, 0, 0
    for name, target in TARGETS.items():
        mine = [row for (of, stamp, *_), row in rows.items() if of == name and stamp == digest(name)]
        caught = sum(row["result"] in ("caught", "slow") for row in mine)
        left = [row for row in mine if row["result"] not in ("caught", "slow")]
        real = [row for row in left if not _equivalent(name, row["line"], row["change"])]
        same = len(left) - len(real)
        survivors += [f"{target.module}:{row['line']}: {row['change']} ({row['result']})" for row in real]
        share = f"{caught / (len(mine) - same):.0%}" if len(mine) > same else "-"
        every = len(places(source_of(target)))
        yield f"| `{target.module}` | {every} | {len(mine)} | {caught} | {same} | {len(real)} | {share} |"
        total, total_caught, total_same = total + len(mine), total_caught + caught, total_same + same
    share = f"{total_caught / max(1, total - total_same):.1%}"
    yield f"| all | | {total} | {total_caught} | {total_same} | {len(survivors)} | {share} |"
    yield from survivors


def main() -> None:
    """Try mutants, the targets with the fewest rows first, or print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; repeatable")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each, at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant after so long")
    parser.add_argument("--again", action="store_true", help="try again what survived")
    parser.add_argument("--thorough", action="store_true", help="try what survives with all that there is")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of rows")
    parser.add_argument("--report", action="store_true", help="print the table")
    args = parser.parse_args()
    if args.report:
        print("\n".join(report(args.rows)))
        return
    deadline = time.monotonic() + args.minutes * 60
    known = read_rows(args.rows)
    done = {key for key, row in known.items() if not args.again or row["result"] in ("caught", "slow")}
    waiting = {}
    for name in args.target or list(TARGETS):
        chosen = sampled(name, args.sample, args.seed)
        open_ones = [m for m in chosen if (name, digest(name), m.line, m.change) not in done]
        if args.again:
            open_ones = [m for m in open_ones if (name, digest(name), m.line, m.change) in known]
        waiting[name] = [m for m in open_ones if not args.again or not _equivalent(name, m.line, m.change)]
    for name, wanted in sorted(waiting.items(), key=lambda pair: -len(pair[1])):
        if wanted and time.monotonic() < deadline:
            begun = time.monotonic()
            run(name, wanted, args.rows, deadline, thorough=args.thorough)
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()

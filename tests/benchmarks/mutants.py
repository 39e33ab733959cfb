"""Mutation testing: ``python -m tests.benchmarks.mutants [--target NAME] [--sample 40] [--seed 0]``.

One small change at a time is made to a module (a comparison, a sign, a constant, a boolean, a min for a max, a
statement left out), in a copy of the checkout; a change that the tests of its room do not notice is printed. What is
equivalent (no test can see it) has to be told by reading.
"""

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT


@dataclass(frozen=True, slots=True)
class Target:
    """A module and the tests that answer for it."""

    module: str
    tests: tuple[str, ...]


TARGETS = {
    "validation": Target("mallocgame/judge/validation.py", ("tests/judge",)),
    "coherence": Target("mallocgame/judge/coherence.py", ("tests/judge",)),
    "simulation": Target("mallocgame/judge/simulation.py", ("tests/judge",)),
    "addresses": Target("mallocgame/game/rules/addresses.py", ("tests/game",)),
    "retime": Target("mallocgame/game/rules/retime.py", ("tests/game",)),
    "overrides": Target("workloads/compiler_loop/overrides.py", ("tests/workloads/compiler_loop",)),
    "replay": Target(
        "agents/muzero/replay.py", ("tests/agents/muzero/test_parts.py", "tests/agents/muzero/test_priority.py")
    ),
    "trace": Target("workloads/trace.py", ("tests/workloads/test_trace.py",)),
    "files": Target("mallocgame/files/reading.py", ("tests/test_files.py",)),
    "writing": Target("mallocgame/files/writing.py", ("tests/test_files.py",)),
    "buffers": Target(
        "baselines/packing/buffers.py",
        ("tests/baselines/packing/test_buffers.py", "tests/baselines/packing/test_general.py"),
    ),
    "clearances": Target("baselines/packing/clearances.py", ("tests/baselines/packing/test_general.py",)),
    "windows": Target("baselines/bounds/windows.py", ("tests/baselines",)),
}
_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: the source that it makes, its line, and what was done."""

    source: str
    line: int
    change: str


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every single change of the kinds above."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        for choice in range(_choices(node)):
            other = copy.deepcopy(tree)
            twin = list(ast.walk(other))[number]
            before = ast.unparse(node)[:60]
            _change(twin, choice)
            ast.fix_missing_locations(other)
            yield Mutant(ast.unparse(other), getattr(node, "lineno", 0), f"{before} -> {ast.unparse(twin)[:60]}")


def _choices(node: ast.AST) -> int:
    """Return how many changes a node has."""
    if isinstance(node, ast.Compare):
        return sum(type(op) in _COMPARE for op in node.ops)
    if isinstance(node, ast.BinOp):
        return int(type(node.op) in _BINARY and not isinstance(node.left, ast.Constant))
    if isinstance(node, ast.BoolOp):
        return 1 + len(node.values)
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        return 1
    if isinstance(node, ast.Call):
        return int(isinstance(node.func, ast.Name) and node.func.id in _CALLS)
    if isinstance(node, ast.UnaryOp):
        return int(isinstance(node.op, (ast.Not, ast.USub)))
    if isinstance(node, ast.Constant):
        return int(type(node.value) in (int, bool))
    return 0


def _change(node: ast.AST, choice: int) -> None:
    if isinstance(node, ast.Compare):
        places = [k for k, op in enumerate(node.ops) if type(op) in _COMPARE]
        node.ops[places[choice]] = _COMPARE[type(node.ops[places[choice]])]()
    elif isinstance(node, ast.BinOp):
        node.op = _BINARY[type(node.op)]()
    elif isinstance(node, ast.BoolOp) and choice == 0:
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.BoolOp):
        del node.values[choice - 1]
        if len(node.values) == 1:
            node.values = [node.values[0], node.values[0]]
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        node.func.id = _CALLS[node.func.id]
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]


def survives(checkout: Path, target: Target, mutant: Mutant, seconds: float) -> bool:
    """Tell whether the target's tests still pass with the mutant in place."""
    path = checkout / target.module
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        return _run_tests(checkout, target.tests, seconds)
    finally:
        path.write_text(original, encoding="utf-8")


def _run_tests(checkout: Path, tests: Sequence[str], seconds: float) -> bool:
    """Run tests in a fork that has the libraries already; an endless loop counts as a failure."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            code = _run_pytest(checkout, tests)
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_pytest(checkout: Path, tests: Sequence[str]) -> int:
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] in ("mallocgame", "tests")]:
        del sys.modules[name]  # they are imported again, from the checkout
    sys.path[:] = [str(checkout), *(place for place in sys.path if place not in ("", str(ROOT)))]
    os.environ["PYTHONPATH"] = str(checkout)
    os.chdir(checkout)
    return int(pytest.main(["-n", "0", "-q", "-x", "-p", "no:cacheprovider", *tests]))


def run(name: str, sample: int, seed: int, seconds: float, deadline: float) -> tuple[int, int]:
    """Return (caught, tried) for a sample of a target's mutants, until the deadline; print the survivors."""
    target = TARGETS[name]
    every = list(mutants((ROOT / target.module).read_text(encoding="utf-8")))
    chosen = random.Random(f"{seed} {name}").sample(every, min(sample, len(every)))
    caught = 0
    with tempfile.TemporaryDirectory(prefix="mallocgame-mutants-") as folder:
        checkout = Path(folder) / "checkout"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.nbc", "*.nbi", "results")
        shutil.copytree(ROOT, checkout, symlinks=True, ignore=ignored)
        original = Mutant(source=(ROOT / target.module).read_text(encoding="utf-8"), line=0, change="none")
        assert survives(checkout, target, original, 10 * seconds), f"{name}: its tests fail as they are"
        for number, mutant in enumerate(chosen):
            if time.monotonic() > deadline:
                return caught, number
            if survives(checkout, target, mutant, seconds):
                print(f"  {target.module}:{mutant.line}: {mutant.change}", flush=True)
            else:
                caught += 1
    return caught, len(chosen)


def main() -> None:
    """Print the survivors and the share caught of each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; repeatable")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each, at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no test after so long")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit of one run of the tests")
    args = parser.parse_args()
    deadline = time.monotonic() + args.minutes * 60
    for library in ("gymnasium", "numba", "ortools.sat.python.cp_model", "scipy.optimize"):
        importlib.import_module(library)  # once, for all forks
    for name in args.target or list(TARGETS):
        caught, tried = run(name, args.sample, args.seed, args.seconds, deadline)
        print(f"{name}: {caught} of {tried} caught", flush=True)


if __name__ == "__main__":
    main()

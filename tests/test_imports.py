"""Imports point one way: workloads, agents and baselines import mallocgame, never one another; few modules wire."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mallocgame", "workloads", "agents", "baselines")
WIRING = ("mallocgame/cli/", "mallocgame/make.py", "mallocgame/tune.py")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    allowed = {package, "mallocgame"}
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(WIRING):
            continue
        wrong += [f"{name}: {module}" for module in _imports(path) if module.split(".")[0] in {*PACKAGES} - allowed]
    assert wrong == []


def test_the_judge_stands_alone() -> None:
    """``validate`` shares no code with the rules, the simulator or a solver."""
    for name in ("validate", "coherence"):
        modules = {m for m in _imports(ROOT / "mallocgame" / f"{name}.py") if m.startswith("mallocgame")}
        assert modules <= {f"mallocgame.{m}" for m in ("coherence", "hierarchy", "mapping", "program")}


def test_help_imports_nothing_heavy() -> None:
    heavy = ("numpy", "numba", "jax", "matplotlib", "gymnasium", "torch", "ortools", "scipy")
    script = f"import sys; import mallocgame.cli; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"

"""Imports point one way: workloads, agents and baselines import the core, never one another; the command line wires."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mallocgame.system import module_command
from tests.paths import ROOT

GUESTS = ("workloads", "agents", "baselines")  # top-level folders, linked into the package
WIRING = ("mallocgame/__main__.py",)


def _imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports when it runs; what only type checkers see does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _room(module: str) -> str:
    """Return whose module it is: a guest, ``cli``, ``mallocgame`` (the core), or the name of another package."""
    top, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    return second if top == "mallocgame" and second in {*GUESTS, "cli"} else top


@pytest.mark.parametrize("room", ["mallocgame", *GUESTS])
def test_imports_point_one_way(room: str) -> None:
    wrong = []
    for path in sorted((ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("mallocgame/cli/") or name in WIRING:
            continue
        rooms = {_room(module) for module in _imports(path)}
        wrong += [f"{name}: {found}" for found in rooms & {*GUESTS, "cli"} - {room}]
    assert wrong == []


def test_only_the_package_owns_an_import_name() -> None:
    """A user's own ``workloads`` or another distribution's ``agents`` must not be met instead of ours."""
    folders = ("mallocgame", "tests", "examples", *GUESTS)
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        for module in _imports(path)
        if module.split(".")[0] in GUESTS
    ]
    assert wrong == []


def test_the_judge_stands_alone() -> None:
    """``validate`` shares no code with the rules, the simulator or a solver."""
    for name in ("validation", "coherence"):
        modules = {m for m in _imports(ROOT / "mallocgame" / "judge" / f"{name}.py") if m.startswith("mallocgame")}
        assert modules <= {f"mallocgame.{m}" for m in ("judge.coherence", "hierarchy", "mapping", "program", "regions")}


def test_help_imports_nothing_heavy() -> None:
    heavy = ("numpy", "numba", "jax", "matplotlib", "gymnasium", "torch", "ortools", "scipy")
    script = f"import sys; import mallocgame.cli; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"


def test_files_of_the_user_s_that_are_called_like_libraries_are_no_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("logging", "typer", "typing_extensions"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the user has a file of this name')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in ([sys.executable, "-m", "mallocgame"], module_command("mallocgame")):
        done = subprocess.run([*command, "--version"], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

"""The built wheel: one import name, all that it needs inside, and no matter what a user's own folders are called."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPT = """
import mallocgame
assert "{target}" in mallocgame.__file__, mallocgame.__file__
trace = mallocgame.load_trace("lstm-v5e")
result = mallocgame.solve(trace, solver="none", seconds=1, start="none")
assert result.violations == ()
assert mallocgame.simulate(*mallocgame.Problem(trace.program, trace.hierarchy), result.mapping).total_seconds > 0
import mallocgame.agents.muzero, mallocgame.baselines.portfolio, mallocgame.workloads.capture
import agents, baselines, workloads
assert agents.mine and baselines.mine and workloads.mine
print(mallocgame.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "checkout"
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "out", "runs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)  # setuptools builds in the folder itself
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, cwd=out)
    return next(out.glob("*.whl"))


def test_it_owns_one_import_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mallocgame"}
    for needed in (
        "mallocgame/py.typed",
        "mallocgame/report/web/report.js",
        "mallocgame/workloads/traces/suite.json",
        "mallocgame/workloads/traces/gpt2_training-v5e.json.gz",
        "mallocgame/agents/muzero/pretrained/run.json",
        "mallocgame/baselines/packing/search.py",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("mallocgame/tests", "tests"))]


def test_a_user_s_own_folders_and_other_distributions_names_break_nothing(wheel: Path, tmp_path: Path) -> None:
    target, folder = tmp_path / "site", tmp_path / "user"
    zipfile.ZipFile(wheel).extractall(target)
    for name in ("agents", "baselines", "workloads"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("mine = True\n", encoding="utf-8")
    environment = dict(os.environ, PYTHONPATH=f"{target}{os.pathsep}{folder}", JAX_PLATFORMS="cpu")
    script = SCRIPT.format(target=target)
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    version = [sys.executable, "-m", "mallocgame", "--version"]
    said = subprocess.run(version, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"mallocgame {answer.stdout.strip()}"

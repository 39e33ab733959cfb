"""``mallocgame pack`` from outside: files in and out, exit codes, Ctrl-C."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mallocgame.baselines.packing.buffers import read_buffers, validate_packing, write_packing
from mallocgame.cli import app
from tests.baselines.packing.instances import planted
from tests.cli.run import run as run_command

TOY = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n"
INTERRUPTED = """
import os, signal, threading
from mallocgame.baselines.packing.solve import compile_kernels
from mallocgame.cli import main
compile_kernels("best")
threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
main()
"""
run = CliRunner().invoke


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.csv"
    path.write_text(TOY)
    return path


def test_packs_writes_and_checks(toy: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.csv", tmp_path / "out.png"
    args = ["pack", str(toy), "--capacity", "12", "--output", str(out), "--picture", str(picture), "--json"]
    result = run(app, args)
    assert result.exit_code == 0
    row = json.loads(result.stdout)
    assert (row["status"], row["height_bytes"], row["lower_bound_bytes"]) == ("optimal", 12, 12)
    packed = read_buffers(out)
    assert validate_packing(packed, [b.fixed_offset or 0 for b in packed], 12) == []
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert run(app, ["pack", str(out), "--check", "--capacity", "12"]).exit_code == 0
    low = run(app, ["pack", str(out), "--check", "--capacity", "11", "--json"])
    assert low.exit_code == 1
    assert "above the capacity of 11" in json.loads(low.stdout.splitlines()[0])["violation"]


def test_infeasible_is_proved_and_not_written(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = run(app, ["pack", str(toy), "--capacity", "11", "--output", str(out)])
    assert result.exit_code == 1
    assert "infeasible: no packing fits, which is proved" in result.stderr
    assert not out.exists()


def test_not_found_says_that_nothing_is_proved(tmp_path: Path) -> None:
    path = tmp_path / "hard.csv"
    buffers = planted(5, num_buffers=300, capacity_bytes=4096, num_steps=300)[0]
    write_packing(path, buffers, [-1] * len(buffers))
    result = run(app, ["pack", str(path), "--capacity", "4096", "--solver", "first-fit"])
    assert result.exit_code == 1
    assert "not found: nothing is proved" in result.stderr


def test_check_needs_offsets(toy: Path) -> None:
    result = run(app, ["pack", str(toy), "--check"])
    assert "'b1' has none" in str(result.exception)


@pytest.mark.parametrize(
    "args",
    [
        ["--picture", "x.xyz"],
        ["--output", "absent/x.csv"],
        ["--picture", "absent/x.png"],
        ["--solver", "magic"],
        ["--seconds", "nan"],
    ],
)
def test_bad_options_are_one_line_and_exit_code_two(
    toy: Path, args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy.parent)
    done = run_command(monkeypatch, capsys, "pack", toy, *args)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def test_ctrl_c_writes_the_incumbent(tmp_path: Path) -> None:
    path, out = tmp_path / "p.csv", tmp_path / "out.csv"
    buffers = planted(5, num_buffers=300, capacity_bytes=4096, num_steps=300)[0]  # its optimum takes minutes to find
    write_packing(path, buffers, [-1] * len(buffers))
    command = [sys.executable, "-c", INTERRUPTED, "pack", str(path), "--output", str(out), "--seconds", "300", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 130
    assert done.stderr == "mallocgame: interrupted\n"
    assert json.loads(done.stdout)["interrupted"] is True
    packed = read_buffers(out)
    assert validate_packing(packed, [b.fixed_offset or 0 for b in packed]) == []

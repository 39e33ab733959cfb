"""``mallocgame capture``: what it saves, and where."""

from pathlib import Path

import pytest

from mallocgame.workloads.trace import load_trace
from tests.cli.run import run
from tests.paths import DATA


def test_a_trace_is_saved_without_being_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(monkeypatch, capsys, "capture", "--hlo", DATA / "lstm-v5e.hlo", "--chip", "v5e")
    assert result.code == 0, result.err
    (made,) = tmp_path.iterdir()
    assert made.name.endswith(".json.gz")
    assert f"saved {made.name}" in result.err
    assert f"{load_trace(made).name}.json.gz" == made.name


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere" / "trace.json"
    result = run(monkeypatch, capsys, "capture", "--hlo", tmp_path / "absent.hlo", "--out", missing)
    assert result.code == 2
    assert "nowhere" in result.err
    assert "absent.hlo" not in result.err

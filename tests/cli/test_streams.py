"""What is printed reaches streams of every encoding; where a command may be started."""

import io
import sys
from pathlib import Path

import pytest

from mallocgame.cli import streams
from tests.cli.run import run


@pytest.mark.parametrize(
    ("encoding", "errors", "seen"),
    [
        ("ascii", "strict", "2.5 us x 3 - inf, Gro\\xdfe \\udcff \\U0001f600"),
        ("latin-1", "strict", "2.5 µs × 3 - inf, Größe \\udcff \\U0001f600"),
        ("utf-8", "surrogateescape", "2.5 µs × 3 – ∞, Größe \\udcff 😀"),
    ],
)
def test_figures_keep_their_units_where_the_encoding_has_no_letter_for_them(
    monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str, seen: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    streams.make_writable()
    print("2.5 µs × 3 – ∞, Größe \udcff 😀", end="")
    assert stream.buffer.getvalue().decode(encoding) == seen  # type: ignore[attr-defined]


def test_a_closed_stream_takes_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    streams.make_writable()
    with sys.stderr as stream:
        stream.write("nobody reads this")


def test_a_folder_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = run(monkeypatch, capfd, "suite")
    assert (said.code, said.err) == (2, "mallocgame: the folder that this was started in is there no more\n")

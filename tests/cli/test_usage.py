"""A wrong command line is bad input as any other: one line that names the help, exit code 2."""

import io
from pathlib import Path

import pytest

from tests.cli.run import run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("evaluate --solvr x", "No such option: --solvr"),
        ("evaluate", "Missing argument 'TRACE'; see mallocgame evaluate --help"),
        ("pack x --capacity abc", "Invalid value for '--capacity'"),
        ("pack a b", "; see mallocgame pack --help"),
        ("evalute", "Did you mean 'evaluate', 'validate'?; see mallocgame --help"),
        ("robust best", "; see mallocgame robust --help"),
    ],
)
def test_is_told_in_one_line(
    words: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(monkeypatch, capsys, *words.split())
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert found.err.startswith("mallocgame: ")
    assert told in found.err


def test_no_words_at_all_show_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(monkeypatch, capsys)
    assert (found.code, found.err) == (2, "")
    assert "evaluate" in found.out


def test_a_solver_that_asks_where_nobody_answers_shows_its_own_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = "def ask(program, hierarchy, *, seconds, seed, start):\n    input()\n"
    (tmp_path / "asking.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    found = run(monkeypatch, capsys, "evaluate", "lstm-v5e", "--solver", "asking:ask", "--seconds", "1")
    assert found.code == 1
    assert "asking.py" in found.err
    assert "EOFError" in found.err
    assert "typer" not in found.err

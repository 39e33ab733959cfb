"""Tables in narrow terminals: columns become lines of a block, and no figure is lost or cut."""

from pathlib import Path

import pytest

from mallocgame.cli.common import print_table
from tests.cli.conftest import Run

COLUMNS = ("trace", "split", "steps", "decisions", "live / capacity", "XLA ms", "all home ms", "bound ms", "XLA gap")
ROWS = [
    ("resnet50_training-v4", "train", "1786", "3784", "12.3×", "5.9072", "8.1790", "2.4751", "58.1 %"),
    ("lstm-v5e", "test", "141", "40", "0.4×", "1.5604", "1.6647", "0.2068", ""),
]


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_every_figure_is_there_and_no_line_is_too_long(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table("84 shipped traces", COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= width
    for row in ROWS:
        for cell in row:
            assert cell in out
    if width < 100:
        assert all(column in out for column in COLUMNS[1:])
    else:
        assert len(out.splitlines()) < 8  # one line a row


def test_a_pair_of_columns_stays_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table("x", ("", "value"), [("link HBM-VMEM", "440.5 MiB in, 466.0 MiB out, busy 40 %")])
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 40
    assert "busy" in out


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(
    "command",
    [
        ("compare", "--solvers", "xla,none,greedy,xla-heuristic", "--bound-seconds", "0"),
        ("evaluate", "--solver", "greedy", "--bound-seconds", "0"),
        ("show",),
        ("explain",),
    ],
)
def test_commands_fit(cli: Run, trace_file: Path, width: int, command: tuple[str, ...]) -> None:
    result = cli(command[0], trace_file, *command[1:], columns=width)
    assert result.code == 0, result.err
    assert max(len(line.rstrip()) for line in result.out.splitlines()) <= width


def test_a_block_that_begins_with_a_figure_says_of_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_table("remedies", ("saves µs", "told by", "remedy"), [("1.5", "flag", "copy it before the loop, please")])
    assert "saves µs 1.5\n" in capsys.readouterr().out


def test_a_title_is_no_narrower_than_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table("io.csv: 4 requests, 3 pages, bits: lfd, flip: 0", ("policy", "k"), [("opt", "2")])
    assert capsys.readouterr().out.startswith("io.csv: 4 requests, 3 pages, bits: lfd, flip: 0\n")

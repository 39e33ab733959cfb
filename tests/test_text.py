"""Names that mean something to matplotlib or to a spreadsheet are only drawn and written."""

from dataclasses import replace
from pathlib import Path

import pytest

from mallocgame.baselines.packing.buffers import Buffer
from mallocgame.baselines.packing.picture import draw_packing
from mallocgame.evaluation import solve
from mallocgame.judge.simulation import simulate
from mallocgame.text import cell, label
from mallocgame.workloads.trace import save_trace
from tests.cli.run import run
from tests.toy import toy_trace

EVIL = r"=$\frac{1}{$0$"


def test_labels_are_no_formulas() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for text in (EVIL, "$a$", "a$b", "$$", r"\$"):
        figure = Figure()
        FigureCanvasAgg(figure)
        drawn = figure.text(0.5, 0.5, label(text))
        figure.canvas.draw()
        shown, is_math = drawn._preprocess_math(drawn.get_text())
        assert not is_math
        assert shown == text.replace(r"\$", "$") or shown == text


def test_packings_with_such_names_are_drawn(tmp_path: Path) -> None:
    draw_packing(tmp_path / "x.png", [Buffer(name=EVIL, lower=0, upper=2, size_bytes=4)], [0], title=EVIL)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_reports_and_tables_with_such_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    toy = toy_trace(num_layers=3)
    tensors = tuple(replace(t, name=f"{EVIL}{i}") for i, t in enumerate(toy.program.tensors))
    program = replace(toy.program, name=EVIL, tensors=tensors)
    save_trace(tmp_path / "evil.json", replace(toy, name=EVIL, program=program))
    picture, table = tmp_path / "x.png", tmp_path / "x.csv"
    result = run(
        monkeypatch, capsys, "evaluate", tmp_path / "evil.json", "--solver", "greedy", "--plot", picture, "--seconds", 1
    )
    assert result.code == 0, result.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    command = ("compare", tmp_path / "evil.json", "--solvers", "none,greedy", "--seconds", 1, "--out", table)
    result = run(monkeypatch, capsys, *command)
    assert result.code == 0, result.err
    assert all(line.startswith("'=") for line in table.read_text(encoding="utf-8").splitlines()[1:])


def test_cells_keep_numbers() -> None:
    assert [cell(value) for value in (1.5, None, "-17", "+3", "-x", "@SUM(A1)", "a=b")] == [
        *(1.5, None, "-17", "+3", "'-x", "'@SUM(A1)", "a=b")
    ]


def test_what_a_notebook_shows_of_a_trace_and_its_results_is_a_line() -> None:
    trace = toy_trace()
    judged = solve(trace, solver="greedy", seconds=5.0)
    timeline = simulate(trace.program, trace.hierarchy, judged.mapping)
    for thing, word in (
        (trace, trace.name),
        (trace.program, "tensors of"),
        (trace.hierarchy, "MiB"),
        (timeline, "wait"),
    ):
        assert word in repr(thing)
        assert len(repr(thing)) < 120
    for result, word in ((judged.mapping, "residenc"), (judged, "at least"), (judged.case, trace.name)):
        assert word in repr(result)
        assert len(repr(result)) < 500

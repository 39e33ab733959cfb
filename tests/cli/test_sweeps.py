"""``compare``, ``capture`` and ``tune`` over many cases: rows on disk, made once, wherever they are made."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mallocgame.cli import capture_many
from mallocgame.errors import TraceError
from mallocgame.workloads.trace import Trace, load_trace
from tests.cli.conftest import Run

SOLVED = ("--solvers", "xla,none,greedy", "--steps", "50", "--bound-seconds", "0", "--json")


def _but_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "solve_seconds": None} for row in rows]


def test_compare_with_workers_gives_the_same_rows(cli: Run, trace_file: Path, bare_file: Path, tmp_path: Path) -> None:
    here = cli("compare", trace_file, bare_file, *SOLVED)
    out = tmp_path / "rows.csv"
    there = cli("compare", trace_file, bare_file, *SOLVED, "--workers", 2, "--out", out)
    assert (here.code, there.code) == (0, 0), there.err
    key = lambda row: (row["trace"], row["solver"])  # noqa: E731 (traces are printed as they are done)
    assert sorted(_but_times(here.rows), key=key) == sorted(_but_times(there.rows), key=key)
    again = cli("compare", trace_file, bare_file, *SOLVED, "--out", out)
    assert sorted(again.rows, key=key) == sorted(there.rows, key=key)  # with their times: nothing was made again


def test_compare_makes_what_is_missing(cli: Run, trace_file: Path, bare_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    first = cli("compare", trace_file, *SOLVED, "--out", out).rows
    kept = out.read_text(encoding="utf-8").splitlines(keepends=True)
    out.write_text("".join(kept[:-1]) + kept[-1][:20], encoding="utf-8")  # killed in the middle of the last row
    again = cli("compare", trace_file, bare_file, *SOLVED, "--out", out).rows
    assert again[:2] == first[:2]
    assert [row["solver"] for row in again] == ["xla", "none", "greedy", "none", "greedy"]
    assert _but_times(again)[2] == _but_times(first)[2]
    other = cli("compare", trace_file, *SOLVED, "--seed", 1, "--out", out).rows
    assert {row["job"] for row in other} & {row["job"] for row in again} == set()
    stored = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {row["job"] for row in other + again} <= {row["job"] for row in stored}


def test_one_bad_trace_does_not_end_a_comparison(cli: Run, trace_file: Path, bare_file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}", encoding="utf-8")
    result = cli("compare", bad, trace_file, "--solvers", "none", "--seconds", "1", "--bound-seconds", "0", "--json")
    assert result.code == 2
    assert "bad.json" in result.err.splitlines()[-1]
    assert [(row["status"], row["valid"]) for row in result.rows] == [("refused", None), ("feasible", True)]
    bare_file.write_text("{", encoding="utf-8")
    result = cli("compare", bad, bare_file, trace_file, "--solvers", "none", "--seconds", "1", "--bound-seconds", "0")
    assert "2 rows could not be made" in result.err.splitlines()[-1]
    assert result.out.count("toy12") == 1


@contextmanager
def _captures(trace: Trace) -> Iterator[Any]:
    yield lambda task: capture_many._capture(task, trace)  # type: ignore[arg-type]  # in the compiler's place


@pytest.fixture(name="table")
def table_fixture(tmp_path: Path, toy: Trace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of three functions, the second of which cannot be captured; compilations are the toy's."""

    def capture(reference: Any, *, compiler: Any, name: str, **_: Any) -> Trace:
        if reference.name == "bad":
            raise TraceError(reference, None, "does not compile")
        return Trace(name=name, program=toy.program, hierarchy=toy.hierarchy, mapping=toy.mapping)

    monkeypatch.setattr("mallocgame.workloads.capture.capture", capture)
    monkeypatch.setattr(capture_many, "capturing", lambda: _captures(toy))
    monkeypatch.setattr("mallocgame.workloads.xla.compiler.Compiler.__init__", lambda self, **_: None)
    monkeypatch.setattr("mallocgame.workloads.xla.compiler.Compiler.close", lambda self: None)
    path = tmp_path / "programs.csv"
    path.write_text('function,args,name\nm:good,"f32[8,8],f32[]",\nm:bad,,\nm:good,,again\n', encoding="utf-8")
    return path


def test_capture_of_a_table(cli: Run, table: Path, toy: Trace, tmp_path: Path) -> None:
    out = tmp_path / "traces"
    result = cli("capture", "--programs", table, "--chip", "v4", "--out", out, "--json")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("mallocgame: m:bad: does not compile")
    assert [(row["program"], row["status"], row["trace"]) for row in result.rows] == [
        ("m:good", "captured", "good-v4.json.gz"),
        ("m:bad", "refused", None),
        ("m:good", "captured", "again.json.gz"),
    ]
    assert load_trace(out / "good-v4.json.gz").program == toy.program
    assert result.rows[0]["decisions"] == toy.program.num_decisions
    again = cli("capture", "--programs", table, "--chip", "v4", "--out", out, "--json")
    assert again.rows == result.rows  # with their times: nothing was made again
    assert sorted(path.name for path in out.iterdir()) == ["again.json.gz", "good-v4.json.gz", "rows.jsonl"]


def test_tune_of_a_table(cli: Run, table: Path, toy: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tune(reference: Any, *, chip: str, settings: Any, assumptions: Any) -> Any:
        function, arguments = f"m:{reference.name}", reference.arguments
        assert (settings.seconds, settings.seed, chip) == (7.0, 3, "v5e")
        if function == "m:bad":
            raise TraceError(function, None, "does not compile")
        figures = {"default_seconds": 2.0, "judged_seconds": 1.0, "options": {"flag": arguments}, "evaluations": 4}
        (settings.folder / "options.json").parent.mkdir(exist_ok=True)
        (settings.folder / "options.json").write_text("{}", encoding="utf-8")
        return _Found(figures)

    monkeypatch.setattr("mallocgame.workloads.compiler_loop.tune.tune", tune)
    command = ("tune", "--programs", table, "--out", tmp_path / "tuned", "--seconds", 7, "--seed", 3, "--json")
    result = cli(*command)
    assert result.code == 2
    rows = {row["folder"] or row["program"]: row for row in result.rows}
    assert rows["m:bad"]["error"].startswith("m:bad: does not compile")
    assert (rows["again"]["speedup"], rows["again"]["options"]) == (2.0, {"flag": ""})
    assert rows["good-v5e"]["options"] == {"flag": "f32[8,8],f32[]"}
    assert (tmp_path / "tuned" / "again" / "options.json").exists()
    assert cli(*command).rows == result.rows


class _Found:
    interrupted, unchecked, lowers_alike = False, "", None

    def __init__(self, figures: dict[str, Any]) -> None:
        self._figures = figures
        self.options = figures["options"]
        self.default_seconds, self.judged_seconds = figures["default_seconds"], figures["judged_seconds"]

    def figures(self) -> dict[str, Any]:
        """Return what a row says."""
        return dict(self._figures)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name\nx\n", ":1: expected a header with function"),
        ("function,speed\nm:f,1\n", ":1: expected a header with function"),
        ("function\n", ": names no function"),
        ("function\nmodel\n", ":2: expected a function as package.module:function"),
        ("function\nm:f\nm:f\n", ":3: is the second line of the name f-v5e"),
        ("function,name\nm:f,..\n", ":2: the name '' cannot be that of a file"),
        ("function,name\nm:f,rows.jsonl\n", ":2: the name 'rows.jsonl' cannot be"),
        (f"function,name\nm:f,{'n' * 300}\n", ":2: the name 'nnn"),
        ("function,args\nm:f,f32[2],f32[]\n", ":2: has more cells than the header"),
        ('function\n"m:f\n', ":1: is not CSV"),
    ],
)
def test_bad_tables_are_refused(cli: Run, tmp_path: Path, text: str, reason: str) -> None:
    table = tmp_path / "programs.csv"
    table.write_text(text, encoding="utf-8")
    result = cli("capture", "--programs", table, "--out", tmp_path / "out")
    assert result.code == 2
    assert f"programs.csv{reason}" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("capture", "m:f", "--workers", "2"),
        ("capture", "--programs", "x.csv"),
        ("capture", "m:f", "--programs", "x.csv", "--out", "y"),
        ("tune", "m:f", "--ray", "local"),
        ("tune", "--programs", "x.csv"),
    ],
)
def test_words_that_do_not_go_together(cli: Run, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert "--programs" in result.err.splitlines()[-1]

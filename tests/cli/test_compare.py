"""``compare``, ``show``, ``convert`` and ``suite``."""

import csv
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mallocgame.baselines.packing.buffers import read_buffers, validate_packing
from mallocgame.cli.compare import geometric_mean
from mallocgame.workloads.trace import Trace, load_mapping, load_trace, save_trace
from tests.cli.conftest import Run
from tests.cli.test_evaluate import KEYS


def test_compare_rows_share_the_best_bound(cli: Run, trace_file: Path, bare_file: Path) -> None:
    result = cli("compare", trace_file, bare_file, "--solvers", "xla,none,greedy", "--json", "--seconds", "3")
    assert result.code == 0, result.err
    rows = result.rows
    assert [(row["trace"], row["solver"]) for row in rows] == [
        ("toy12@v5e", "xla"),
        ("toy12@v5e", "none"),
        ("toy12@v5e", "greedy"),
        ("toy6@v5e", "none"),
        ("toy6@v5e", "greedy"),
    ]
    assert all(list(row) == [*KEYS, "error", "settings", "job"] and row["valid"] for row in rows)
    assert len({row["lower_bound_seconds"] for row in rows}) == 2
    assert rows[0]["speedup_over_xla"] == 1.0
    assert rows[3]["speedup_over_xla"] is None


def test_compare_table_csv_and_figure(cli: Run, trace_file: Path, bare_file: Path, tmp_path: Path) -> None:
    table, figure = tmp_path / "rows.csv", tmp_path / "figure.png"
    result = cli(
        "compare", trace_file, bare_file, "--solvers", "none,greedy", "--out", table, "--plot", figure, "--seconds", 3
    )
    assert result.code == 0, result.err
    assert "geometric mean" in result.out
    assert figure.read_bytes().startswith(b"\x89PNG")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["solver"] for row in rows] == ["none", "greedy", "none", "greedy"]
    assert list(rows[0]) == [*KEYS, "error", "settings", "job"]
    assert float(rows[0]["judged_seconds"]) > float(rows[1]["judged_seconds"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--solvers", "none,magic"), "unknown solver 'magic'"),
        (("--solvers", "none,none"), "twice"),
        (("--plot", "x.gif"), "expected a name that ends in"),
        (("--solvers", "none", "--out", "no/folder/x.csv"), "cannot write"),
    ],
)
def test_compare_refuses(cli: Run, bare_file: Path, arguments: tuple[str, ...], reason: str) -> None:
    result = cli("compare", bare_file, *arguments)
    assert result.code == 2
    assert reason in result.err.splitlines()[-1]


@pytest.mark.parametrize("command", ["show", "compare", "evaluate --solver none"])
def test_what_is_no_file_is_told_apart(cli: Run, tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a folder")):
        result = cli(*command.split(), place)
        assert result.code == 2
        assert f"is {kind}, expected a regular file" in result.err.splitlines()[-1]


def test_a_figure_needs_something_to_compare_with(cli: Run, bare_file: Path, tmp_path: Path) -> None:
    result = cli("compare", bare_file, "--solvers", "none", "--plot", tmp_path / "x.png")
    assert result.code == 2
    assert "nothing to draw" in result.err


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0, None]) == pytest.approx(2.0)
    assert geometric_mean([None]) is None


def test_show(cli: Run, trace_file: Path, toy: Trace) -> None:
    rows = cli("show", trace_file, "--top", 3, "--json").rows
    kinds = ["trace"] + ["layer"] * 2 + ["instruction"] * 3 + ["tensor"] * 3 + ["peak"] * 6
    assert [row["row"] for row in rows] == kinds
    assert rows[0]["instructions"] == toy.program.num_steps
    assert rows[0]["decisions"] == toy.program.num_decisions
    assert rows[0]["provenance_made_by"] == "tests/toy.py"
    text = cli("show", trace_file)
    assert text.code == 0
    assert "VMEM" in text.out
    assert "fusion" in text.out


def test_brackets_in_names_are_printed(cli: Run, toy: Trace, tmp_path: Path) -> None:
    first = replace(toy.program.tensors[0], name="params[/w]['bold']", size_bytes=2**40)
    first = replace(first, uses=tuple(replace(use, bytes=2**40) for use in first.uses), movable=False)
    program = replace(toy.program, tensors=(first, *toy.program.tensors[1:]))
    save_trace(tmp_path / "x.json", Trace(name="x[1]", program=program, hierarchy=toy.hierarchy))
    result = cli("show", tmp_path / "x.json", "--top", 2)
    assert result.code == 0
    assert "params[/w]['bold']" in result.out
    assert "x[1]" in result.out


def test_convert_writes_a_memory_to_change(cli: Run, bare_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.json"
    (row,) = cli("convert", "--hierarchy", "v5e", target, "--json").rows
    assert row == {"hierarchy": "v5e", "file": str(target), "bytes": target.stat().st_size}
    target.write_text(target.read_text().replace("117440512", "4096"))
    (changed,) = cli("evaluate", bare_file, "--hierarchy", target, "--solver", "greedy", "--json").rows
    assert changed["valid"] is True
    again = tmp_path / "again.json"
    assert cli("convert", "--hierarchy", target, again).code == 0
    assert again.read_text() == target.read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--hierarchy", "v5e", "lstm-v5e", "mine.json"), "give OUT alone"),
        (("--hierarchy", "v5e", "mine.csv"), "expected a name that ends in .json"),
        (("--hierarchy", "v9", "mine.json"), "unknown hierarchy 'v9'"),
        (("lstm-v5e",), "give TRACE and OUT"),
    ],
)
def test_convert_says_what_is_missing(
    cli: Run, arguments: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("convert", *arguments)
    assert result.code == 2
    assert reason in result.err
    assert not list(tmp_path.iterdir())


def test_convert_round_trip(cli: Run, trace_file: Path, toy: Trace, tmp_path: Path) -> None:
    plain, back, mapping = tmp_path / "x.json", tmp_path / "y.json.gz", tmp_path / "x.mapping.json"
    assert cli("convert", trace_file, plain).code == 0
    assert cli("convert", plain, back).code == 0
    assert back.read_bytes() == trace_file.read_bytes()
    assert json.loads(plain.read_text(encoding="utf-8")) == json.loads(gzip.decompress(trace_file.read_bytes()))
    (row,) = cli("convert", trace_file, mapping, "--json").rows
    assert row == {"trace": toy.name, "file": str(mapping), "bytes": mapping.stat().st_size}
    assert load_mapping(mapping, toy.program, toy.hierarchy) == load_trace(trace_file).mapping


def test_convert_to_minimalloc_is_a_valid_packing(cli: Run, trace_file: Path, toy: Trace, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    assert cli("convert", trace_file, target).code == 0
    buffers = read_buffers(target)
    assert toy.mapping is not None
    assert len(buffers) >= len(toy.mapping.residencies)
    offsets = [b.fixed_offset for b in buffers]
    known = [offset for offset in offsets if offset is not None]
    assert len(known) == len(buffers)
    assert validate_packing(buffers, known, toy.hierarchy.layers[1].capacity_bytes) == []


@pytest.mark.parametrize(
    ("target", "reason"), [("x.txt", "expected a name"), ("x.csv", "no compiler mapping"), ("a/b.json", "cannot write")]
)
def test_convert_refuses(cli: Run, bare_file: Path, target: str, reason: str) -> None:
    result = cli("convert", bare_file, target)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert reason in result.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from mallocgame.cli import app\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'numpy', 'numba', 'matplotlib', 'gymnasium', 'jax', 'torch', 'ortools', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", ["suite", "show", "evaluate", "compare", "validate", "convert"])
def test_every_command_explains_itself_with_an_example(cli: Run, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert f"mallocgame {command}" in result.out
    assert "Example:" in result.out
    assert "--json" in result.out


def test_files_of_another_kind_are_told(cli: Run, tmp_path: Path) -> None:
    text = tmp_path / "step.hlo"
    text.write_text("HloModule step, is_scheduled=true\n", encoding="utf-8")
    for command in ("show", "explain"):
        result = cli(command, text)
        assert (result.code, len(result.err.splitlines())) == (2, 1)
        assert f"mallocgame capture --hlo {text}" in result.err
    result = cli("compare", text, "--solvers", "xla")
    assert (result.code, result.out) == (2, "")  # no table of nothing

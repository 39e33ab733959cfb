"""The command line: rows, plots, exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mallocgame.baselines.paging import from_ids, study
from mallocgame.baselines.paging.plots import plot_curve
from mallocgame.cli.paging import app
from mallocgame.errors import InputError

RUNNER = CliRunner()
TEXTBOOK = "7 0 1 2 0 3 0 4 2 3 0 3 2 1 2 0 1 7 0 1\n"


def rows(*arguments: str) -> list[dict[str, object]]:
    result = RUNNER.invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def textbook(tmp_path: Path) -> str:
    path = tmp_path / "textbook.txt"
    path.write_text(TEXTBOOK)
    return str(path)


def test_run_gives_one_row_a_policy_and_size(textbook: str) -> None:
    got = rows("run", textbook, "--policy", "fifo,lru,fwa0", "--k", "3,4")
    assert [(r["policy"], r["k"], r["faults"]) for r in got][:4] == [
        ("opt", 3, 9), ("fifo", 3, 15), ("lru", 3, 12), ("fwa0", 3, 9)
    ]  # fmt: skip
    assert {"policy", "k", "requests", "faults", "opt_ratio", "seconds"} <= set(got[0])
    assert len(got) == 8
    spilled = rows("run", textbook, "--policy", "fifo,lru,fwa0", "--k", "3,4", "--spill")
    assert [(r["policy"], r["faults"]) for r in spilled] == [(r["policy"], r["faults"]) for r in got]
    assert got[1]["opt_ratio"] == pytest.approx(15 / 9)
    assert (got[3]["eta0"], got[3]["eta1"], got[3]["bound"]) == (0, 0, 9.0)


def test_every_policy_and_every_bit_source_runs(textbook: str) -> None:
    assert len(rows("run", textbook, "--policy", "all", "--k", "3")) == 22
    bits = Path(textbook).with_name("bits.txt")
    bits.write_text("0 1\n" * 10)
    for source in ("online", "popu", "pleco", "zeros", "ones", "teacher:lru", f"file:{bits}"):
        assert rows("run", textbook, "--policy", "fwa0,mark-predict", "--k", "3", "--bits", source)
    assert rows("run", "zipf:num_pages=50,num_requests=2000", "--k", "5", "--bits", "learned")[0]["requests"] == 1000


def test_measured_costs_stay_below_the_printed_bound() -> None:
    for row in rows("run", "moe:num_tokens=60", "--k", "10%", "--policy", "one-bit", "--flip", "0.02,0.3"):
        if row.get("bound") is not None:
            assert row["faults"] <= row["bound"]  # type: ignore[operator]


def test_compare_and_curve_write_plots(tmp_path: Path) -> None:
    trace = "moe:num_tokens=40,num_layers=4"
    plot, curve = tmp_path / "flips.png", tmp_path / "curve.svg"
    got = rows("compare", trace, "--k", "20%", "--flips", "0,0.1", "--plot", str(plot))
    assert {r["flip"] for r in got} == {0.0, 0.1}
    assert plot.read_bytes().startswith(b"\x89PNG")
    got = rows("curve", trace, "--k", "5%,20%,50%", "--policy", "lru,lru0", "--plot", str(curve))
    misses = [r["faults"] for r in got if r["policy"] == "lru"]
    assert misses == sorted(misses, reverse=True)
    assert b"<svg" in curve.read_bytes()
    with pytest.raises(InputError, match="a plot is"):
        plot_curve(study(from_ids([0, 1, 0]), ["lru"], [1]), tmp_path / "x.gif", title="")
    for command in (["run", trace, "--k", "20%"], ["compare", trace, "--k", "20%"], ["curve", trace]):
        assert RUNNER.invoke(app, command, catch_exceptions=False).exit_code == 0


def test_bytes_of_an_oracle_file(tmp_path: Path) -> None:
    from mallocgame.baselines.paging.readers import ORACLE_RECORD

    path = tmp_path / "t.bin"
    np.array([(0, 1, 10, 2), (0, 2, 30, -1), (0, 1, 10, -1)], ORACLE_RECORD).tofile(path)
    got = rows("bytes", str(path), "--capacity", "30", "--policy", "lru,belady")
    assert [(r["rule"], r["fetch_bytes"], r["write_back_bytes"]) for r in got] == [("lru", 50, 0), ("belady", 50, 0)]


def test_an_empty_trace_has_no_faults(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("")
    got = rows("run", str(tmp_path / "e.txt"), "--k", "3", "--policy", "all")
    assert {r["faults"] for r in got} == {0}
    assert {r["opt_ratio"] for r in got} == {None}
    for command in ("run", "compare", "curve"):
        assert RUNNER.invoke(app, [command, str(tmp_path / "e.txt"), "--k", "3"], catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--k", "0"], "at least 1 frame, got k = 0"),
        (["--k", "two"], "a cache size is"),
        (["--k", "3", "--policy", "best"], "no policy called 'best'"),
        (["--k", "3", "--flip", "2"], "lies in"),
        (["--k", "3", "--flip", "0,0,0"], "one share or two"),
        (["--k", "3", "--bits", "none"], "no bits called"),
        (["--k", "3", "--bits", "file:/absent"], "No such file"),
    ],
)
def test_bad_input_is_one_line(textbook: str, arguments: list[str], reason: str) -> None:
    result = RUNNER.invoke(app, ["run", textbook, *arguments])
    assert isinstance(result.exception, InputError)
    assert reason in str(result.exception)
    assert "\n" not in str(result.exception)


def test_bad_bits_and_generators(textbook: str, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("0101")
    cases = {
        ("run", textbook, "--k", "3", "--bits", f"file:{tmp_path / 'b.txt'}"): "got 4 bits for 20 requests",
        ("run", "zipf:pages=3"): "generator 'zipf' has no option 'pages=3'",
        ("run", "zipf:seed=x"): "seed must be a number",
        ("run", "cyclic"): "generator 'cyclic' needs num_pages",
        ("bytes", textbook, "--capacity", "10"): "sizes are known for",
        ("compare", textbook, "--k", "1,2"): "one cache size",
    }
    for arguments, reason in cases.items():
        result = RUNNER.invoke(app, list(arguments))
        assert isinstance(result.exception, InputError), arguments
        assert reason in str(result.exception)


def test_exit_code_is_2(textbook: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from mallocgame.cli import main

    monkeypatch.setattr("sys.argv", ["mallocgame", "paging", "run", textbook, "--k", "0"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "mallocgame: the cache needs at least 1 frame" in capsys.readouterr().err

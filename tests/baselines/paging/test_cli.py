"""The command line: rows, plots, exit codes."""

import json
import re
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
    assert len(rows("run", textbook, "--policy", "all", "--k", "3")) == 30
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
    marked = rows("compare", trace, "--k", "20%", "--flips", "0", "--points", "online,shadow:lirs")
    told = [r for r in marked if r["flip"] is None]
    assert {r["bits"] for r in told} == {"online", "shadow:lirs"}
    assert all(0 < float(str(r["wrong_share"])) < 1 <= float(str(r["opt_ratio"])) for r in told)
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
        ("bytes", "zipf:num_pages=9", "--capacity", "10"): "pages of a generator have no sizes",
        ("run", "zipf:num_pages=9", "--page-bytes", "4096"): "has no addresses",
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


def test_columns_and_keys_on_the_command_line(tmp_path: Path) -> None:
    """A table with a header, and one with text keys: the right column is read or asked for."""
    (tmp_path / "io.csv").write_text("version,time,op,size,block\n1,10,r,4096,7\n1,11,r,4096,8\n1,12,w,4096,7\n")
    (tmp_path / "keys.csv").write_text("0,user:17,7,get\n0,user:18,7,get\n1,user:17,7,get\n")
    assert rows("run", str(tmp_path / "io.csv"), "--policy", "lru", "--k", "2")[1]["faults"] == 2
    assert rows("run", str(tmp_path / "io.csv"), "--column", "time", "--policy", "lru", "--k", "2")[1]["faults"] == 3
    got = rows("run", str(tmp_path / "keys.csv"), "--column", "1", "--policy", "lru", "--k", "1")
    assert (got[1]["requests"], got[1]["faults"]) == (3, 3)
    result = RUNNER.invoke(app, ["run", str(tmp_path / "keys.csv"), "--k", "1"])
    assert isinstance(result.exception, InputError)
    assert "choose the column" in str(result.exception)


def test_learned_bits_have_a_robust_default_and_its_guarantee_beside() -> None:
    result = RUNNER.invoke(app, ["run", "zipf:num_pages=50,num_requests=2000", "--k", "5", "--bits", "learned"])
    assert result.exit_code == 0
    found = re.search(r"lru0\+lru, k = 5: at most .* = (\d+) faults whatever the bits, .*; it had (\d+)", result.stderr)
    assert found is not None
    assert int(found[2]) <= int(found[1])
    got = rows("run", "chat:num_sessions=60", "--k", "10%", "--bits", "online")
    names = [str(row["policy"]) for row in got]
    assert names == ["opt", "lru0+lru", "lru", "lru0", "prefix-lru", "prefix-lru0", "prefix-lru0+prefix-lru"]
    assert all(0 < int(str(row["usable_hits"])) <= int(str(row["requests"])) - int(str(row["faults"])) for row in got)
    assert int(str(got[1]["faults"])) <= float(str(got[1]["bound"]))
    upper = int(str(got[0]["requests"])) - int(str(got[0]["faults"]))
    assert max(int(str(row["usable_hits"])) for row in got) <= upper


def test_auto_is_chosen_on_the_training_part() -> None:
    got = rows("run", "chat:num_sessions=80", "--k", "10%", "--bits", "online", "--policy", "lru,auto")
    assert str(got[2]["policy"]).startswith("auto: ")
    assert got[2]["requests"] == got[1]["requests"] < 100_000


def test_train_on_one_trace_judge_on_another(tmp_path: Path) -> None:
    path = tmp_path / "bits.npz"
    got = rows("train", "chat:num_sessions=60,seed=1", "--k", "500", "--out", str(path))
    assert got[0]["k"] == 500
    judged = rows("run", "chat:num_sessions=50,seed=2", "--k", "500", "--bits", f"model:{path}", "--policy", "lru0")
    assert judged[1]["requests"] == judged[0]["requests"]
    for arguments, reason in (
        (["train", "chat", "--out", str(tmp_path / "x.pkl")], "ends in .npz"),
        (["run", "zipf:num_requests=500", "--bits", f"model:{path}", "--policy", "lru0"], "was fitted on prompts"),
    ):
        result = RUNNER.invoke(app, arguments)
        assert isinstance(result.exception, InputError)
        assert reason in str(result.exception)


def test_rows_go_to_a_file(textbook: str, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.csv"):
        out = tmp_path / name
        printed = rows("run", textbook, "--policy", "lru,lru0", "--k", "3", "--out", str(out))
        lines = out.read_text().splitlines()
        assert len(lines) == len(printed) + (name == "rows.csv")
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[1])["faults"] == 12
    result = RUNNER.invoke(app, ["run", textbook, "--k", "3", "--out", str(tmp_path / "rows.txt")])
    assert isinstance(result.exception, InputError)


def test_tiers_on_the_command_line(tmp_path: Path) -> None:
    from mallocgame.baselines.paging.readers import ORACLE_RECORD

    path = tmp_path / "t.bin"
    np.array([(0, 1, 10, 2), (0, 2, 10, -1), (9, 1, 10, -1)], ORACLE_RECORD).tofile(path)
    got = rows("tiers", str(path), "--tier", "hbm:10:sieve", "--tier", "host:10:lru:all")
    assert [(row["name"], row["hits"]) for row in got[:2]] == [("hbm", 0), ("host", 1)]
    assert (got[2]["misses"], got[2]["object_hit_ratio"]) == (2, pytest.approx(1 / 3))
    assert rows("tiers", str(path), "--tier", "hbm:20:lru", "--ttl", "5")[1]["expired"] == 1
    for text in ("hbm", "hbm:x", "a:1:lru:all:more"):
        result = RUNNER.invoke(app, ["tiers", str(path), "--tier", text])
        assert isinstance(result.exception, InputError)
    assert RUNNER.invoke(app, ["tiers", str(path), "--tier", "hbm:10"], catch_exceptions=False).exit_code == 0


def test_evict_first_hints_of_a_program(tmp_path: Path) -> None:
    out = tmp_path / "hints.jsonl"
    got = rows("evict-first", "mlp-v5e", "--capacity", "1048576", "--out", str(out))
    assert {"step", "instruction", "tensor", "touches", "evict_first_share", "evict_first"} == set(got[0])
    assert {row["evict_first"] for row in got} == {0, 1}
    assert len(out.read_text().splitlines()) == len(got)
    with pytest.raises(InputError, match="holds no tile of 65536 bytes"):
        RUNNER.invoke(app, ["evict-first", "mlp-v5e", "--capacity", "65535"], catch_exceptions=False)


POLICY = """
import numpy as np
from mallocgame.baselines.paging import Policy
from mallocgame.baselines.paging.policies import recency

MINE = Policy(name="mine", summary="LRU by another name", start=recency.LRU.start, step=recency.LRU.step)
number = 3
"""


def test_a_policy_of_ones_own_is_named_by_where_it_is(
    textbook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"policies_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    got = rows("run", textbook, "--k", "3", "--policy", f"{name}:MINE,lru,lru0+{name}:MINE,lru0+lru")
    assert got[1]["faults"] == got[2]["faults"] == 12
    assert got[3]["faults"] == got[4]["faults"]
    for wrong, reason in (
        (f"{name}:number", "is int, not"),
        (f"{name}:absent", "has no absent"),
        ("no:thing", "cannot import"),
    ):
        result = RUNNER.invoke(app, ["run", textbook, "--k", "3", "--policy", wrong])
        assert isinstance(result.exception, InputError)
        assert reason in str(result.exception)


def test_a_registered_policy_is_named_without_its_module(textbook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("theirs", "mallocgame.baselines.paging.policies.recency:LRU", "mallocgame.paging_policies")
    monkeypatch.setattr("mallocgame.registry.registered", lambda group: {"theirs": point})
    assert rows("run", textbook, "--k", "3", "--policy", "theirs")[1]["faults"] == 12
    result = RUNNER.invoke(app, ["run", textbook, "--k", "3", "--policy", "other"])
    assert "theirs" in str(result.exception)


def test_the_policy_in_the_docs_runs(textbook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "paging.md"
    if not page.exists():
        pytest.skip("docs are not in the wheel")
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    (tmp_path / "most_recent.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    got = rows("run", textbook, "--k", "3", "--policy", "most_recent:MRU,lru")
    assert (got[1]["policy"], got[1]["faults"]) == ("mru", 16)

"""``evaluate`` and ``validate``: figures, files and exit codes."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.errors import TraceError
from mallocgame.judge.simulation import lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.workloads.trace import Trace, load_mapping, save_mapping
from tests.cli.conftest import Run

KEYS = [
    "trace",
    "chip",
    "solver",
    "valid",
    "status",
    "judged_seconds",
    "xla_judged_seconds",
    "speedup_over_xla",
    "lower_bound_seconds",
    "gap",
    "solve_seconds",
]


@pytest.mark.parametrize("solver", ["xla", "none", "random", "greedy", "xla-heuristic"])
def test_a_row_holds_what_the_judge_says(cli: Run, trace_file: Path, toy: Trace, tmp_path: Path, solver: str) -> None:
    out = tmp_path / "mapping.json"
    result = cli("evaluate", trace_file, "--solver", solver, "--out", out, "--json")
    assert result.code == 0, result.err
    (row,) = result.rows
    assert list(row) == KEYS
    mapping = load_mapping(out, toy.program, toy.hierarchy)
    assert toy.mapping is not None
    xla = simulate(toy.program, toy.hierarchy, toy.mapping).total_seconds
    seconds = simulate(toy.program, toy.hierarchy, mapping).total_seconds
    assert (row["trace"], row["chip"], row["solver"], row["valid"]) == (toy.name, "v5e", solver, True)
    assert row["judged_seconds"] == seconds
    assert row["xla_judged_seconds"] == xla
    assert row["speedup_over_xla"] == pytest.approx(xla / seconds)
    assert row["lower_bound_seconds"] >= lower_bound(toy.program, toy.hierarchy)
    assert row["gap"] == pytest.approx(1 - row["lower_bound_seconds"] / seconds)
    assert 0 <= row["gap"] < 1
    assert row["solve_seconds"] >= 0
    again = cli("evaluate", trace_file, "--mapping", out, "--json").rows[0]
    assert {**row, "solver": out.name, "status": "feasible", "solve_seconds": None} == again


def test_the_table_and_every_file(cli: Run, trace_file: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("m.json.gz", "map.html", "trace.json.gz")]
    result = cli(
        "evaluate", trace_file, "--solver", "xla", "--out", files[0], "--plot", files[1], "--perfetto", files[2]
    )
    assert result.code == 0, result.err
    for text in ("judged time", "speed-up over XLA", "1.000×", "gap to the bound", "stalls", "HBM-VMEM", "MiB in"):
        assert text in result.out
    assert all(path.stat().st_size > 500 for path in files)


@pytest.mark.parametrize("words", ["evaluate {} --solver xla --out m.json", "compare {} --steps 2 --plot m.png"])
def test_a_broken_standard_output_costs_no_file(
    cli: Run, trace_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))  # no line of a user's
    monkeypatch.chdir(tmp_path)
    for command in ("evaluate", "compare"):
        monkeypatch.setattr(f"mallocgame.cli.{command}.print_table", full)
    result = cli(*words.format(trace_file).split())
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith("No space left on device")
    assert (tmp_path / words.split()[-1]).stat().st_size > 500


def test_without_a_compiler_mapping_its_columns_are_null(cli: Run, bare_file: Path) -> None:
    (row,) = cli("evaluate", bare_file, "--solver", "none", "--json").rows
    assert row["xla_judged_seconds"] is None
    assert row["speedup_over_xla"] is None
    result = cli("evaluate", bare_file, "--solver", "xla")
    assert result.code == 2
    assert "holds no compiler mapping" in result.err


def _broken_mapping(toy: Trace, path: Path) -> None:
    assert toy.mapping is not None
    first = replace(toy.mapping.residencies[0], offset_bytes=1)
    residencies = (first, *toy.mapping.residencies[1:])
    mapping = Mapping(residencies=residencies, transfers=toy.mapping.transfers)
    save_mapping(path, mapping, toy.program, toy.hierarchy)


def test_an_invalid_mapping_has_no_time_and_exits_with_1(
    cli: Run, trace_file: Path, toy: Trace, tmp_path: Path
) -> None:
    path = tmp_path / "broken.json"
    _broken_mapping(toy, path)
    result = cli("evaluate", trace_file, "--mapping", path, "--json", "--plot", tmp_path / "no.png")
    assert result.code == 1
    (row,) = result.rows
    assert list(row) == KEYS
    assert (row["valid"], row["judged_seconds"], row["speedup_over_xla"], row["gap"]) == (False, None, None, None)
    assert "alignment" in result.err
    assert not (tmp_path / "no.png").exists()


def test_validate_lists_violations(cli: Run, trace_file: Path, toy: Trace, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    assert toy.mapping is not None
    save_mapping(good, toy.mapping, toy.program, toy.hierarchy)
    assert cli("validate", trace_file, good).code == 0
    assert cli("validate", trace_file, good, "--json").out == ""
    _broken_mapping(toy, bad)
    result = cli("validate", trace_file, bad, "--json")
    assert result.code == 1
    rules = [row["rule"] for row in result.rows]
    assert "alignment" in rules
    name = toy.program.tensors[toy.mapping.residencies[0].tensor].name
    assert result.rows[0].keys() == {"rule", "tensor", "name", "step", "message"}
    assert name in [row["name"] for row in result.rows]
    table = cli("validate", trace_file, bad)
    assert table.code == 1
    assert "alignment" in table.out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--solver", "magic"), "unknown solver 'magic', expected one of anneal, best"),
        (("--solver", "none:3"), "takes no argument"),
        ((), "--solver NAME or --mapping FILE"),
        (("--solver", "none", "--mapping", "x.json"), "one of them"),
        (("--solver", "none", "--seconds", "nan"), "a time limit must be a number of seconds >= 0, got nan"),
        (("--solver", "none", "--plot", "x.pdf"), "expected a name that ends in .html or .png"),
        (("--solver", "none", "--perfetto", "x.txt"), ".json"),
        (("--solver", "none", "--plot", "no/such/folder/x.png"), "cannot write"),
        (("--solver", "none", "--perfetto", "no/such/folder/x.json"), "cannot write"),
        (("--solver", "none", "--out", "no/such/folder/x.json"), "cannot write"),
        (("--mapping", "absent.json"), "absent.json: cannot read"),
    ],
)
def test_bad_input_is_one_line(cli: Run, trace_file: Path, arguments: tuple[str, ...], reason: str) -> None:
    result = cli("evaluate", trace_file, *arguments)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert last.startswith("mallocgame: ")
    assert reason in last


def test_a_file_that_is_no_trace_is_one_line(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    result = cli("evaluate", tmp_path / "x.json", "--solver", "none")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert f"{tmp_path / 'x.json'}: expected a file of format" in result.err


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_mapping_file_is_judged_or_refused(
    toy: Trace, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Extreme and inconsistent numbers: violations, a time, or one line; never anything else."""
    path = tmp_path_factory.mktemp("fuzz") / "m.json"
    assert toy.mapping is not None
    save_mapping(path, toy.mapping, toy.program, toy.hierarchy)
    value = json.loads(path.read_text(encoding="utf-8"))
    for _ in range(data.draw(st.integers(1, 3))):
        table = value[data.draw(st.sampled_from(("residencies", "transfers")))]
        column = table[data.draw(st.sampled_from(sorted(set(table) - {"name"})))]
        extremes = st.sampled_from((-(2**62), -2, -1, 0, 1, 7, 24, 25, 2**31, 2**62))
        column[data.draw(st.integers(0, len(column) - 1))] = data.draw(extremes)
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        mapping = load_mapping(path, toy.program, toy.hierarchy)
    except TraceError:
        return
    if not validate(toy.program, toy.hierarchy, mapping):
        assert simulate(toy.program, toy.hierarchy, mapping).total_seconds > 0


def test_a_copy_within_one_layer_is_a_violation(toy: Trace) -> None:
    size = toy.program.tensors[0].size_bytes
    places = [
        Residency(tensor=0, layer=1, offset_bytes=k * 2**25, start_step=3 * k, end_step=3 * k + 4) for k in range(2)
    ]
    moves = (
        Transfer(tensor=0, source=HOME, target=0, start_after=-1, done_before=0, size_bytes=size),
        Transfer(tensor=0, source=0, target=1, start_after=2, done_before=4, size_bytes=size),
    )
    found = validate(toy.program, toy.hierarchy, Mapping(residencies=tuple(places), transfers=moves))
    assert [violation.rule for violation in found] == ["reference"]


def test_no_hoist_forbids_what_compilers_cannot_do(cli: Run, trace_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    (free,) = cli("evaluate", trace_file, "--solver", "greedy", "--json", "--out", out).rows
    (bound,) = cli("evaluate", trace_file, "--solver", "greedy", "--no-hoist", "--json").rows
    assert free["valid"]
    assert bound["valid"]
    assert cli("validate", trace_file, out).code == 0
    assert json.loads(out.read_text(encoding="utf-8"))["transfers"]["tensor"]

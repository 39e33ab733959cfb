"""Explanations: stalls, remedies that the judge confirms, loop-invariant parameters, and their page."""

import re
from pathlib import Path

import pytest

from mallocgame.explanation import explain, free_offset, without
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.report.explanation import page
from tests.cli.run import run
from tests.workloads.compiler_loop.fake import HIERARCHY, goal, pinned, program
from tests.workloads.compiler_loop.test_verify import default


def test_lstm_waits_for_a_weight_that_never_changes() -> None:
    trace = default()
    assert trace.mapping is not None
    found = explain(trace.program, trace.hierarchy, trace.mapping)
    (stall,) = found.stalls
    assert (stall.executions, stall.copied_bytes, stall.toward_fast) == (64, 8 * 2**20, True)
    assert stall.waited_seconds == pytest.approx(found.stalled_seconds)
    assert stall.is_loop_invariant
    assert re.search(r"\.py:\d+$", stall.source)
    assert stall.remedies[0].action.startswith("copy it once before the loop")
    assert stall.remedies[0].saved_seconds > 0.9 * stall.waited_seconds
    assert len(found.invariants) == 2
    for parameter in found.invariants:  # 64 copies or reads of 8 MiB, one of them needed
        assert parameter.moved_bytes == 64 * 8 * 2**20
        assert parameter.repeated_seconds == pytest.approx(63 * 8 * 2**20 / trace.hierarchy.layers[0].bytes_per_second)
    assert 0 < stall.idle_bytes <= found.capacity_bytes


def test_waits_add_up_and_a_mapping_without_copies_never_waits() -> None:
    found = explain(program(), HIERARCHY, goal())
    assert sum(stall.waited_seconds for stall in found.stalls) == pytest.approx(found.stalled_seconds)
    quiet = explain(program(), HIERARCHY, Mapping(residencies=(pinned(1, 0, 4),)))
    assert quiet.stalls == ()
    assert quiet.invariants == ()
    assert "It never waits." in page(quiet, "x")


def test_late_copy_is_told_to_start_earlier() -> None:
    late = goal()
    copy = late.transfers[0].__class__(tensor=0, source=-1, target=0, start_after=1, done_before=3, size_bytes=50)
    place = late.residencies[0].__class__(tensor=0, layer=1, offset_bytes=0, start_step=2, end_step=4)
    mapping = Mapping(residencies=(place, late.residencies[1]), transfers=(copy,))
    (stall,) = explain(program(), HIERARCHY, mapping).stalls
    gain = simulate(program(), HIERARCHY, mapping).total_seconds - simulate(program(), HIERARCHY, goal()).total_seconds
    assert stall.remedies[0].action == "start the copy earlier: after make.1"
    assert stall.remedies[0].saved_seconds == pytest.approx(gain)


def test_free_offset_is_the_lowest_gap() -> None:
    taken = Mapping(residencies=(pinned(1, 8, 4), pinned(2, 60, 4)))
    assert free_offset(program(), taken, 1, 2, 4, 12, 4) == 48
    assert free_offset(program(), taken, 1, 2, 4, 13, 4) == 80
    assert free_offset(program(), taken, 1, 0, 1, 13, 4) == 48  # before use_a.2 is there
    assert free_offset(program(), taken, 1, 2, 4, 8, 4) == 0


def test_removal_keeps_the_other_copies_in_place() -> None:
    assert without(goal(), {1}).transfers == goal().transfers
    assert without(goal(), {0}) == Mapping(residencies=(goal().residencies[1],))


def test_page_escapes_names() -> None:
    trace = default()
    assert trace.mapping is not None
    text = page(explain(trace.program, trace.hierarchy, trace.mapping), "<b>&")
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "mallocgame.hoist" in text


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(monkeypatch, capsys, "explain", "lstm-v5e", "--json", "--html", tmp_path / "a.html")
    assert result.code == 0
    assert {row["kind"] for row in result.rows} == {"stall", "invariant"}
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    for wrong in (("explain", "nothing"), ("explain", "lstm-v5e", "--limit", "0")):
        result = run(monkeypatch, capsys, *wrong)
        assert result.code == 2
        assert len(result.err.splitlines()) == 1

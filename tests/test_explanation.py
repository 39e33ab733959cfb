"""Explanations: stalls, remedies that the judge confirms, loop-invariant parameters, and their page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.baselines.anneal import anneal
from mallocgame.explanation import explain
from mallocgame.explanation.combination import combine
from mallocgame.explanation.peaks import peaks
from mallocgame.explanation.placement import TensorPlacement, put_together, take_apart
from mallocgame.explanation.remedy import KEEP, LOOP, NOT, PIN, PREFETCH, SUGGEST, ordered_by
from mallocgame.explanation.source_changes import without_work
from mallocgame.explanation.stalls import free_offset, without
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.report.explanation import page
from mallocgame.workloads.trace import Trace, save_trace
from tests.cli.run import run
from tests.strategies import likely_mappings, programs, small_hierarchy
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


MEMORY = small_hierarchy(num_layers=3)
PAIRS = programs().flatmap(lambda p: st.tuples(st.just(p), likely_mappings(p, MEMORY), likely_mappings(p, MEMORY)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PAIRS)
def test_remedies_in_combination_add_up(case: tuple[Program, Mapping, Mapping]) -> None:
    found, one, other = case
    if validate(found, MEMORY, one) or validate(found, MEMORY, other):
        return
    before, after = (simulate(found, MEMORY, m).total_seconds for m in (one, other))
    together = combine(found, MEMORY, one, other)
    assert (together is None) == (after >= before)
    if together is None:
        return
    assert sum(r.saved_seconds for r in together.remedies) == pytest.approx(before - together.seconds)
    assert together.seconds <= after * (1 + 1e-9)
    changed = [t for remedy in together.remedies for t in remedy.tensors]
    assert len(changed) == len(set(changed))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs().flatmap(lambda p: st.tuples(st.just(p), likely_mappings(p, MEMORY))))
def test_a_mapping_survives_being_taken_apart(case: tuple[Program, Mapping]) -> None:
    found, mapping = case
    again = put_together(take_apart(mapping))
    assert sorted(map(repr, again.residencies)) == sorted(map(repr, mapping.residencies))
    if not validate(found, MEMORY, mapping):
        assert validate(found, MEMORY, again) == []
        total = simulate(found, MEMORY, mapping).total_seconds
        assert simulate(found, MEMORY, again).total_seconds == pytest.approx(total)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs().flatmap(lambda p: st.tuples(st.just(p), likely_mappings(p, MEMORY))))
def test_peaks_are_the_fullest_steps(case: tuple[Program, Mapping]) -> None:
    found, mapping = case
    if validate(found, MEMORY, mapping):
        return
    home, *fast = peaks(found, MEMORY, mapping)
    live = [
        sum(
            t.size_bytes
            for t, spans in zip(found.tensors, found.live_steps, strict=True)
            if t.is_parameter or any(a <= step < b for a, b in spans)
        )
        for step in range(found.num_steps)
    ]
    assert (home.occupied_bytes, home.step) == (max(live), live.index(max(live)))
    occupied = simulate(found, MEMORY, mapping).occupancy_bytes
    assert [peak.occupied_bytes for peak in fast] == occupied[:, 1:].max(axis=0).tolist()
    for peak in (home, *fast):
        assert sum(o.size_bytes for o in peak.largest) <= peak.occupied_bytes
        if peak.num_tensors <= len(peak.largest):
            assert sum(o.size_bytes for o in peak.largest) == peak.occupied_bytes


def test_a_program_that_leaves_all_in_slow_memory_is_told_what_to_bring() -> None:
    found = explain(program(), HIERARCHY, Mapping(), better=goal())
    assert found.stalls == ()
    assert [t.tensor for t in found.slow] == ["make.1{1}", "weight.0", "use_a.2"]
    for tensor in found.slow:
        remedy = tensor.remedies[0]
        assert 0 < remedy.saved_seconds <= tensor.worth_seconds * (1 + 1e-9)
    assert found.slow[0].remedies[0].ordered_by == PIN
    assert found.slow[1].remedies[0].ordered_by == PREFETCH
    assert found.combination is not None
    assert {r.ordered_by for r in found.combination.remedies} == {PIN, PREFETCH}
    assert found.combination.seconds == simulate(program(), HIERARCHY, goal()).total_seconds
    text = page(found, "x")
    for said in ("Remedies in combination", "Used in slow memory", "slow at its fullest", PIN):
        assert said in text


def test_what_the_compiler_can_be_told() -> None:
    parts = take_apart(goal())
    assert ordered_by(program(), 0, parts[0]) == PREFETCH
    assert ordered_by(program(), 1, parts[1]) == PIN
    assert ordered_by(program(), 2, TensorPlacement()) == KEEP
    early = pinned(1, 0, 3)  # leaves before its last use
    assert ordered_by(program(), 1, TensorPlacement(residencies=(early,))) == NOT
    back = Transfer(tensor=1, source=0, target=HOME, start_after=0, done_before=3, size_bytes=40)
    leaves = TensorPlacement(residencies=(pinned(1, 0, 3),), transfers=(back,))
    assert ordered_by(program(), 1, leaves) == NOT
    assert ordered_by(program(), 1, leaves, is_reached=True) == SUGGEST
    held = replace(parts[0].residencies[0], start_step=HELD)
    assert ordered_by(program(), 0, TensorPlacement(residencies=(held,))) == NOT


def test_a_copy_of_an_argument_is_told_to_be_donated() -> None:
    names = (("update", "copy"), ("move", "transpose"))
    instructions = tuple(Instruction(name=n, opcode=o, compute_seconds=1.0) for n, o in names)
    cache = Tensor(name="cache", size_bytes=50, is_parameter=True, uses=(Use(step=0, bytes=50, operand=0),))
    new = Tensor(name="new", size_bytes=50, is_output=True, uses=(Use(step=0, bytes=50, kind=UseKind.DEFINE),))
    copied = Program(name="c", instructions=instructions, tensors=(cache, new))
    first, second = explain(copied, HIERARCHY, Mapping()).movements
    fused = replace(copied, instructions=(instructions[0], replace(instructions[1], opcode="fusion")))
    assert len(explain(fused, HIERARCHY, Mapping()).movements) == 1
    _, cut = explain(fused, HIERARCHY, Mapping(), moving={1: "slice"}).movements
    assert (cut.kind, cut.opcode) == ("copying", "fusion")
    assert "cuts parts out of a larger array" in cut.hint
    assert (first.instruction, second.instruction) == ("update", "move")
    assert "copy of argument cache: donate it" in first.hint
    assert "layout" in second.hint
    assert (first.kind, second.kind) == ("donation", "layout")
    total = simulate(copied, HIERARCHY, Mapping()).total_seconds  # 100 bytes at 1 a second, then 1 second of computing
    assert (total, first.saved_seconds, second.saved_seconds) == pytest.approx((101.0, 100.0, 1.0))


def test_a_copy_of_an_argument_into_another_layout_names_it_and_the_source_that_reads_it() -> None:
    instructions = (
        Instruction(name="copy.1", opcode="copy", compute_seconds=1.0),
        Instruction(name="gather", compute_seconds=1.0, source="model.py:7"),
    )
    table = Tensor(name="table", size_bytes=20, is_parameter=True, uses=(Use(step=0, bytes=20, operand=0),))
    uses = (Use(step=0, bytes=40, kind=UseKind.DEFINE), Use(step=1, bytes=2, operand=0))
    copied = Program(
        name="l", instructions=instructions, tensors=(table, Tensor(name="copy.1", size_bytes=40, uses=uses))
    )
    (found,) = explain(copied, HIERARCHY, Mapping()).movements
    assert (found.kind, found.source) == ("layout", "model.py:7")
    assert found.hint.startswith("argument table is put into another layout (40 B, not 20 B) in every run")
    (as_it_lies,) = explain(copied, HIERARCHY, Mapping(), moving={0: "duplicate"}).movements
    assert as_it_lies.hint.startswith("copies an array as it is")  # where the trace knows that no layout changes


def _kept_for_later(recomputing_seconds: float) -> Program:
    """A value of 40 bytes that is made from 2, read at once, and read again after a while."""
    times = (recomputing_seconds, 1.0, 5.0, 1.0)
    names = ("make", "use", "between", "late")
    instructions = tuple(Instruction(name=n, compute_seconds=s) for n, s in zip(names, times, strict=True))
    made = (Use(step=0, bytes=40, kind=UseKind.DEFINE), *(Use(step=s, bytes=40, operand=0) for s in (1, 3)))
    source = Tensor(name="source", size_bytes=2, is_parameter=True, uses=(Use(step=0, bytes=2, operand=0),))
    return Program(name="k", instructions=instructions, tensors=(source, Tensor(name="v", size_bytes=40, uses=made)))


def test_what_is_cheap_to_make_again_is_told_and_judged() -> None:
    early = Mapping(residencies=(Residency(tensor=1, layer=1, offset_bytes=0, start_step=0, end_step=2),))
    copy = Transfer(tensor=1, source=0, target=HOME, start_after=0, done_before=2, size_bytes=40)
    mapping = replace(early, transfers=(copy,))
    cheap = _kept_for_later(1.0)
    (found,) = explain(cheap, HIERARCHY, mapping).rematerialisations
    assert (found.tensor, found.instruction, found.before) == ("v", "make", "late")
    again = (
        2.0 + 0.04
    )  # reads 2 bytes slowly, writes 40 fast; then they are read fast, in no more than 1 s of computing
    by_hand = simulate(without_work(cheap, 3), HIERARCHY, early).total_seconds + again + 1.0
    assert found.saved_seconds == pytest.approx(simulate(cheap, HIERARCHY, mapping).total_seconds - by_hand, abs=0.1)
    assert found.ordered_by == ""
    dear = explain(_kept_for_later(100.0), HIERARCHY, mapping)
    assert dear.rematerialisations == ()


def test_what_is_made_from_something_overwritten_is_not_made_again() -> None:
    cheap = _kept_for_later(1.0)
    uses = (*cheap.tensors[0].uses, Use(step=2, bytes=2, kind=UseKind.UPDATE))
    changed = replace(cheap, tensors=(replace(cheap.tensors[0], uses=uses), cheap.tensors[1]))
    assert explain(changed, HIERARCHY, Mapping()).rematerialisations == ()
    assert explain(cheap, HIERARCHY, Mapping()).rematerialisations != ()


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


def test_that_nothing_is_faster_is_said_where_it_is_proved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for tensors, expected in (
        ((), "no mapping is faster: that is proved"),
        (program().tensors, "no better mapping was"),
    ):
        toy = Trace(name="toy", program=replace(program(), tensors=tensors), hierarchy=HIERARCHY, mapping=Mapping())
        if tensors:
            found = anneal(toy.program, HIERARCHY, seconds=0.1)
            assert found.status == "feasible"
            toy = replace(toy, mapping=found.mapping)
        save_trace(tmp_path / "toy.json", toy)
        result = run(monkeypatch, capsys, "explain", tmp_path / "toy.json", "--solver-seconds", "0.1")
        assert (result.code, expected in result.err) == (0, True)


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(
        monkeypatch, capsys, "explain", "lstm-v5e", "--json", "--solver-seconds", "1", "--html", tmp_path / "a.html"
    )
    assert result.code == 0
    assert {row["kind"] for row in result.rows} == {"total", "stall", "slow tensor", "invariant", "peak", "remedy"}
    remedies = [row for row in result.rows if row["kind"] == "remedy"]
    assert {row["ordered_by"] for row in remedies if row["saved_seconds"] > 1e-4} == {LOOP}
    assert sum(row["saved_seconds"] for row in remedies) > 1.3e-3  # 1560 µs, and 209 with both copies before the loop
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    table = run(monkeypatch, capsys, "explain", "lstm-v5e", "--solver-seconds", "1")
    assert table.code == 0
    for said in (
        "waiting for copies",
        "used in slow memory",
        "together: ",
        "HBM at its fullest",
        "VMEM at its fullest",
    ):
        assert said in table.out
    for wrong in (
        ("nothing",),
        ("lstm-v5e", "--solver-seconds", "-1"),
        ("lstm-v5e", "--limit", "0"),
    ):
        result = run(monkeypatch, capsys, "explain", *wrong)
        assert result.code == 2
        assert len(result.err.splitlines()) == 1

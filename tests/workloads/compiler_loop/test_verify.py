"""Reading back what the compiler did, on a recorded compilation; options and tuning runs on disk; bad input."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import mallocgame
from mallocgame.compiler_options import differing_versions, save_compiler_options, versions_that_differ
from mallocgame.errors import InputError, TraceError
from mallocgame.explanation.invariants import invariant_parameters
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Program
from mallocgame.workloads.capture import trace_from_compilation
from mallocgame.workloads.compiler_loop.flags import LONG_WAITS, NOTHING_HELD, ONE_SLICE, hoist_limits_kib
from mallocgame.workloads.compiler_loop.inject import inject
from mallocgame.workloads.compiler_loop.overrides import HOIST_LIMIT
from mallocgame.workloads.compiler_loop.verify import (
    Target,
    carry_over,
    estimated_cycles,
    last_words,
    read_mapping,
    renamed,
)
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.compiler import Compilation, CompileRequest, Options
from tests.paths import DATA

LSTM = ProgramReference(module="mallocgame.workloads.models", name="lstm")


@cache
def recorded() -> Compilation:
    log, hlo = ((DATA / f"lstm-v5e.{kind}").read_text(encoding="utf-8") for kind in ("log", "hlo"))
    return Compilation(log=log, hlo=hlo, seconds=1.0, finished=False)


@cache
def default() -> Trace:
    return trace_from_compilation(recorded(), "v5e", name="lstm")


class Recorded:
    """Always the same recorded compilation; ``refuse`` returns an error for options that do not compile."""

    def __init__(self, refuse: Callable[[Options, bool], str] = lambda options, full: "") -> None:
        self.refuse = refuse
        self.asked: list[Options] = []

    def compile(self, asked: CompileRequest) -> Compilation:
        self.asked.append(dict(asked.options))
        return replace(recorded(), error=self.refuse(dict(asked.options), asked.full))


def target(compiler: Recorded) -> Target:
    return Target.of(LSTM, "v5e", compiler)


def faster() -> Mapping:
    """XLA's mapping without its copy of a weight in every iteration: no better, but another."""
    own = default().mapping
    assert own is not None
    copied = {x.target for x in own.transfers}
    return Mapping(residencies=tuple(r for i, r in enumerate(own.residencies) if i not in copied))


def test_compiler_that_changes_nothing_gives_the_default_and_no_options() -> None:
    compiler = Recorded()
    result = inject(target(compiler), faster(), seconds=5.0, full=False)
    assert result.options == {}
    assert result.judged_seconds == result.default_seconds
    assert result.counts["changed"] > 0
    assert sum(result.counts.values()) == len(result.outcomes)
    assert any("overrides{" in str(options) for options in compiler.asked)
    assert any(options.items() >= ONE_SLICE.items() for options in compiler.asked)  # suggested in each way
    assert any(options.items() >= LONG_WAITS.items() for options in compiler.asked)


def test_inject_tries_the_flags_that_the_mapping_needs() -> None:
    compiler = Recorded()
    whole = target(compiler)
    inject(whole, faster(), seconds=5.0, full=False)
    assert any(options.items() >= NOTHING_HELD.items() for options in compiler.asked)
    assert not any(HOIST_LIMIT in options for options in compiler.asked)
    program = whole.trace.program
    weight = next(i for i in invariant_parameters(program))
    (loop,) = program.loops
    size = program.tensors[weight].size_bytes
    stay = Residency(tensor=weight, layer=1, offset_bytes=0, start_step=0, end_step=loop.end_step)
    copy = Transfer(tensor=weight, source=HOME, target=0, start_after=-1, done_before=loop.start_step, size_bytes=size)
    inject(whole, Mapping(residencies=(stay,), transfers=(copy,)), seconds=5.0, full=False)
    assert any(HOIST_LIMIT in options for options in compiler.asked)


def test_evaluation_reads_the_default_back() -> None:
    whole = target(Recorded())
    found = whole.evaluate(())
    assert found.mapping is not None
    assert found.mapping == whole.trace.mapping
    assert found.xla_seconds == whole.trace.estimates["xla_seconds"]
    assert found.judged_seconds == pytest.approx(1.5604e-3, rel=1e-3)


def test_what_the_default_needed_goes_with_every_compilation() -> None:
    compiler = Recorded()
    needed: Options = {"xla_tpu_offload_gather_to_sparsecore": "false"}
    whole = replace(target(compiler), options=needed)
    compiler.asked.clear()
    assert whole.evaluate((), {"a": "b"}).options == {**needed, "a": "b"}
    whole.compile_fully({})
    assert [dict(options) for options in compiler.asked] == [{**needed, "a": "b"}, needed]


def test_refusal_and_nonsense_are_evaluations_without_a_mapping() -> None:
    refused = target(Recorded(lambda options, full: "JaxRuntimeError: FAILED_PRECONDITION: no" if options else ""))
    found = refused.evaluate((), {"a": "b"})
    assert found.mapping is None
    assert found.judged_seconds == float("inf")
    assert "FAILED_PRECONDITION" in found.error


def test_child_that_dies_is_reported_with_its_last_lines() -> None:
    text = "first\nsecond\nthe last thing it said\n"
    dead = Compilation(log=text, hlo="", seconds=1.0, finished=False, error="the compiler ended without a word")
    assert "the compiler ended without a word" in last_words(dead)
    assert "the last thing it said" in last_words(dead)


def test_tensors_are_found_again_in_another_order() -> None:
    trace = default()
    assert trace.mapping is not None
    last = len(trace.program.tensors) - 1
    turned = replace(trace.program, tensors=tuple(reversed(trace.program.tensors)))
    moved = carry_over(trace.mapping, trace.program, turned)
    assert [r.tensor for r in moved.residencies] == [last - r.tensor for r in trace.mapping.residencies]
    first = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds
    assert simulate(turned, trace.hierarchy, moved).total_seconds == first


def test_log_of_another_schedule_or_cut_short_is_refused() -> None:
    built = target(Recorded()).built
    lines = recorded().log.splitlines()
    name = built.program.instructions[3].name
    with pytest.raises(TraceError, match="scheduled another program"):
        read_mapping([line.replace(name, f"{name}9") for line in lines], built)
    with pytest.raises(TraceError, match="cut short"):
        read_mapping(lines[: len(lines) // 2], built)


def test_other_names_are_listed_and_other_programs_refused() -> None:
    now = default().program
    names = tuple(replace(i, name=f"{i.name}x") if n < 2 else i for n, i in enumerate(now.instructions))
    then = replace(now, instructions=names)
    assert renamed(then, now) == [i.name for i in then.instructions[:2]]
    assert renamed(now, now) == []
    other = replace(now, instructions=tuple(replace(i, opcode="mystery") for i in now.instructions))
    with pytest.raises(InputError, match="made for another program: step 0"):
        renamed(other, now)
    with pytest.raises(InputError, match="scheduled instructions then"):
        renamed(Program(name="short", instructions=(), tensors=()), now)


def test_mapping_of_another_tensor_is_refused() -> None:
    trace = default()
    assert trace.mapping is not None
    moved = trace.mapping.residencies[0].tensor
    grown = tuple(
        replace(t, size_bytes=t.size_bytes + 1) if i == moved else t for i, t in enumerate(trace.program.tensors)
    )
    with pytest.raises(InputError, match="is not in the program of now"):
        carry_over(trace.mapping, replace(trace.program, tensors=grown), trace.program)


def test_cycles_are_weighted_by_trips_and_fused_computations_left_out() -> None:
    text = (
        '%fused (p: f32[]) -> f32[] {\n  %x = f32[] add(), {"estimated_cycles":"1000"}\n}\n'
        '%body (p: f32[]) -> f32[] {\n  %a = f32[] fusion(), {"estimated_cycles":"5"}\n}\n'
        'ENTRY %main (p: f32[]) -> f32[] {\n  %b = f32[] fusion(), {"estimated_cycles":"7"}\n}\n'
    )
    assert estimated_cycles(text, {"main": 1, "body": 10}) == 57
    assert estimated_cycles("ENTRY %main () -> f32[] {\n}\n", {"main": 1}) is None


def test_limits_cover_the_invariant_weights() -> None:
    trace = default()
    limits = hoist_limits_kib(trace.program, trace.hierarchy.layers[1].capacity_bytes)
    assert limits[-1] == 114688
    assert 16384 < limits[0] < 65536
    assert hoist_limits_kib(replace(trace.program, loops=(), instructions=_once(trace.program)), 1 << 20) == []


def _once(program: Program) -> tuple[mallocgame.program.Instruction, ...]:
    return tuple(replace(i, trip_count=1) for i in program.instructions)


def test_options_come_back_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    options: dict[str, str | bool] = {"xla_a": "overrides{x:'y[.]1'}", "xla_b": True}
    save_compiler_options(path, options, {"libtpu": "0.0.1", "jax": None})
    assert mallocgame.load_compiler_options(path) == options
    (line,) = versions_that_differ(path)
    assert line.startswith("made with libtpu 0.0.1, here is ")
    assert differing_versions({}) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "not a file of compiler options"),
        ('{"format": "mallocgame-compiler-options", "version": 9}', "version 9"),
        ('{"format": "mallocgame-compiler-options", "version": 1}', "lacks"),
        (
            '{"format": "mallocgame-compiler-options", "version": 1, "about": {}, "compiler_options": {"a": 1}}',
            "expected an object of strings and booleans",
        ),
    ],
)
def test_damaged_options(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=reason):
        mallocgame.load_compiler_options(path)
    with pytest.raises(TraceError, match="cannot read"):
        mallocgame.load_compiler_options(tmp_path / "none.json")

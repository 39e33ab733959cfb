"""Scheduled HLO text of any backend as a trace."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError, TraceError
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.program import UseKind
from mallocgame.workloads import suite
from mallocgame.workloads.hlo.module import parse_hlo
from mallocgame.workloads.hlo_trace import PEAK_OPERATIONS, program_from_hlo, trace_from_hlo
from tests.paths import DATA

LSTM = DATA / "lstm-v5e.hlo"
H100 = preset("h100")

DOTS = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[64,1024]{1,0})->f32[64,32]{1,0}}

%fused (p0: f32[64,1024], p1: f32[1024,512]) -> f32[64,512] {
  %p0 = f32[64,1024]{1,0} parameter(0)
  %p1 = f32[1024,512]{1,0} parameter(1)
  ROOT %d = f32[64,512]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%window (t0: bf16[100,16], i0: s32[]) -> bf16[4,16] {
  %t0 = bf16[100,16] parameter(0)
  %i0 = s32[] parameter(1)
  ROOT %s = bf16[4,16] dynamic-slice(%t0, %i0, %i0), dynamic_slice_sizes={4,16}
}

ENTRY %main (x: f32[64,1024], w: f32[1024,512], table: bf16[100,16], k: f32[3,3,16,8], image: f32[2,9,9,16]) -> f32[2] {
  %x = f32[64,1024]{1,0} parameter(0)
  %w = f32[1024,512]{1,0} parameter(1)
  %table = bf16[100,16] parameter(2)
  %k = f32[3,3,16,8] parameter(3)
  %image = f32[2,9,9,16] parameter(4)
  %zero = s32[] constant(0)
  %y = f32[64,512]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused, metadata={source_file="m.py" source_line=3}
  %row = bf16[4,16] fusion(%table, %zero), kind=kLoop, calls=%window
  %c = f32[2,7,7,8] convolution(%image, %k), window={size=3x3}, dim_labels=b01f_01io->b01f
  ROOT %r = f32[64,512]{1,0} negate(%y)
}
"""


def test_work_and_bytes_from_shapes() -> None:
    program = program_from_hlo(parse_hlo(DOTS), 1e12)
    step = {i.name: s for s, i in enumerate(program.instructions)}
    seconds = {i.name: i.compute_seconds for i in program.instructions}
    assert seconds["y"] == pytest.approx(2 * 64 * 512 * 1024 / 1e12)
    assert seconds["c"] == pytest.approx(2 * (2 * 7 * 7 * 8) * (3 * 3 * 16) / 1e12)
    assert seconds["row"] == 0
    assert program.instructions[step["y"]].source == "m.py:3"
    tensors = {t.name: t for t in program.tensors}
    assert [(u.bytes, u.kind) for u in tensors["w"].uses] == [(4 * 1024 * 512, UseKind.READ)]
    assert [u.bytes for u in tensors["table"].uses] == [2 * 4 * 16]  # only the slice
    assert tensors["r"].is_output
    assert [u.kind for u in tensors["y"].uses] == [UseKind.DEFINE, UseKind.READ]


def test_while_loops_of_a_real_program(tmp_path: Path) -> None:
    trace = trace_from_hlo(LSTM, preset("v5e"))
    (loop,) = trace.program.loops
    assert loop.trip_count == 64
    real = suite.load("lstm-v5e")
    assert trace.program.num_steps == real.program.num_steps
    ours = simulate(trace.program, trace.hierarchy, Mapping()).total_seconds
    theirs = simulate(real.program, real.hierarchy, Mapping()).total_seconds
    assert 0.7 < ours / theirs < 1.4  # shapes alone against the compiler's cost model
    assert trace.mapping is None


def test_refusals(tmp_path: Path) -> None:
    file = tmp_path / "a.hlo"
    file.write_text(DOTS.replace(", is_scheduled=true", ""), encoding="utf-8")
    with pytest.raises(TraceError, match="not scheduled"):
        trace_from_hlo(file, H100)
    file.write_text(DOTS.replace("negate(%y)", "negate(%absent)"), encoding="utf-8")
    with pytest.raises(TraceError, match=r"a.hlo:25: main: r: operand absent is not defined before it"):
        trace_from_hlo(file, H100)
    file.write_text(DOTS.replace("f32[2,9,9,16] parameter", "f32[2,n,9,16] parameter"), encoding="utf-8")
    with pytest.raises(TraceError, match=r"a.hlo:20: .*image: dimension 'n' of f32\[2,n,9,16\] has no size"):
        trace_from_hlo(file, H100)
    file.write_text(DOTS.replace("f32[2,9,9,16] parameter", "q7[2,9,9,16] parameter"), encoding="utf-8")
    with pytest.raises(TraceError, match=r"a.hlo:20: .*image: unknown element type 'q7'"):
        trace_from_hlo(file, H100)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TraceError, match="neither HLO text nor a serialized HLO module"):
        trace_from_hlo(file, H100)
    with pytest.raises(InputError, match="operations per second"):
        trace_from_hlo(LSTM, H100, operations_per_second=math.nan)
    assert {"v4", "v5e", "v5p", "v6e", "h100"} <= PEAK_OPERATIONS.keys()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_text_is_refused_or_read(data: st.DataObject) -> None:
    lines = (DOTS if data.draw(st.booleans()) else LSTM.read_text(encoding="utf-8")).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        action = data.draw(st.sampled_from(("cut", "drop", "swap", "letters")))
        if action == "cut":
            lines = [*lines[:at], lines[at][: data.draw(st.integers(0, len(lines[at])))]]
        elif action == "drop" and len(lines) > 1:
            del lines[at]
        elif action == "swap":
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            position = data.draw(st.integers(0, len(lines[at])))
            text = data.draw(st.text(max_size=4)).replace("\n", "")
            lines[at] = lines[at][:position] + text + lines[at][position + 1 :]
    try:
        program = program_from_hlo(parse_hlo("\n".join(lines)), 1e12)
    except InputError:
        return
    assert simulate(program, preset("v5e"), Mapping()).total_seconds >= 0


def test_a_memory_of_one_s_own_has_the_peak_of_the_chip_in_its_name() -> None:
    own = replace(preset("host-v5e"), name="my-V5e host")
    ours = trace_from_hlo(LSTM, own).program
    assert ours.instructions == trace_from_hlo(LSTM, preset("v5e")).program.instructions
    with pytest.raises(InputError, match="let its name hold a chip's"):
        trace_from_hlo(LSTM, replace(own, name="mine"))

"""Copies to and from the host in scheduled HLO: text as XLA:TPU writes it for a scan that offloads."""

import pytest

from mallocgame.workloads.checkpointing.readback import CompiledStep, host_copies

HLO = """HloModule jit_step, is_scheduled=true

%forward (p: (s32[], bf16[8,2,4]{2,1,0:T(8,128)S(5)}, bf16[2,4])) -> (s32[], bf16[8,2,4], bf16[2,4]) {
  %p = (s32[], bf16[8,2,4]{2,1,0:T(8,128)S(5)}, bf16[2,4]{1,0}) parameter(0)
  %stack = bf16[8,2,4]{2,1,0:T(8,128)S(5)} get-tuple-element(%p), index=1
  %x = bf16[1,2,4]{2,1,0} bitcast(%p)
  %i = s32[] get-tuple-element(%p), index=0
  %dus-start = ((bf16[8,2,4]{2,1,0:S(5)}, s32[]), bf16[8,2,4]{2,1,0:S(5)}) dynamic-update-slice-start(%stack, %x, %i)
  %fusion.1 = bf16[2,4]{1,0} fusion(%x), calls=%f, backend_config={"window_config":{"estimated_cycles":"60"}}
  %dus-done = bf16[8,2,4]{2,1,0:T(8,128)S(5)} dynamic-update-slice-done(%dus-start)
  %fusion.2 = bf16[2,4]{1,0} fusion(%fusion.1), calls=%f, backend_config={"window_config":{"estimated_cycles":"40"}}
  ROOT %t = (s32[], bf16[8,2,4]{2,1,0:T(8,128)S(5)}, bf16[2,4]{1,0}) tuple(%i, %dus-done, %fusion.2)
}

ENTRY %main (a: bf16[2,4]) -> bf16[2,4] {
  %a = bf16[2,4]{1,0} parameter(0)
  %copy-start.1 = (bf16[2,4]{1,0:S(5)}, bf16[2,4]{1,0}, u32[]) copy-start(%a)
  %copy-done.1 = bf16[2,4]{1,0:S(5)} copy-done(%copy-start.1)
  %dot.1 = f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %copy.9 = bf16[2,4]{1,0} copy(%copy-done.1)
}
"""


def test_copies_are_found_with_what_hides_them() -> None:
    out, there, back = host_copies(HLO)
    assert (out.computation, out.to_host, out.size_bytes, out.start_step, out.done_step) == ("forward", True, 16, 4, 6)
    assert out.hiding_share == pytest.approx(0.6)
    assert (there.to_host, there.hiding_share) == (True, 0.0)
    assert (back.name, back.to_host, back.size_bytes, back.start_step, back.done_step) == ("copy.9", False, 16, 4, 4)
    compiled = CompiledStep(copies=(out, there, back))
    assert compiled.hiding_share(to_host=True) == pytest.approx(0.3)
    assert CompiledStep().hiding_share(to_host=False) is None

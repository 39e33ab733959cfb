"""Which fusions only move data."""

import pytest

from mallocgame.workloads.hlo.module import parse_hlo
from mallocgame.workloads.hlo.movement import movement_of

MODULE = """HloModule m, is_scheduled=true

%inner (a: f32[8,8], b: f32[8,8], n: s32[]) -> f32[] {
  %a = f32[8,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  %n = s32[] parameter(2)
  %zero = s32[] constant(0)
  %low = f32[] constant(-inf)
  %next = s32[] add(%n, %zero)
  BODY
}

ENTRY %main (x: f32[8,8], y: f32[8,8], i: s32[]) -> f32[] {
  %x = f32[8,8]{1,0} parameter(0)
  %y = f32[8,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %fusion = f32[] fusion(%x, %y, %i), kind=kLoop, calls=%inner
}
"""

SLICE = "ROOT %r = f32[1,8]{1,0} dynamic-slice(%a, %next, %zero), dynamic_slice_sizes={1,8}"
PADS = """%p = f32[16,8]{1,0} pad(%a, %low), padding=0_8x0_0
  %q = f32[16,8]{1,0} pad(%b, %low), padding=8_0x0_0
  ROOT %r = f32[16,8]{1,0} maximum(%p, %q)"""

WIDENED = """%p = f32[16,8]{1,0} pad(%a, %low), padding=0_8x0_0
  %q = f32[16,8]{1,0} pad(%b, %low), padding=8_0x0_0
  %p2 = f64[16,8]{1,0} convert(%p)
  %q2 = f64[16,8]{1,0} convert(%q)
  %m = f64[16,8]{1,0} maximum(%p2, %q2)
  ROOT %r = f32[16,8]{1,0} convert(%m)"""


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (SLICE, "slice"),
        (PADS, "concatenate"),
        (WIDENED, "concatenate"),
        ("ROOT %r = f64[8,8]{1,0} convert(%a)", ""),
        ("%t = f32[8,8]{1,0} transpose(%a), dimensions={1,0}\n  ROOT %r = f32[64]{0} bitcast(%t)", "transpose"),
        ("ROOT %r = f32[8,8]{1,0} maximum(%a, %b)", ""),
        ("%t = f32[8,8]{1,0} copy(%a)\n  ROOT %r = f32[8,8]{1,0} maximum(%t, %b)", ""),
        ("%t = f32[8,8]{1,0} transpose(%a), dimensions={1,0}\n  ROOT %r = f32[8,8]{1,0} add(%t, %b)", ""),
        ("ROOT %r = f32[64]{0} bitcast(%a)", ""),
    ],
)
def test_a_fusion_that_computes_nothing(body: str, kind: str) -> None:
    module = parse_hlo(MODULE.replace("BODY", body))
    (fusion,) = (i for i in module.computations["main"].instructions.values() if i.opcode == "fusion")
    assert movement_of(module, fusion) == kind
    assert movement_of(module, next(iter(module.computations["main"].instructions.values()))) == ""

"""Which kernels may not fit: only a full compilation says so, and only large ones need it."""

import pytest

from mallocgame.workloads.xla.kernels import has_large_kernel

LOG = "I1127 12:54:04.263621   18789 memory_space_assignment.cc:471] max_size_in_bytes: 4096"
HLO = """ENTRY %main (x: f32[256]) -> f32[{result}] {{
  %x = f32[256]{{0}} parameter(0)
  ROOT %k = ({shapes}) custom-call(%x, %x), custom_call_target="{target}", operand_layout_constraints={{{operands}}}, \
metadata={{op_name="f32[1000000]"}}
}}
"""


@pytest.mark.parametrize(
    ("shapes", "operands", "target", "large"),
    [
        ("f32[256]{0}", "f32[256]{0}, f32[256]{0}", "tpu_custom_call", False),  # 3072 bytes
        ("f32[256]{0}", "f32[256]{0}, f32[513]{0}", "tpu_custom_call", True),  # 4100 bytes
        ("f32[256]{0}, f32[513]{0}", "f32[256]{0}", "tpu_custom_call", True),
        ("f32[256]{0}", "f32[256]{0}, f32[513]{0}", "Cholesky", False),  # the compiler's own
        ("bf16[1024]{0}", "f32[], bf16[1022]{0}", "tpu_custom_call", False),  # 4096 bytes
    ],
)
def test_only_kernels_larger_than_the_memory_are_large(shapes: str, operands: str, target: str, large: bool) -> None:
    hlo = HLO.format(result=256, shapes=shapes, operands=operands, target=target)
    assert has_large_kernel(hlo, LOG) == large

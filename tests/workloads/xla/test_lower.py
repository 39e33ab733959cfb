"""What programs find when they look for their chips (extra: tpu)."""

import importlib.util
from pathlib import Path

import pytest

from mallocgame.workloads.capture import capture
from mallocgame.workloads.program_reference import parse_reference
from mallocgame.workloads.xla.compiler import Compiler

tpu = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax", "libtpu")), reason="needs the tpu extra"
)

MAPPED = """
from functools import partial
from jax import lax, pmap

@partial(pmap, axis_name="replica", donate_argnums=0)
def update(weights, x):
    return weights - 1e-3 * lax.pmean(x.T @ (x @ weights), "replica")
"""


@pytest.mark.tpu
@tpu
def test_pmap_takes_the_chips_of_the_topology(tmp_path: Path) -> None:
    (tmp_path / "replicated.py").write_text(MAPPED, encoding="utf-8")
    reference = parse_reference(f"{tmp_path}/replicated.py:update", "f32[4,512,256],f32[4,512,512]")
    with Compiler() as compiler:
        trace = capture(reference, chip="v5e:2x2", compiler=compiler)
    assert int(str(trace.provenance["collectives"])) == 1
    assert max(t.size_bytes for t in trace.program.tensors if t.is_parameter) == 512 * 512 * 4  # a chip's share

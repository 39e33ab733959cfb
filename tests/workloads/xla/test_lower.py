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


NNX = """
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.up, self.down = nnx.Linear(256, 1024, rngs=rngs), nnx.Linear(1024, 256, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))

@nnx.jit
def step(net, x):
    loss, gradient = nnx.value_and_grad(lambda net: net(x).sum())(net)
    nnx.update(net, gradient)
    return loss

def example_args():
    return Net(), jnp.zeros((512, 256))
"""


@pytest.mark.tpu
@tpu
@pytest.mark.skipif(importlib.util.find_spec("flax") is None, reason="needs flax")
def test_arguments_of_flax_have_their_words_and_sources_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "nnx_net.py").write_text(NNX, encoding="utf-8")
    with Compiler() as compiler:
        trace = capture(parse_reference(f"{tmp_path}/nnx_net.py:step"), chip="v5e", compiler=compiler)
    sizes = {t.title: t.size_bytes for t in trace.program.tensors if t.is_parameter}
    assert sizes["net.up.kernel"] == sizes["net.down.kernel"] == 1024 * 256 * 4
    assert "net.up.bias" in sizes
    places = {i.source.partition(":")[0] for i in trace.program.instructions if i.source}
    assert places == {"nnx_net.py"}

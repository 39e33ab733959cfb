"""What programs find when they look for their chips (extra: tpu)."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest

from mallocgame.program import UseKind
from mallocgame.workloads.calls import prepare
from mallocgame.workloads.capture import capture
from mallocgame.workloads.program_reference import Call, parse_reference
from mallocgame.workloads.xla.compiler import Compiler
from mallocgame.workloads.xla.lower import lower_ready

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


MIXED = """
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

@jax.tree_util.register_dataclass
@dataclass
class Net:
    weight: Any
    activation: Any  # no data, and not marked as such

def step(net, x, steps):
    return Net(net.weight - net.activation(x @ net.weight).T @ x * steps, net.activation)

class _JitWrapper:
    \"\"\"Says of itself what Equinox's filter_jit does.\"\"\"
    donate_first, donate_rest = True, False

    def __call__(self, net, x, steps):
        weight = jax.jit(lambda weight: step(Net(weight, net.activation), x, steps).weight)(net.weight)
        return Net(weight, net.activation)

    def lower(self, *arguments):
        raise AttributeError("'ShapeDtypeStruct' object has no attribute 'astype'")

_JitWrapper.__module__ = "equinox._jit"
filtered = _JitWrapper()

def example_args():
    return Net(jnp.zeros((512, 512)), jax.nn.relu), jnp.zeros((512, 512)), 2
"""


@pytest.mark.tpu
@tpu
def test_a_model_may_hold_functions_beside_its_arrays(tmp_path: Path) -> None:
    (tmp_path / "mixed_net.py").write_text(MIXED, encoding="utf-8")
    with Compiler() as compiler:
        plain = capture(parse_reference(f"{tmp_path}/mixed_net.py:step"), chip="v5e", compiler=compiler)
        filtered = capture(parse_reference(f"{tmp_path}/mixed_net.py:filtered"), chip="v5e", compiler=compiler)
    for trace, is_donated in ((plain, False), (filtered, True)):
        weight = next(t for t in trace.program.tensors if t.is_parameter and t.title == "net.weight")
        assert weight.size_bytes == 512 * 512 * 4
        assert any(u.kind != UseKind.READ for u in weight.uses) == is_donated


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax")
def test_what_a_jitted_function_donates_counts_behind_partials_methods_and_other_functions() -> None:
    import jax

    class Cell:
        @partial(jax.jit, static_argnums=0, donate_argnums=1)
        def grow(self, state: jax.Array, x: jax.Array) -> jax.Array:
            return state + x

    @partial(jax.jit, static_argnames="by", donate_argnums=0)
    def scale(state: jax.Array, x: jax.Array, by: str) -> jax.Array:
        return state * x if by == "product" else state

    def step(state: dict[str, jax.Array], x: jax.Array, name: str = "product") -> dict[str, jax.Array]:
        return {"a": scale(state["a"], x, name)}

    array, device = jax.numpy.zeros((8, 8)), jax.devices("cpu")[0]
    for function in (Cell().grow, partial(scale, by="product"), partial(Cell.grow, Cell())):
        lowered = lower_ready(prepare(Call(function=function, arguments=(array, array)), lambda leaf: leaf), device)
        assert [leaf.donated for leaf in jax.tree.leaves(lowered.args_info)] == [True, False]
    for arguments, keywords in (
        (({"a": array}, array, "product"), {}),
        ((), {"state": {"a": array}, "x": array}),
    ):
        call = Call(function=step, arguments=arguments, keywords=keywords)  # one that only calls one
        lowered = lower_ready(prepare(call, lambda leaf: leaf), device)
        assert [leaf.donated for leaf in jax.tree.leaves(lowered.args_info)] == [True, False]
    call = Call(function=step, arguments=({"a": array, "b": array}, array))
    lowered = lower_ready(prepare(call, lambda leaf: leaf), device)
    assert not any(leaf.donated for leaf in jax.tree.leaves(lowered.args_info))

"""Programs of a user's own, and how they are named."""

import importlib.util
from pathlib import Path

import pytest

from mallocgame.workloads.program_reference import ProgramReference, parse_reference
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.fidelity import compare

tpu = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax", "libtpu")), reason="needs the tpu extra"
)

PROGRAMS = """
import functools
import jax
import jax.numpy as jnp
from jax import lax

def example_args():
    return jax.ShapeDtypeStruct((256, 2048), jnp.bfloat16), [jnp.zeros((2048, 2048), jnp.bfloat16)] * 3

def network(x, weights):
    for weight in weights:
        x = jax.nn.relu(x @ weight)
    return x

def two(x, y):
    return x @ y

@functools.partial(jax.jit, donate_argnums=(0,))
def update(cache, row):
    return lax.dynamic_update_slice(cache, row, (5, 0)), cache.sum()

def until(x):
    return lax.while_loop(lambda v: v.sum() < 10.0, lambda v: v @ v + 1.0, x)

def tiny(x):
    return lax.fori_loop(0, 1000, lambda i, v: lax.dynamic_update_slice(v, v[:1] + 1.0, (i % 8, 0)), x)

def nested(n, x):
    return lax.fori_loop(0, n, lambda i, x: lax.fori_loop(0, 3, lambda j, y: jnp.tanh(y @ x), x), x)

def decode(w, cache, at, x):
    y = jnp.tanh(x @ w)
    cache = lax.dynamic_update_slice(cache, y[None], (at, 0, 0))
    return cache, (cache * y).sum(0)

def asks(w, x):
    y = jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct(x.shape, x.dtype), x @ w)
    return jnp.tanh(y @ w)


def offload(w, x):
    h = jnp.tanh(x @ w)
    parked = jax.device_put(h, jax.memory.Space.Host)
    return jnp.sin(h) @ w + jax.device_put(parked, jax.memory.Space.Device)

def cholesky(a):
    return jnp.linalg.cholesky(a @ a.T + jnp.eye(a.shape[0])), jnp.linalg.solve(a, a[:, :64])

def kernel(x, y):
    from jax.experimental import pallas as pl
    spec = pl.BlockSpec((256, 1024), lambda i: (i, 0))
    def add(a, b, o):
        o[...] = a[...] + b[...]
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(add, out_shape=shape, grid=(4,), in_specs=[spec, spec], out_specs=spec)(x, y) @ x

@functools.partial(jax.jit, donate_argnums=0)
def kernels_in_place(x, y):
    from jax.experimental import pallas as pl
    spec = pl.BlockSpec((256, 512), lambda i: (i, 0))
    def add(a, b, o):
        o[...] = a[...] + b[...]
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    options = {"grid": (4,), "in_specs": [spec] * 2, "out_specs": spec, "input_output_aliases": {0: 0}}
    run = pl.pallas_call(add, out_shape=shape, **options)
    for _ in range(3):
        x, y = run(x, y), jnp.sin(y)
    return x

@functools.partial(jax.jit, static_argnums=1, static_argnames="act")
def layered(params, repeats, *, act="relu"):
    x = params["x"]
    for _ in range(repeats):
        x = getattr(jax.nn, act)(x @ params["w"])
    return x

def own_args():
    shape = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16)
    return {"w": shape, "x": shape}, 5

layered.example_args = lambda: ({"w": jnp.zeros((256, 256)), "x": jnp.zeros((256, 256))}, 2)

def by_name(x, scale, kind):
    return jnp.sin(x * scale) if kind == "sine" else x

by_name.example_args = {"x": jnp.zeros((256, 256)), "scale": 2.0, "kind": "sine"}

def starts(x):
    return jnp.zeros_like(x)

CLOSED_OVER = jnp.sin(jnp.arange(1024 * 1024, dtype=jnp.float32)).reshape(1024, 1024)

def closed(x):
    return jnp.tanh(x @ CLOSED_OVER)

def segments(x, w, s):
    return jax.ops.segment_sum(x @ w, s, 512)

def one_array(x):
    return x @ x

def square():
    return jax.ShapeDtypeStruct((256, 256), jnp.float32)

def sharded(w, x):
    y = jax.nn.relu(x @ w)
    return y.sum(0)

def sharded_args(mesh):
    from jax.sharding import NamedSharding, PartitionSpec as P
    split = lambda shape, *axes: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(*axes)))
    return split((1024, 1024), "data", "model"), split((4096, 1024), "data", None)

def ring_of_four(x):
    from jax.sharding import PartitionSpec as P
    mesh = jax.make_mesh((4,), ("d",))
    return jax.shard_map(lambda x: lax.psum(x, "d"), mesh=mesh, in_specs=P("d"), out_specs=P())(x)

def constrained(x):
    from jax.sharding import PartitionSpec as P
    return lax.with_sharding_constraint(x, P("data", None)) * 2

def scalar(x):
    return x + 1

def one_number():
    return jax.ShapeDtypeStruct((), jnp.float32)

def ring(x):
    from jax.sharding import PartitionSpec as P
    mesh = jax.make_mesh((len(jax.devices()),), ("d",))
    def run(x):
        size = lax.axis_size("d")
        y = lax.ppermute(x, "d", [(i, (i + 1) % size) for i in range(size)])
        return y + x @ x
    return jax.shard_map(run, mesh=mesh, in_specs=P("d", None), out_specs=P("d", None), check_vma=False)(x)

def branch(x, flag):
    return lax.cond(flag[0] > 0, lambda v: v @ v, lambda v: v @ v @ v, x)

def broken(x):
    raise RuntimeError("no such layer")
"""


def reference(folder: Path, name: str, arguments: str = "") -> ProgramReference:
    return parse_reference(f"users_model:{name}", arguments, folder=str(folder))


def explained(trace: Trace) -> Trace:
    """Return the trace, after the judge has repeated XLA's own figures of it."""
    found = compare(trace)
    assert found.step_share_within_1_percent > 0.99
    assert found.home_share_within_1_percent > 0.99
    assert abs(found.total_error) < 0.01
    return trace

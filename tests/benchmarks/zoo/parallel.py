"""Steps for several chips: data, fully sharded, tensor, sequence and expert parallel, pipelines, ring attention."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BF16 = jnp.bfloat16
Tree = Any


def sharded(mesh: Mesh, shape: tuple[int, ...], *axes: Any, dtype: Any = BF16) -> Any:
    """Return an array's description, split over the mesh axes named (None: not split)."""
    struct: Any = jax.ShapeDtypeStruct
    return struct(shape, dtype, sharding=NamedSharding(mesh, P(*axes)))


def with_args(make: Any) -> Any:
    """Return a decorator that gives a program its arguments: ``make(mesh)``."""

    def give(function: Any) -> Any:
        function.example_args = make
        return function

    return give


def _block(x: Array, w: Tree, heads: int) -> Array:
    """One pre-norm transformer layer."""
    b, t, d = x.shape
    h = _norm(x, w["norm1"])
    q, k, v = (jnp.reshape(h @ w[name], (b, t, heads, d // heads)) for name in ("q", "k", "v"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (d // heads) ** 0.5
    mask = jnp.tril(jnp.ones((t, t), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores.astype(jnp.float32), -1e9), axis=-1).astype(x.dtype)
    x = x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, d) @ w["o"]
    h = _norm(x, w["norm2"])
    return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]


def _norm(x: Array, scale: Array) -> Array:
    y = x.astype(jnp.float32)
    return (y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype) * scale


def _layer(mesh: Mesh, d: int, f: int, rows: Any, columns: Any, leading: tuple[int, ...] = ()) -> Tree:
    """Return one layer's weights, rows split over ``rows`` and columns over ``columns``; ``leading``: stacked."""
    lead = (None,) * len(leading)
    wide = partial(sharded, mesh)
    return {
        **{name: wide((*leading, d, d), *lead, rows, columns) for name in ("q", "k", "v")},
        "o": wide((*leading, d, d), *lead, columns, rows),
        **{name: wide((*leading, d, f), *lead, rows, columns) for name in ("gate", "up")},
        "down": wide((*leading, f, d), *lead, columns, rows),
        **{name: wide((*leading, d), *lead, None) for name in ("norm1", "norm2")},
    }


def _loss(layers: list[Tree], x: Array) -> Array:
    for w in layers:
        x = _block(x, w, 8)
    return jnp.mean(x.astype(jnp.float32) ** 2)


def _descend(layers: Tree, x: Array, loss: Any) -> tuple[Tree, Array]:
    value, grads = jax.value_and_grad(loss)(layers, x)
    return jax.tree.map(lambda w, g: w - 1e-3 * g.astype(w.dtype), layers, grads), value


def _fsdp_args(mesh: Mesh) -> Any:
    layers = [_layer(mesh, 1024, 4096, "data", None) for _ in range(4)]
    return layers, sharded(mesh, (16, 512, 1024), "data", None, None)


@with_args(_fsdp_args)
@partial(jax.jit, donate_argnums=0)
def fsdp_training(layers: list[Tree], x: Array) -> tuple[Tree, Array]:
    """Fully sharded data parallel training: weights are gathered layer by layer, gradients scattered."""
    return _descend(layers, x, _loss)


@with_args(
    lambda mesh: (
        _layer(mesh, 1024, 4096, "data", None, (8,)),
        sharded(mesh, (16, 512, 1024), "data", None, None),
    )
)
@partial(jax.jit, donate_argnums=0)
def fsdp_scan_training(layers: Tree, x: Array) -> tuple[Tree, Array]:
    """The same with a scan over stacked layers and rematerialisation."""

    def loss(stacked: Tree, x: Array) -> Array:
        layer = jax.checkpoint(lambda x, w: (_block(x, w, 8), None))
        y, _ = lax.scan(layer, x, stacked)
        return jnp.mean(y.astype(jnp.float32) ** 2)

    return _descend(layers, x, loss)


@with_args(
    lambda mesh: (
        [_layer(mesh, 2048, 8192, None, "data") for _ in range(4)],
        sharded(mesh, (4, 256, 2048)),
    )
)
@jax.jit
def tensor_parallel(layers: list[Tree], x: Array) -> Array:
    """Prefill with every weight split over the chips, an all-reduce after attention and after the MLP."""
    for w in layers:
        x = _block(x, w, 16)
    return x


def _two_axes(mesh: Mesh) -> Any:
    layers = [_layer(mesh, 1024, 4096, "data", "model") for _ in range(3)]
    return layers, sharded(mesh, (8, 512, 1024), "data", None, None)


@with_args(_two_axes)
@partial(jax.jit, donate_argnums=0)
def two_axes_training(layers: list[Tree], x: Array) -> tuple[Tree, Array]:
    """Training with weights split over both axes of a mesh: fully sharded times tensor parallel."""
    return _descend(layers, x, _loss)


def _decode_args(mesh: Mesh) -> Any:
    layers = [_layer(mesh, 2048, 8192, None, "data") for _ in range(2)]
    caches = [sharded(mesh, (2, 8, 16, 1024, 128), None, None, "data", None, None) for _ in layers]
    return layers, caches, sharded(mesh, (8, 2048)), sharded(mesh, (), dtype=jnp.int32)


@with_args(_decode_args)
@partial(jax.jit, donate_argnums=1)
def tensor_parallel_decode(layers: list[Tree], caches: list[Array], x: Array, at: Array) -> tuple[Array, list[Array]]:
    """One token with a KV cache that is split over heads and donated."""
    updated = []
    for w, cache in zip(layers, caches, strict=True):
        h = _norm(x, w["norm1"])
        q, k, v = (jnp.reshape(h @ w[name], (8, 16, 128)) for name in ("q", "k", "v"))
        entry = jnp.stack([k, v])[:, :, :, None, :]
        cache = lax.dynamic_update_slice(cache, entry, (0, 0, 0, at, 0))
        scores = jnp.einsum("bhd,bhtd->bht", q, cache[0]).astype(jnp.float32) / 128**0.5
        weights = jax.nn.softmax(jnp.where(jnp.arange(1024) <= at, scores, -1e9), axis=-1).astype(x.dtype)
        x = x + jnp.einsum("bht,bhtd->bhd", weights, cache[1]).reshape(8, 2048) @ w["o"]
        h = _norm(x, w["norm2"])
        x = x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]
        updated.append(cache)
    return x, updated


def _mapped(run: Any, ins: Any, outs: Any) -> Any:
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(run, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)


@with_args(
    lambda mesh: (
        [sharded(mesh, (2048, 8192), None, "data"), sharded(mesh, (8192, 2048), "data", None)],
        sharded(mesh, (4096, 2048), "data", None),
    )
)
@jax.jit
def sequence_parallel(weights: list[Array], x: Array) -> Array:
    """Megatron's sequence parallel MLP: gather the sequence, multiply, reduce-scatter it back."""

    def run(up: Array, down: Array, x: Array) -> Array:
        whole = lax.all_gather(x, "data", tiled=True)
        return x + lax.psum_scatter(jax.nn.gelu(whole @ up) @ down, "data", tiled=True)

    return _mapped(run, (P(None, "data"), P("data", None), P("data", None)), P("data", None))(*weights, x)


@with_args(
    lambda mesh: (
        sharded(mesh, (1024, 16)),
        sharded(mesh, (16, 1024, 2048), "data", None, None),
        sharded(mesh, (16, 2048, 1024), "data", None, None),
        sharded(mesh, (4096, 1024), "data", None),
    )
)
@jax.jit
def expert_parallel(router: Array, up: Array, down: Array, x: Array) -> Array:
    """A mixture of experts, each chip with its own: tokens go there and back by all-to-all."""

    def run(router: Array, up: Array, down: Array, x: Array) -> Array:
        experts, capacity = 16, x.shape[0] // 8
        choice = jnp.argmax(x @ router, axis=-1)
        chosen = jax.nn.one_hot(choice, experts, dtype=jnp.float32)
        place = (jnp.cumsum(chosen, axis=0) - 1) * chosen
        dispatch = (jax.nn.one_hot(place.sum(-1), capacity)[:, None, :] * chosen[:, :, None]).astype(x.dtype)
        sent = lax.all_to_all(jnp.einsum("tec,td->ecd", dispatch, x), "data", 0, 1, tiled=True)
        y = jnp.einsum("ecf,efd->ecd", jax.nn.gelu(jnp.einsum("ecd,edf->ecf", sent, up)), down)
        back = lax.all_to_all(y, "data", 1, 0, tiled=True)
        return x + jnp.einsum("tec,ecd->td", dispatch, back)

    split = P("data", None, None)
    return _mapped(run, (P(), split, split, P("data", None)), P("data", None))(router, up, down, x)


@with_args(
    lambda mesh: (
        sharded(mesh, (2 * mesh.size, 1024, 1024), "data", None, None),
        sharded(mesh, (8, 256, 1024)),
    )
)
@jax.jit
def pipeline(weights: Array, x: Array) -> Array:
    """GPipe: each chip holds two layers, microbatches move on by collective-permute."""

    def run(weights: Array, x: Array) -> Array:
        stages = lax.axis_size("data")
        stage = lax.axis_index("data")
        onward = [(i, (i + 1) % stages) for i in range(stages)]

        def tick(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
            state, out = carry
            state = jnp.where(stage == 0, x[jnp.minimum(t, x.shape[0] - 1)], state)
            for w in weights:
                state = jax.nn.relu(state @ w)
            at = jnp.clip(t - stages + 1, 0, x.shape[0] - 1)
            out = jnp.where(stage == stages - 1, out.at[at].set(state), out)
            return (lax.ppermute(state, "data", onward), out), None

        (_, out), _ = lax.scan(tick, (jnp.zeros_like(x[0]), jnp.zeros_like(x)), jnp.arange(x.shape[0] + stages - 1))
        return lax.psum(out, "data")

    return _mapped(run, (P("data", None, None), P()), P())(weights, x)


def _attention_args(mesh: Mesh) -> Any:
    return tuple(sharded(mesh, (2, 8192, 8, 128), None, "data", None, None) for _ in range(3))


@with_args(_attention_args)
@jax.jit
def ring_attention(q: Array, k: Array, v: Array) -> Array:
    """Attention over a sequence that is split over the chips: keys and values travel around a ring."""

    def run(q: Array, k: Array, v: Array) -> Array:
        size = lax.axis_size("data")
        onward = [(i, (i + 1) % size) for i in range(size)]

        def turn(carry: Any, _: Any) -> Any:
            top, total, out, k, v = carry
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) / q.shape[-1] ** 0.5
            new = jnp.maximum(top, scores.max(-1))
            weights = jnp.exp(scores - new[..., None])
            scale = jnp.exp(top - new)
            out = out * scale[..., None] + jnp.einsum("bhqk,bkhd->bhqd", weights.astype(v.dtype), v)
            total = total * scale + weights.sum(-1)
            k, v = (lax.ppermute(each, "data", onward) for each in (k, v))
            return (new, total, out, k, v), None

        b, t, h, d = q.shape
        start = (jnp.full((b, h, t), -1e30), jnp.zeros((b, h, t)), jnp.zeros((b, h, t, d)), k, v)
        (_, total, out, _, _), _ = lax.scan(turn, start, None, length=size)
        return (out / total[..., None]).astype(q.dtype)

    split = P(None, "data", None, None)
    return _mapped(run, (split, split, split), P(None, None, "data", None))(q, k, v)


@with_args(lambda mesh: tuple(sharded(mesh, (2, 4096, 16, 128), None, "data", None, None) for _ in range(3)))
@jax.jit
def ulysses_attention(q: Array, k: Array, v: Array) -> Array:
    """Attention over a split sequence by all-to-all: heads are split while attention runs."""

    def run(q: Array, k: Array, v: Array) -> Array:
        q, k, v = (lax.all_to_all(x, "data", 2, 1, tiled=True) for x in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) / q.shape[-1] ** 0.5
        out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
        return lax.all_to_all(out, "data", 1, 2, tiled=True)

    split = P(None, "data", None, None)
    return _mapped(run, (split, split, split), split)(q, k, v)


def _adam_args(mesh: Mesh) -> Any:
    weights = [sharded(mesh, (2048, 2048), dtype=jnp.float32) for _ in range(4)]
    return weights, (weights, weights), sharded(mesh, (8192, 2048), "data", None, dtype=jnp.float32)


@with_args(_adam_args)
@partial(jax.jit, donate_argnums=(0, 1))
def data_parallel_adam(weights: list[Array], moments: Any, x: Array) -> Any:
    """Replicated weights, split batch, all-reduced gradients, Adam."""

    def loss(weights: list[Array], x: Array) -> Array:
        y = x.astype(BF16)
        for w in weights:
            y = jax.nn.relu(y @ w.astype(BF16))
        return jnp.mean(y.astype(jnp.float32) ** 2)

    value, grads = jax.value_and_grad(loss)(weights, x)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    second = jax.tree.map(lambda m, g: 0.999 * m + 0.001 * g * g, moments[1], grads)
    new = jax.tree.map(lambda w, m, s: w - 1e-3 * m / (jnp.sqrt(s) + 1e-8), weights, first, second)
    return new, (first, second), value


@with_args(
    lambda mesh: (
        sharded(mesh, (65536, 512), "data", None),
        sharded(mesh, (512, 65536), None, "data"),
        sharded(mesh, (16, 512), "data", None, dtype=jnp.int32),
    )
)
@jax.jit
def vocabulary_parallel(table: Array, head: Array, tokens: Array) -> Array:
    """Embedding and output head split over the vocabulary, with a softmax cross-entropy over all chips."""
    x = table[tokens]
    logits = (x @ head).astype(jnp.float32)
    logits = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return -jnp.mean(jnp.take_along_axis(logits, tokens[..., None], axis=-1))

"""Five training steps for ``mallocgame fit``: tiny (tests), small (memory on a CPU), mid (compiled), full (one GPU).

A scan over layers with the user's own names, a scan without names and Adam, layers in a Python loop, convolutions, and
a recurrent network. ``NAMES`` lists them; ``build`` returns a step, its arguments' shapes and what is donated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from mallocgame.workloads.program_reference import Call

NAMES = ("named_scan", "plain_scan", "unrolled", "convolutions", "recurrent")
_SIZES: dict[str, dict[str, dict[str, int]]] = {
    "tiny": {
        "named_scan": {"layers": 2, "batch": 2, "length": 16, "width": 32, "heads": 2},
        "plain_scan": {"layers": 2, "batch": 2, "length": 16, "width": 32, "heads": 2},
        "unrolled": {"layers": 2, "batch": 2, "length": 16, "width": 32, "heads": 2},
        "convolutions": {"blocks": 3, "batch": 2, "image": 8, "width": 8},
        "recurrent": {"batch": 4, "length": 12, "width": 16},
    },
    "small": {
        "named_scan": {"layers": 6, "batch": 4, "length": 256, "width": 256, "heads": 4},
        "plain_scan": {"layers": 6, "batch": 4, "length": 256, "width": 256, "heads": 4},
        "unrolled": {"layers": 6, "batch": 4, "length": 256, "width": 256, "heads": 4},
        "convolutions": {"blocks": 6, "batch": 8, "image": 64, "width": 32},
        "recurrent": {"batch": 64, "length": 128, "width": 256},
    },
    "mid": {
        "named_scan": {"layers": 8, "batch": 2, "length": 1024, "width": 1024, "heads": 8},
        "plain_scan": {"layers": 8, "batch": 2, "length": 1024, "width": 1024, "heads": 8},
        "unrolled": {"layers": 4, "batch": 2, "length": 1024, "width": 1024, "heads": 8},
        "convolutions": {"blocks": 6, "batch": 32, "image": 64, "width": 128},
        "recurrent": {"batch": 256, "length": 128, "width": 512},
    },
    "full": {
        "named_scan": {"layers": 12, "batch": 8, "length": 4096, "width": 4096, "heads": 32},
        "plain_scan": {"layers": 16, "batch": 8, "length": 2048, "width": 2048, "heads": 16},
        "unrolled": {"layers": 8, "batch": 16, "length": 2048, "width": 2048, "heads": 16},
        "convolutions": {"blocks": 12, "batch": 256, "image": 128, "width": 128},
        "recurrent": {"batch": 2048, "length": 256, "width": 1024},
    },
}


def build(name: str, size: str, *, dtype: Any = jnp.float32, fused_attention: bool = False) -> Call:
    """Return a training step with the shapes of its arguments; parameters and optimiser state are donated."""
    sizes = _SIZES[size][name]
    return {
        "named_scan": partial(_scan, is_named=True, adam=False),
        "plain_scan": partial(_scan, is_named=False, adam=True),
        "unrolled": _unrolled,
        "convolutions": _convolutions,
        "recurrent": _recurrent,
    }[name](sizes, dtype, fused_attention)


def _struct(shape: tuple[int, ...], dtype: Any) -> Any:
    struct: Any = jax.ShapeDtypeStruct
    return struct(shape, dtype)


def _norm(x: Array) -> Array:
    wide = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + 1e-6).astype(x.dtype)


def _layer(x: Array, w: dict[str, Array], *, heads: int, fused: bool, is_named: bool) -> Array:
    """One transformer layer: causal attention and a feed-forward block, x [b, t, d]."""
    name = checkpoint_name if is_named else lambda value, _: value
    batch, length, width = x.shape
    qkv = name(_norm(x) @ w["qkv"], "qkv")
    q, k, v = (part.reshape(batch, length, heads, width // heads) for part in jnp.split(qkv, 3, -1))
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn" if fused else "xla")
    x = x + name(mixed.reshape(batch, length, width), "mixed") @ w["o"]
    hidden = name(_norm(x) @ w["w1"], "hidden")
    return x + jax.nn.gelu(hidden) @ w["w2"]


def _weights(layers: int, width: int, dtype: Any) -> dict[str, Any]:
    sizes = {"qkv": (width, 3 * width), "o": (width, width), "w1": (width, 4 * width), "w2": (4 * width, width)}
    return {name: _struct((layers, *shape), dtype) for name, shape in sizes.items()}


def _sgd(loss: Callable[..., Array]) -> Callable[..., Any]:
    def step(w: Any, *inputs: Any) -> tuple[Any, Array]:
        value, gradients = jax.value_and_grad(loss)(w, *inputs)
        return jax.tree.map(lambda a, g: a - g.astype(a.dtype) * jnp.asarray(1e-3, a.dtype), w, gradients), value

    return step


def _adam(loss: Callable[..., Array]) -> Callable[..., Any]:
    def step(w: Any, state: tuple[Any, Any], *inputs: Any) -> tuple[Any, tuple[Any, Any], Array]:
        value, gradients = jax.value_and_grad(loss)(w, *inputs)
        wide = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], wide)
        second = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g * g, state[1], wide)
        new = jax.tree.map(lambda a, m, v: a - (1e-3 * m / (jnp.sqrt(v) + 1e-8)).astype(a.dtype), w, first, second)
        return new, (first, second), value

    return step


def _scan(sizes: dict[str, int], dtype: Any, fused: bool, *, is_named: bool, adam: bool) -> Call:
    body = partial(_layer, heads=sizes["heads"], fused=fused, is_named=is_named)

    def loss(w: Any, x: Array) -> Array:
        y, _ = jax.lax.scan(lambda carry, one: (body(carry, one), None), x, w)
        return (y.astype(jnp.float32) ** 2).mean()

    w = _weights(sizes["layers"], sizes["width"], dtype)
    x = _struct((sizes["batch"], sizes["length"], sizes["width"]), dtype)
    if not adam:
        return Call(function=_sgd(loss), arguments=(w, x), donated=(0,))
    moments = jax.tree.map(lambda a: _struct(a.shape, jnp.float32), w)
    return Call(function=_adam(loss), arguments=(w, (moments, moments), x), donated=(0, 1))


def _unrolled(sizes: dict[str, int], dtype: Any, fused: bool) -> Call:
    body = partial(_layer, heads=sizes["heads"], fused=fused, is_named=False)

    def loss(w: Any, x: Array, labels: Array) -> Array:
        for layer in w["layers"]:
            x = body(x, layer)
        logits = (_norm(x) @ w["head"]).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen[..., 0])

    width = sizes["width"]
    one = jax.tree.map(lambda a: _struct(a.shape[1:], dtype), _weights(1, width, dtype))
    w = {"layers": [dict(one) for _ in range(sizes["layers"])], "head": _struct((width, 4 * width), dtype)}
    shape = (sizes["batch"], sizes["length"])
    return Call(
        function=_sgd(loss), arguments=(w, _struct((*shape, width), dtype), _struct(shape, jnp.int32)), donated=(0,)
    )


def _convolutions(sizes: dict[str, int], dtype: Any, fused: bool) -> Call:
    """Residual blocks of two 3 x 3 convolutions, normalised over the batch."""
    del fused

    def convolve(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def normalise(x: Array) -> Array:
        wide = x.astype(jnp.float32)
        mean, square = jnp.mean(wide, (0, 1, 2)), jnp.mean(wide * wide, (0, 1, 2))
        return ((wide - mean) * jax.lax.rsqrt(square - mean * mean + 1e-5)).astype(x.dtype)

    def loss(w: Any, x: Array) -> Array:
        for first, second in w:
            y = jax.nn.relu(normalise(convolve(x, first)))
            x = jax.nn.relu(x + normalise(convolve(y, second)))
        return (x.astype(jnp.float32) ** 2).mean()

    width = sizes["width"]
    kernel = _struct((3, 3, width, width), dtype)
    w = [(kernel, kernel) for _ in range(sizes["blocks"])]
    x = _struct((sizes["batch"], sizes["image"], sizes["image"], width), dtype)
    return Call(function=_sgd(loss), arguments=(w, x), donated=(0,))


def _recurrent(sizes: dict[str, int], dtype: Any, fused: bool) -> Call:
    """A gated recurrent network over time, its weights closed over by the scan's body."""
    del fused
    width = sizes["width"]

    def loss(w: Any, x: Array) -> Array:
        def cell(state: Array, at: Array) -> tuple[Array, Array]:
            gates = jax.nn.sigmoid(at @ w["gx"] + state @ w["gh"])
            reset, update = jnp.split(gates, 2, -1)
            new = jnp.tanh(at @ w["cx"] + (reset * state) @ w["ch"])
            state = update * state + (1 - update) * new
            return state, state

        _, rows = jax.lax.scan(cell, jnp.zeros((x.shape[1], width), x.dtype), x)
        return (rows.astype(jnp.float32) ** 2).mean()

    shapes = {"gx": (width, 2 * width), "gh": (width, 2 * width), "cx": (width, width), "ch": (width, width)}
    w = {name: _struct(shape, dtype) for name, shape in shapes.items()}
    return Call(
        function=_sgd(loss),
        arguments=(w, _struct((sizes["length"], sizes["batch"], width), dtype)),
        donated=(0,),
    )

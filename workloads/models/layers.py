"""Layers of the shipped programs, in plain JAX.

A network is a function `network(parameter, *inputs)`: it asks `parameter(name, shape)` for each weight it needs. A
first, abstract run records names and shapes (`parameter_shapes`); later runs read the values back (`reader`). So every
shape is written once, beside the layer that uses it.

Activations are bfloat16, reductions float32, images NHWC. Nothing relies on implicit dtype or rank promotion.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Shape = tuple[int, ...]
Parameter = Callable[[str, Shape], Array]
Network = Callable[..., Any]
Program = tuple[Callable[..., Any], tuple[Any, ...]]

ACTIVATION = jnp.bfloat16


def spec(*shape: int, dtype: Any = ACTIVATION) -> jax.ShapeDtypeStruct:
    """Return the abstract array `dtype[shape]`."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def parameter_shapes(network: Network, inputs: Sequence[Any], *, dtype: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Return every parameter that `network` asks for when run on `inputs`, stored as `dtype`.

    Raises:
        ValueError: one name is asked for twice (a network that ties weights keeps the array instead).
    """
    shapes: dict[str, jax.ShapeDtypeStruct] = {}

    def record(name: str, shape: Shape) -> Array:
        if name in shapes:
            raise ValueError(f"parameter {name!r} is asked for twice")
        shapes[name] = spec(*shape, dtype=dtype)
        return jnp.zeros(shape, ACTIVATION)

    jax.eval_shape(partial(network, record), *inputs)
    return shapes


def reader(values: Mapping[str, Array]) -> Parameter:
    """Return a `parameter` function that reads `values`, cast to the activations' dtype."""

    def read(name: str, shape: Shape) -> Array:
        value = values[name]
        if value.shape != shape:
            raise ValueError(f"parameter {name!r} has shape {value.shape}, expected {shape}")
        return value.astype(ACTIVATION)

    return read


def inference(network: Network, *inputs: Any) -> Program:
    """Return `(run, (parameters, *inputs))` with bfloat16 parameters."""

    def run(parameters: dict[str, Array], *inputs: Any) -> Any:
        return network(reader(parameters), *inputs)

    return run, (parameter_shapes(network, inputs, dtype=ACTIVATION), *inputs)


def along_last(vector: Array, x: Array) -> Array:
    """Return `vector` ([c]) shaped to broadcast against the last axis of `x` ([..., c])."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def dense(parameter: Parameter, name: str, x: Array, features: int, *, bias: bool = True) -> Array:
    """Return `x @ kernel (+ bias)`: [..., i] to [..., features]."""
    y = jnp.einsum("...i,io->...o", x, parameter(f"{name}.kernel", (x.shape[-1], features)))
    return y + along_last(parameter(f"{name}.bias", (features,)), y) if bias else y


def conv(  # noqa: PLR0913 (its options, by name)
    parameter: Parameter,
    name: str,
    x: Array,
    features: int,
    kernel: Sequence[int],
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    bias: bool = False,
) -> Array:
    """Return a convolution over the axes between batch and channels: [b, ..., i] to [b, ..., features]."""
    rank = len(kernel)
    letters = "DHW"[-rank:]
    y = lax.conv_general_dilated(
        x,
        parameter(f"{name}.kernel", (*kernel, x.shape[-1] // groups, features)),
        window_strides=(stride,) * rank,
        padding=padding,
        rhs_dilation=(dilation,) * rank,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )
    return y + along_last(parameter(f"{name}.bias", (features,)), y) if bias else y


def max_pool(x: Array, window: int, stride: int, padding: str = "VALID") -> Array:
    """Return the maxima over square windows of an NHWC image."""
    pooled: Array = lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding)
    return pooled


def normalise(x: Array, axes: Sequence[int], epsilon: float = 1e-5) -> Array:
    """Return float32 `x` with mean 0 and variance 1 over `axes`."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=axes, keepdims=True)
    return (wide - mean) * lax.rsqrt(variance + epsilon)


def affine(parameter: Parameter, name: str, x: Array) -> Array:
    """Return `x * scale + bias` along the last axis, in the activations' dtype."""
    x = x.astype(ACTIVATION)
    channels = (x.shape[-1],)
    return x * along_last(parameter(f"{name}.scale", channels), x) + along_last(parameter(f"{name}.bias", channels), x)


def layer_norm(parameter: Parameter, name: str, x: Array) -> Array:
    """Layer normalisation over the last axis."""
    return affine(parameter, name, normalise(x, (-1,)))


def unit_rms(x: Array) -> Array:
    """Return `x` with root mean square 1 over the last axis, in the activations' dtype."""
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + 1e-5)).astype(ACTIVATION)


def rms_norm(parameter: Parameter, name: str, x: Array) -> Array:
    """Root-mean-square normalisation over the last axis, without bias."""
    return unit_rms(x) * along_last(parameter(f"{name}.scale", (x.shape[-1],)), x)


def batch_norm(parameter: Parameter, name: str, x: Array, *, training: bool) -> Array:
    """Batch normalisation; in inference the running statistics are folded into scale and bias."""
    return affine(parameter, name, normalise(x, tuple(range(x.ndim - 1))) if training else x)


def group_norm(parameter: Parameter, name: str, x: Array, groups: int) -> Array:
    """Group normalisation of an NHWC image; `groups` divides the channels."""
    split = x.reshape((*x.shape[:-1], groups, x.shape[-1] // groups))
    return affine(parameter, name, normalise(split, (1, 2, 4)).reshape(x.shape))


def attention(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Return scaled dot-product attention with shared key/value heads.

    Args:
        query: [b, h, s, d]; key, value: [b, g, t, d], g divides h.
        mask: bool[s, t], True = attend.

    Returns:
        [b, h, s, d].
    """
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    grouped = query.reshape(batch, groups, heads // groups, length, width)
    scores = jnp.einsum("bgqsd,bgtd->bgqst", grouped, key, preferred_element_type=jnp.float32) * width**-0.5
    if mask is not None:
        scores = jnp.where(mask.reshape((1, 1, 1, *mask.shape)), scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(ACTIVATION)
    return jnp.einsum("bgqst,bgtd->bgqsd", weights, value).reshape(query.shape)


def split_heads(x: Array, heads: int) -> Array:
    """[b, s, h * d] to [b, h, s, d]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """[b, h, s, d] to [b, s, h * d]."""
    batch, heads, length, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


def embed(parameter: Parameter, name: str, tokens: Array, rows: int, width: int) -> tuple[Array, Array]:
    """Return `(table[tokens], table)`, the table [rows, width] for a tied output layer."""
    table = parameter(f"{name}.table", (rows, width))
    return jnp.take(table, tokens, axis=0, mode="clip"), table


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the mean float32 cross entropy of int32 `labels` [...] under `logits` [..., classes]."""
    wide = logits.astype(jnp.float32)
    classes = lax.broadcasted_iota(jnp.int32, wide.shape, wide.ndim - 1)
    chosen = jnp.sum(jnp.where(classes == labels[..., None], wide, 0.0), axis=-1)
    return jnp.mean(jax.nn.logsumexp(wide, axis=-1) - chosen)

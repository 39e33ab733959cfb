"""Encoder-decoder convolutional networks with skip connections: U-Net and a diffusion model's denoising step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from mallocgame.workloads.models.layers import (
    ACTIVATION,
    Parameter,
    Program,
    attention,
    batch_norm,
    conv,
    cross_entropy,
    dense,
    group_norm,
    inference,
    layer_norm,
    max_pool,
    merge_heads,
    spec,
    split_heads,
)
from mallocgame.workloads.models.training import momentum_step


def unet(*, batch: int, image: int, widths: Sequence[int], classes: int = 8) -> Program:
    """U-Net segmentation, inference (Ronneberger et al., arXiv:1505.04597)."""

    def network(parameter: Parameter, x: Array) -> Array:
        return _unet(parameter, x, widths, classes, training=False)

    return inference(network, spec(batch, image, image, 3))


def unet_training(*, batch: int, image: int, widths: Sequence[int], classes: int = 8) -> Program:
    """One U-Net training step, SGD with momentum."""

    def loss(parameter: Parameter, x: Array, labels: Array) -> Array:
        return cross_entropy(_unet(parameter, x, widths, classes, training=True), labels)

    return momentum_step(loss, spec(batch, image, image, 3), spec(batch, image, image, dtype=jnp.int32))


def _unet(parameter: Parameter, x: Array, widths: Sequence[int], classes: int, *, training: bool) -> Array:
    def double(name: str, x: Array, features: int) -> Array:
        for index in range(2):
            x = conv(parameter, f"{name}.conv{index}", x, features, (3, 3))
            x = jax.nn.relu(batch_norm(parameter, f"{name}.norm{index}", x, training=training))
        return x

    skips = []
    for level, features in enumerate(widths[:-1]):
        x = double(f"down{level}", x, features)
        skips.append(x)
        x = max_pool(x, 2, 2)
    x = double("middle", x, widths[-1])
    for level, features in reversed(list(enumerate(widths[:-1]))):
        kernel = parameter(f"up{level}.kernel", (2, 2, x.shape[-1], features))
        x = lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = double(f"up{level}", jnp.concatenate([skips[level], x], axis=-1), features)
    return conv(parameter, "head", x, classes, (1, 1), bias=True)


def diffusion_step(
    *,
    batch: int,
    image: int,
    widths: Sequence[int],
    blocks: int,
    heads: int = 8,
    context: int = 77,
    context_width: int = 768,
) -> Program:
    """One deterministic denoising step with classifier-free guidance: x_t to x_(t-1).

    A U-Net of residual blocks with time embedding and, below the finest level, self- and cross-attention, evaluated on
    the conditional and the unconditional half of a doubled batch (Ho et al., arXiv:2006.11239; Song et al.,
    arXiv:2010.02502; Ho and Salimans, arXiv:2207.12598). The program is `run(parameters, x, time, context) -> x`.
    """

    def network(parameter: Parameter, x: Array, time: Array, context: Array) -> Array:
        noise = _denoiser(parameter, jnp.concatenate([x, x]), time, context, widths, blocks, heads).astype(jnp.float32)
        conditional, unconditional = jnp.split(noise, 2)
        guided = unconditional + 7.5 * (conditional - unconditional)
        now, before = _signal(time), _signal(time - 0.02)
        clean = (x.astype(jnp.float32) - jnp.sqrt(1 - now) * guided) / jnp.sqrt(now)
        return (jnp.sqrt(before) * clean + jnp.sqrt(1 - before) * guided).astype(ACTIVATION)

    return inference(
        network, spec(batch, image, image, 4), spec(dtype=jnp.float32), spec(2 * batch, context, context_width)
    )


def _signal(time: Array) -> Array:
    """Return the share of signal left at `time` in [0, 1], cosine schedule (Nichol and Dhariwal, arXiv:2102.09672)."""
    return jnp.clip(jnp.square(jnp.cos((time + 0.008) / 1.008 * (jnp.pi / 2))), 1e-4, 0.9999)


def _denoiser(
    parameter: Parameter, x: Array, time: Array, context: Array, widths: Sequence[int], blocks: int, heads: int
) -> Array:
    angles = time * 1000.0 * jnp.exp(jnp.linspace(0.0, -9.0, widths[0] // 2, dtype=jnp.float32))
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]).astype(ACTIVATION).reshape(1, widths[0])
    embedding = jax.nn.silu(dense(parameter, "time1", embedding, 4 * widths[0]))
    embedding = jax.nn.silu(dense(parameter, "time2", embedding, 4 * widths[0]))

    def residual(name: str, x: Array, features: int) -> Array:
        y = conv(
            parameter, f"{name}.conv1", jax.nn.silu(group_norm(parameter, f"{name}.norm1", x, 32)), features, (3, 3)
        )
        y = y + dense(parameter, f"{name}.time", embedding, features).reshape(1, 1, 1, features)
        y = conv(
            parameter, f"{name}.conv2", jax.nn.silu(group_norm(parameter, f"{name}.norm2", y, 32)), features, (3, 3)
        )
        return y + (x if x.shape == y.shape else conv(parameter, f"{name}.shortcut", x, features, (1, 1)))

    def attend(name: str, x: Array) -> Array:
        features = x.shape[-1]
        flat = x.reshape(x.shape[0], -1, features)
        for kind in ("self", "cross"):
            y = layer_norm(parameter, f"{name}.{kind}.norm", flat)
            source = y if kind == "self" else context
            query, key, value = (
                split_heads(dense(parameter, f"{name}.{kind}.{part}", of, features, bias=False), heads)
                for part, of in (("query", y), ("key", source), ("value", source))
            )
            mixed = merge_heads(attention(query, key, value))
            flat = flat + dense(parameter, f"{name}.{kind}.out", mixed, features)
        return flat.reshape(x.shape)

    x = conv(parameter, "stem", x, widths[0], (3, 3))
    skips = [x]
    for level, features in enumerate(widths):
        for index in range(blocks):
            x = residual(f"down{level}.{index}", x, features)
            x = attend(f"down{level}.{index}.attention", x) if level else x
            skips.append(x)
        if level + 1 < len(widths):
            x = conv(parameter, f"down{level}.shrink", x, features, (3, 3), stride=2)
            skips.append(x)
    x = residual("middle1", attend("middle.attention", residual("middle0", x, widths[-1])), widths[-1])
    for level, features in reversed(list(enumerate(widths))):
        for index in range(blocks + 1):
            x = residual(f"up{level}.{index}", jnp.concatenate([x, skips.pop()], axis=-1), features)
            x = attend(f"up{level}.{index}.attention", x) if level else x
        if level:
            batch, height, width, channels = x.shape
            x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
            x = conv(parameter, f"up{level}.grow", x.reshape(batch, 2 * height, 2 * width, channels), features, (3, 3))
    return conv(parameter, "head", jax.nn.silu(group_norm(parameter, "head.norm", x, 32)), 4, (3, 3))

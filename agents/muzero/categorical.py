"""Values and rewards as distributions over a fixed support, through MuZero's invertible transform.

Source: MuZero, arXiv 1911.08265, appendix F; transform of Pohlen et al., arXiv 1805.11593, proposition A.2.
"""

import jax
import jax.numpy as jnp

EPSILON = 0.001
ATOM_WIDTH = 0.5  # in transformed units


def transform(x: jax.Array) -> jax.Array:
    """Return sign(x)(sqrt(|x| + 1) - 1) + epsilon x, elementwise.

    >>> bool(jnp.allclose(inverse(transform(jnp.array([-3.0, 0.0, 40.0]))), jnp.array([-3.0, 0.0, 40.0]), atol=1e-3))
    True
    """
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1.0) - 1.0) + EPSILON * x


def inverse(y: jax.Array) -> jax.Array:
    """Return the inverse of ``transform``, elementwise."""
    root = (jnp.sqrt(1.0 + 4.0 * EPSILON * (jnp.abs(y) + 1.0 + EPSILON)) - 1.0) / (2.0 * EPSILON)
    return jnp.sign(y) * (jnp.square(root) - 1.0)


def encode(x: jax.Array, support_size: int, scale: float) -> jax.Array:
    """Return float32[..., 2 support_size + 1]: x, scaled and transformed, shared between its two nearest atoms."""
    y = jnp.clip(transform(x * scale) / ATOM_WIDTH, -support_size, support_size) + support_size
    low = jnp.clip(jnp.floor(y), 0, 2 * support_size - 1)
    high_share = y - low
    index = low.astype(jnp.int32)
    atoms = 2 * support_size + 1
    low_part = jax.nn.one_hot(index, atoms) * (1.0 - high_share)[..., None]
    return low_part + jax.nn.one_hot(index + 1, atoms) * high_share[..., None]


def decode(logits: jax.Array, support_size: int, scale: float) -> jax.Array:
    """Return float32[...], the value that the distribution's mean stands for."""
    atoms = jnp.arange(-support_size, support_size + 1, dtype=jnp.float32) * ATOM_WIDTH
    mean = (jax.nn.softmax(logits, axis=-1) * atoms).sum(axis=-1)
    return inverse(mean) / scale

"""Programs around the Pallas kernels that JAX ships for TPUs, and one with a kernel of its own."""

from typing import Any

import jax
import jax.numpy as jnp
from idioms import BF16, F32, shape, with_args
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


@with_args(*[shape(4, 8, 2048, 128)] * 3, shape(1024, 1024))
@jax.jit
def flash(q: Array, k: Array, v: Array, w: Array) -> Array:
    """Flash attention, then the output projection."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    out = flash_attention(q, k, v, causal=True, sm_scale=0.088)
    return out.swapaxes(1, 2).reshape(4, 2048, 1024) @ w


@with_args(*[shape(2, 8, 2048, 128)] * 3)
@jax.jit
def flash_training(q: Array, k: Array, v: Array) -> Any:
    """Gradients through flash attention: its backward kernels."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    def loss(q: Array, k: Array, v: Array) -> Array:
        return flash_attention(q, k, v, causal=True).astype(F32).mean()

    return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)


@with_args(shape(8, 2048, 128), shape(8, 2048, 128), shape(8, 2048, 128))
@jax.jit
def splash(q: Array, k: Array, v: Array) -> Array:
    """Splash attention: block-sparse masks."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    mask = masks.MultiHeadMask([masks.CausalMask((2048, 2048)) for _ in range(8)])
    run = kernel.make_splash_mha(mask=mask, head_shards=1, q_seq_shards=1)
    return run(q, k, v)


@with_args(
    shape(8, 16, 128),
    shape(4, 512, 16, 128),
    shape(4, 512, 16, 128),
    shape(8, dtype=jnp.int32),
    shape(8, 32, dtype=jnp.int32),
    shape(2048, 2048),
)
@jax.jit
def paged(q: Array, k_pages: Array, v_pages: Array, lengths: Array, pages: Array, w: Array) -> Array:
    """Paged attention over a pool of pages, then the output projection."""
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    out = paged_attention(q, k_pages, v_pages, lengths, pages, pages_per_compute_block=4)
    return out.reshape(8, 2048) @ w


@with_args(
    shape(256, 16, 128),
    shape(512, 16, 8, 128),
    shape(16, dtype=jnp.int32),
    shape(16, 32, dtype=jnp.int32),
    shape(17, dtype=jnp.int32),
    shape(1, dtype=jnp.int32),
)
@jax.jit
def ragged_paged(q: Array, pages: Array, lengths: Array, table: Array, starts: Array, count: Array) -> Array:
    """Ragged paged attention: prefill and decode in one batch."""
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    return ragged_paged_attention(
        q, pages, lengths, table, starts, count, num_kv_pages_per_block=8, num_queries_per_block=32
    )


@with_args(shape(4096, 1024), shape(8, 1024, 2048), shape(8, dtype=jnp.int32))
@jax.jit
def grouped_matmul(x: Array, w: Array, sizes: Array) -> Array:
    """Megablox: one product a group of rows, as in a mixture of experts without padding."""
    from jax.experimental.pallas.ops.tpu.megablox import gmm

    return jax.nn.gelu(gmm(x, w, sizes, preferred_element_type=BF16, tiling=(512, 512, 512)))


def _matmul(x: Any, y: Any, out: Any, total: Any) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        total[...] = jnp.zeros_like(total)

    total[...] += jnp.dot(x[...], y[...], preferred_element_type=F32)

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        out[...] = total[...].astype(out.dtype)


def _product(x: Array, y: Array) -> Array:
    (m, k), n, tile = x.shape, y.shape[1], 512
    return pl.pallas_call(
        _matmul,
        out_shape=jax.ShapeDtypeStruct((m, n), x.dtype),
        grid=(m // tile, n // tile, k // tile),
        in_specs=[
            pl.BlockSpec((tile, tile), lambda i, j, m: (i, m)),
            pl.BlockSpec((tile, tile), lambda i, j, m: (m, j)),
        ],
        out_specs=pl.BlockSpec((tile, tile), lambda i, j, m: (i, j)),
        scratch_shapes=[pltpu.VMEM((tile, tile), F32)],
    )(x, y)


@with_args(shape(2048, 2048), shape(2048, 4096), shape(4096, 2048))
@jax.jit
def own_matmul(x: Array, up: Array, down: Array) -> Array:
    """An MLP whose first product is a kernel of its own with an accumulator in scratch memory."""
    return jax.nn.gelu(_product(x, up)) @ down

"""Programs for several chips: tensor parallel prefill, a pipeline, ring attention.

Each takes a mesh with one axis, ``data``; what stands in a trace is one chip's part.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mallocgame.workloads.models.layers import ACTIVATION, Program
from mallocgame.workloads.models.llama import prefill

AXIS = "data"
P: Any = PartitionSpec
_permute: Any = lax.ppermute
_sum: Any = lax.psum
_COLUMNS = ("query.kernel", "key.kernel", "value.kernel", "gate.kernel", "up.kernel", "logits.kernel")
_ROWS = ("out.kernel", "down.kernel")


def split(mesh: Mesh, shape: tuple[int, ...], *axes: str | None, dtype: Any = ACTIVATION) -> Any:
    """Return the abstract array `dtype[shape]`, split over the axes named (None: not split)."""
    struct: Any = jax.ShapeDtypeStruct
    return struct(shape, dtype, sharding=NamedSharding(mesh, P(*axes)))


def tensor_parallel_prefill(mesh: Mesh, *, batch: int, length: int, layers: int, **sizes: int) -> Program:
    """Llama-like prefill, weights split by columns and rows in turn (Shoeybi et al., arXiv:1909.08053)."""
    run, (shapes, tokens) = prefill(batch=batch, length=length, layers=layers, **sizes)

    def placed(name: str, leaf: Any) -> Any:
        axes = (None, AXIS) if name.endswith(_COLUMNS) else (AXIS, None) if name.endswith(_ROWS) else ()
        return split(mesh, leaf.shape, *axes, dtype=leaf.dtype)

    parameters = {name: placed(name, leaf) for name, leaf in shapes.items()}
    return run, (parameters, split(mesh, tokens.shape, dtype=tokens.dtype))


def pipeline(mesh: Mesh, *, batches: int, rows: int, width: int, layers: int) -> Program:
    """GPipe's forward pass: each chip holds `layers` layers, microbatches move on (Huang et al., arXiv:1811.06965)."""

    def stage(weights: Array, x: Array) -> Array:
        chips, me = lax.axis_size(AXIS), lax.axis_index(AXIS)
        onward = [(chip, (chip + 1) % chips) for chip in range(chips)]

        def tick(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
            state, out = carry
            state = jnp.where(me == 0, x[jnp.minimum(t, batches - 1)], state)
            for layer in range(layers):
                state = jax.nn.relu(state @ weights[layer])
            at = jnp.clip(t - chips + 1, 0, batches - 1)
            out = jnp.where(me == chips - 1, out.at[at].set(state), out)
            return (_permute(state, AXIS, onward), out), None

        start = (jnp.zeros_like(x[0]), jnp.zeros_like(x))
        (_, out), _ = lax.scan(tick, start, jnp.arange(batches + chips - 1))
        total: Array = _sum(out, AXIS)
        return total

    weights = split(mesh, (layers * mesh.size, width, width), AXIS, None, None)
    return _on_each(mesh, stage, (P(AXIS, None, None), P()), P()), (weights, split(mesh, (batches, rows, width)))


def ring_attention(mesh: Mesh, *, batch: int, length: int, heads: int, head_width: int) -> Program:
    """Attention over a sequence that is split over the chips: keys and values go around (arXiv:2310.01889)."""

    def run(query: Array, key: Array, value: Array) -> Array:
        chips = lax.axis_size(AXIS)
        onward = [(chip, (chip + 1) % chips) for chip in range(chips)]

        def turn(carry: Any, _: None) -> tuple[Any, None]:
            top, total, out, key, value = carry
            scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * head_width**-0.5
            new = jnp.maximum(top, scores.max(-1))
            weights, scale = jnp.exp(scores - new[..., None]), jnp.exp(top - new)
            mixed = jnp.einsum("bhqk,bkhd->bhqd", weights.astype(ACTIVATION), value, preferred_element_type=jnp.float32)
            out, total = out * scale[..., None] + mixed, total * scale + weights.sum(-1)
            key, value = (_permute(each, AXIS, onward) for each in (key, value))
            return (new, total, out, key, value), None

        rows = (batch, heads, length // chips)
        nothing = (jnp.full(rows, -1e30, jnp.float32), jnp.zeros(rows, jnp.float32))
        start = (*nothing, jnp.zeros((*rows, head_width), jnp.float32), key, value)
        (_, total, out, _, _), _ = lax.scan(turn, start, length=chips)
        return (out / total[..., None]).astype(ACTIVATION)

    rows = P(None, AXIS, None, None)
    inputs = tuple(split(mesh, (batch, length, heads, head_width), *rows) for _ in range(3))
    return _on_each(mesh, run, (rows, rows, rows), P(None, None, AXIS, None)), inputs


def _on_each(mesh: Mesh, run: Callable[..., Any], ins: Any, outs: Any) -> Callable[..., Any]:
    return jax.shard_map(run, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)

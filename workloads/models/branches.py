"""Programs whose course the data decides: layers that are left out, a solver that chooses its own steps."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from mallocgame.workloads.models.layers import Parameter, Program, dense, inference, spec
from mallocgame.workloads.models.transformer import pre_norm_block


def early_exit(*, batch: int, length: int, layers: int, width: int, heads: int) -> Program:
    """A transformer whose layers run only while a classifier is unsure (Schuster et al., arXiv:2207.07061)."""

    def network(parameter: Parameter, x: Array) -> Array:
        mask = jnp.tril(jnp.ones((length, length), bool))

        def block(name: str, x: Array) -> Array:
            return pre_norm_block(parameter, name, x, heads, mask)

        for layer in range(layers):
            doubt = jnp.mean(dense(parameter, f"judge{layer}", x, 1).astype(jnp.float32))
            x = lax.cond(doubt > 0.0, lambda x, name=f"layer{layer}": block(name, x), lambda x: x, x)
        return x

    return inference(network, spec(batch, length, width))


def adaptive_ode(*, batch: int, width: int, tolerance: float = 1e-2) -> Program:
    """A neural ODE by Heun's method with step-size control: a loop of unknown length with a branch inside.

    A step whose error is too large is taken back (Chen et al., arXiv:1806.07366).
    """

    def network(parameter: Parameter, x: Array) -> Array:
        kernel = parameter("flow", (width, width))

        def flow(x: Array) -> Array:
            return jnp.tanh(jnp.einsum("bi,io->bo", x.astype(kernel.dtype), kernel)).astype(jnp.float32)

        def step(state: Any) -> Any:
            x, time, size = state
            first = flow(x)
            second = flow(x + size * first)
            error = jnp.max(jnp.abs(size * (second - first)))
            x, time = lax.cond(
                error < tolerance, lambda: (x + 0.5 * size * (first + second), time + size), lambda: (x, time)
            )
            return x, time, size * jnp.clip(jnp.sqrt(tolerance / (error + 1e-9)), 0.5, 2.0)

        start = (x, jnp.float32(0.0), jnp.float32(0.1))
        found: Array = lax.while_loop(lambda state: state[1] < 1.0, step, start)[0]
        return found

    return inference(network, spec(batch, width, dtype=jnp.float32))

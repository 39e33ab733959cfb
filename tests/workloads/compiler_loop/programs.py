"""Programs that the tests compile: a loop that reads the same weights in every iteration."""

from typing import Any

import jax
import jax.numpy as jnp

import mallocgame


def example_args() -> tuple[Any, ...]:
    struct: Any = jax.ShapeDtypeStruct
    return struct((2048, 2048), jnp.bfloat16), struct((32, 2048), jnp.bfloat16)


def loop(weight: jax.Array, state: jax.Array) -> jax.Array:
    def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.tanh(carry @ weight).astype(carry.dtype), None

    return jax.lax.scan(body, state, None, length=32)[0]


def hoisted(weight: jax.Array, state: jax.Array) -> jax.Array:
    return loop(mallocgame.hoist(weight), state)


def branch(weight: jax.Array, state: jax.Array) -> jax.Array:
    for _ in range(4):
        state = jnp.tanh(state @ (state.T @ state)).astype(state.dtype)
    return jax.lax.cond(state[0, 0] > 0, lambda w, x: jnp.tanh(x @ (w * 2)), lambda w, x: jnp.cos(x @ w), weight, state)

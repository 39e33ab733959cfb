"""Training steps of every kind that a plan must leave as they are, with arguments of numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from mallocgame.workloads.program_reference import Call
from tests.benchmarks.fit_models import NAMES, build


def numbers(call: Call, seed: int = 0) -> tuple[Any, ...]:
    """Return arguments with small random numbers in place of shapes."""
    draw = np.random.default_rng(seed)

    def fill(leaf: Any) -> Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(draw.integers(0, 4, leaf.shape), leaf.dtype)
        return jnp.asarray(0.2 * draw.standard_normal(leaf.shape), leaf.dtype)

    filled: tuple[Any, ...] = jax.tree.map(fill, call.arguments)
    return filled


def _gradient_step(loss: Callable[..., Any], *arguments: Any, has_aux: bool = False) -> Call:
    def step(w: Any, *inputs: Any) -> Any:
        value, gradients = jax.value_and_grad(loss, has_aux=has_aux)(w, *inputs)
        return jax.tree.map(lambda a, g: a - 0.1 * g, w, gradients), value

    return Call(function=step, arguments=arguments)


def _f32(*shape: int) -> Any:
    struct: Any = jax.ShapeDtypeStruct
    return struct(shape, jnp.float32)


def own_remat() -> Call:
    """The user's own checkpoints, nested, with a policy and a name that two values bear."""
    policy = jax.checkpoint_policies.save_only_these_names("twice")

    @partial(jax.checkpoint, policy=policy)
    def layer(x: Array, w: Array) -> tuple[Array, None]:
        inner = jax.checkpoint(lambda y: checkpoint_name(jnp.tanh(y @ w), "twice"))
        return x + inner(checkpoint_name(jnp.sin(x), "twice")), None

    def loss(w: Array, x: Array) -> Array:
        return jnp.sum(jax.lax.scan(layer, x, w)[0] ** 2)

    return _gradient_step(loss, _f32(4, 8, 8), _f32(3, 8))


def many_kinds() -> Call:
    """Integers and booleans among residuals, a custom derivative, randomness, two scans, a closure, an auxiliary."""

    @jax.custom_vjp
    def clipped(x: Array) -> Array:
        return jnp.clip(x, -1.0, 1.0)

    clipped.defvjp(lambda x: (clipped(x), jnp.abs(x) < 1.0), lambda inside, g: (g * inside,))

    def loss(w: Any, tokens: Array) -> tuple[Array, Any]:
        x = w["table"][tokens]
        keep = jax.random.bernoulli(jax.random.key(3), 0.8, x.shape)
        x = jnp.where(keep, x, 0.0)
        scale = jnp.argmax(x, -1, keepdims=True).astype(jnp.float32)
        x, rows = jax.lax.scan(lambda c, a: (clipped(c @ a) + scale, jnp.sum(c)), x, w["first"])
        x, _ = jax.lax.scan(lambda c, a: (jax.nn.relu(c @ a @ w["shared"]), None), x, w["second"], reverse=True)
        x = jax.lax.cond(tokens[0] > 1, jnp.sin, jnp.cos, x)
        return jnp.mean(jax.nn.log_softmax(x)[:, 0]), {"rows": rows, "top": jnp.argsort(x[0])}

    struct: Any = jax.ShapeDtypeStruct
    w = {"table": _f32(4, 8), "first": _f32(3, 8, 8), "second": _f32(2, 8, 8), "shared": _f32(8, 8)}
    return _gradient_step(loss, w, struct((5,), jnp.int32), has_aux=True)


def accumulated() -> Call:
    """Gradients inside a loop over micro-batches."""

    def step(w: Array, batches: Array) -> Array:
        def one(total: Array, x: Array) -> tuple[Array, None]:
            return total + jax.grad(lambda v: jnp.sum(jnp.tanh(jnp.tanh(x @ v) @ v)))(w), None

        return w - 0.1 * jax.lax.scan(one, jnp.zeros_like(w), batches)[0]

    return Call(function=step, arguments=(_f32(8, 8), _f32(3, 4, 8)))


STEPS: dict[str, Callable[[], Call]] = {name: partial(build, name, "tiny") for name in NAMES}
STEPS |= {"own_remat": own_remat, "many_kinds": many_kinds, "accumulated": accumulated}

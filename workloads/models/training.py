"""Training steps: float32 master parameters, bfloat16 compute, SGD with momentum or Adam."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mallocgame.workloads.models.layers import Network, Program, parameter_shapes, reader

Tree = dict[str, Array]
DONATED = (0, 1)  # parameters and optimiser state are updated in place


def momentum_step(loss: Network, *inputs: Any, rate: float = 0.05, decay: float = 0.9) -> Program:
    """Return one step of SGD with momentum on `loss(parameter, *inputs)`, which is a scalar.

    The program is `step(parameters, velocity, *inputs) -> (parameters, velocity, loss)`.
    """
    parameters = parameter_shapes(loss, inputs, dtype=jnp.float32)

    def step(parameters: Tree, velocity: Tree, *inputs: Any) -> tuple[Tree, Tree, Array]:
        value, gradients = _value_and_gradients(loss, parameters, inputs)
        velocity = jax.tree.map(lambda v, g: decay * v + g, velocity, gradients)
        return jax.tree.map(lambda p, v: p - rate * v, parameters, velocity), velocity, value

    return step, (parameters, parameters, *inputs)


def adam_step(
    loss: Network, *inputs: Any, rate: float = 1e-4, first_decay: float = 0.9, second_decay: float = 0.999
) -> Program:
    """Return one step of Adam, without bias correction, on `loss(parameter, *inputs)`.

    The program is `step(parameters, (first, second), *inputs) -> (parameters, (first, second), loss)`.
    """
    parameters = parameter_shapes(loss, inputs, dtype=jnp.float32)

    def step(parameters: Tree, moments: tuple[Tree, Tree], *inputs: Any) -> tuple[Tree, tuple[Tree, Tree], Array]:
        value, gradients = _value_and_gradients(loss, parameters, inputs)
        first = jax.tree.map(lambda m, g: first_decay * m + (1 - first_decay) * g, moments[0], gradients)
        second = jax.tree.map(lambda m, g: second_decay * m + (1 - second_decay) * g * g, moments[1], gradients)
        updated = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), parameters, first, second)
        return updated, (first, second), value

    return step, (parameters, (parameters, parameters), *inputs)


def _value_and_gradients(loss: Network, parameters: Tree, inputs: tuple[Any, ...]) -> tuple[Array, Tree]:
    def of_parameters(values: Tree) -> Array:
        scalar: Array = loss(reader(values), *inputs)
        return scalar

    differentiate: Callable[[Tree], tuple[Array, Tree]] = jax.value_and_grad(of_parameters)
    return differentiate(parameters)

"""Programs that run one body many times with the same weights: LSTM, a weight-tied loop."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from mallocgame.workloads.models.layers import ACTIVATION, Parameter, Program, inference, spec, unit_rms
from mallocgame.workloads.models.training import momentum_step

State = tuple[Array, Array]  # output bfloat16[b, width], cell float32[b, width]


def lstm(*, batch: int, steps: int, width: int, layers: int = 1) -> Program:
    """LSTM layers over a sequence, by scan: every step reads the same weights (doi:10.1162/neco.1997.9.8.1735)."""

    def network(parameter: Parameter, sequence: Array) -> Array:
        return _lstm(parameter, sequence, layers)

    return inference(network, spec(steps, batch, width))


def lstm_training(*, batch: int, steps: int, width: int, layers: int = 1) -> Program:
    """One training step of an LSTM that predicts a sequence, back-propagated through time, SGD with momentum."""

    def loss(parameter: Parameter, sequence: Array, target: Array) -> Array:
        error = _lstm(parameter, sequence, layers).astype(jnp.float32) - target.astype(jnp.float32)
        return jnp.mean(jnp.square(error))

    return momentum_step(loss, spec(steps, batch, width), spec(steps, batch, width))


def tied_loop(*, batch: int, steps: int, width: int, hidden: int) -> Program:
    """A gated block applied `steps` times with the same weights, a fixed-point model (Bai et al., arXiv:1909.01377)."""

    def network(parameter: Parameter, x: Array) -> Array:
        gate = parameter("gate", (width, hidden))
        up = parameter("up", (width, hidden))
        down = parameter("down", (hidden, width))
        mix = parameter("mix", (width, width))

        def body(state: Array, _: None) -> tuple[Array, None]:
            y = unit_rms(state @ mix + x)
            y = unit_rms(jax.nn.silu(y @ gate) * (y @ up)) @ down
            return unit_rms(y + state), None

        return lax.scan(body, jnp.zeros_like(x), length=steps)[0]

    return inference(network, spec(batch, width))


def _lstm(parameter: Parameter, sequence: Array, layers: int) -> Array:
    """Return the last layer's outputs [steps, b, width] over `sequence` [steps, b, width]."""
    _, batch, width = sequence.shape
    weights = [
        (
            parameter(f"layer{layer}.input", (width, 4 * width)),
            parameter(f"layer{layer}.state", (width, 4 * width)),
            parameter(f"layer{layer}.bias", (4 * width,)).reshape(1, -1),
        )
        for layer in range(layers)
    ]

    def step(states: list[State], x: Array) -> tuple[list[State], Array]:
        updated = []
        for (from_input, from_state, bias), (output, cell) in zip(weights, states, strict=True):
            gates = (x @ from_input + output @ from_state + bias).astype(jnp.float32)
            entry, forget, candidate, leave = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(entry) * jnp.tanh(candidate)
            x = (jax.nn.sigmoid(leave) * jnp.tanh(cell)).astype(ACTIVATION)
            updated.append((x, cell))
        return updated, x

    start = [(jnp.zeros((batch, width), ACTIVATION), jnp.zeros((batch, width), jnp.float32))] * layers
    return lax.scan(step, start, sequence)[1]

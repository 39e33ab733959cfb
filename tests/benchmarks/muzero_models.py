"""Networks drawn by a seed, to train the agent on: no two alike, and none of a family that is held out.

Sequences, images and loops, each of blocks that are drawn one by one, as inference or as a training step; sizes so
that weights and activations press on 16 to 128 MiB of fast memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mallocgame.workloads.models.layers import (
    Network,
    Parameter,
    Program,
    attention,
    conv,
    dense,
    group_norm,
    inference,
    layer_norm,
    max_pool,
    merge_heads,
    rms_norm,
    spec,
    split_heads,
)
from mallocgame.workloads.models.training import adam_step, momentum_step

Random = np.random.Generator
Block = Callable[[Parameter, str, Array], Array]


def sequence(*, seed: int, training: bool) -> Program:
    """Return a network over ``[batch, length, width]``."""
    random = np.random.default_rng([seed, 1])
    width = _choose(random, 256, 512, 768, 1024, 2048)
    x = spec(_choose(random, 1, 2, 4, 8), _choose(random, 64, 128, 256, 512, 1024), width)
    blocks = [_sequence_block(random, width) for _ in range(random.integers(2, 6 if training else 11))]
    norm = (layer_norm, rms_norm)[random.integers(2)]
    jumps = [random.random() < 0.15 for _ in blocks]
    return _program(random, partial(_chain, blocks=blocks, norm=norm, jumps=jumps), x, training=training)


def image(*, seed: int, training: bool) -> Program:
    """Return a network over ``[batch, side, side, channels]`` that halves the side a few times."""
    random = np.random.default_rng([seed, 2])
    x = spec(_choose(random, 1, 2, 4, 8, 16), *(_choose(random, 32, 48, 64, 96),) * 2, _choose(random, 32, 64, 96))
    stages = random.integers(1, 4)
    plan = [[_image_block(random) for _ in range(random.integers(1, 3 if training else 4))] for _ in range(stages)]
    growth = _choose(random, 1, 2, 2)

    def network(parameter: Parameter, x: Array) -> Array:
        for number, blocks in enumerate(plan):
            for index, block in enumerate(blocks):
                x = block(parameter, f"stage{number}.{index}", x)
            x = max_pool(conv(parameter, f"stage{number}.out", x, growth * x.shape[-1], (1, 1)), 2, 2)
        return x

    return _program(random, network, x, training=training)


def loop(*, seed: int) -> Program:
    """Return blocks that run many times with the same weights on a state ``[batch, width]``."""
    random = np.random.default_rng([seed, 3])
    width, steps = _choose(random, 512, 768, 1024, 1536, 2048), int(random.integers(3, 40))
    kinds = random.choice(["gate", "wide", "gated", "narrow", "memory"], size=int(random.integers(1, 5)))
    hidden, is_fed = width * _choose(random, 1, 2, 3), bool(random.integers(2))

    def network(parameter: Parameter, state: Array, inputs: Array) -> Array:
        weights = [_loop_weights(parameter, f"block{i}", kind, width, hidden) for i, kind in enumerate(kinds)]

        def body(state: Array, x: Array) -> tuple[Array, None]:
            for kind, own in zip(kinds, weights, strict=True):
                state = _loop_block(kind, own, state, x if is_fed else None)
            return state, None

        return lax.scan(body, state, inputs)[0]

    batch = _choose(random, 8, 16, 32, 64, 128, 256)
    return inference(network, spec(batch, width), spec(steps, batch, width))


def _program(random: Random, network: Network, x: Any, *, training: bool) -> Program:
    """Return inference, or a step that brings the output nearer to a target."""
    if not training:
        return inference(network, x)

    def loss(parameter: Parameter, x: Array, target: Array) -> Array:
        y = network(parameter, x).astype(jnp.float32)
        return jnp.mean(jnp.square(y - jnp.mean(target.astype(jnp.float32))))

    return (momentum_step, adam_step)[random.integers(2)](loss, x, x)


def _chain(parameter: Parameter, x: Array, *, blocks: list[Block], norm: Any, jumps: list[bool]) -> Array:
    """Add each block's value of the normalised sum; a jump joins it with an output of long before."""
    found = [x]
    for index, (block, jumps_back) in enumerate(zip(blocks, jumps, strict=True)):
        name = f"block{index}"
        x = x + block(parameter, name, norm(parameter, f"{name}.norm", x))
        if jumps_back:
            x = dense(parameter, f"{name}.join", jnp.concatenate([x, found[len(found) // 2]], axis=-1), x.shape[-1])
        found.append(x)
    return x


def _sequence_block(random: Random, width: int) -> Block:
    heads, hidden = width // _choose(random, 64, 128), width * _choose(random, 1, 2, 4)
    kinds: dict[str, Block] = {
        "wide": partial(_wide, hidden=hidden, activation=(jax.nn.gelu, jax.nn.relu, jax.nn.silu)[random.integers(3)]),
        "gated": partial(_gated, hidden=hidden),
        "narrow": partial(_wide, hidden=width // 4, activation=jnp.tanh),
        "attend": partial(_attend, heads=heads, groups=max(heads // _choose(random, 1, 4), 1)),
        "linear": partial(_linear_attention, heads=heads),
        "along": _along,
        "convolve": partial(_convolve, taps=_choose(random, 3, 5, 7), dilation=_choose(random, 1, 2, 8)),
        "experts": partial(_experts, experts=_choose(random, 2, 4, 8), hidden=hidden),
        "memory": partial(_memory, rows=_choose(random, 1024, 4096, 8192)),
    }
    return kinds[str(random.choice([name for name in kinds if name != "attend" or heads % 4 == 0]))]


def _wide(parameter: Parameter, name: str, x: Array, *, hidden: int, activation: Any) -> Array:
    return dense(parameter, f"{name}.down", activation(dense(parameter, f"{name}.up", x, hidden)), x.shape[-1])


def _gated(parameter: Parameter, name: str, x: Array, *, hidden: int) -> Array:
    gate, up = (dense(parameter, f"{name}.{part}", x, hidden, bias=False) for part in ("gate", "up"))
    return dense(parameter, f"{name}.down", jax.nn.silu(gate) * up, x.shape[-1], bias=False)


def _attend(parameter: Parameter, name: str, x: Array, *, heads: int, groups: int) -> Array:
    width = x.shape[-1]
    shared = width * groups // heads
    query = split_heads(dense(parameter, f"{name}.query", x, width), heads)
    key, value = (split_heads(dense(parameter, f"{name}.{part}", x, shared), groups) for part in ("key", "value"))
    return dense(parameter, f"{name}.out", merge_heads(attention(query, key, value)), width)


def _linear_attention(parameter: Parameter, name: str, x: Array, *, heads: int) -> Array:
    query, key, value = (
        split_heads(dense(parameter, f"{name}.{part}", x, x.shape[-1], bias=False), heads)
        for part in ("query", "key", "value")
    )
    state = jnp.einsum("bhsd,bhse->bhde", jax.nn.softmax(key, axis=2), value)
    return merge_heads(jnp.einsum("bhsd,bhde->bhse", jax.nn.softmax(query, axis=-1), state))


def _along(parameter: Parameter, name: str, x: Array) -> Array:
    """Mix the positions by a matrix of weights."""
    length = x.shape[1]
    return jnp.einsum("bsd,st->btd", jax.nn.gelu(x), parameter(f"{name}.mix", (length, length)))


def _convolve(parameter: Parameter, name: str, x: Array, *, taps: int, dilation: int) -> Array:
    y = conv(parameter, f"{name}.conv", x, x.shape[-1], (taps,), dilation=dilation, bias=True)
    return jnp.tanh(y) * jax.nn.sigmoid(x)


def _experts(parameter: Parameter, name: str, x: Array, *, experts: int, hidden: int) -> Array:
    """All experts run, weighted by a gate."""
    width = x.shape[-1]
    gate = jax.nn.softmax(dense(parameter, f"{name}.gate", x, experts), axis=-1)
    up = jax.nn.relu(jnp.einsum("bsd,edh->bseh", x, parameter(f"{name}.up", (experts, width, hidden))))
    return jnp.einsum("bseh,ehd,bse->bsd", up, parameter(f"{name}.down", (experts, hidden, width)), gate)


def _memory(parameter: Parameter, name: str, x: Array, *, rows: int) -> Array:
    """Read a table by what its rows have in common with `x`."""
    table = parameter(f"{name}.table", (rows, x.shape[-1]))
    return jax.nn.softmax(x @ table.T, axis=-1) @ table


def _image_block(random: Random) -> Block:
    side = _choose(random, 3, 3, 5)
    kinds: tuple[Block, ...] = (
        partial(_residual, side=side),
        partial(_joined, side=side, features=_choose(random, 16, 32, 64)),
        _squeeze,
        partial(_bottleneck, side=side, share=_choose(random, 2, 4)),
    )
    return kinds[random.integers(len(kinds))]


def _residual(parameter: Parameter, name: str, x: Array, *, side: int) -> Array:
    y = x
    for index in range(2):
        y = jax.nn.relu(group_norm(parameter, f"{name}.norm{index}", y, 16))
        y = conv(parameter, f"{name}.conv{index}", y, x.shape[-1], (side, side))
    return x + y


def _joined(parameter: Parameter, name: str, x: Array, *, side: int, features: int) -> Array:
    """Keep what was there beside what is new."""
    y = jax.nn.relu(conv(parameter, f"{name}.conv", x, features, (side, side), bias=True))
    return jnp.concatenate([x, y], axis=-1)


def _squeeze(parameter: Parameter, name: str, x: Array) -> Array:
    """Weigh channels by what the whole image is like."""
    gate = jnp.mean(x, axis=(1, 2))
    gate = jax.nn.sigmoid(_wide(parameter, name, gate, hidden=max(x.shape[-1] // 4, 8), activation=jax.nn.relu))
    return conv(parameter, f"{name}.conv", x, x.shape[-1], (3, 3)) * gate.reshape(x.shape[0], 1, 1, -1)


def _bottleneck(parameter: Parameter, name: str, x: Array, *, side: int, share: int) -> Array:
    y = jax.nn.silu(conv(parameter, f"{name}.narrow", x, x.shape[-1] // share, (1, 1), bias=True))
    y = jax.nn.silu(conv(parameter, f"{name}.conv", y, y.shape[-1], (side, side), bias=True))
    return x + conv(parameter, f"{name}.widen", y, x.shape[-1], (1, 1))


def _loop_weights(parameter: Parameter, name: str, kind: str, width: int, hidden: int) -> dict[str, Array]:
    shapes = {
        "gate": {"state": (width, 3 * width), "input": (width, 3 * width)},
        "wide": {"up": (width, hidden), "down": (hidden, width)},
        "gated": {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)},
        "narrow": {"up": (width, width // 4), "down": (width // 4, width)},
        "memory": {"table": (2048, width)},
    }[kind]
    return {part: parameter(f"{name}.{part}", shape) for part, shape in shapes.items()}


def _loop_block(kind: str, weights: dict[str, Array], state: Array, x: Array | None) -> Array:
    """Return the state after a block: gated recurrence (arXiv:1412.3555), or a residual one."""
    y = jnp.tanh(state)
    if kind == "gate":
        other = state if x is None else x
        reset, keep, new = jnp.split(y @ weights["state"] + other @ weights["input"], 3, axis=-1)
        return jax.nn.sigmoid(keep) * state + jax.nn.sigmoid(reset) * jnp.tanh(new)
    if kind == "memory":
        return state + jax.nn.softmax(y @ weights["table"].T, axis=-1) @ weights["table"]
    up = y @ weights["up"]
    up = jax.nn.silu(y @ weights["gate"]) * up if kind == "gated" else jax.nn.relu(up)
    return state + up @ weights["down"]


def _choose(random: Random, *values: int) -> int:
    return values[int(random.integers(len(values)))]

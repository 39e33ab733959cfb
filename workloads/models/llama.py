"""Llama-like decoders with grouped key/value heads: prefill, one-token decode, a loop over tokens, mixture of experts.

Rotary positions, RMS normalisation and gated feed-forward layers (Touvron et al., arXiv:2302.13971; grouped heads:
Ainslie et al., arXiv:2305.13245). All sequences of a batch stand at one position, so the cache update is one slice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from mallocgame.workloads.models.layers import (
    ACTIVATION,
    Parameter,
    Program,
    attention,
    dense,
    embed,
    inference,
    merge_heads,
    rms_norm,
    spec,
    split_heads,
)

Cache = tuple[Array, Array]  # keys and values, each [b, g, t, d]
Feed = Callable[[Parameter, str, Array], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of a decoder; `heads` divides `width`, `groups` divides `heads`."""

    layers: int
    width: int
    heads: int
    groups: int
    hidden: int
    vocabulary: int


def prefill(*, batch: int, length: int, **sizes: int) -> Program:
    """Read a prompt: `run(parameters, tokens[b, s]) -> (logits[b, vocabulary], caches)`."""
    decoder = Sizes(**sizes)

    def network(parameter: Parameter, tokens: Array) -> tuple[Array, list[Cache]]:
        x, _ = embed(parameter, "tokens", tokens, decoder.vocabulary, decoder.width)
        positions = jnp.arange(length)
        mask = positions[:, None] >= positions[None, :]
        caches = []
        for layer in range(decoder.layers):
            query, key, value = _project(parameter, f"layer{layer}", x, positions, decoder)
            caches.append((key, value))
            x = _rest_of_block(
                parameter, f"layer{layer}", x, attention(query, key, value, mask), decoder, _gated(decoder)
            )
        return _logits(parameter, x[:, -1:], decoder), caches

    return inference(network, spec(batch, length, dtype=jnp.int32))


def decode(*, batch: int, context: int, **sizes: int) -> Program:
    """Decode one token: `run(parameters, tokens[b], position[], caches) -> (logits[b, vocabulary], caches)`."""
    decoder = Sizes(**sizes)

    def network(parameter: Parameter, tokens: Array, position: Array, caches: list[Cache]) -> tuple[Array, list[Cache]]:
        x, _ = embed(parameter, "tokens", tokens[:, None], decoder.vocabulary, decoder.width)
        x, caches = _decode_layers(parameter, x, position, caches, decoder, _gated(decoder))
        return _logits(parameter, x, decoder), caches

    return inference(network, *_decode_inputs(batch, context, decoder))


def expert_decode(*, batch: int, context: int, experts: int, chosen: int, **sizes: int) -> Program:
    """Decode one token with a mixture of experts in every layer (Jiang et al., arXiv:2401.04088).

    Every expert runs on the whole batch and is weighted by its gate, 0 where the router did not choose it: at these
    batch sizes nearly every expert is chosen by some token, and its weights must be read anyway.
    """
    decoder = Sizes(**sizes)
    feed = _mixture(decoder, experts, chosen)

    def network(parameter: Parameter, tokens: Array, position: Array, caches: list[Cache]) -> tuple[Array, list[Cache]]:
        x, _ = embed(parameter, "tokens", tokens[:, None], decoder.vocabulary, decoder.width)
        x, caches = _decode_layers(parameter, x, position, caches, decoder, feed)
        return _logits(parameter, x, decoder), caches

    return inference(network, *_decode_inputs(batch, context, decoder))


def decode_loop(*, batch: int, context: int, tokens: int, **sizes: int) -> Program:
    """Decode `tokens` tokens greedily in one program: a scan whose body reads the same weights every time.

    The program is `run(parameters, tokens[b], position[], caches) -> (tokens[n, b], caches)`.
    """
    decoder = Sizes(**sizes)
    steps = tokens

    def network(parameter: Parameter, tokens: Array, position: Array, caches: list[Cache]) -> tuple[Array, list[Cache]]:
        def step(carry: tuple[Array, Array, list[Cache]], _: None) -> tuple[tuple[Array, Array, list[Cache]], Array]:
            tokens, position, caches = carry
            tokens, caches = _greedy(parameter, tokens, position, caches, decoder)
            return (tokens, position + 1, caches), tokens

        (_, _, caches), decoded = lax.scan(step, (tokens, position, caches), length=steps)
        return decoded, caches

    return inference(network, *_decode_inputs(batch, context, decoder))


def decode_until_end(*, batch: int, context: int, end: int = 2, **sizes: int) -> Program:
    """Decode greedily until every sequence has said the token `end`, or the cache is full: nobody knows how often.

    The program is `run(parameters, tokens[b], position[], caches) -> (tokens[b], position[], caches)`.
    """
    decoder = Sizes(**sizes)

    def network(
        parameter: Parameter, tokens: Array, position: Array, caches: list[Cache]
    ) -> tuple[Array, Array, list[Cache]]:
        def goes_on(state: tuple[Array, Array, Array, list[Cache]]) -> Array:
            return (state[1] < context) & ~jnp.all(state[2])

        def step(state: tuple[Array, Array, Array, list[Cache]]) -> tuple[Array, Array, Array, list[Cache]]:
            tokens, position, done, caches = state
            found, caches = _greedy(parameter, tokens, position, caches, decoder)
            return jnp.where(done, end, found), position + 1, done | (found == end), caches

        start = (tokens, position, jnp.zeros(tokens.shape, bool), caches)
        tokens, position, _, caches = lax.while_loop(goes_on, step, start)
        return tokens, position, caches

    return inference(network, *_decode_inputs(batch, context, decoder))


def _greedy(
    parameter: Parameter, tokens: Array, position: Array, caches: list[Cache], decoder: Sizes
) -> tuple[Array, list[Cache]]:
    """Return the likeliest next tokens int32[b], by the table of the embedding, and the caches."""
    x, table = embed(parameter, "tokens", tokens[:, None], decoder.vocabulary, decoder.width)
    x, caches = _decode_layers(parameter, x, position, caches, decoder, _gated(decoder))
    x = rms_norm(parameter, "norm", x[:, 0])
    return jnp.argmax(jnp.einsum("bd,vd->bv", x, table), axis=-1).astype(jnp.int32), caches


def _decode_inputs(
    batch: int, context: int, decoder: Sizes
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, list[tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]]]:
    half = spec(batch, decoder.groups, context, decoder.width // decoder.heads)
    return spec(batch, dtype=jnp.int32), spec(dtype=jnp.int32), [(half, half)] * decoder.layers


def _decode_layers(
    parameter: Parameter, x: Array, position: Array, caches: list[Cache], decoder: Sizes, feed: Feed
) -> tuple[Array, list[Cache]]:
    """Run every layer on one token a sequence: x [b, 1, width]."""
    mask = (jnp.arange(caches[0][0].shape[2]) <= position).reshape(1, -1)
    updated: list[Cache] = []
    for layer, cache in enumerate(caches):
        query, *new = _project(parameter, f"layer{layer}", x, position.reshape(1), decoder)
        keys, values = (
            lax.dynamic_update_slice(old, at, (0, 0, position, 0)) for old, at in zip(cache, new, strict=True)
        )
        updated.append((keys, values))
        x = _rest_of_block(parameter, f"layer{layer}", x, attention(query, keys, values, mask), decoder, feed)
    return x, updated


def _project(parameter: Parameter, name: str, x: Array, positions: Array, decoder: Sizes) -> tuple[Array, Array, Array]:
    """Return rotated queries [b, h, s, d] and keys, and values, [b, g, s, d]."""
    head_width = decoder.width // decoder.heads
    y = rms_norm(parameter, f"{name}.norm1", x)
    query, key, value = (
        split_heads(dense(parameter, f"{name}.{part}", y, heads * head_width, bias=False), heads)
        for part, heads in (("query", decoder.heads), ("key", decoder.groups), ("value", decoder.groups))
    )
    return _rotate(query, positions), _rotate(key, positions), value


def _rotate(x: Array, positions: Array) -> Array:
    """Return rotary position embedding of x [b, h, s, d] at positions int32[s] (Su et al., arXiv:2104.09864)."""
    half = x.shape[-1] // 2
    rates = jnp.exp(jnp.linspace(0.0, -9.2, half, dtype=jnp.float32))
    angles = positions.astype(jnp.float32)[:, None] * rates[None, :]
    cosine, sine = (f(angles).reshape(1, 1, *angles.shape) for f in (jnp.cos, jnp.sin))
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=-1)
    return rotated.astype(ACTIVATION)


def _rest_of_block(parameter: Parameter, name: str, x: Array, mixed: Array, decoder: Sizes, feed: Feed) -> Array:
    x = x + dense(parameter, f"{name}.out", merge_heads(mixed), decoder.width, bias=False)
    return x + feed(parameter, name, rms_norm(parameter, f"{name}.norm2", x))


def _gated(decoder: Sizes) -> Feed:
    def feed(parameter: Parameter, name: str, x: Array) -> Array:
        gate = jax.nn.silu(dense(parameter, f"{name}.gate", x, decoder.hidden, bias=False))
        y = gate * dense(parameter, f"{name}.up", x, decoder.hidden, bias=False)
        return dense(parameter, f"{name}.down", y, decoder.width, bias=False)

    return feed


def _mixture(decoder: Sizes, experts: int, chosen: int) -> Feed:
    one = _gated(decoder)

    def feed(parameter: Parameter, name: str, x: Array) -> Array:
        scores = dense(parameter, f"{name}.router", x, experts, bias=False).astype(jnp.float32)
        threshold = lax.top_k(scores, chosen)[0][..., -1:]
        gates = jax.nn.softmax(jnp.where(scores >= threshold, scores, -1e30), axis=-1).astype(ACTIVATION)
        return sum(
            (gates[..., e : e + 1] * one(parameter, f"{name}.expert{e}", x) for e in range(experts)),
            start=jnp.zeros_like(x),
        )

    return feed


def _logits(parameter: Parameter, x: Array, decoder: Sizes) -> Array:
    """Return the logits [b, vocabulary] after the one position of x [b, 1, width]."""
    return dense(parameter, "logits", rms_norm(parameter, "norm", x[:, 0]), decoder.vocabulary, bias=False)

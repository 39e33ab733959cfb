"""Transformers that read a whole sequence at once: ViT, a BERT-like encoder, a GPT-2-like language model."""

import jax
import jax.numpy as jnp
from jax import Array

from mallocgame.workloads.models.layers import (
    Parameter,
    Program,
    along_last,
    attention,
    conv,
    cross_entropy,
    dense,
    embed,
    inference,
    layer_norm,
    merge_heads,
    spec,
    split_heads,
)
from mallocgame.workloads.models.training import adam_step, momentum_step


def vit(
    *,
    batch: int,
    layers: int,
    width: int = 768,
    heads: int = 12,
    image: int = 224,
    patch: int = 16,
    classes: int = 1000,
) -> Program:
    """Vision transformer inference, mean-pooled head (Dosovitskiy et al., arXiv:2010.11929)."""

    def network(parameter: Parameter, x: Array) -> Array:
        x = conv(parameter, "patches", x, width, (patch, patch), stride=patch, padding="VALID", bias=True)
        x = x.reshape(batch, -1, width)
        x = x + parameter("positions", (1, x.shape[1], width))
        for layer in range(layers):
            x = pre_norm_block(parameter, f"layer{layer}", x, heads, None)
        x = jnp.mean(layer_norm(parameter, "norm", x), axis=1)
        return dense(parameter, "classifier", x, classes)

    return inference(network, spec(batch, image, image, 3))


def bert(
    *, batch: int, length: int, layers: int, width: int = 768, heads: int = 12, vocabulary: int = 30522
) -> Program:
    """BERT-like encoder inference: tokens to contextual embeddings (Devlin et al., arXiv:1810.04805)."""

    def network(parameter: Parameter, tokens: Array) -> Array:
        return _bert(parameter, tokens, layers, width, heads, vocabulary)[0]

    return inference(network, spec(batch, length, dtype=jnp.int32))


def bert_training(
    *, batch: int, length: int, layers: int, width: int = 768, heads: int = 12, vocabulary: int = 30522
) -> Program:
    """One masked-language-model step of a BERT-like encoder, Adam; every position is scored."""

    def loss(parameter: Parameter, tokens: Array, labels: Array) -> Array:
        x, table = _bert(parameter, tokens, layers, width, heads, vocabulary)
        x = layer_norm(parameter, "head.norm", jax.nn.gelu(dense(parameter, "head", x, width)))
        return cross_entropy(jnp.einsum("bsd,vd->bsv", x, table), labels)

    tokens = spec(batch, length, dtype=jnp.int32)
    return adam_step(loss, tokens, tokens)


def gpt2_training(
    *, batch: int, length: int, layers: int, width: int = 768, heads: int = 12, vocabulary: int = 50304
) -> Program:
    """One language-model training step of a GPT-2-like decoder, SGD with momentum (Radford et al., 2019)."""

    def loss(parameter: Parameter, tokens: Array, labels: Array) -> Array:
        x, table = embed(parameter, "tokens", tokens, vocabulary, width)
        x = x + parameter("positions", (1, length, width))
        mask = jnp.tril(jnp.ones((length, length), bool))
        for layer in range(layers):
            x = pre_norm_block(parameter, f"layer{layer}", x, heads, mask)
        x = layer_norm(parameter, "norm", x)
        return cross_entropy(jnp.einsum("bsd,vd->bsv", x, table), labels)

    tokens = spec(batch, length, dtype=jnp.int32)
    return momentum_step(loss, tokens, tokens)


def _bert(
    parameter: Parameter, tokens: Array, layers: int, width: int, heads: int, vocabulary: int
) -> tuple[Array, Array]:
    """Return the encoder's output [b, s, width] and the token table [vocabulary, width]."""
    x, table = embed(parameter, "tokens", tokens, vocabulary, width)
    x = layer_norm(parameter, "embedding.norm", x + parameter("positions", (1, tokens.shape[1], width)))
    for layer in range(layers):
        name = f"layer{layer}"
        x = layer_norm(parameter, f"{name}.norm1", x + _self_attention(parameter, f"{name}.attention", x, heads, None))
        x = layer_norm(parameter, f"{name}.norm2", x + _feed_forward(parameter, f"{name}.feed", x))
    return x, table


def pre_norm_block(parameter: Parameter, name: str, x: Array, heads: int, mask: Array | None) -> Array:
    """Return attention, then two dense layers, each of the normalised `x` [b, s, width] and added to it."""
    y = layer_norm(parameter, f"{name}.norm1", x)
    x = x + _self_attention(parameter, f"{name}.attention", y, heads, mask)
    return x + _feed_forward(parameter, f"{name}.feed", layer_norm(parameter, f"{name}.norm2", x))


def _self_attention(parameter: Parameter, name: str, x: Array, heads: int, mask: Array | None) -> Array:
    width = x.shape[-1]
    kernel = parameter(f"{name}.projection.kernel", (width, 3, width))
    bias = parameter(f"{name}.projection.bias", (3, width))
    projected = jnp.einsum("bsi,ikd->kbsd", x, kernel)
    query, key, value = (split_heads(projected[k] + along_last(bias[k], x), heads) for k in range(3))
    return dense(parameter, f"{name}.out", merge_heads(attention(query, key, value, mask)), width)


def _feed_forward(parameter: Parameter, name: str, x: Array) -> Array:
    width = x.shape[-1]
    return dense(parameter, f"{name}.narrow", jax.nn.gelu(dense(parameter, f"{name}.widen", x, 4 * width)), width)

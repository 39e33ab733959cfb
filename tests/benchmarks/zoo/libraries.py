"""Models of public libraries, with random weights from a configuration: nothing is downloaded."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from idioms import F32, shape
from jax import Array

BATCH, LENGTH = 4, 128


def _given(make: Any) -> Any:
    """Return a decorator: ``make()`` gives the arguments, when they are asked for."""

    def give(function: Any) -> Any:
        function.example_args = make
        return function

    return give


def _key() -> Any:
    return shape(2, dtype=jnp.uint32)


def _shapes(init: Any, *arguments: Any) -> Any:
    return jax.eval_shape(init, *arguments)


def _hugging_face(name: str, config: str, **sizes: Any) -> tuple[Any, Any]:
    """Return a Hugging Face Flax model and the shapes of its parameters."""
    import transformers

    settings = getattr(transformers, config)(**sizes)
    model = getattr(transformers, name)(settings, _do_init=False)
    return model, jax.eval_shape(partial(model.init_weights, input_shape=(1, 8)), jax.random.PRNGKey(0))


_SMALL = {"hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 3072}


def _tokens() -> Any:
    return shape(BATCH, LENGTH, dtype=jnp.int32)


def _bert() -> Any:
    return _hugging_face("FlaxBertForMaskedLM", "BertConfig", **_SMALL)


@_given(lambda: (_bert()[1], _tokens()))
@jax.jit
def hf_bert(params: Any, tokens: Array) -> Any:
    """Hugging Face Flax BERT, masked language modelling, forward."""
    return _bert()[0](tokens, params=params).logits


def _gpt2() -> Any:
    return _hugging_face("FlaxGPT2LMHeadModel", "GPT2Config", n_embd=768, n_layer=4, n_head=12)


@_given(lambda: (_gpt2()[1], _tokens()))
@jax.jit
def hf_gpt2(params: Any, tokens: Array) -> Any:
    """Hugging Face Flax GPT-2, forward."""
    return _gpt2()[0](tokens, params=params).logits


@_given(lambda: (_gpt2()[1], _tokens()))
@partial(jax.jit, donate_argnums=0)
def hf_gpt2_training(params: Any, tokens: Array) -> Any:
    """Hugging Face Flax GPT-2, a step of SGD on the next token."""
    model = _gpt2()[0]

    def loss(params: Any) -> Array:
        logits = jax.nn.log_softmax(model(tokens, params=params).logits.astype(F32)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1))

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), value


@_given(lambda: (_gpt2()[1], shape(BATCH, 16, dtype=jnp.int32)))
@jax.jit
def hf_gpt2_generate(params: Any, tokens: Array) -> Any:
    """Hugging Face ``generate``: greedy decoding in a while loop that stops at the end token."""
    return _gpt2()[0].generate(tokens, params=params, max_new_tokens=32, do_sample=False, pad_token_id=0).sequences


def _roberta() -> Any:
    return _hugging_face("FlaxRobertaForSequenceClassification", "RobertaConfig", **_SMALL)


@_given(lambda: (_roberta()[1], _tokens()))
@jax.jit
def hf_roberta(params: Any, tokens: Array) -> Any:
    """Hugging Face Flax RoBERTa, sequence classification, forward."""
    return _roberta()[0](tokens, params=params).logits


def _vit() -> Any:
    import transformers

    settings = transformers.ViTConfig(**_SMALL)
    model = transformers.FlaxViTForImageClassification(settings, _do_init=False)
    return model, jax.eval_shape(partial(model.init_weights, input_shape=(1, 224, 224, 3)), jax.random.PRNGKey(0))


@_given(lambda: (_vit()[1], shape(8, 3, 224, 224, dtype=F32)))
@jax.jit
def hf_vit(params: Any, images: Array) -> Any:
    """Hugging Face Flax ViT, forward."""
    return _vit()[0](images, params=params).logits


def _haiku() -> Any:
    import haiku as hk

    def forward(images: Array) -> Array:
        return hk.nets.ResNet18(1000)(images, is_training=True)

    return hk.transform_with_state(forward)


@_given(lambda: (*_shapes(_haiku().init, _key(), shape(16, 224, 224, 3, dtype=F32)), shape(16, 224, 224, 3, dtype=F32)))
@jax.jit
def haiku_resnet(params: Any, state: Any, images: Array) -> Any:
    """Haiku's ResNet-18 with batch statistics, forward."""
    return _haiku().apply(params, state, None, images)


def _haiku_core() -> Any:
    import haiku as hk

    def forward(x: Array) -> Array:
        core = hk.LSTM(512)
        out, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
        return hk.Linear(256)(out)

    return hk.without_apply_rng(hk.transform(forward))


@_given(lambda: (_shapes(_haiku_core().init, _key(), shape(64, 32, 256, dtype=F32)), shape(64, 32, 256, dtype=F32)))
@jax.jit
def haiku_lstm(params: Any, x: Array) -> Any:
    """Haiku's LSTM, unrolled by scan, with its gradient."""
    return jax.grad(lambda p: jnp.mean(_haiku_core().apply(p, x) ** 2))(params)


def _graph() -> Any:
    import jraph

    of = partial(shape, dtype=F32)
    ints = partial(shape, dtype=jnp.int32)
    return jraph.GraphsTuple(
        nodes=of(4096, 128),
        edges=of(16384, 64),
        senders=ints(16384),
        receivers=ints(16384),
        globals=of(1, 32),
        n_node=ints(1),
        n_edge=ints(1),
    )


@_given(lambda: (_graph(), shape(352, 64, dtype=F32), shape(416, 128, dtype=F32)))
@jax.jit
def jraph_network(graph: Any, edge_weights: Array, node_weights: Array) -> Any:
    """jraph's GraphNetwork: gathers and segment sums over edges."""
    import jraph

    def edges(e: Array, s: Array, r: Array, g: Array) -> Array:
        x = jnp.concatenate([e, s, r, g], axis=-1)
        return jax.nn.relu(x @ edge_weights)

    def nodes(n: Array, s: Array, r: Array, g: Array) -> Array:
        x = jnp.concatenate([n, s, r, g], axis=-1)
        return jax.nn.relu(x @ node_weights[: x.shape[-1]])

    return jraph.GraphNetwork(update_edge_fn=edges, update_node_fn=nodes)(graph).nodes


def _linen() -> Any:
    import flax.linen as nn

    class Block(nn.Module):
        """A pre-norm transformer layer as scanned over."""

        @nn.compact
        def __call__(self, x: Array, _: Any) -> Any:
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=8)(h, h)
            h = nn.Dense(2048)(nn.LayerNorm()(x))
            return x + nn.Dense(512)(nn.gelu(h)), None

    class Model(nn.Module):
        """Six layers by ``nn.scan`` over ``nn.remat``."""

        @nn.compact
        def __call__(self, tokens: Array) -> Array:
            x = nn.Embed(32000, 512)(tokens)
            layers = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=6)
            x, _ = layers()(x, None)
            return nn.Dense(32000)(nn.LayerNorm()(x))

    return Model()


@_given(lambda: (_shapes(_linen().init, _key(), _tokens()), _tokens()))
@partial(jax.jit, donate_argnums=0)
def linen_scan_training(variables: Any, tokens: Array) -> Any:
    """Flax linen: ``nn.scan`` over ``nn.remat`` layers, a step of SGD."""

    def loss(variables: Any) -> Array:
        logits = jax.nn.log_softmax(_linen().apply(variables, tokens)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1))

    value, grads = jax.value_and_grad(loss)(variables)
    return jax.tree.map(lambda p, g: p - 1e-3 * g, variables, grads), value


def _convnet() -> Any:
    from flax import nnx

    class Net(nnx.Module):
        """Two convolutions and a classifier with dropout."""

        def __init__(self, rngs: Any) -> None:
            self.first = nnx.Conv(3, 64, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(64, rngs=rngs)
            self.second = nnx.Conv(64, 128, (3, 3), strides=2, rngs=rngs)
            self.head = nnx.Linear(128, 100, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            x = nnx.relu(self.norm(self.first(x)))
            return self.head(nnx.relu(self.second(x)).mean((1, 2)))

    return nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))


@_given(lambda: (_convnet()[1], shape(64, 64, 64, 3, dtype=F32)))
@jax.jit
def nnx_convnet(state: Any, images: Array) -> Any:
    """Flax NNX: a small convolutional net with batch statistics, its loss and gradient."""
    from flax import nnx

    def loss(state: Any) -> Array:
        return jnp.mean(nnx.merge(_convnet()[0], state)(images) ** 2)

    return jax.grad(loss, allow_int=True)(state)


def _equinox() -> Any:
    import equinox as eqx

    build = partial(eqx.nn.MLP, 512, 512, 2048, 4)
    return eqx.partition(eqx.filter_eval_shape(lambda: build(key=jax.random.PRNGKey(0))), lambda x: hasattr(x, "dtype"))


@_given(lambda: (_equinox()[0], shape(1024, 512, dtype=F32)))
@jax.jit
def equinox_mlp(arrays: Any, x: Array) -> Any:
    """Equinox: an MLP under ``vmap``, its gradient."""
    import equinox as eqx

    static = _equinox()[1]
    return jax.grad(lambda a: jnp.mean(jax.vmap(eqx.combine(a, static))(x) ** 2))(arrays)


@_given(lambda: (shape(2048, 64 * 9, dtype=F32), shape(8192, 3, dtype=F32), shape(8192, dtype=jnp.int32)))
@jax.jit
def e3nn_message(features: Array, vectors: Array, senders: Array) -> Any:
    """e3nn: an equivariant message, a tensor product with spherical harmonics."""
    import e3nn_jax as e3nn

    nodes = e3nn.IrrepsArray("64x0e + 64x1o + 64x2e", features)
    harmonics = e3nn.spherical_harmonics("0e + 1o + 2e", e3nn.IrrepsArray("1o", vectors), normalize=True)
    messages = e3nn.tensor_product(nodes[senders], harmonics, filter_ir_out=["0e", "1o"])
    return e3nn.scatter_sum(messages, dst=senders, output_size=2048).array


def _unet() -> Any:
    from diffusers import FlaxUNet2DConditionModel

    return FlaxUNet2DConditionModel(
        sample_size=32,
        block_out_channels=(128, 256, 512),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=512,
        dtype=jnp.bfloat16,
    )


@_given(
    lambda: (
        _shapes(_unet().init_weights, _key()),
        shape(4, 4, 32, 32, dtype=F32),
        shape(4, dtype=F32),
        shape(4, 77, 512, dtype=F32),
    )
)
@jax.jit
def diffusers_unet(params: Any, sample: Array, times: Array, text: Array) -> Any:
    """Diffusers' conditional U-Net of latent diffusion, smaller: one prediction of the noise."""
    return _unet().apply({"params": params}, sample, times, text).sample


def _autoencoder() -> Any:
    from diffusers import FlaxAutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return FlaxAutoencoderKL(block_out_channels=(64, 128, 256), sample_size=128, dtype=jnp.bfloat16, **blocks)


@_given(lambda: (_shapes(_autoencoder().init_weights, _key()), shape(2, 4, 32, 32, dtype=F32)))
@jax.jit
def diffusers_decoder(params: Any, latents: Array) -> Any:
    """Diffusers' autoencoder, smaller: latents to images."""
    model = _autoencoder()
    return model.apply({"params": params}, latents, method=model.decode).sample


def _qwen() -> Any:
    from dataclasses import replace

    from flax import nnx
    from tunix.models.qwen3 import model

    sizes = {"num_layers": 4, "vocab_size": 32000, "dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    config = replace(model.ModelConfig.qwen3_0p6b(), **sizes)
    return nnx.split(nnx.eval_shape(lambda: model.Qwen3(config, rngs=nnx.Rngs(0))))


def _qwen_inputs() -> Any:
    ints = partial(shape, dtype=jnp.int32)
    return ints(2, 512), ints(2, 512), shape(2, 512, 512, dtype=jnp.bool_)


@_given(lambda: (_qwen()[1], *_qwen_inputs()))
@jax.jit
def tunix_qwen3(state: Any, tokens: Array, positions: Array, mask: Array) -> Any:
    """Tunix's Qwen 3, four layers: prefill."""
    from flax import nnx

    return nnx.merge(_qwen()[0], state)(tokens, positions, None, mask)[0]


@_given(lambda: (_qwen()[1], *_qwen_inputs()))
@partial(jax.jit, donate_argnums=0)
def tunix_qwen3_training(state: Any, tokens: Array, positions: Array, mask: Array) -> Any:
    """Tunix's Qwen 3, four layers: a step of SGD on the next token."""
    from flax import nnx

    def loss(state: Any) -> Array:
        logits = nnx.merge(_qwen()[0], state)(tokens, positions, None, mask)[0]
        likely = jax.nn.log_softmax(logits.astype(F32)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(likely, tokens[:, 1:, None], axis=-1))

    value, grads = jax.value_and_grad(loss)(state)
    return jax.tree.map(lambda p, g: p - (1e-3 * g).astype(p.dtype), state, grads), value

"""The programs of the shipped suite, by name: `MODELS`.

Importing this package does not import JAX; `Model.build` does.

Sizes are chosen so that most programs press on a chip's fast memory, 64 to 112 MiB: the activations and weights in use
together exceed it, or the weights that each step reads do. A few are easy on purpose.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal

Split = Literal["train", "eval"]
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One program of the suite.

    `build()` returns a function that `jax.jit` can lower and its arguments, pytrees of `jax.ShapeDtypeStruct`.
    `split` says whether a learner may train on it; every family has programs on both sides.
    """

    name: str
    summary: str
    family: str
    split: Split
    build: Callable[[], tuple[Function, tuple[Any, ...]]]
    donate_argnums: tuple[int, ...] = ()  # arguments whose memory the program may reuse for its results


def build_program(module: str, function: str, **sizes: Any) -> tuple[Function, tuple[Any, ...]]:
    """Return `(function, arguments)` of a program in `workloads.models.<module>` at the given sizes."""
    program: tuple[Function, tuple[Any, ...]] = getattr(import_module(f"{__name__}.{module}"), function)(**sizes)
    return program


def _model(
    name: str, split: Split, family: str, where: str, summary: str, *, donate: tuple[int, ...] = (), **sizes: Any
) -> Model:
    """Return one row of the table; `where` is "module.function" in this package."""
    build = partial(build_program, *where.split("."), **sizes)
    return Model(name=name, summary=summary, family=family, split=split, build=build, donate_argnums=donate)


_LLAMA: dict[str, Any] = {"width": 2048, "heads": 16, "groups": 4, "hidden": 5632, "vocabulary": 32000}
_SMALL_LLAMA: dict[str, Any] = {"width": 1024, "heads": 8, "groups": 4, "hidden": 2816, "vocabulary": 8192}
_STATE = (0, 1)  # of a training step: parameters and optimiser state
_CACHES = (3,)  # of a decoder: after parameters, tokens and position

_TABLE = (
    # Convolution, inference
    _model("alexnet", "train", "convolution", "vision.alexnet", "AlexNet inference, batch 64", batch=64),
    _model("vgg16", "train", "convolution", "vision.vgg16", "VGG-16 inference, batch 4", batch=4),
    _model("resnet50", "train", "convolution", "vision.resnet50", "ResNet-50 inference, batch 32", batch=32),
    _model("mobilenet", "eval", "convolution", "vision.mobilenet", "MobileNetV2 inference, batch 32 (easy)", batch=32),
    _model(
        "wavenet",
        "train",
        "convolution",
        "assorted.wavenet",
        "WaveNet-like audio model, 30 gated dilated layers, 4 x 16384 samples",
        batch=4,
        length=16384,
        channels=128,
        stacks=3,
        depth=10,
    ),
    _model(
        "unet",
        "train",
        "convolution",
        "unet.unet",
        "U-Net segmentation inference, 384 x 384",
        batch=1,
        image=384,
        widths=(64, 128, 256, 512, 1024),
    ),
    _model(
        "diffusion_step",
        "eval",
        "convolution",
        "unet.diffusion_step",
        "one guided denoising step of a latent diffusion U-Net, 64 x 64 latents",
        batch=2,
        image=64,
        widths=(192, 384),
        blocks=1,
    ),
    # Training steps
    _model(
        "resnet50_training",
        "train",
        "training",
        "vision.resnet50_training",
        "ResNet-50 training step, batch 8, SGD with momentum",
        donate=_STATE,
        batch=8,
    ),
    _model(
        "unet_training",
        "eval",
        "training",
        "unet.unet_training",
        "U-Net training step, 4 images of 128 x 128, SGD with momentum",
        donate=_STATE,
        batch=4,
        image=128,
        widths=(128, 256, 512),
    ),
    _model(
        "bert_training",
        "eval",
        "training",
        "transformer.bert_training",
        "BERT-like training step, 4 layers, Adam",
        donate=_STATE,
        batch=8,
        length=256,
        layers=4,
        vocabulary=8192,
    ),
    _model(
        "gpt2_training",
        "train",
        "training",
        "transformer.gpt2_training",
        "GPT-2-like training step, 4 layers, SGD with momentum",
        donate=_STATE,
        batch=4,
        length=512,
        layers=4,
        vocabulary=16384,
    ),
    _model(
        "lstm_training",
        "train",
        "training",
        "recurrent.lstm_training",
        "LSTM training step through 32 time steps, SGD with momentum",
        donate=_STATE,
        batch=32,
        steps=32,
        width=1024,
    ),
    # Transformers, inference
    _model("vit", "eval", "transformer", "transformer.vit", "ViT-B/16 inference, batch 8", batch=8, layers=12),
    _model(
        "bert",
        "train",
        "transformer",
        "transformer.bert",
        "BERT-like encoder inference, 12 layers, 4 x 512 tokens",
        batch=4,
        length=512,
        layers=12,
        vocabulary=8192,
    ),
    _model(
        "llama_prefill",
        "train",
        "transformer",
        "llama.prefill",
        "Llama-like prefill of 512 tokens, 6 layers",
        batch=1,
        length=512,
        layers=6,
        **_LLAMA,
    ),
    # Decoders with a key/value cache
    _model(
        "llama_decode",
        "train",
        "decode",
        "llama.decode",
        "Llama-like decode of one token, batch 1, context 4096",
        donate=_CACHES,
        batch=1,
        context=4096,
        layers=8,
        **_LLAMA,
    ),
    _model(
        "llama_decode_batch16",
        "eval",
        "decode",
        "llama.decode",
        "Llama-like decode of one token, batch 16, context 1024",
        donate=_CACHES,
        batch=16,
        context=1024,
        layers=8,
        **_LLAMA,
    ),
    _model(
        "moe_decode",
        "train",
        "decode",
        "llama.expert_decode",
        "mixture-of-experts decode, 8 experts, 2 chosen, batch 16, context 1024",
        donate=_CACHES,
        batch=16,
        context=1024,
        layers=4,
        experts=8,
        chosen=2,
        **_SMALL_LLAMA,
    ),
    # Loops
    _model(
        "lstm",
        "train",
        "loop",
        "recurrent.lstm",
        "LSTM by scan, 64 steps, two 8 MiB weights read every step",
        batch=32,
        steps=64,
        width=1024,
    ),
    _model(
        "lstm_deep",
        "train",
        "loop",
        "recurrent.lstm",
        "two LSTM layers by scan, 48 steps, four 18 MiB weights read every step",
        batch=32,
        steps=48,
        width=1536,
        layers=2,
    ),
    _model(
        "tied_loop",
        "train",
        "loop",
        "recurrent.tied_loop",
        "a gated block applied 16 times with the same 74 MiB of weights",
        batch=64,
        steps=16,
        width=2048,
        hidden=5632,
    ),
    _model(
        "decode_loop",
        "eval",
        "loop",
        "llama.decode_loop",
        "greedy decode of 16 tokens in one scan, 2 layers, same weights every token",
        donate=_CACHES,
        batch=4,
        context=1024,
        tokens=16,
        layers=2,
        **_SMALL_LLAMA,
    ),
    # Feed-forward and sparse
    _model(
        "mlp",
        "train",
        "dense",
        "assorted.mlp",
        "plain perceptron, 8 layers of 4096, batch 64",
        batch=64,
        widths=(4096,) * 9,
    ),
    _model(
        "dlrm",
        "train",
        "dense",
        "assorted.dlrm",
        "DLRM inference, 26 embedding tables, batch 2048",
        batch=2048,
        tables=26,
        rows=100_000,
        width=64,
        bottom=(512, 256),
        top=(1024, 1024, 512, 256),
    ),
    _model(
        "graph_network",
        "eval",
        "dense",
        "assorted.graph_network",
        "relational message passing, 4 dense adjacency matrices of 32 MiB read by each of 6 layers",
        nodes=4096,
        width=128,
        relations=4,
        layers=6,
    ),
    # Block matrix multiplication
    _model(
        "strassen", "train", "block-matmul", "assorted.strassen", "Strassen, 4096 x 4096, 2 levels", size=4096, levels=2
    ),
    _model(
        "strassen_deep",
        "train",
        "block-matmul",
        "assorted.strassen",
        "Strassen, 4096 x 4096, 3 levels",
        size=4096,
        levels=3,
    ),
    _model(
        "winograd",
        "eval",
        "block-matmul",
        "assorted.winograd",
        "Strassen-Winograd, 4096 x 4096, 3 levels",
        size=4096,
        levels=3,
    ),
)

MODELS: dict[str, Model] = {model.name: model for model in _TABLE}

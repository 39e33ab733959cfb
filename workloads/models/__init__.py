"""The programs of the shipped suite, by name: `MODELS`.

Importing this package does not import JAX; `Workload.build` does.

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
class Workload:
    """One program of the suite.

    `build()` returns a function that `jax.jit` can lower and its arguments, pytrees of `jax.ShapeDtypeStruct`.
    `split` says whether a learner may train on it; every family has programs on both sides. A program for several
    chips has a `mesh`, which `build(mesh)` takes.
    """

    name: str
    summary: str
    family: str
    split: Split
    build: Callable[..., tuple[Function, tuple[Any, ...]]]
    donate_argnums: tuple[int, ...] = ()  # arguments whose memory the program may reuse for its results
    mesh: str = ""  # axes over several chips
    chips: tuple[str, ...] = ("v4", "v5e", "v6e")  # that a trace is shipped for


def build_program(module: str, function: str, *mesh: Any, **sizes: Any) -> tuple[Function, tuple[Any, ...]]:
    """Return `(function, arguments)` of a program in `mallocgame.workloads.models.<module>` at the given sizes."""
    program: tuple[Function, tuple[Any, ...]]
    program = getattr(import_module(f"{__name__}.{module}"), function)(*mesh, **sizes)
    return program


def _model(
    identity: tuple[str, str, Split],
    summary: str,
    where: str,
    sizes: dict[str, Any],
    *,
    donate: tuple[int, ...] = (),
    **more: Any,
) -> Workload:
    """Return one row of the table: (name, family, split), and `where` is "module.function" in this package."""
    name, family, split = identity
    build = partial(build_program, *where.split("."), **sizes)
    return Workload(name=name, summary=summary, family=family, split=split, build=build, donate_argnums=donate, **more)


_LLAMA = {"width": 2048, "heads": 16, "groups": 4, "hidden": 5632, "vocabulary": 32000}
_SMALL_LLAMA = {"width": 1024, "heads": 8, "groups": 4, "hidden": 2816, "vocabulary": 8192}
_STATE = (0, 1)  # of a training step: parameters and optimiser state
_CACHES = (3,)  # of a decoder: after parameters, tokens and position
_FOUR: dict[str, Any] = {"mesh": "data=4", "chips": ("v5e",)}

_TABLE = (
    # Convolution, inference
    _model(("alexnet", "convolution", "train"), "AlexNet inference, batch 128", "vision.alexnet", {"batch": 128}),
    _model(("vgg16", "convolution", "train"), "VGG-16 inference, batch 4", "vision.vgg16", {"batch": 4}),
    _model(("resnet50", "convolution", "train"), "ResNet-50 inference, batch 32", "vision.resnet50", {"batch": 32}),
    _model(
        ("mobilenet", "convolution", "eval"),
        "MobileNetV2 inference, batch 32 (easy)",
        "vision.mobilenet",
        {"batch": 32},
    ),
    _model(
        ("wavenet", "convolution", "train"),
        "WaveNet-like audio model, 30 gated dilated layers, 4 x 16384 samples",
        "assorted.wavenet",
        {"batch": 4, "length": 16384, "channels": 128, "stacks": 3, "depth": 10},
    ),
    _model(
        ("unet", "convolution", "train"),
        "U-Net segmentation inference, 384 x 384",
        "unet.unet",
        {"batch": 1, "image": 384, "widths": (64, 128, 256, 512, 1024)},
    ),
    _model(
        ("diffusion_step", "convolution", "eval"),
        "one guided denoising step of a latent diffusion U-Net, 64 x 64 latents",
        "unet.diffusion_step",
        {"batch": 2, "image": 64, "widths": (192, 384), "blocks": 1},
    ),
    # Training steps
    _model(
        ("resnet50_training", "training", "train"),
        "ResNet-50 training step, batch 8, SGD with momentum",
        "vision.resnet50_training",
        {"batch": 8},
        donate=_STATE,
    ),
    _model(
        ("unet_training", "training", "eval"),
        "U-Net training step, 4 images of 128 x 128, SGD with momentum",
        "unet.unet_training",
        {"batch": 4, "image": 128, "widths": (128, 256, 512)},
        donate=_STATE,
    ),
    _model(
        ("bert_training", "training", "eval"),
        "BERT-like training step, 4 layers, Adam",
        "transformer.bert_training",
        {"batch": 8, "length": 256, "layers": 4, "vocabulary": 8192},
        donate=_STATE,
    ),
    _model(
        ("gpt2_training", "training", "train"),
        "GPT-2-like training step, 4 layers, SGD with momentum",
        "transformer.gpt2_training",
        {"batch": 4, "length": 512, "layers": 4, "vocabulary": 16384},
        donate=_STATE,
    ),
    _model(
        ("lstm_training", "training", "train"),
        "LSTM training step through 32 time steps, SGD with momentum",
        "recurrent.lstm_training",
        {"batch": 32, "steps": 32, "width": 1024},
        donate=_STATE,
    ),
    # Transformers that read a sequence at once, inference
    _model(
        ("vit", "transformer", "eval"), "ViT-B/16 inference, batch 8", "transformer.vit", {"batch": 8, "layers": 12}
    ),
    _model(
        ("bert", "transformer", "train"),
        "BERT-like encoder inference, 12 layers, 4 x 512 tokens",
        "transformer.bert",
        {"batch": 4, "length": 512, "layers": 12, "vocabulary": 8192},
    ),
    _model(
        ("llama_prefill", "transformer", "train"),
        "Llama-like prefill of 512 tokens, 6 layers",
        "llama.prefill",
        {"batch": 1, "length": 512, "layers": 6, **_LLAMA},
    ),
    # Decoders with a key/value cache, one token
    _model(
        ("llama_decode", "decode", "train"),
        "Llama-like decode of one token, batch 1, context 4096",
        "llama.decode",
        {"batch": 1, "context": 4096, "layers": 8, **_LLAMA},
        donate=_CACHES,
    ),
    _model(
        ("llama_decode_batch16", "decode", "eval"),
        "Llama-like decode of one token, batch 16, context 1024",
        "llama.decode",
        {"batch": 16, "context": 1024, "layers": 8, **_LLAMA},
        donate=_CACHES,
    ),
    _model(
        ("moe_decode", "decode", "train"),
        "mixture-of-experts decode, 8 experts, 2 chosen, batch 16, context 1024",
        "llama.expert_decode",
        {"batch": 16, "context": 1024, "layers": 4, "experts": 8, "chosen": 2, **_SMALL_LLAMA},
        donate=_CACHES,
    ),
    # Loops that read the same weights in every iteration
    _model(
        ("lstm", "loop", "train"),
        "LSTM by scan, 64 steps, two 8 MiB weights read every step",
        "recurrent.lstm",
        {"batch": 32, "steps": 64, "width": 1024},
    ),
    _model(
        ("lstm_deep", "loop", "train"),
        "two LSTM layers by scan, 48 steps, four 18 MiB weights read every step",
        "recurrent.lstm",
        {"batch": 32, "steps": 48, "width": 1536, "layers": 2},
    ),
    _model(
        ("tied_loop", "loop", "train"),
        "a gated block applied 16 times with the same 74 MiB of weights",
        "recurrent.tied_loop",
        {"batch": 64, "steps": 16, "width": 2048, "hidden": 5632},
    ),
    _model(
        ("decode_loop", "loop", "eval"),
        "greedy decode of 16 tokens in one scan, 2 layers, same weights every token",
        "llama.decode_loop",
        {"batch": 4, "context": 1024, "tokens": 16, "layers": 2, **_SMALL_LLAMA},
        donate=_CACHES,
    ),
    # Perceptrons, embeddings, graphs
    _model(
        ("mlp", "dense", "train"),
        "plain perceptron, 8 layers of 4096, batch 64",
        "assorted.mlp",
        {"batch": 64, "widths": (4096,) * 9},
    ),
    _model(
        ("dlrm", "dense", "train"),
        "DLRM inference, 26 embedding tables, batch 2048",
        "assorted.dlrm",
        {
            "batch": 2048,
            "tables": 26,
            "rows": 20_000,
            "width": 128,
            "bottom": (512, 256),
            "top": (1024, 1024, 512, 256),
        },
    ),
    _model(
        ("graph_network", "dense", "eval"),
        "relational message passing, 4 dense adjacency matrices of 32 MiB read by each of 6 layers",
        "assorted.graph_network",
        {"nodes": 4096, "width": 128, "relations": 4, "layers": 6},
    ),
    # Fast block matrix multiplication
    _model(
        ("strassen", "block-matmul", "train"),
        "Strassen, 4096 x 4096, 2 levels",
        "assorted.strassen",
        {"size": 4096, "levels": 2},
    ),
    _model(
        ("strassen_deep", "block-matmul", "train"),
        "Strassen, 4096 x 4096, 3 levels",
        "assorted.strassen",
        {"size": 4096, "levels": 3},
    ),
    _model(
        ("winograd", "block-matmul", "eval"),
        "Strassen-Winograd, 4096 x 4096, 3 levels",
        "assorted.winograd",
        {"size": 4096, "levels": 3},
    ),
    # Several chips
    _model(
        ("tensor_parallel_prefill", "parallel", "train"),
        "Llama-like prefill of 2 x 512 tokens, 4 layers, weights split over 4 chips",
        "parallel.tensor_parallel_prefill",
        {"batch": 2, "length": 512, "layers": 4, **_LLAMA},
        **_FOUR,
    ),
    _model(
        ("pipeline", "parallel", "train"),
        "GPipe forward, 8 microbatches through 4 chips of 4 layers each",
        "parallel.pipeline",
        {"batches": 8, "rows": 512, "width": 2048, "layers": 4},
        **_FOUR,
    ),
    _model(
        ("ring_attention", "parallel", "eval"),
        "ring attention, 2 x 8192 tokens over 4 chips, 8 heads of 128",
        "parallel.ring_attention",
        {"batch": 2, "length": 8192, "heads": 8, "head_width": 128},
        **_FOUR,
    ),
    # Branches, loops of unknown length
    _model(
        ("early_exit", "branches", "train"),
        "transformer of 4 layers, each run only while a classifier is unsure",
        "branches.early_exit",
        {"batch": 8, "length": 256, "layers": 4, "width": 1024, "heads": 8},
        chips=("v5e",),
    ),
    _model(
        ("adaptive_ode", "branches", "train"),
        "neural ODE with step-size control: a loop of unknown length, a branch inside",
        "branches.adaptive_ode",
        {"batch": 4096, "width": 2048},
        chips=("v5e",),
    ),
    _model(
        ("decode_until_end", "branches", "eval"),
        "greedy decode until every sequence has ended, 2 layers, same weights every token",
        "llama.decode_until_end",
        {"batch": 8, "context": 1024, "layers": 2, **_SMALL_LLAMA},
        donate=_CACHES,
        chips=("v5e",),
    ),
)

MODELS: dict[str, Workload] = {model.name: model for model in _TABLE}

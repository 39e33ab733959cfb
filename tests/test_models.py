"""The shipped suite's programs: the table, abstract traces at full size, and arithmetic at tiny sizes."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from mallocgame.workloads.models import MODELS, Workload, build_program
from mallocgame.workloads.models.layers import attention, cross_entropy, parameter_shapes, reader, spec

LLAMA = {"layers": 2, "width": 32, "heads": 4, "groups": 2, "hidden": 48, "vocabulary": 50}
EVALUATION = {
    *("mobilenet", "diffusion_step", "unet_training", "bert_training", "vit"),
    *("llama_decode_batch16", "decode_loop", "graph_network", "winograd", "ring_attention", "decode_until_end"),
}
REQUIRED = {
    *("alexnet", "vgg16", "resnet50", "resnet50_training", "mobilenet", "unet", "vit", "bert", "bert_training"),
    *("gpt2_training", "llama_prefill", "llama_decode", "llama_decode_batch16", "decode_loop", "moe_decode", "lstm"),
    *(
        "tied_loop",
        "dlrm",
        "wavenet",
        "diffusion_step",
        "graph_network",
        "strassen",
        "mlp",
        "ring_attention",
        "pipeline",
    ),
    *("tensor_parallel_prefill", "early_exit", "adaptive_ode", "decode_until_end"),
}


@pytest.fixture(autouse=True)
def _strict_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def values_of(arguments: Any, seed: int = 0) -> Any:
    """Return random values of the shapes and dtypes in `arguments`: floats near 0, integers in [0, 4)."""
    generator = np.random.default_rng(seed)

    def fill(leaf: jax.ShapeDtypeStruct) -> Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(generator.integers(0, 4, leaf.shape), leaf.dtype)
        fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 16
        return jnp.asarray(generator.normal(size=leaf.shape) / np.sqrt(fan_in), leaf.dtype)

    return jax.tree.map(fill, arguments)


def compiled(module: str, function: str, **sizes: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a compiled program and its abstract arguments."""
    run, arguments = build_program(module, function, **sizes)
    return jax.jit(run), arguments


def floats(tree: Any) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(tree)]


def test_importing_the_table_imports_no_jax() -> None:
    code = "import sys, mallocgame.workloads.models as m; assert len(m.MODELS) > 20; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_and_split_are_stable() -> None:
    assert set(MODELS) >= REQUIRED
    assert {name for name, model in MODELS.items() if model.split == "eval"} == EVALUATION
    assert 0.65 <= sum(model.split == "train" for model in MODELS.values()) / len(MODELS) <= 0.75
    for family in {model.family for model in MODELS.values()}:
        assert {model.split for model in MODELS.values() if model.family == family} == {"train", "eval"}, family
    for name, model in MODELS.items():
        assert model.name == name
        assert name.isidentifier()
        assert model.summary


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_every_program_traces(model: Workload) -> None:
    function, arguments = model.build(*([one_place()] if model.mesh else []))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arguments))
    results = jax.tree.leaves(jax.eval_shape(function, *arguments))
    assert results
    available = Counter((leaf.shape, leaf.dtype) for leaf in results)
    donated = [leaf for index in model.donate_argnums for leaf in jax.tree.leaves(arguments[index])]
    assert bool(donated) == (model.family in {"training", "decode"} or model.name.startswith("decode_"))
    assert Counter((leaf.shape, leaf.dtype) for leaf in donated) <= available


def one_place() -> jax.sharding.Mesh:
    """Return a mesh of this machine's one device, under the name that programs for several chips want."""
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))


def test_ring_attention_is_attention() -> None:
    run, arguments = build_program("parallel", "ring_attention", one_place(), batch=2, length=6, heads=3, head_width=4)
    query, key, value = values_of(arguments)
    ring = np.asarray(run(query, key, value), np.float32)
    plain = attention(*(x.transpose(0, 2, 1, 3) for x in (query, key, value)))
    assert np.allclose(ring, np.asarray(plain, np.float32), atol=0.05)


def test_a_pipeline_applies_all_layers_to_all_batches() -> None:
    run, arguments = build_program("parallel", "pipeline", one_place(), batches=3, rows=2, width=4, layers=2)
    weights, x = values_of(arguments)
    wanted = x
    for weight in weights:
        wanted = jax.nn.relu(wanted @ weight)
    assert np.allclose(*floats((run(weights, x), wanted)), atol=0.05)


TINY: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unet", "diffusion_step", {"batch": 1, "image": 8, "widths": (32,), "blocks": 1, "heads": 2, "context": 3}),
    ("unet", "unet", {"batch": 1, "image": 16, "widths": (4, 8)}),
    ("transformer", "vit", {"batch": 2, "layers": 1, "width": 16, "heads": 2, "image": 8, "patch": 4, "classes": 3}),
    ("assorted", "mlp", {"batch": 2, "widths": (8, 8)}),
    ("assorted", "graph_network", {"nodes": 8, "width": 4, "relations": 2, "layers": 2}),
    ("recurrent", "tied_loop", {"batch": 2, "steps": 3, "width": 8, "hidden": 16}),
    ("branches", "early_exit", {"batch": 2, "length": 4, "layers": 1, "width": 8, "heads": 2}),
    ("branches", "adaptive_ode", {"batch": 2, "width": 8}),
    ("llama", "expert_decode", {"batch": 2, "context": 8, "experts": 3, "chosen": 2, **LLAMA}),
    (
        *("assorted", "dlrm"),
        {"batch": 4, "tables": 3, "rows": 10, "width": 8, "bottom": (8,), "top": (8,)},
    ),
)


@pytest.mark.parametrize(("module", "function", "sizes"), TINY, ids=[row[1] for row in TINY])
def test_values_are_finite_and_depend_on_every_argument(module: str, function: str, sizes: dict[str, Any]) -> None:
    run, arguments = compiled(module, function, **sizes)
    values = values_of(arguments)
    results = floats(run(*values))
    assert all(np.isfinite(result).all() for result in results)
    for index in range(len(arguments)):
        changed = (*values[:index], values_of(arguments, seed=1)[index], *values[index + 1 :])
        pairs = zip(results, floats(run(*changed)), strict=True)
        assert any(not np.array_equal(old, new) for old, new in pairs), f"argument {index} has no effect"


STEPS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unet", "unet_training", {"batch": 2, "image": 16, "widths": (4, 8), "classes": 4}),
    ("transformer", "gpt2_training", {"batch": 2, "length": 6, "layers": 1, "width": 16, "heads": 2, "vocabulary": 8}),
    ("transformer", "bert_training", {"batch": 2, "length": 6, "layers": 1, "width": 16, "heads": 2, "vocabulary": 8}),
    ("recurrent", "lstm_training", {"batch": 2, "steps": 4, "width": 8, "layers": 2}),
)


@pytest.mark.parametrize(("module", "function", "sizes"), STEPS, ids=[row[1] for row in STEPS])
def test_training_steps_lower_the_loss(module: str, function: str, sizes: dict[str, Any]) -> None:
    step, arguments = compiled(module, function, **sizes)
    parameters, state, *inputs = values_of(arguments)
    state = jax.tree.map(jnp.zeros_like, state)
    losses = []
    for _ in range(30):
        parameters, state, loss = step(parameters, state, *inputs)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < losses[0] - 0.001


@pytest.mark.parametrize(("function", "levels"), [("strassen", 1), ("strassen", 2), ("winograd", 1), ("winograd", 2)])
def test_fast_products_equal_the_plain_product(function: str, levels: int) -> None:
    run, shapes = compiled("assorted", function, size=16, levels=levels)
    generator = np.random.default_rng(levels)
    left, right = (generator.integers(-1, 2, shape.shape) for shape in shapes)  # small enough to be exact in bfloat16
    product = run(jnp.asarray(left, jnp.bfloat16), jnp.asarray(right, jnp.bfloat16))
    np.testing.assert_array_equal(np.asarray(product, np.int64), left @ right)


def test_decode_continues_a_prefill() -> None:
    length, context = 5, 8
    whole, (shapes, tokens_shape) = compiled("llama", "prefill", batch=2, length=length + 1, **LLAMA)
    part, _ = compiled("llama", "prefill", batch=2, length=length, **LLAMA)
    decode, _ = compiled("llama", "decode", batch=2, context=context, **LLAMA)
    parameters = values_of(shapes)
    tokens = jnp.asarray(np.random.default_rng(3).integers(0, 50, tokens_shape.shape), jnp.int32)
    expected, expected_caches = whole(parameters, tokens)
    _, caches = part(parameters, tokens[:, :length])
    room = ((0, 0), (0, 0), (0, context - length), (0, 0))
    caches = jax.tree.map(lambda cache: jnp.pad(cache, room, constant_values=9), caches)  # what lies ahead is masked
    logits, caches = decode(parameters, tokens[:, length], jnp.int32(length), caches)
    np.testing.assert_allclose(*floats([logits, expected]), atol=0.05, rtol=0.05)
    for old, new in zip(floats(expected_caches), floats(caches), strict=True):
        np.testing.assert_allclose(new[:, :, : length + 1], old, atol=0.05, rtol=0.05)


def test_decode_loop_equals_its_steps_one_by_one() -> None:
    sizes = {"batch": 2, "context": 8, **LLAMA}
    three, arguments = compiled("llama", "decode_loop", tokens=3, **sizes)
    one, _ = compiled("llama", "decode_loop", tokens=1, **sizes)
    parameters, tokens, _, caches = values_of(arguments)
    together, final_caches = three(parameters, tokens, jnp.int32(2), caches)
    for step in range(3):
        decoded, caches = one(parameters, tokens, jnp.int32(2 + step), caches)
        tokens = decoded[0]
        np.testing.assert_array_equal(together[step], tokens)
    for old, new in zip(floats(caches), floats(final_caches), strict=True):
        np.testing.assert_allclose(new, old, atol=0.02)


def test_experts_all_chosen_with_equal_weights_equal_one_dense_layer() -> None:
    sizes = {"batch": 2, "context": 8, **LLAMA}
    mixture, arguments = compiled("llama", "expert_decode", experts=2, chosen=2, **sizes)
    dense, (dense_shapes, *_) = compiled("llama", "decode", **sizes)
    parameters, *inputs = values_of(arguments)
    for name in list(parameters):
        if ".expert1." in name:
            parameters[name] = parameters[name.replace(".expert1.", ".expert0.")]
    shared = {name: parameters[name if name in parameters else _of_expert(name)] for name in dense_shapes}
    np.testing.assert_allclose(*floats([mixture(parameters, *inputs)[0], dense(shared, *inputs)[0]]), atol=0.05)


def _of_expert(name: str) -> str:
    layer, rest = name.split(".", 1)
    return f"{layer}.expert0.{rest}"


def test_wavenet_is_causal() -> None:
    run, arguments = compiled("assorted", "wavenet", batch=1, length=12, channels=4, stacks=1, depth=3, levels=5)
    parameters, audio = values_of(arguments)
    later = audio.at[:, 7].add(1.0)
    before, after = floats([run(parameters, audio), run(parameters, later)])
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert not np.array_equal(before[:, 7:], after[:, 7:])


def test_lstm_equals_a_loop_in_numpy() -> None:
    run, arguments = compiled("recurrent", "lstm", batch=2, steps=4, width=8)
    parameters, sequence = values_of(arguments)
    weights = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    state = cell = np.zeros((2, 8))
    for step, x in enumerate(np.asarray(sequence, np.float64)):
        gates = x @ weights["layer0.input"] + state @ weights["layer0.state"] + weights["layer0.bias"]
        entry, forget, candidate, leave = np.split(gates, 4, axis=-1)
        cell = cell / (1 + np.exp(-forget - 1)) + np.tanh(candidate) / (1 + np.exp(-entry))
        state = np.tanh(cell) / (1 + np.exp(-leave))
        np.testing.assert_allclose(np.asarray(run(parameters, sequence)[step], np.float64), state, atol=0.03)


def test_attention_equals_numpy_with_shared_heads() -> None:
    generator = np.random.default_rng(5)
    query, key, value = (generator.normal(size=(2, heads, 3, 4)) for heads in (4, 2, 2))
    mask = np.tril(np.ones((3, 3), bool))
    result = attention(*(jnp.asarray(x, jnp.bfloat16) for x in (query, key, value)), jnp.asarray(mask))
    for head in range(4):
        scores = np.where(mask, query[:, head] @ key[:, head // 2].transpose(0, 2, 1) / 2, -np.inf)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(np.asarray(result[:, head], np.float64), weights @ value[:, head // 2], atol=0.05)


def test_cross_entropy_equals_numpy() -> None:
    logits = np.random.default_rng(6).normal(size=(4, 5))
    labels = np.array([0, 4, 2, 2])
    expected = np.mean(np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(4), labels])
    loss = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


def test_parameters_are_asked_for_once_and_at_one_shape() -> None:
    with pytest.raises(ValueError, match="'w' is asked for twice"):
        parameter_shapes(lambda parameter: parameter("w", (2,)) + parameter("w", (2,)), (), dtype=jnp.float32)
    shapes = parameter_shapes(lambda parameter, x: parameter("w", (2, 3)) @ x, (spec(3, 1),), dtype=jnp.float32)
    assert shapes == {"w": spec(2, 3, dtype=jnp.float32)}
    with pytest.raises(ValueError, match=r"\(2, 3\), expected \(3,\)"):
        reader({"w": jnp.zeros((2, 3))})("w", (3,))

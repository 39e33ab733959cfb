"""Checkpoint policies that were measured on an H100, on paper: ``python -m tests.benchmarks.fit_probe [PICTURE]``.

The model: a scan over 12 transformer layers, width 4096, 8 x 4096 tokens, bfloat16, plain SGD, JAX 0.11.2, cuDNN
attention. Nothing is compiled or run: the step is traced on the CPU, and its jaxpr priced.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mallocgame.cli.fitting import Fitting
from mallocgame.workloads.checkpointing.chips import Chip, find_chip
from mallocgame.workloads.checkpointing.price import Price, price_step
from mallocgame.workloads.checkpointing.step import TrainingStep
from mallocgame.workloads.program_reference import Call

BF16 = jnp.bfloat16
LAYERS, BATCH, LENGTH, WIDTH = 12, 8, 4096, 4096
MEASURED = {  # policy -> (ms a step, peak GB); NVIDIA H100 80 GB, on 2026-11-27
    "no checkpointing": (None, None),
    "recompute all": (1036.0, 20.1),
    "save x, qkv": (997.0, 29.5),
    "dots_with_no_batch_dims_saveable": (934.0, 45.1),
    "offload qkv": (1254.0, 19.9),
    "save qkv, offload hidden": (1307.0, 29.1),
    "offload hidden": (1339.0, 19.7),
    "offload hidden, qkv": (1634.0, 19.5),
}
BUDGETS_GB = (18.0, 21.0, 25.0, 30.0, 40.0, 50.0, 75.0)
ASKED_GIB = 107  # by the step without checkpointing, which did not fit


def policy_of(name: str) -> Any:
    """Return the JAX policy of a row, None for no checkpointing."""
    policies: Any = jax.checkpoint_policies
    if name in ("no checkpointing", "recompute all", "dots_with_no_batch_dims_saveable"):
        return getattr(policies, {"recompute all": "nothing_saveable"}.get(name, name), None)
    parts = dict(part.split(" ", 1) for part in name.replace(", offload", "; offload").split("; "))
    names = {verb: [n.strip() for n in text.split(",")] for verb, text in parts.items()}
    return policies.save_and_offload_only_these_names(
        names_which_can_be_saved=names.get("save", []),
        names_which_can_be_offloaded=names.get("offload", []),
        offload_src="device",
        offload_dst="pinned_host",
    )


def training_step(policy: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the step and the shapes of its arguments."""

    def norm(x: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True) + 1e-6).astype(BF16)

    def layer(x: Any, w: Any) -> Any:
        x = checkpoint_name(x, "x")
        qkv = checkpoint_name(norm(x) @ w["qkv"], "qkv")
        heads = WIDTH // 128
        q, k, v = (part.reshape(BATCH, LENGTH, heads, 128) for part in jnp.split(qkv, 3, -1))
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
        x = x + checkpoint_name(mixed.reshape(BATCH, LENGTH, WIDTH), "o") @ w["o"]
        hidden = checkpoint_name(norm(x) @ w["w1"], "hidden")
        return x + jax.nn.gelu(hidden) @ w["w2"], None

    body = layer if policy is None else jax.checkpoint(layer, policy=policy)

    def loss(w: Any, x: Any) -> Any:
        y, _ = jax.lax.scan(body, x, w)
        return (y.astype(jnp.float32) ** 2).mean()

    def step(w: Any, x: Any) -> Any:
        gradients = jax.grad(loss)(w, x)
        return jax.tree.map(lambda a, g: a - g.astype(BF16) * jnp.asarray(1e-3, BF16), w, gradients)

    sizes = {"qkv": (WIDTH, 3 * WIDTH), "o": (WIDTH, WIDTH), "w1": (WIDTH, 4 * WIDTH), "w2": (4 * WIDTH, WIDTH)}
    struct: Any = jax.ShapeDtypeStruct
    weights = {name: struct((LAYERS, *shape), BF16) for name, shape in sizes.items()}
    return step, (weights, struct((BATCH, LENGTH, WIDTH), BF16))


def price_row(name: str, chip: Chip) -> Price:
    """Return what the model says of one policy."""
    step, arguments = training_step(policy_of(name))
    with mock.patch("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", return_value=91000):
        stage = jax.jit(step, donate_argnums=0).trace(*arguments)
    donated = frozenset(i for i, info in enumerate(jax.tree.leaves(stage.args_info)) if info.donated)
    return price_step(stage.jaxpr, chip, donated)


def main() -> None:
    """Print a row for each policy, then one for each budget."""
    chip = find_chip("h100")
    for name, (milliseconds, gigabytes) in MEASURED.items():
        price = price_row(name, chip)
        row = {
            "policy": name,
            "ms": milliseconds,
            "predicted_ms": round(price.seconds * 1e3, 1),
            "time_error": None if milliseconds is None else round(price.seconds * 1e3 / milliseconds - 1, 4),
            "peak_gb": gigabytes,
            "predicted_peak_gb": round(price.peak_bytes / 1e9, 2),
            "peak_error": None if gigabytes is None else round(price.peak_bytes / 1e9 / gigabytes - 1, 4),
            "exposed_ms": round(price.exposed_seconds * 1e3, 1),
            "peak_at": price.peak_at,
        }
        print(json.dumps(row))
    with mock.patch("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", return_value=91000):
        for row in plan_rows(chip, Path(sys.argv[1]) if len(sys.argv) > 1 else None):
            print(json.dumps(row))


def plan_rows(chip: Chip, picture: Path | None) -> Iterator[dict[str, Any]]:
    """Yield what is planned for the same model at each budget, beside the fastest policy of the table that fits."""
    from mallocgame.cli.fit_plot import draw

    step, arguments = training_step(None)
    call = Call(function=step, arguments=arguments, donated=(0,))
    fitting = Fitting(step=TrainingStep(call=call), chip=chip)
    fitting.prepare()
    points = []
    for budget in BUDGETS_GB:
        planned = fitting.plan(round(budget * 1e9), 5.0)
        rivals = [row for row in fitting.rows if row.fits(round(budget * 1e9))]
        best = min(rivals, key=lambda row: row.price.seconds, default=None)
        if planned is None:
            yield {"budget_gb": budget, "refused": str(fitting.too_small(round(budget * 1e9)))}
            continue
        points.append(planned)
        yield {
            "budget_gb": budget,
            "plan_ms": round(planned.row.price.seconds * 1e3, 1),
            "plan_peak_gb": round(planned.row.price.peak_bytes / 1e9, 2),
            "gap": planned.gap,
            "save": sorted(planned.row.policy.save),
            "offload": sorted(planned.row.policy.offload),
            "best_standard": None if best is None else best.name,
            "best_standard_ms": None if best is None else round(best.price.seconds * 1e3, 1),
        }
    if picture is not None:
        draw(picture, fitting, points[len(points) // 2], points)


if __name__ == "__main__":
    main()

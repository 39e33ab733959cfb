"""Predicted beside measured on one GPU, in at most eight minutes: ``python -m tests.benchmarks.fit_gpu``.

It calibrates the device (matrix rate, memory, the link both ways, what copies hide behind), writes that as a file for
``mallocgame fit --calibration``, then times five models under every standard policy and under the plans for four
budgets, each model in a process of its own. ``--size tiny`` runs everything on a CPU in seconds, where only the
script is tested: its figures say nothing about a GPU. What the time does not suffice for is left out, and said.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import SingleDeviceSharding

from mallocgame.cli.fitting import Fitting, Planned
from mallocgame.files import write_text
from mallocgame.workloads.checkpointing.chips import Chip, find_chip, load_calibration, save_calibration
from mallocgame.workloads.checkpointing.policy import HOST, CheckpointPolicy
from mallocgame.workloads.checkpointing.price import price_step
from mallocgame.workloads.checkpointing.step import TrainingStep
from mallocgame.workloads.program_reference import Call
from tests.benchmarks.fit_models import NAMES, build

CALIBRATE = "calibrate"
REPEATS = 5
BUDGETS = 4
USABLE = 0.92  # of the device's memory: the rest is the runtime's
_SIDES = {"tiny": (64, 2**16, 4), "small": (512, 2**22, 8), "full": (8192, 2**30, 12)}  # matrix, copied bytes, layers


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the median time of a call after one that is not counted."""
    jax.block_until_ready(function())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2]


def calibrate(base: Chip, size: str) -> Chip:
    """Return the chip with figures measured on the first device."""
    side, copied, layers = _SIDES[size]
    rates = {}
    for key, dtype in (("flops_per_second", jnp.bfloat16), ("wide_flops_per_second", jnp.float32)):
        matrix = jnp.ones((side, side), dtype)
        product = jax.jit(jnp.matmul)
        rates[key] = 2.0 * side**3 / seconds_of(lambda product=product, matrix=matrix: product(matrix, matrix))
    vector = jnp.ones(copied // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1.0)
    rates["hbm_bytes_per_second"] = 2.0 * copied / seconds_of(lambda: add(vector))
    chip = replace(base, name=str(jax.devices()[0].device_kind), **rates, **_link(copied))
    chip = replace(chip, **_overlap(chip, side, layers))
    return replace(chip, working_factor=_working_factor(chip, size))


def _link(copied: int) -> dict[str, float]:
    """Return the bytes a second to the host and back."""
    device = jax.devices()[0]
    near = SingleDeviceSharding(device, memory_kind="device")
    far = SingleDeviceSharding(device, memory_kind="pinned_host")
    here = jax.device_put(jnp.ones(copied, jnp.int8), near)
    there = jax.block_until_ready(jax.device_put(here, far))
    return {
        "out_bytes_per_second": copied / seconds_of(lambda: jax.device_put(here, far)),
        "in_bytes_per_second": copied / seconds_of(lambda: jax.device_put(there, near)),
    }


def _overlap(chip: Chip, side: int, layers: int) -> dict[str, float]:
    """Return what part of a pass's computing hides copies: a scan that saves a value, beside one that offloads it.

    Few bytes for much computing say what is hidden on the way back, where they all are on the way out; many bytes then
    say what is hidden on the way out.
    """
    few = _exposed(side, layers, width=side // 4)
    in_overlap = _within((few["bytes"] / chip.in_bytes_per_second - few["exposed"]) / few["backward"])
    many = _exposed(side, layers, width=4 * side)
    back = max(0.0, many["bytes"] / chip.in_bytes_per_second - in_overlap * many["backward"])
    out = many["bytes"] / chip.out_bytes_per_second
    out_overlap = _within((out - max(many["exposed"] - back, 0.0)) / many["forward"])
    return {"in_overlap": in_overlap, "out_overlap": out_overlap}


def _within(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _exposed(side: int, layers: int, *, width: int) -> dict[str, float]:
    """Return seconds and bytes of a scan over layers whose value of ``width`` columns is offloaded."""
    policies: Any = jax.checkpoint_policies
    offload = policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["value"], **HOST
    )
    save = policies.save_only_these_names("value")
    w = {"in": jnp.ones((layers, side, width), jnp.bfloat16), "out": jnp.ones((layers, width, side), jnp.bfloat16)}
    x = jnp.ones((side, side), jnp.bfloat16)

    def layer(x: Any, w: Any) -> Any:
        naming: Any = checkpoint_name
        return x + jnp.sin(naming(x @ w["in"], "value")) @ w["out"], None

    def loss(policy: Any) -> Callable[[Any, Any], Any]:
        return lambda w, x: jnp.sum(jax.lax.scan(jax.checkpoint(layer, policy=policy), x, w)[0].astype(jnp.float32))

    times = {}
    for key, policy in (("save", save), ("offload", offload)):
        step = jax.jit(jax.grad(loss(policy)))
        times[key] = seconds_of(lambda step=step: step(w, x))
    forward = jax.jit(loss(save))
    seconds = seconds_of(lambda: forward(w, x))
    return {
        "exposed": max(times["offload"] - times["save"], 0.0),
        "forward": seconds,
        "backward": max(times["save"] - seconds, 1e-9),
        "bytes": 2.0 * side * width * layers,
    }


def _working_factor(chip: Chip, size: str) -> float:
    """Return the factor with which the predicted peak of one model, everything recomputed, is XLA's."""
    call = _call("plain_scan", size)
    policies: Any = jax.checkpoint_policies
    traced = TrainingStep(call=call).traced(policies.nothing_saveable)
    once, twice = (
        price_step(traced.stage.jaxpr, replace(chip, working_factor=f), traced.donated).peak_bytes for f in (1.0, 2.0)
    )
    peak = _peak_bytes(traced.stage.lower().compile())
    return min(max(1.0 + (peak - once) / max(twice - once, 1), 0.3), 3.0)


def _call(name: str, size: str) -> Call:
    on_gpu = jax.devices()[0].platform == "gpu"
    return build(name, size, dtype=jnp.bfloat16 if size == "full" else jnp.float32, fused_attention=on_gpu)


def _peak_bytes(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return int(size - memory.alias_size_in_bytes)


def measure(call: Call, policy: CheckpointPolicy) -> dict[str, Any]:
    """Return a step's measured seconds and XLA's peak under a policy, or why there are none."""
    step: Any = jax.jit(policy.apply(call.function), donate_argnums=call.donated)
    try:
        compiled = step.lower(*call.arguments).compile()
        found = {"peak_bytes": _peak_bytes(compiled)}
        fill: Any = lambda leaf: jnp.full(leaf.shape, 0, leaf.dtype) + jnp.asarray(0.01).astype(leaf.dtype)  # noqa: E731
        arguments = list(jax.tree.map(fill, call.arguments))
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            results = jax.block_until_ready(compiled(*arguments))
            times.append(time.perf_counter() - start)
            arguments[: len(call.donated)] = results[: len(call.donated)]
        return found | {"seconds": sorted(times[1:])[REPEATS // 2]}
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        return {"refused": f"out of memory: {' '.join(str(error).split())[:160]}"}


def measure_model(name: str, size: str, chip: Chip, seconds: float) -> list[dict[str, Any]]:
    """Return the rows of one model: plans first, then standard policies, as far as the time goes."""
    deadline = time.monotonic() + seconds
    call = _call(name, size)
    fitting = Fitting(step=TrainingStep(call=call), chip=chip, seconds=0.25 * seconds)
    fitting.prepare()
    usable = USABLE * chip.memory_bytes
    plans = [plan for plan in fitting.curve(BUDGETS) if plan.budget_bytes <= usable]
    asked: list[tuple[str, Any, Planned | None]] = [("plan", plan.row, plan) for plan in plans]
    asked += [(row.name, row, None) for row in fitting.rows]
    rows, known = [], {}
    for label, row, plan in asked:
        price = row.price
        found: dict[str, Any] = {"model": name, "policy": label, "device": chip.name, "size": size}
        found |= {"predicted_seconds": price.seconds, "predicted_peak_bytes": price.peak_bytes}
        if plan is not None:
            found |= {"budget_bytes": plan.budget_bytes, "gap": plan.gap, "is_standard": plan.plan is None}
        if id(price) in known:
            measured = known[id(price)]
        elif price.peak_bytes > 1.3 * chip.memory_bytes:
            measured = {"refused": "not run: predicted to need more than the device has"}
        elif time.monotonic() > deadline:
            measured = {"refused": "not run: no time left"}
        else:
            measured = known[id(price)] = measure(call, row.policy)
        rows.append(found | measured)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return errors of the prediction, and how plans stand beside the best standard policy that fits each budget."""
    timed = [row for row in rows if "seconds" in row]
    gains = []
    for plan in (row for row in timed if row["policy"] == "plan"):
        budget = plan["budget_bytes"]
        rivals = [r["seconds"] for r in timed if r["model"] == plan["model"] and r["policy"] != "plan"]
        fits = [
            r["seconds"]
            for r in timed
            if r["model"] == plan["model"] and r["policy"] != "plan" and r["peak_bytes"] <= budget
        ]
        if rivals:
            gains.append(min(fits) / plan["seconds"] - 1 if fits else None)
    known = [gain for gain in gains if gain is not None]
    return {
        "kind": "summary",
        "runs": len(timed),
        "left_out": len(rows) - len(timed),
        "largest_time_error": max((abs(r["predicted_seconds"] / r["seconds"] - 1) for r in timed), default=None),
        "largest_peak_error": max((abs(r["predicted_peak_bytes"] / r["peak_bytes"] - 1) for r in timed), default=None),
        "plans": len(gains),
        "plans_where_no_standard_policy_fits": len(gains) - len(known),
        "plans_5_percent_faster": sum(gain >= 0.05 for gain in known),
        "plans_1_percent_slower": sum(gain < -0.01 for gain in known),
        "plans_over_budget": sum(r["peak_bytes"] > r["budget_bytes"] for r in timed if r["policy"] == "plan"),
    }


def main(words: list[str] | None = None) -> None:
    """Calibrate, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(_SIDES), default="full")
    parser.add_argument("--chip", default="h100", help="preset whose figures stand where nothing is measured")
    parser.add_argument("--seconds", type=float, default=460.0)
    parser.add_argument("--calibration", type=Path, default=Path("chip.json"), help="written; read with --model")
    parser.add_argument("--out", type=Path, default=Path("fit_gpu.jsonl"))
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--model", default="", help="measure this one here, or calibrate: what the script starts")
    asked = parser.parse_args(words)
    if asked.model == CALIBRATE:
        save_calibration(asked.calibration, calibrate(find_chip(asked.chip), asked.size))
        return
    if asked.model:
        chip = load_calibration(asked.calibration, find_chip(asked.chip))
        for row in measure_model(asked.model, asked.size, chip, asked.seconds):
            print(json.dumps(row), flush=True)
        return
    start = time.monotonic()
    _in_child(asked, CALIBRATE, asked.seconds)  # this process must not take the device's memory
    names = asked.models.split(",")
    lines: list[str] = []
    for number, name in enumerate(names):
        share = (asked.seconds - (time.monotonic() - start)) / (len(names) - number)
        lines += _in_child(asked, name, share)
        rows = [json.loads(line) for line in lines]
        write_text(asked.out, "".join(f"{json.dumps(row)}\n" for row in [*rows, summary(rows)]))
    print(json.dumps(summary([json.loads(line) for line in lines])))


def _in_child(asked: argparse.Namespace, name: str, seconds: float) -> list[str]:
    command = [sys.executable, "-m", "tests.benchmarks.fit_gpu", "--model", name, "--size", asked.size]
    command += ["--chip", asked.chip, "--calibration", str(asked.calibration), "--seconds", f"{max(seconds, 1.0):.1f}"]
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": str(USABLE), **os.environ}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if found.returncode:
        print(f"{name}: {found.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    return [line for line in found.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()

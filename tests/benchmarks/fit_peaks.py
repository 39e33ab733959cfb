"""Predicted peaks beside XLA's: ``python -m tests.benchmarks.fit_peaks [--chip v5e]``; compiles, runs nothing.

Without a chip XLA:CPU compiles the small models; with one, XLA:TPU the mid ones, ahead of time. XLA's peak is
arguments, results and temporaries less what results share with arguments. Prints one JSON line a row.
"""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def rows(names: list[str], chip: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each model and policy."""
    import jax
    import jax.numpy as jnp

    from mallocgame.workloads.checkpointing.chips import find_chip
    from mallocgame.workloads.checkpointing.policy import HOST
    from mallocgame.workloads.checkpointing.readback import read_compiled
    from mallocgame.workloads.checkpointing.step import TrainingStep
    from tests.benchmarks.fit_models import build

    policies: Any = jax.checkpoint_policies
    asked = {
        "no checkpointing": None,
        "recompute all": policies.nothing_saveable,
        "dots_with_no_batch_dims_saveable": policies.dots_with_no_batch_dims_saveable,
    }
    if chip:  # a name of named_scan; elsewhere it recomputes all
        asked["offload qkv"] = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[], names_which_can_be_offloaded=["qkv"], **HOST
        )
    target = find_chip(chip or "h100")
    for name in names:
        call = build(name, "mid" if chip else "small", dtype=jnp.bfloat16 if chip else jnp.float32)
        step = TrainingStep(call=_placed(call, chip) if chip else call)
        for label, policy in asked.items():
            traced = step.traced(policy)
            predicted = traced.price(target).peak_bytes
            found = read_compiled(traced.stage.lower().compile())
            yield {
                "model": name,
                "compiler": chip or "cpu",
                "policy": label,
                "predicted_peak_bytes": predicted,
                "xla_peak_bytes": found.peak_bytes,
                "error": round(predicted / found.peak_bytes - 1, 4),
                "host_bytes": found.host_bytes,
                "hidden_out": found.hiding_share(to_host=True),
                "hidden_back": found.hiding_share(to_host=False),
            }


def _placed(call: Any, chip: str) -> Any:
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from mallocgame.workloads.program_reference import Call
    from mallocgame.workloads.xla.topology import topology_name

    device = next(iter(topologies.get_topology_desc(platform="tpu", topology_name=topology_name(chip)).devices))
    struct: Any = jax.ShapeDtypeStruct

    def placed(leaf: Any) -> Any:
        return struct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device))

    return Call(function=call.function, arguments=jax.tree.map(placed, call.arguments), donated=call.donated)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chip", default="", choices=("", "v4", "v5e", "v6e"))
    parser.add_argument("--models", default="named_scan,plain_scan,unrolled,convolutions,recurrent")
    asked = parser.parse_args()
    os.environ |= ENVIRONMENT
    for row in rows(asked.models.split(","), asked.chip):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

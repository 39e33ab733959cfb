"""A program whose HBM is too small, with the host behind it: ``python -m tests.benchmarks.three_layers [TRACE...]``.

Each shipped trace is asked on host-v5e with HBM cut to a share of the most bytes that are live at once: training steps
(activations go to the host and come back) and inference (weights are streamed). Two plain rules (least recently used,
layer-wise offload), greedy and annealing, judged; the capacity bound beside them. One JSON row a trace goes to
``--out``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.bounds import capacity_bound
from mallocgame.baselines.offload import layerwise, least_recently_used
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.judge.simulation import home_seconds
from mallocgame.program import Program
from mallocgame.rehoming import rehome
from mallocgame.solver import Problem
from mallocgame.workloads import suite
from mallocgame.workloads.synthetic.draft import peak_live_bytes

TRACES = (
    "gpt2_training-v5e",
    "bert_training-v5e",
    "unet_training-v5e",
    "llama_decode-v5e",
    "llama_prefill-v5e",
    "vgg16-v5e",
)
SHARE = 0.6  # of the most live bytes: what HBM holds
RULES = {"lru": least_recently_used, "layerwise": layerwise, "greedy": greedy}


def small_hbm(program: Program, old: Hierarchy, share: float) -> Problem:
    """Return the problem of a program on host-v5e whose HBM holds ``share`` of its most live bytes."""
    host = preset("host-v5e")
    room = int(share * peak_live_bytes(program))
    hbm = replace(host.layers[1], capacity_bytes=room)
    return rehome(program, old, replace(host, layers=(host.layers[0], hbm, host.layers[2])))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", default=TRACES)
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--bound-seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/three_layers.jsonl"))
    arguments = parser.parse_args()
    for name in arguments.traces:
        trace = suite.load(name)
        problem = small_hbm(trace.program, trace.hierarchy, arguments.share)
        row: dict[str, Any] = {"trace": name, "share": arguments.share, "seconds": arguments.seconds}
        row["home"] = home_seconds(*problem)
        row |= {rule: solve(*problem, seconds=arguments.seconds).seconds for rule, solve in RULES.items()}
        row["anneal"] = anneal(*problem, seconds=arguments.seconds).seconds
        row["bound"] = capacity_bound(*problem, seconds=arguments.bound_seconds, integer=False).seconds
        row["gap"] = 1.0 - row["bound"] / row["anneal"]
        with arguments.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        times = "  ".join(f"{k} {1e3 * row[k]:.3f}" for k in ("home", *RULES, "anneal", "bound"))
        print(f"{name}: {times} ms, gap {100 * row['gap']:.1f} %", flush=True)


if __name__ == "__main__":
    main()

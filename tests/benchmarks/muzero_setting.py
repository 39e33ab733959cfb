"""What a setting of training is worth at equal time: ``python -m tests.benchmarks.muzero_setting variations 128,512``.

From the shipped weights an agent trains on each trace with each value and seed, for as many seconds; values take turns.
Printed are, for each value, the geometric means of the best mapping's speed and of the last 32 games', and the moves a
second. Rows that ``--out`` has already are not run again.
"""

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.trainer import Trainer
from mallocgame.workloads import suite
from tests.benchmarks.muzero_report import read, table

WEIGHTS = Path(__file__).parents[2] / "agents" / "muzero" / "pretrained"


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", help="one of Config's numbers")
    parser.add_argument("values", help="separated by commas")
    parser.add_argument("--traces", default="bert_training-v5e,unet_training-v5e,gpt2_training-v4")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    values = [float(value) for value in chosen.values.split(",")]
    for seed in range(chosen.seeds):
        for trace in chosen.traces.split(","):
            for value in values:
                key = {"setting": chosen.setting, "value": value, "trace": trace, "seed": seed}
                key |= {"seconds": chosen.seconds}
                if any(key.items() <= row.items() for row in read(chosen.out)):
                    continue
                row = key | trained(trace, chosen.setting, value, chosen.seconds, seed)
                with chosen.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    rows = [row for row in read(chosen.out) if (row["setting"], row["seconds"]) == (chosen.setting, chosen.seconds)]
    table([summary(value, [row for row in rows if row["value"] == value]) for value in values])


def trained(trace: str, setting: str, value: float, seconds: float, seed: int) -> dict[str, float]:
    """Train, and return what came of it; speeds are times that of everything in layer 0."""
    workload = suite.load(trace)
    config = replace(Config(), **{setting: type(getattr(Config(), setting))(value)})
    with tempfile.TemporaryDirectory() as folder:
        pair = (workload.program, workload.hierarchy)
        trainer = Trainer([pair], config, Path(folder) / "run", seed=seed, weights=WEIGHTS)
        trainer.train(seconds=seconds)
    best = trainer.best[workload.program.name]
    games = math.exp(np.mean(trainer.returns[-32:])) if trainer.returns else 1.0
    return {"best": best.home_seconds / best.seconds, "games": games, "moves a second": trainer.steps / seconds}


def summary(value: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the geometric means over all rows of one value."""
    means = {name: math.exp(np.mean([math.log(row[name]) for row in rows])) for name in ("best", "games")}
    return {"value": value, "rows": len(rows)} | means | {"moves": np.mean([row["moves a second"] for row in rows])}


if __name__ == "__main__":
    main()

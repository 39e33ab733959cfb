"""Plans and standard policies at four budgets, on paper: ``python -m tests.benchmarks.fit_tables``.

Training steps of the shipped suite and of fit_models, for TPU chips that nothing was run on. Writes
docs/results/fit.jsonl and docs/results/fit_table.md. Every row is a prediction; a gap is to the bound proved for the
decision problem.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from mallocgame.cli.fitting import Fitting, gigabytes
from mallocgame.files import write_text
from mallocgame.workloads.checkpointing.chips import find_chip
from mallocgame.workloads.checkpointing.step import TrainingStep
from mallocgame.workloads.models import MODELS
from mallocgame.workloads.program_reference import Call
from tests.benchmarks.fit_models import build
from tests.paths import ROOT

ROWS = ROOT / "docs" / "results" / "fit.jsonl"
TABLE = ROOT / "docs" / "results" / "fit_table.md"
HEAD = """# Plans at four budgets, predicted

`python -m tests.benchmarks.fit_tables`: training steps of the suite (as shipped) and of `tests/benchmarks/fit_models`
(size mid), on TPU chips, on paper. Budgets lie between the least that would do and what the fastest needs. A plan
without a gap is a standard policy.

"""
SUITE = ("gpt2_training", "bert_training", "resnet50_training", "unet_training", "lstm_training")
OWN = ("named_scan", "plain_scan", "unrolled")
BUDGETS = 4


def steps(names: list[str]) -> Iterator[tuple[str, Call]]:
    """Yield the training steps by name."""
    for name in names:
        if name in MODELS:
            function, arguments = MODELS[name].build()
            yield name, Call(function=function, arguments=arguments, donated=MODELS[name].donate_argnums)
        else:
            yield name, build(name, "mid", dtype=jnp.bfloat16)


def measure(name: str, call: Call, chip: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each budget."""
    start = time.monotonic()
    fitting = Fitting(step=TrainingStep(call=call), chip=find_chip(chip), seconds=seconds)
    fitting.prepare()
    for planned in fitting.curve(BUDGETS):
        standard = [row for row in fitting.rows if row.fits(planned.budget_bytes)]
        best = min(standard, key=lambda row: row.price.seconds, default=None)
        yield {
            "model": name,
            "chip": chip,
            "budget_bytes": planned.budget_bytes,
            "plan_seconds": planned.row.price.seconds,
            "plan_peak_bytes": planned.row.price.peak_bytes,
            "plan_is_standard": planned.plan is None,
            "gap": planned.gap,
            "offloaded_bytes": planned.row.price.out_bytes,
            "best_standard": None if best is None else best.name,
            "best_standard_seconds": None if best is None else best.price.seconds,
            "values": sum(bool(node.name) for node in fitting.problem.nodes),
            "regions": len(fitting.problem.regions),
            "all_seconds": time.monotonic() - start,
        }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| step, chip | budget | plan ms | gap | best standard that fits | its ms | plan is faster by |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        best, plan = row["best_standard_seconds"], row["plan_seconds"]
        faster = "" if best is None else f"{best / plan - 1:.1%}"
        gap = "" if row["plan_is_standard"] else f"{row['gap']:.2%}"
        other = "none" if best is None else f"{best * 1e3:.2f}"
        lines.append(
            f"| {row['model']}, {row['chip']} | {gigabytes(row['budget_bytes'])} | {plan * 1e3:.2f} | {gap} "
            f"| {row['best_standard'] or 'none'} | {other} | {faster} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Plan what is asked for; rows of other steps stay, and the files are written after each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join((*OWN, *SUITE)))
    parser.add_argument("--chips", default="v5e,v6e")
    parser.add_argument("--seconds", type=float, default=40.0, help="of planning, for all budgets of one step and chip")
    asked = parser.parse_args()
    rows = _known()
    for name, call in steps(asked.models.split(",")):
        for chip in asked.chips.split(","):
            found = list(measure(name, call, chip, asked.seconds))
            rows = [row for row in rows if (row["model"], row["chip"]) != (name, chip)] + found
            write_text(ROWS, "".join(f"{json.dumps(_strict(row))}\n" for row in rows))
            write_text(TABLE, HEAD + table(rows) + "\n")


def _known() -> list[dict[str, Any]]:
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def _strict(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that JSON can hold: a gap that there is not is null."""
    return row | {"gap": None if row["plan_is_standard"] else row["gap"]}


if __name__ == "__main__":
    main()

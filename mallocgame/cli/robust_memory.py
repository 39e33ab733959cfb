"""``mallocgame robust memory``: a memory plan that holds under uncertain sizes and shared bandwidth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.cli.traces import TraceArgument, open_trace

if TYPE_CHECKING:
    from mallocgame.baselines.neur2ro.memory_plan import MemoryPlans, ScenarioJudge
    from mallocgame.program import Program


def memory(
    trace: TraceArgument,
    growth: Annotated[float, typer.Option("--growth", help="Temporaries grow at most so many times (batch).")] = 1.5,
    contention: Annotated[
        float, typer.Option("--contention", help="Neighbours take at most this share of memory and copy bandwidth.")
    ] = 0.5,
    grows: Annotated[str, typer.Option("--grow", help="Regular expression: parameters that grow too (caches).")] = "",
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="Time limit.")] = 30.0,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Scenarios sampled for the mean.")] = 50,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the robust plan's mapping at the compiled sizes, for inject.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Plan memory for uncertain sizes and bandwidth: nominal, static and robust, judged in every scenario.

    Example: mallocgame robust memory gpt2_training-v5e --growth 1.5 --contention 0.5 --seconds 30 --out robust.json
    """
    from mallocgame.baselines.anneal import anneal
    from mallocgame.baselines.neur2ro.memory_plan import ScenarioJudge, plan_memory
    from mallocgame.baselines.neur2ro.memory_scenarios import MemoryUncertainty
    from mallocgame.files import check_writable
    from mallocgame.workloads.trace import save_mapping

    if out is not None:
        check_writable(out)
    uncertainty = MemoryUncertainty(growth=growth, contention=contention, grows=grows)
    case = open_trace(trace)
    anneal(case.program, case.hierarchy, seconds=0.01)  # compiles before the clock starts
    with progress("robust plan", total=seconds) as show:
        plans = plan_memory(
            case.program, case.hierarchy, uncertainty, solver=anneal, seconds=seconds, seed=seed, progress=show
        )
    rows = plan_rows(plans, ScenarioJudge(case.program, case.hierarchy, uncertainty), samples)
    if out is not None:
        save_mapping(out, plans.mapping, case.program, case.hierarchy)
    if json:
        print_json([{"trace": case.program.name, **row, "tensors": _names(case.program, plans)} for row in rows])
        return
    cells = [
        (
            str(row["plan"]),
            *(f"{1e3 * row[key]:.4f}" for key in ("worst_seconds", "sampled_mean_seconds", "nominal_seconds")),
            f"{row['price_percent']:.2f}",
            "no",
        )
        for row in rows
    ]
    head = ("plan", "worst, ms", "sampled mean, ms", "as compiled, ms", "price %", "network")
    print_table(f"Robust memory plans of {case.program.name}", head, cells)
    if plans.robust_is_static:
        say("robust equals static: no recourse helps in these scenarios")
    named = _names(case.program, plans)
    say(
        f"robust plan, {len(named)} tensors in fast memory: {', '.join(named[:12])}{', ...' if len(named) > 12 else ''}"
    )


def plan_rows(plans: "MemoryPlans", judge: "ScenarioJudge", samples: int) -> list[dict[str, Any]]:
    """Return one row a plan: judged seconds in the worst scenario of grid and sample, sampled mean, as compiled."""
    import numpy as np

    drawn = judge.uncertainty.sample(np.random.default_rng(10_000), samples)
    rows = []
    for name, plan in (("nominal", plans.nominal), ("static", plans.static), ("robust", plans.robust)):
        costs = plans.costs[name]
        sampled = [judge.seconds(plan, scenario, recourse=name != "static") for scenario in drawn]
        rows.append(
            {
                "plan": name,
                "worst_seconds": max(costs.worst, *sampled),
                "worst_scenario": judge.grid[int(np.argmax(costs.seconds))].name,
                "sampled_mean_seconds": float(np.mean(sampled)),
                "nominal_seconds": costs.nominal,
                "price_percent": 100 * (costs.nominal / plans.costs["nominal"].nominal - 1.0),
                "stays": len(plan),
            }
        )
    return rows


def _names(program: "Program", plans: "MemoryPlans") -> list[str]:
    """Return the tensors that the robust plan keeps in fast memory at the compiled sizes."""
    return sorted({program.tensors[r.tensor].name for r in plans.mapping.residencies})

"""``mallocgame robust train``: labels and a network for a family of robust problems."""

from pathlib import Path
from typing import Annotated

import typer

from mallocgame.cli.common import progress, say
from mallocgame.cli.robust_instance import Device, Problem, Seed


def train(
    out: Annotated[Path, typer.Option("--out", help="Folder for the network, its data and its history.")],
    problem: Problem = "knapsack",
    instances: Annotated[int, typer.Option(min=2, help="Training instances.")] = 1500,
    plans: Annotated[int, typer.Option(min=1, help="Plans per instance.")] = 16,
    scenarios: Annotated[int, typer.Option(min=1, help="Scenarios per instance; each meets every plan.")] = 32,
    worst_cases: Annotated[int, typer.Option(min=0, help="Plans per instance whose worst case is sought.")] = 3,
    near_average: Annotated[
        int, typer.Option(min=0, help="Plans per instance near the one for the mean scenario, among the plans.")
    ] = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="Data processes; default: one per core.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Sizes: knapsack, capital-budgeting, script or coupled; default: what suits the problem."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 150,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without improvement before stopping.")] = 40,
    seconds: Annotated[float, typer.Option(min=1.0, help="Time limit of the fit.")] = 1200.0,
    device: Device = None,
    seed: Seed = 12345,
) -> None:
    """Generate data and fit a network. Interrupted data generation goes on where it stopped.

    Example: mallocgame robust train --problem knapsack --out runs/knapsack
    Example: mallocgame robust train --problem mymodule:MyProblem --instances 200 --out runs/mine
    """
    import csv
    from dataclasses import asdict

    from mallocgame.baselines.neur2ro.data import DataPlan, generate, load_examples
    from mallocgame.baselines.neur2ro.device import open_device
    from mallocgame.baselines.neur2ro.network import PRESETS, save_network
    from mallocgame.baselines.neur2ro.registry import family
    from mallocgame.baselines.neur2ro.train import Epoch, TrainConfig, suited_preset
    from mallocgame.baselines.neur2ro.train import train as fit
    from mallocgame.files import atomic_path

    found = family(problem)
    sample = found.sample
    chosen = suited_preset(sample, preset or found.preset)
    plan = DataPlan(
        instances=instances,
        plans=plans,
        scenarios=scenarios,
        worst_cases=worst_cases,
        near_average=near_average,
        seed=seed,
    )
    open_device(device or "cpu")  # refused before the labels are made, not after
    with progress(f"data: {instances} instances", total=instances) as show:
        spent = generate(sample, plan, out / "data", processes=processes, on_progress=show)
    say(f"data: {instances * plans * scenarios} labels in {spent:.0f} s")
    examples = load_examples(out / "data", plan)
    subset = 8 if PRESETS[chosen].coupled else max(plans, scenarios)
    config = TrainConfig(
        size=PRESETS[chosen],
        epochs=epochs,
        patience=patience,
        seconds=seconds,
        seed=seed,
        batch_plans=subset,
        batch_scenarios=subset,
        device=device or "cpu",
    )
    with progress("fit", total=epochs) as show:

        def watch(row: Epoch) -> None:
            show(row.epoch)

        network, history = fit(examples, config, {"problem": problem, "data": plan.stamp}, on_epoch=watch)
    save_network(network, out)
    with atomic_path(out / "history.csv") as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(asdict(history[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
    error = network.about["validation_mae_scaled"]
    say(f"held-out error {error:.4f} (of the label scale) after {len(history)} epochs; network in {out}")

"""``mallocgame robust``: two-stage robust plans (Neur2RO and exact references)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.baselines.neur2ro.network import Network
    from mallocgame.baselines.neur2ro.problem import TwoStageProblem
    from mallocgame.baselines.neur2ro.result import RobustResult

app = typer.Typer(
    help="Two-stage robust plans: train and run Neur2RO, and compare it with exact, static and nominal plans.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Problem = Annotated[str, typer.Option("--problem", help="knapsack, capital-budgeting, loans or memory.")]
NetworkOption = Annotated[
    Path | None, typer.Option("--network", help="Folder of a trained network; default: the one that comes with it.")
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="Time limit of a solve.")]
Instance = Annotated[
    str | None, typer.Argument(help="Instance file; for memory a trace (file or name); none: a random instance.")
]
Size = Annotated[int, typer.Option("--size", min=2, help="Random instance: items; memory: tensors.")]
Seed = Annotated[int, typer.Option("--seed", help="Random instance: seed.")]
Variant = Annotated[str, typer.Option("--variant", help="Memory: bandwidth, size or bucket.")]
Budget = Annotated[int, typer.Option("--budget", min=0, help="Memory: uncertainty budget Gamma.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Write a picture (PNG, SVG or PDF by its suffix).")]
Solver = Annotated[str, typer.Option("--solver", help="MILP solver: highs or scip.")]


def _open(problem: str, text: str | None, size: int, seed: int, variant: str, budget: int) -> "TwoStageProblem":
    import numpy as np

    from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting
    from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
    from mallocgame.baselines.neur2ro.registry import family

    if problem == "memory":
        if variant not in ("bandwidth", "size", "bucket"):
            raise InputError(f"--variant is {variant!r}; expected bandwidth, size or bucket")
        kind: Any = variant
        if text is None:
            rng = np.random.default_rng(seed)
            return MemoryProblem.random(rng, tensors=size, steps=2 * size, variant=kind, budget=budget)
        from mallocgame.cli.traces import open_trace

        trace = open_trace(text)
        return MemoryProblem.from_program(
            trace.program, trace.hierarchy, variant=kind, tensors=size, steps=24, budget=budget
        )
    found = family(problem)
    if text is not None:
        if found.read is None:
            raise InputError(f"{problem} has no instance files; leave INSTANCE out and use --size and --seed")
        return found.read(text)
    rng = np.random.default_rng(seed)
    return CapitalBudgeting.generate(rng, n=size) if problem == "capital-budgeting" else found.sample(rng)


def _network(problem: str, folder: Path | None, needed: bool) -> "Network | None":
    from mallocgame.baselines.neur2ro.network import load_network
    from mallocgame.baselines.neur2ro.registry import PRETRAINED

    if folder is None:
        folder = PRETRAINED / problem
        if not (folder / "network.json").exists():
            if needed:
                raise InputError(f"no network comes with {problem}; train one and pass --network DIR")
            return None
    return load_network(folder)


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="Folder for the network, its data and its history.")],
    problem: Problem = "knapsack",
    instances: Annotated[int, typer.Option(min=2, help="Training instances.")] = 1500,
    plans: Annotated[int, typer.Option(min=1, help="Plans per instance.")] = 16,
    scenarios: Annotated[int, typer.Option(min=1, help="Scenarios per instance; each meets every plan.")] = 32,
    worst_cases: Annotated[int, typer.Option(min=0, help="Plans per instance whose worst case is sought.")] = 3,
    processes: Annotated[int | None, typer.Option(min=1, help="Data processes; default: one per core.")] = None,
    preset: Annotated[str | None, typer.Option(help="Sizes: knapsack, capital-budgeting, script or coupled.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 150,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without improvement before stopping.")] = 40,
    seconds: Annotated[float, typer.Option(min=1.0, help="Time limit of the fit.")] = 1200.0,
    seed: Seed = 12345,
) -> None:
    """Generate data and fit a network. Interrupted data generation goes on where it stopped.

    Example: mallocgame robust train --problem knapsack --out runs/knapsack
    """
    import csv
    from dataclasses import asdict

    from mallocgame.baselines.neur2ro.data import DataPlan, generate, load_examples
    from mallocgame.baselines.neur2ro.network import PRESETS, save_network
    from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem
    from mallocgame.baselines.neur2ro.registry import family
    from mallocgame.baselines.neur2ro.train import Epoch, TrainConfig
    from mallocgame.baselines.neur2ro.train import train as fit

    sample = MemoryProblem.sample if problem == "memory" else family(problem).sample
    chosen = preset or ("coupled" if problem == "memory" else family(problem).preset)
    if chosen not in PRESETS:
        raise InputError(f"preset {chosen!r} is unknown; expected one of {', '.join(PRESETS)}")
    plan = DataPlan(instances=instances, plans=plans, scenarios=scenarios, worst_cases=worst_cases, seed=seed)
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
    )
    with progress("fit", total=epochs) as show:

        def watch(row: Epoch) -> None:
            show(row.epoch)

        network, history = fit(examples, config, {"problem": problem, "data": asdict(plan)}, on_epoch=watch)
    save_network(network, out)
    with (out / "history.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(asdict(history[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
    error = network.about["validation_mae_scaled"]
    say(f"held-out error {error:.4f} (of the label scale) after {len(history)} epochs; network in {out}")


@app.command()
def solve(
    instance: Instance = None,
    problem: Problem = "knapsack",
    method: Annotated[
        str, typer.Option("--method", help="improved, paper, exact, static, nominal or k-adaptability.")
    ] = "improved",
    network: NetworkOption = None,
    seconds: Seconds = 20.0,
    size: Size = 14,
    seed: Seed = 0,
    variant: Variant = "bandwidth",
    budget: Budget = 3,
    solver: Solver = "highs",
    out: Annotated[Path | None, typer.Option("--out", help="Write the plan as JSON.")] = None,
    plot: Plot = None,
    json: JsonOption = False,
) -> None:
    """Find a robust plan.

    Example: mallocgame robust solve RKP_SC_n40_R1000_H100_h40_dev0.1_d0.5 --seconds 10 --out plan.json
    """
    from json import dumps

    from mallocgame.baselines.neur2ro.methods import run
    from mallocgame.files import write_text

    built = _open(problem, instance, size, seed, variant, budget)
    trained = _network(problem, network, method == "paper") if method in ("paper", "improved") else None
    result = _run(run, method, built, trained, seconds, solver)
    document = {"format": "mallocgame.neur2ro.plan", "version": 1, "problem": problem, **result.to_json()}
    if out is not None:
        write_text(out, dumps(document, indent=1) + "\n")
    if plot is not None:
        from mallocgame.baselines.neur2ro.plots import plot_iterations

        plot_iterations([result], plot)
    if json:
        print_json([document])
    else:
        print_table("Robust plan", COLUMNS, [_cells(method, result)])
        say(f"stopped: {result.stopped}; chosen: {', '.join(str(i) for i, v in enumerate(result.x) if v > 0.5)}")


COLUMNS = ("method", "worst case", "exact", "lower bound", "gap %", "seconds", "scenarios")


def _cells(method: str, result: "RobustResult") -> tuple[str, ...]:
    bounded = result.lower_bound > float("-inf")
    return (
        method,
        f"{result.worst_case:.6g}",
        "yes" if result.worst_case_exact else "found",
        f"{result.lower_bound:.6g}" if bounded else "-",
        f"{100 * result.gap:.3f}" if bounded else "-",
        f"{result.seconds:.2f}",
        str(len(result.scenarios)),
    )


def _run(
    run: Any, method: str, built: "TwoStageProblem", network: "Network | None", seconds: float, solver: str
) -> "RobustResult":
    with progress(method, total=seconds) as show:
        result: RobustResult = run(
            method, built, network, seconds=seconds, backend=solver, on_iteration=lambda row: show(row.seconds)
        )
    return result


@app.command()
def evaluate(
    plan: Annotated[Path, typer.Argument(help="A plan that 'robust solve --out' wrote.")],
    instance: Instance = None,
    problem: Problem = "knapsack",
    size: Size = 14,
    seed: Seed = 0,
    variant: Variant = "bandwidth",
    budget: Budget = 3,
    samples: Annotated[int, typer.Option(min=1, help="Scenarios to sample.")] = 200,
    json: JsonOption = False,
) -> None:
    """Judge a plan with exact second stages: worst case, sampled scenarios, nominal.

    Example: mallocgame robust evaluate plan.json RKP_SC_n40_R1000_H100_h40_dev0.1_d0.5
    """
    from dataclasses import asdict
    from json import JSONDecodeError, loads

    import numpy as np

    from mallocgame.baselines.neur2ro.methods import judge
    from mallocgame.errors import TraceError

    try:
        document = loads(plan.read_text(encoding="utf-8"))
        x = np.array(document["x"], dtype=float)
    except OSError as error:
        raise TraceError(plan, None, f"cannot be read ({error.strerror})") from None
    except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        raise TraceError(plan, None, "expected the JSON that 'mallocgame robust solve --out' writes") from None
    if x.ndim != 1 or not np.isfinite(x).all():
        raise TraceError(plan, None, "x must be a list of finite numbers")
    with progress("judging", total=None):
        found = judge(_open(problem, instance, size, seed, variant, budget), x, samples=samples)
    if json:
        print_json([asdict(found)])
        return
    cells = [f"{value:.6g}" for value in (found.worst_case, found.sampled_worst, found.sampled_mean, found.nominal)]
    head = "worst case" if found.exact else "worst found"
    print_table(f"Costs of {plan}", (head, "sampled worst", "sampled mean", "nominal"), [cells])


@app.command()
def compare(
    instances: Annotated[list[str] | None, typer.Argument(help="Instance files or traces; none: a random one.")] = None,
    problem: Problem = "knapsack",
    methods: Annotated[str, typer.Option("--methods", help="Comma-separated.")] = "improved,paper,nominal",
    network: NetworkOption = None,
    seconds: Seconds = 20.0,
    size: Size = 14,
    seed: Seed = 0,
    variant: Variant = "bandwidth",
    budget: Budget = 3,
    budgets: Annotated[str | None, typer.Option("--budgets", help="Memory: sweep, as 0,1,2,4.")] = None,
    solver: Solver = "highs",
    plot: Plot = None,
    json: JsonOption = False,
) -> None:
    """Compare methods over instances, or (memory) over growing uncertainty budgets.

    Example: mallocgame robust compare gpt2_training-v5e --problem memory --methods exact,nominal --budgets 0,1,2,4
    """
    from mallocgame.baselines.neur2ro.methods import METHODS, run
    from mallocgame.baselines.neur2ro.plots import plot_budgets, plot_regret

    names = methods.split(",")
    for name in names:
        if name not in METHODS:
            raise InputError(f"method {name!r} is unknown; expected some of {', '.join(METHODS)}")
    sweep = _budgets(budgets, problem) or [budget]
    trained = _network(problem, network, "paper" in names) if {"paper", "improved"} & set(names) else None
    rows: list[dict[str, Any]] = []
    for text in instances or [None]:  # type: ignore[list-item]
        for gamma in sweep:
            built = _open(problem, text, size, seed, variant, gamma)
            results = {name: _run(run, name, built, trained, seconds, solver) for name in names}
            best = min(result.worst_case for result in results.values())
            for name, result in results.items():
                rows.append(
                    {
                        "instance": text or f"random-{seed}",
                        "budget": gamma if problem == "memory" else None,
                        "method": name,
                        "worst_case": result.worst_case,
                        "regret_percent": 100 * (result.worst_case - best) / max(1e-12, abs(best)),
                        "lower_bound": result.lower_bound,
                        "seconds": result.seconds,
                    }
                )
    if plot is not None and budgets is not None:
        costs = {name: [r["worst_case"] for r in rows if r["method"] == name][: len(sweep)] for name in names}
        plot_budgets([float(gamma) for gamma in sweep], costs, str(rows[0]["instance"]), plot)
    elif plot is not None:
        plot_regret({name: [r["regret_percent"] for r in rows if r["method"] == name] for name in names}, plot)
    if json:
        print_json(rows)
        return
    cells = [
        (
            r["instance"],
            "-" if r["budget"] is None else str(r["budget"]),
            r["method"],
            f"{r['worst_case']:.6g}",
            f"{r['regret_percent']:.3f}",
            f"{r['seconds']:.2f}",
        )
        for r in rows
    ]
    print_table("Robust plans", ("instance", "budget", "method", "worst case", "regret %", "seconds"), cells)


def _budgets(text: str | None, problem: str) -> list[int]:
    if text is None:
        return []
    if problem != "memory":
        raise InputError("--budgets is for --problem memory")
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--budgets is {text!r}; expected whole numbers as 0,1,2,4") from None
    if min(values) < 0:
        raise InputError(f"--budgets is {text!r}; expected numbers >= 0")
    return values

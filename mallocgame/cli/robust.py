"""``mallocgame robust``: two-stage robust plans (Neur2RO and exact references)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.cli.robust_instance import (
    Budget,
    Device,
    Instance,
    InstanceChoice,
    NetworkOption,
    Plot,
    Policies,
    Problem,
    Seconds,
    Seed,
    Size,
    Solver,
    Variant,
    open_instance,
    open_network,
)
from mallocgame.cli.robust_memory import memory
from mallocgame.cli.robust_train import train
from mallocgame.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mallocgame.baselines.neur2ro.network import Network
    from mallocgame.baselines.neur2ro.problem import TwoStageProblem
    from mallocgame.baselines.neur2ro.result import RobustResult

app = typer.Typer(
    help="Two-stage robust plans: exact, searched or learned (Neur2RO), beside average, static and nominal plans.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("memory")(memory)
app.command("train")(train)


@app.command()
def solve(
    instance: Instance = None,
    problem: Problem = "knapsack",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="average, learned, paper, search, search-without-network, exact, static, nominal or k-adaptability.",
        ),
    ] = "search",
    network: NetworkOption = None,
    seconds: Seconds = 20.0,
    policies: Policies = 2,
    size: Size = 14,
    seed: Seed = 0,
    variant: Variant = "bandwidth",
    budget: Budget = 3,
    solver: Solver = "highs",
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the plan as JSON.")] = None,
    plot: Plot = None,
    json: JsonOption = False,
) -> None:
    """Find a robust plan.

    Example: mallocgame robust solve RKP_SC_n40_R1000_H100_h40_dev0.1_d0.5 --seconds 10 --out plan.json
    Example: mallocgame robust solve --problem mymodule:MyProblem --method exact
    """
    from json import dumps

    from mallocgame.files import check_writable, write_text

    _check_plot(plot)
    check_writable(out, plot)
    [name] = _names(method)
    built = open_instance(
        InstanceChoice(problem=problem, size=size, seed=seed, variant=variant, budget=budget), instance
    )
    trained = open_network(problem, network, [name])
    result = _run(name, built, trained, device, seconds=seconds, solver=solver, policies=policies)
    document = {"format": "mallocgame.neur2ro.plan", "version": 1, "problem": problem, **result.to_json()}
    names = getattr(built, "tensor_names", ())
    if names:
        document["tensors"] = [label for label, chosen in zip(names, result.x, strict=True) if chosen > 0.5]
    if out is not None:
        write_text(out, dumps(document, indent=1, allow_nan=False) + "\n")
    if plot is not None:
        from mallocgame.baselines.neur2ro.plots import plot_iterations

        plot_iterations([result], plot)
    if json:
        print_json([document])
    else:
        print_table("Robust plan", COLUMNS, [_cells(result)])
        say(f"stopped: {result.stopped}; {_in_words(result, names)}")


def _plan(path: Path) -> "NDArray[np.float64]":
    """Return the first stage of a plan that ``robust solve --out`` wrote.

    Raises:
        TraceError: not such a file.
    """
    import numpy as np

    from mallocgame.baselines.neur2ro.linear import as_numbers
    from mallocgame.errors import TraceError
    from mallocgame.files import read_json

    document = read_json(path)
    try:
        x = as_numbers(document["x"], "x")
    except InputError as error:
        raise TraceError(path, None, str(error)) from None
    except (KeyError, TypeError, ValueError):
        raise TraceError(path, None, "expected the JSON that 'mallocgame robust solve --out' writes") from None
    if x.ndim != 1 or not np.isfinite(x).all():
        raise TraceError(path, None, "x must be a list of finite numbers")
    return x


def _check_plot(plot: Path | None) -> None:
    from mallocgame.cli.paging_output import PLOTS
    from mallocgame.files import check_name

    if plot is not None:
        check_name(plot, PLOTS, "--plot")


COLUMNS = ("method", "network", "worst case", "exact", "lower bound", "gap %", "seconds", "scenarios")


def _names(text: str) -> list[str]:
    """Return today's names of the methods in a comma-separated list."""
    from mallocgame.baselines.neur2ro.methods import OLD_NAMES, canonical

    names = [word.strip() for word in text.split(",")]
    for old in {name for name in names if name in OLD_NAMES}:
        say(f"method {old} is now called {OLD_NAMES[old]}; the old name goes with the next release")
    return [canonical(name) for name in names]


def _in_words(result: "RobustResult", names: Sequence[str]) -> str:
    """Return the plan in words: what is chosen, by name where there are names, and what differs from 0 and 1."""
    if names:
        return "pinned: " + (", ".join(n for n, v in zip(names, result.x, strict=True) if v > 0.5) or "nothing")
    if all(abs(v - round(v)) <= 1e-6 and round(v) in (0, 1) for v in result.x):
        return "chosen: " + (", ".join(str(i) for i, v in enumerate(result.x) if v > 0.5) or "nothing")
    return "x: " + ", ".join(f"{round(float(v), 9) + 0.0:.6g}" for v in result.x)


def _network_cell(used: bool, device: str | None) -> str:
    return "no" if not used else f"yes, on {device}" if device else "yes"


def _cells(result: "RobustResult") -> tuple[str, ...]:
    bounded = result.lower_bound > float("-inf")
    return (
        result.method,
        _network_cell(result.used_network, result.device),
        f"{result.worst_case:.6g}" if result.feasible else "infeasible",
        "yes" if result.worst_case_exact else "found",
        f"{result.lower_bound:.6g}" if bounded else "-",
        f"{100 * result.gap:.3f}" if bounded and result.feasible else "-",
        f"{result.seconds + result.evaluation_seconds:.2f}",
        str(len(result.scenarios)),
    )


def _run(
    name: str,
    built: "TwoStageProblem",
    network: "Network | None",
    device: str | None,
    *,
    seconds: float,
    solver: str,
    policies: int,
) -> "RobustResult":
    from mallocgame.baselines.neur2ro.methods import run

    backend: Any = solver
    with progress(name, total=seconds) as show:
        return run(
            name,
            built,
            network,
            seconds=seconds,
            backend=backend,
            policies=policies,
            device=device,
            on_iteration=lambda row: show(row.seconds),
        )


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
    seconds: Seconds = 60.0,
    json: JsonOption = False,
) -> None:
    """Judge a plan with exact second stages: worst case, sampled scenarios, nominal.

    Example: mallocgame robust evaluate plan.json RKP_SC_n40_R1000_H100_h40_dev0.1_d0.5
    """
    from dataclasses import asdict

    import numpy as np

    from mallocgame.baselines.neur2ro.methods import judge

    x = _plan(plan)
    with progress("judging", total=None):
        choice = InstanceChoice(problem=problem, size=size, seed=seed, variant=variant, budget=budget)
        found = judge(open_instance(choice, instance), x, samples=samples, seconds=seconds)
    if json:
        print_json([asdict(found)])
        return
    costs = (found.worst_case, found.sampled_worst, found.sampled_mean, found.nominal)
    cells = [f"{value:.6g}" if np.isfinite(value) else "infeasible" for value in costs]
    head = "worst case" if found.exact else "worst found"
    print_table(f"Costs of {plan}", (head, "sampled worst", "sampled mean", "nominal"), [cells])
    if found.infeasible_share:
        say(f"no feasible second stage in {100 * found.infeasible_share:.1f} % of {found.samples} sampled scenarios")


@app.command()
def compare(
    instances: Annotated[list[str] | None, typer.Argument(help="Instance files or traces; none: a random one.")] = None,
    problem: Problem = "knapsack",
    methods: Annotated[str, typer.Option("--methods", help="Comma-separated.")] = "average,search,nominal",
    network: NetworkOption = None,
    seconds: Seconds = 20.0,
    policies: Policies = 2,
    size: Size = 14,
    seed: Seed = 0,
    variant: Variant = "bandwidth",
    budget: Budget = 3,
    budgets: Annotated[str | None, typer.Option("--budgets", help="Memory: sweep, as 0,1,2,4.")] = None,
    solver: Solver = "highs",
    device: Device = None,
    plot: Plot = None,
    json: JsonOption = False,
) -> None:
    """Compare methods over instances, or (memory) over growing uncertainty budgets.

    Example: mallocgame robust compare gpt2_training-v5e --problem memory --methods exact,nominal --budgets 0,1,2,4
    """
    from mallocgame.files import check_writable

    _check_plot(plot)
    check_writable(plot)
    names = _names(methods)
    if device is not None and "learned" not in names:
        raise InputError("--device is for method learned; it is not among --methods")
    sweep = _budgets(budgets, problem) or [budget]
    trained = open_network(problem, network, names)
    rows: list[dict[str, Any]] = []
    for text in instances or [None]:  # type: ignore[list-item]
        for gamma in sweep:
            built = open_instance(
                InstanceChoice(problem=problem, size=size, seed=seed, variant=variant, budget=gamma), text
            )
            results = [
                _run(
                    name,
                    built,
                    trained,
                    device if name == "learned" else None,
                    seconds=seconds,
                    solver=solver,
                    policies=policies,
                )
                for name in names
            ]
            label = text or f"random-{seed}"
            rows += _compared(label, gamma if problem == "memory" else None, names, results)
    if plot is not None:
        _plot(rows, names, sweep if budgets is not None else None, plot)
    if json:
        print_json(rows)
        return
    cells = [
        (
            r["instance"],
            "-" if r["budget"] is None else str(r["budget"]),
            r["method"],
            _network_cell(r["used_network"], r["device"]),
            f"{r['worst_case']:.6g}" if r["feasible"] else "infeasible",
            "yes" if r["worst_case_exact"] else "found",
            f"{r['regret_percent']:.3f}" if r["feasible"] else "-",
            f"{r['seconds']:.2f}",
        )
        for r in rows
    ]
    head = ("instance", "budget", "method", "network", "worst case", "exact", "regret %", "seconds")
    print_table("Robust plans", head, cells)


def _compared(
    instance: str, budget: int | None, names: list[str], results: list["RobustResult"]
) -> list[dict[str, Any]]:
    """Return one row a method, with its regret against the best worst case among them."""
    best = min(result.worst_case for result in results)
    return [
        {
            "instance": instance,
            "budget": budget,
            "method": name,
            "used_network": result.used_network,
            "device": result.device or None,
            "feasible": result.feasible,
            "worst_case": result.worst_case,
            "worst_case_exact": result.worst_case_exact,
            "regret_percent": 100 * (result.worst_case - best) / max(1e-12, abs(best)) if result.feasible else None,
            "lower_bound": result.lower_bound,
            "seconds": result.seconds + result.evaluation_seconds,
        }
        for name, result in zip(names, results, strict=True)
    ]


def _plot(rows: list[dict[str, Any]], names: list[str], sweep: list[int] | None, path: Path) -> None:
    from mallocgame.baselines.neur2ro.plots import plot_budgets, plot_regret

    if sweep is not None:
        costs = {name: [r["worst_case"] for r in rows if r["method"] == name][: len(sweep)] for name in names}
        plot_budgets([float(gamma) for gamma in sweep], costs, str(rows[0]["instance"]), path)
        return
    finite = {name: [r["regret_percent"] for r in rows if r["method"] == name and r["feasible"]] for name in names}
    plot_regret(finite, path)


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

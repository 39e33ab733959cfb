"""Which robust problem, instance and network the commands of ``mallocgame robust`` work on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.baselines.neur2ro.network import Network
    from mallocgame.baselines.neur2ro.problem import TwoStageProblem

Problem = Annotated[
    str,
    typer.Option(
        "--problem",
        help="knapsack, capital-budgeting, loans, memory, facility, commitment, or your own: package.module:Class.",
    ),
]
NetworkOption = Annotated[
    str | None,
    typer.Option("--network", help="Folder of a trained network, or none; default: the one that comes with it."),
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="Time limit: solving and judging together.")]
Policies = Annotated[int, typer.Option("--k", min=1, max=10, help="k-adaptability: recourse policies.")]
Instance = Annotated[
    str | None, typer.Argument(help="Instance file; for memory a trace (file or name); none: a random instance.")
]
Size = Annotated[int, typer.Option("--size", min=2, help="Random instance: items; memory: tensors.")]
Seed = Annotated[int, typer.Option("--seed", help="Random instance: seed.")]
Variant = Annotated[str, typer.Option("--variant", help="Memory: bandwidth, size or bucket.")]
Budget = Annotated[int, typer.Option("--budget", min=0, help="Memory: uncertainty budget Gamma.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Write a picture (PNG, SVG or PDF by its suffix).")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="PyTorch device of the network (learned, train): cuda, mps or cpu; default: NumPy."),
]
Solver = Annotated[str, typer.Option("--solver", help="MILP solver: highs or scip.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceChoice:
    """Which instance a command works on."""

    problem: str
    size: int
    seed: int
    variant: str
    budget: int


def open_instance(choice: InstanceChoice, text: str | None) -> "TwoStageProblem":
    import numpy as np

    from mallocgame.baselines.neur2ro.problems.capital_budgeting import CapitalBudgeting
    from mallocgame.baselines.neur2ro.registry import family

    if choice.problem == "memory":
        return _open_memory(choice, text)
    found = family(choice.problem)
    if text is not None:
        if found.read is None:
            raise InputError(f"{choice.problem} has no instance files; leave INSTANCE out (--seed draws another one)")
        return found.read(text)
    rng = np.random.default_rng(choice.seed)
    if choice.problem == "capital-budgeting":
        return CapitalBudgeting.generate(rng, n=choice.size)
    return found.sample(rng)


def _open_memory(choice: InstanceChoice, text: str | None) -> "TwoStageProblem":
    import numpy as np

    from mallocgame.baselines.neur2ro.problems.memory import MemoryProblem

    if choice.variant not in ("bandwidth", "size", "bucket"):
        raise InputError(f"--variant is {choice.variant!r}; expected bandwidth, size or bucket")
    kind: Any = choice.variant
    if text is None:
        rng = np.random.default_rng(choice.seed)
        return MemoryProblem.random(rng, tensors=choice.size, steps=2 * choice.size, variant=kind, budget=choice.budget)
    from mallocgame.cli.traces import open_trace

    trace = open_trace(text)
    return MemoryProblem.from_program(
        trace.program, trace.hierarchy, variant=kind, tensors=choice.size, steps=24, budget=choice.budget
    )


def open_network(problem: str, folder: str | None, methods: list[str]) -> "Network | None":
    """Return the network that the methods use: the folder's, else the one that comes with the family, else none."""
    from mallocgame.baselines.neur2ro.methods import NEEDS_NETWORK, USES_NETWORK
    from mallocgame.baselines.neur2ro.network import load_network
    from mallocgame.baselines.neur2ro.registry import PRETRAINED

    needed = [name for name in methods if name in NEEDS_NETWORK]
    if not set(methods) & set(USES_NETWORK):
        return None
    shipped = PRETRAINED / problem if ":" not in problem else None
    if folder is not None and folder != "none":
        return load_network(folder)
    if folder is None and shipped is not None and (shipped / "network.json").exists():
        return load_network(shipped)
    if needed:
        raise InputError(
            f"method {needed[0]} needs a network and none comes with {problem}; train one with: "
            f"mallocgame robust train --problem {problem} --out DIR, and pass --network DIR"
        )
    return None

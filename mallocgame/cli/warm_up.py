"""``mallocgame warm-up``: compile the kernels once, so that no later command waits for it."""

import time
from typing import Annotated

import typer

from mallocgame.cli.common import progress, say
from mallocgame.system import num_cores


def warm_up(
    solvers: Annotated[
        str, typer.Option("--solvers", help="Solvers whose kernels to compile, comma-separated; none: all.")
    ] = "",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0: one a core.")] = 0,
) -> None:
    """Compile, or load from the cache, what solvers, game and judge call; cores work side by side.

    Example: mallocgame warm-up --solvers greedy,anneal
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from mallocgame.evaluation import XLA, solver_names

    names = [name.strip() for name in solvers.split(",")] if solvers else [n for n in solver_names() if n != XLA]
    groups = _by_kernels(names)
    begun = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    number = min(workers or num_cores(), len(groups))
    with (
        progress("compiling kernels", total=len(groups)) as advance,
        ProcessPoolExecutor(number, mp_context=context) as pool,
    ):
        for done, finished in enumerate(as_completed([pool.submit(_compile, group) for group in groups]), start=1):
            finished.result()
            advance(done)
    say(f"kernels of {', '.join(names)} are ready ({time.perf_counter() - begun:.1f} s)")


def _by_kernels(names: list[str]) -> list[list[str]]:
    """Return the solvers in groups that share kernels: what one process compiles, another need not."""
    from mallocgame.evaluation import find_solver

    groups: dict[str, list[str]] = {}
    for name in names:
        module = find_solver(name)[0].__module__
        playing = ".play." in module or ".agents." in module
        groups.setdefault("rules" if playing else "placement" if ".placement." in module else module, []).append(name)
    return list(groups.values())


def _compile(names: list[str]) -> None:
    from mallocgame.evaluation import find_solver
    from mallocgame.warm_up import tiny_problem

    for name in names:
        find_solver(name)[0].prepare(tiny_problem())

"""A trained agent as a solver: it plays the program, once greedily and then with noise, and keeps the best mapping."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax

from agents.muzero.learner import make_learner
from agents.muzero.networks import Model
from agents.muzero.run import RunFolder
from agents.muzero.search import make_search
from agents.muzero.selfplay import play, shapes_of
from mallocgame.batch import MallocGameBatch
from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.simulate import lower_bound, simulate
from mallocgame.solver import Progress, Solver, SolveResult

PRETRAINED = Path(__file__).parent / "pretrained"


def make_solver(folder: Path = PRETRAINED, *, simulations: int | None = None, games: int = 16) -> Solver:
    """Return the solver that plays with the network of a run (by default the one that ships with the package).

    Args:
        simulations: per move; None: as trained; 0: the network alone.
        games: noisy games played side by side in each round.

    Raises:
        InputError: no network in the folder.
    """
    if not (folder / "run.json").exists():
        raise InputError(f"no trained agent in {folder}; train one with: mallocgame train --workload TRACE --out RUN")
    return partial(_solve, RunFolder(folder), simulations, games)


def _solve(
    run: RunFolder,
    simulations: int | None,
    games: int,
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    begun = time.monotonic()
    best = start if start is not None else Mapping()
    best_seconds = simulate(program, hierarchy, best).total_seconds
    history, status = [(0.0, best_seconds)], "feasible"
    pair = (program.focused(run.config().focus_fraction), hierarchy)
    if seconds > 0 and pair[0].num_decisions:
        probe = MallocGameBatch([pair], 1)
        shapes = shapes_of(probe)
        config = run.check(shapes, probe.num_actions)
        model = Model(config, probe.num_actions)
        learner, _ = make_learner(model, probe.observations, seed)
        parameters = run.load_parameters(learner)
        count = config.num_simulations if simulations is None else simulations
        greedy, noisy = (make_search(model, num_simulations=count, explore=explore) for explore in (False, True))
        key = jax.random.key(seed)
        rounds: Sequence[int] = (1,)
        try:
            while True:
                key, now = jax.random.split(key)
                search = greedy if len(rounds) == 1 else noisy
                for mapping, judged in play(pair, search, parameters, now, rounds[-1]):
                    if judged < best_seconds:
                        best, best_seconds = mapping, simulate(program, hierarchy, mapping).total_seconds
                        history.append((time.monotonic() - begun, best_seconds))
                rounds = (*rounds, games)
                spent = time.monotonic() - begun
                if progress is not None:
                    progress(min(spent / seconds, 1.0))
                if spent * (len(rounds) + 1) / len(rounds) > seconds:
                    break
        except KeyboardInterrupt:
            status = "interrupted"
    return SolveResult(
        mapping=best,
        seconds=best_seconds,
        lower_bound_seconds=lower_bound(program, hierarchy),
        status=status,
        solve_seconds=time.monotonic() - begun,
        history=tuple(history),
    )

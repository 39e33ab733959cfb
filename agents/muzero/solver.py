"""A trained agent as a solver: it plays the program, first greedily and then with noise, and keeps the best mapping."""

import time
from functools import partial
from pathlib import Path

import jax

from agents.muzero.finish import finish
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

FINISH_SHARE = 0.1  # of the time: for the tensors that focusing left out
PRETRAINED = Path(__file__).parent / "pretrained"


def make_solver(folder: Path = PRETRAINED, *, simulations: int | None = None, games: int = 16) -> Solver:
    """Return the solver that plays with the network of a run (by default the one that ships with the package).

    Args:
        simulations: per move; 0: the network alone; None: in turn the network alone and the search as trained.
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
        counts = sorted({0, config.num_simulations}) if simulations is None else [simulations]
        searches = [make_search(model, num_simulations=count, explore=False) for count in counts]
        searches += [make_search(model, num_simulations=count, explore=True) for count in counts]
        key, rounds = jax.random.key(seed), 0
        try:
            while True:
                key, now = jax.random.split(key)
                first = rounds < len(counts)  # greedy; after that only the noisy ones take turns
                search = searches[rounds if first else len(counts) + rounds % len(counts)]
                for mapping, judged in play(pair, search, parameters, now, 1 if first else games):
                    if judged < best_seconds:
                        best, best_seconds = mapping, simulate(program, hierarchy, mapping).total_seconds
                        history.append((time.monotonic() - begun, best_seconds))
                rounds += 1
                spent = time.monotonic() - begun
                if progress is not None:
                    progress(min(spent / seconds, 1.0))
                if spent * (rounds + 1) / rounds > (1.0 - FINISH_SHARE) * seconds:
                    break
            mapping = finish(program, pair[0], hierarchy, best, FINISH_SHARE * seconds)
            judged = simulate(program, hierarchy, mapping).total_seconds
            if judged < best_seconds:
                best, best_seconds = mapping, judged
                history.append((time.monotonic() - begun, best_seconds))
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

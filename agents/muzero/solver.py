"""A trained agent as a solver: it plays the program, changes its best game, and anneals what the rules decide alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import make_any_search
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.search import make_search
from mallocgame.agents.muzero.selfplay import Pair, Played, play, reconsider, replayed, shapes_of
from mallocgame.errors import InputError
from mallocgame.evaluation import find_solver
from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.local_search import best_start
from mallocgame.game.relay import open_by_annealing, relay
from mallocgame.game.variations import Variations
from mallocgame.mapping import Mapping
from mallocgame.solver import Incumbent, Problem, solver
from mallocgame.warm_up import tiny_problem

I64 = npt.NDArray[np.int64]
OPENING_SHARE = 0.1  # of the limit, at most
PLAY_SHARE = 0.3  # of the limit, the opening included: whole games; the rest is for local search
PRETRAINED = Path(__file__).parent / "pretrained"


def _compile(
    problem: Problem, *, run: Path | str = PRETRAINED, simulations: int | None = None, games: int = 16
) -> None:
    folder = Path(run)
    find_solver("anneal")[0].prepare(problem)
    if (folder / "run.json").exists():
        agent = _Agent(RunFolder(folder), simulations, games, tiny_problem(), 0)
        start = best_start(agent.game, Mapping())
        rounds = agent.rounds([start], lambda: False)
        for _round in (*agent.greedy, agent.noisy):
            next(rounds)
        agent.guide(Variations(agent.game, start))


@solver(argument="run", warm_up=_compile)
def muzero(search: Incumbent, *, run: Path | str = PRETRAINED, simulations: int | None = None, games: int = 16) -> None:
    """Play with the network of a run (by default the shipped one), change the best game, anneal its mapping.

    Args:
        run: the folder of a run.
        simulations: per move; 0: the network alone; None: in turn the network alone and the search as trained.
        games: noisy games played side by side in each round.

    Raises:
        InputError: no network in the folder.
    """
    folder = Path(run)
    if not (folder / "run.json").exists():
        raise InputError(f"no trained agent in {folder}; train one with: mallocgame train --workload TRACE --out RUN")
    program, hierarchy = search.problem
    found = RunFolder(folder)
    pair = (program.focused(found.config().focus_fraction), hierarchy)
    if pair[0].num_decisions:
        agent = _Agent(found, simulations, games, pair, search.seed)
        relay(search, agent.game, lambda: _play(search, agent), find_solver("anneal")[0], guide=agent.guide)


class _Agent:
    """A run's network on one program."""

    def __init__(self, run: RunFolder, simulations: int | None, games: int, pair: Pair, seed: int) -> None:
        probe = MallocGameBatch([pair], 1)
        config = run.check(shapes_of(probe), probe.num_actions)
        model = Model(config, probe.num_actions)
        learner, _ = make_learner(model, probe.observations, seed)
        counts = sorted({0, config.num_simulations}) if simulations is None else [simulations]
        self.pair, self.games, self.key = pair, games, jax.random.key(seed)
        self.game, self.parameters = rules.make_game(*pair), run.load_parameters(learner)
        self.greedy = [make_any_search(model, num_simulations=count, explore=False) for count in counts]
        self.noisy = make_search(model, num_simulations=0, explore=True)

    def rounds(self, games: list[I64], stop: Callable[[], bool]) -> Iterator[list[Played]]:
        """Yield one greedy game of each number of simulations, and then noisy ones of the network without end.

        Args:
            games: the last is the best so far, int64[D]: what a search on the rules tries to improve.
            stop: see ``play``.
        """
        for search in self.greedy:
            yield list(play(self.pair, search, self.parameters, self.key, 1, lead=games[-1], stop=stop))
        while True:
            self.key, now = jax.random.split(self.key)
            yield list(play(self.pair, self.noisy, self.parameters, now, self.games, stop=stop))

    def guide(self, variations: Variations) -> None:
        """Say what the agent would rather have played in the current game."""
        episode, _, _ = replayed(self.pair, variations.current)
        variations.guide(reconsider(episode, self.noisy, self.parameters, self.key, self.games))


def _play(search: Incumbent, agent: _Agent) -> I64:
    """Play whole games for ``PLAY_SHARE`` of the limit; return the best one's actions (or the start's)."""
    openings = [search.mapping, _greedy(search), open_by_annealing(search, find_solver("anneal")[0])]
    games = [best_start(agent.game, *openings)]  # each better than the one before
    best_seconds, _ = rules.decode(agent.game, games[-1])

    def is_over() -> bool:
        return search.out_of_time() or search.spent_share > PLAY_SHARE

    for number, round_ in enumerate(agent.rounds(games, is_over), start=1):
        for actions, mapping, seconds in round_:
            search.count(len(actions))
            if seconds < best_seconds:
                best_seconds = seconds
                games.append(np.zeros_like(games[-1]))
                games[-1][: len(actions)] = actions  # a game that ended early leaves the rest in layer 0
                search.offer(mapping)
        if is_over() or search.spent_share * (number + 1) / number > PLAY_SHARE:
            break
    return games[-1]


def _greedy(search: Incumbent) -> Mapping | None:
    """Return what the greedy solver makes of the program: on some, the network knows no better beginning."""
    greedy, _ = find_solver("greedy")
    part = search.part(OPENING_SHARE, steps=None if search.limits.steps is None else 2**31)  # then it knows no clock
    greedy.improve(part)
    return part.mapping

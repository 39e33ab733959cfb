"""A trained agent as a solver: it plays the program, changes its best game, and anneals what the rules decide alone."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import RulesSearch, make_any_search
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.search import make_search, next_key
from mallocgame.agents.muzero.selfplay import Pair, Played, play, reconsider, replayed, shapes_of
from mallocgame.errors import InputError
from mallocgame.evaluation import find_solver
from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.local_search import best_start
from mallocgame.game.relay import open_by_annealing, open_by_greed, relay
from mallocgame.game.variations import Variations
from mallocgame.solver import Incumbent, Limits, Problem, solver
from mallocgame.warm_up import tiny_problem

I64 = npt.NDArray[np.int64]
PLAY_SHARE = 0.3  # of the limit, the openings included: whole games; the rest is for local search
GUIDE_SHARE = 0.03  # of the limit, at most: asking the network where a game is doubtful
GLANCE = 0.02  # of a game: by then it is known how long it takes
PRETRAINED = Path(__file__).parent / "pretrained"


def _compile(
    problem: Problem, *, run: Path | str = PRETRAINED, simulations: int | None = None, games: int = 16
) -> None:
    folder = Path(run)
    find_solver("anneal")[0].prepare(problem)
    if (folder / "run.json").exists():
        agent = _Agent(RunFolder(folder), simulations, games, tiny_problem(), 0)
        start = rules.decode(agent.game, np.zeros(agent.game.num_decisions, dtype=np.int64))[1]
        search = Incumbent(tiny_problem(), Limits(steps=1))
        for _round in islice(agent.rounds(search, [start]), len(agent.greedy) + 1):
            pass
        agent.guide(search, Variations(agent.game, start))


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
    if not pair[0].num_decisions:
        return
    game, (greedy, _), (anneal, _) = rules.make_game(*pair), find_solver("greedy"), find_solver("anneal")
    openings = [search.mapping, open_by_greed(search, greedy), open_by_annealing(search, anneal)]
    begin, guide = best_start(search, game, *openings), None
    if begin is not None:
        agent = _Agent(found, simulations, games, pair, search.seed)
        begin, guide = _play(search, agent, begin), partial(agent.guide, search)
    relay(search, game, begin, anneal, guide=guide)


class _Agent:
    """A run's network on one program."""

    def __init__(self, run: RunFolder, simulations: int | None, games: int, pair: Pair, seed: int) -> None:
        probe = MallocGameBatch([pair], games)
        config = run.check(shapes_of(probe), probe.num_actions)
        model = Model(config, probe.num_actions)
        learner, _ = make_learner(model, probe.observations, seed)
        counts = sorted({0, config.num_simulations}) if simulations is None else [simulations]
        self.pair, self.games, self.game = pair, games, probe.games[0]
        self.random = np.random.default_rng(seed)
        self.parameters = jax.device_put(run.load_parameters(learner))
        self.greedy = [make_any_search(model, num_simulations=count, explore=False) for count in counts]
        self.noisy = make_search(model, num_simulations=0, explore=True)
        begun = time.perf_counter()
        np.asarray(self.noisy(self.parameters, probe.observations, probe.action_masks, next_key(self.random)).policy)
        self._guided, self._cost = 0.0, (time.perf_counter() - begun) / games  # seconds, and seconds a position

    def rounds(self, search: Incumbent, games: list[I64]) -> Iterator[list[Played]]:
        """Yield one greedy game of each number of simulations, and then noisy ones of the network without end.

        Args:
            search: games that will not end by ``PLAY_SHARE`` of its limit are given up.
            games: the last is the best so far, int64[D]: what a search on the rules tries to improve.
        """
        for greedy in self.greedy:
            stop = _stop(search, is_whole=not isinstance(greedy, RulesSearch))
            key = next_key(self.random)
            yield list(play(self.pair, greedy, self.parameters, key, 1, lead=games[-1], stop=stop))
        while True:
            stop, key = _stop(search, is_whole=True), next_key(self.random)
            yield list(play(self.pair, self.noisy, self.parameters, key, self.games, stop=stop))

    def guide(self, search: Incumbent, variations: Variations) -> None:
        """Say what the agent would rather have played in the current game, if that takes little of the limit."""
        length, begun = self.game.num_decisions, time.perf_counter()
        is_timed = search.limits.steps is None
        if is_timed and self._guided + length * self._cost > GUIDE_SHARE * search.limits.seconds:
            return
        episode, _, _ = replayed(self.pair, variations.current)
        key = next_key(self.random)
        variations.guide(reconsider(episode, self.noisy, self.parameters, key, self.games))
        spent = time.perf_counter() - begun
        self._guided, self._cost = self._guided + spent, spent / length


def _play(search: Incumbent, agent: _Agent, begin: I64) -> I64:
    """Play whole games for ``PLAY_SHARE`` of the limit; return the best one's actions (or ``begin``)."""
    games = [begin]  # each better than the one before
    best_seconds, _ = rules.decode(agent.game, begin)
    is_over = _stop(search, is_whole=False)
    for round_ in () if is_over(0.0) else agent.rounds(search, games):
        for actions, mapping, seconds in round_:
            search.count(len(actions))
            if seconds < best_seconds:
                best_seconds = seconds
                games.append(actions.astype(np.int64))
                search.offer(mapping)
        if is_over(0.0):
            break
    return games[-1]


def _stop(search: Incumbent, *, is_whole: bool) -> Callable[[float], bool]:
    """Return what says, of a part of a game that is played, whether to stop there.

    Args:
        search: its limit, of which ``PLAY_SHARE`` is for games.
        is_whole: the game is worth nothing before its end, so it is given up as soon as it will not end in time.
    """
    begun = search.spent_share

    def stop(done: float) -> bool:
        now = search.spent_share
        if search.out_of_time() or now > PLAY_SHARE:
            return True
        return is_whole and done > GLANCE and begun + (now - begun) / done > PLAY_SHARE

    return stop

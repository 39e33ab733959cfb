"""Playing: many games side by side, one search a move for all of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Arrays
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.history import History, expand
from mallocgame.agents.muzero.networks import Parameters
from mallocgame.agents.muzero.replay import Episode
from mallocgame.agents.muzero.rules_search import AnySearch, RulesSearch, ask
from mallocgame.agents.muzero.search import Search, noise_of
from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
FEWEST_GAMES = 16
Pair = tuple[Program, Hierarchy]
StateArrays = Arrays[str, npt.NDArray[Any]]
Finished = tuple[Episode, Mapping, float]  # an episode, its mapping, and its simulated seconds
Played = tuple[I32, Mapping, float]  # int32[D] actions, their mapping, and its simulated seconds


class SelfPlay:
    """Games in flight and their histories; ``advance`` makes one move in each."""

    def __init__(self, pairs: Sequence[Pair], config: Config, search: AnySearch, seed: int) -> None:
        """Start ``games_for`` games of the programs in turn. Programs are focused by the caller."""
        self.config, self.search, self.pairs = config, search, list(pairs)
        self.num_games = games_for(config, [program.num_decisions for program, _ in pairs])
        self.batch = MallocGameBatch(self.pairs, self.num_games)
        self.random = np.random.default_rng(seed)
        self._lengths = np.array([game.num_decisions for game in self.batch.games])
        self._noise = np.asarray(noise_of(self.num_games))[:, 0]
        self._leads = np.zeros((len(self.pairs), int(self._lengths.max())), dtype=np.int64)  # for new games
        self.leads = self._leads[self.batch.which]  # of the games in flight
        self._history = History(observations_of(self.batch), self.batch.num_actions, int(self._lengths.max()))

    def advance(self, parameters: Parameters, key: jax.Array) -> list[Finished]:
        """Make one move in every game; return finished episodes with their mappings and simulated seconds."""
        batch = self.batch
        self._history.see(observations_of(batch), batch.action_masks)
        found = ask(self.search, parameters, batch, self.leads, key)
        actions, policy, value = (np.asarray(part) for part in (found.action, found.policy, found.value))
        before = batch.all_seconds()
        actions = self._astray(self._own(actions, found.prior))
        batch.step(actions)
        self._history.move(actions, log_rewards(before, batch.all_seconds()), policy, value)
        finished = []
        for row in np.flatnonzero(batch.done).tolist():
            episode = self._history.take(row, self.pairs[int(batch.which[row])][0].name)
            finished.append((episode, batch.to_mapping(row), batch.seconds(row)))
        if finished:
            rows = batch.done.copy()
            batch.reset(rows, which=self.random.integers(0, len(self.pairs), size=len(finished)))
            self.leads[rows] = self._leads[batch.which[rows]]
        return finished

    def lead(self, name: str, actions: npt.NDArray[np.integer]) -> None:
        """Let the next games of a program begin with this lead, int[D]."""
        index = [program.name for program, _ in self.pairs].index(name)
        self._leads[index, : len(actions)] = actions

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the games in flight: which program each plays, int64[B], and its moves so far."""
        return {
            "which": self.batch.which.copy(),
            "leads": self.leads.copy(),
            "first_leads": self._leads.copy(),
            **self._history.moves(),
        }

    def restore(self, state: StateArrays) -> None:
        """Play the games in flight of ``state`` up to where they were; games that the rules now forbid start anew.

        Raises:
            ValueError: they are not games of these programs.
        """
        which, lengths, total = state["which"], state["lengths"], int(state["lengths"].sum())
        fits = which.shape == lengths.shape == (self.num_games,)
        fits = fits and bool(((which >= 0) & (which < len(self._lengths))).all())
        fits = fits and bool(((lengths >= 0) & (lengths < self._lengths[which])).all())
        if not fits or any(len(state[name]) != total for name in ("actions", "policies", "values")):
            raise ValueError(f"{self.num_games} games in flight of {len(self._lengths)} programs expected")
        if state["leads"].shape != self.leads.shape or state["first_leads"].shape != self._leads.shape:
            raise ValueError(f"leads of {self.leads.shape[1]} decisions expected")
        self.leads[:], self._leads[:] = state["leads"], state["first_leads"]
        batch, history, begins = self.batch, self._history, np.cumsum(lengths) - lengths
        batch.reset(which=which)
        waits = int(lengths.max(initial=0)) - lengths  # the longest game goes first: all arrive together
        for time in range(int(lengths.max(initial=0))):
            batch.reset(waits == time)
            history.forget(waits >= time)
            history.see(observations_of(batch), batch.action_masks)
            at, playing = begins + np.maximum(time - waits, 0), waits <= time
            at = np.where(playing, at, 0)
            before = batch.all_seconds()
            batch.step(np.where(playing, state["actions"][at], 0))
            rewards = log_rewards(before, batch.all_seconds())
            history.move(state["actions"][at], rewards, state["policies"][at], state["values"][at])
        fresh = batch.done | (lengths == 0)  # done: by a move that is no longer legal
        batch.reset(fresh)
        history.forget(fresh)

    def _own(self, actions: I32, prior: Any) -> I32:
        """Let the network's own policy choose in some games, from none to full randomness: what it must put right."""
        count = 0 if prior is None else int(self.config.own_games * self.num_games)
        if not count:
            return actions
        sharpness = 1.0 / np.linspace(0.05, 1.0, count)[:, None]  # inverse temperatures
        chances = np.cumsum(np.maximum(np.asarray(prior)[-count:], 1e-12) ** sharpness, axis=1)
        drawn = (self.random.random((count, 1)) * chances[:, -1:] > chances).sum(axis=1)
        own = actions.copy()
        own[-count:] = np.where(self.batch.action_masks[-count:][np.arange(count), drawn], drawn, actions[-count:])
        return own

    def _astray(self, actions: I32) -> I32:
        """Replace a few actions by random legal ones, more in the noisier games; a plan of one mind finds no other."""
        batch = self.batch
        chance = self.config.stray_moves * self._noise / self._lengths[batch.which]
        any_legal = np.where(batch.action_masks, self.random.random(batch.action_masks.shape), -1.0).argmax(axis=1)
        return np.where(self.random.random(batch.batch_size) < chance, any_legal, actions).astype(np.int32)


def games_for(config: Config, lengths: Sequence[int]) -> int:
    """Return how many games to play side by side: ``config.num_games``, halved (but 16) where they are long.

    64 games of 2,000 moves each end together after 128,000 moves, most of a minute of a core in which nothing is
    learned (``config.moves_in_flight``). Halves, so that programs of all lengths share a few compiled searches.
    """
    games = config.num_games
    while games >= 2 * FEWEST_GAMES and games * np.mean(lengths) > (config.moves_in_flight or math.inf):
        games //= 2
    return games


def log_rewards(before: F64, after: F64) -> F64:
    """Return the agent's rewards: log(seconds before / seconds after), so that returns are logs of speed-ups.

    One percent is then worth the same wherever a program stands; the game's own reward measures in seconds with
    everything in layer 0, of which the last percents may be a thousandth.
    """
    return np.asarray(np.log(before / after))


def demonstrate(pair: Pair, mapping: Mapping) -> Finished:
    """Return the game in which it is played as ``mapping`` does it, as far as the rules can."""
    game = rules.make_game(*pair)
    return replayed(pair, rules.decode(game, rules.actions_of(game, mapping))[1])


def replayed(pair: Pair, actions: npt.NDArray[np.integer]) -> Finished:
    """Return the game of these legal actions, int[D]. Its policies say nothing: all legal actions are alike."""
    batch = MallocGameBatch([pair], 1)
    history = History(observations_of(batch), batch.num_actions, len(actions))
    for action in actions:
        history.see(observations_of(batch), batch.action_masks)
        policy = batch.action_masks / batch.action_masks.sum()
        before = batch.all_seconds()
        batch.step(np.array([action]))
        history.move(np.array([action]), log_rewards(before, batch.all_seconds()), policy, np.zeros(1))
    return history.take(0, pair[0].name), batch.to_mapping(0), batch.seconds(0)


def reconsider(episode: Episode, search: Search, parameters: Parameters, key: jax.Array, num_games: int) -> F32:
    """Return float32[T, A], what the search would now play in an episode; ``num_games`` positions at a time."""
    found = []
    for begin in range(0, episode.length, num_games):
        at = np.minimum(np.arange(begin, begin + num_games), episode.length - 1)
        seen = {name: expand(array[at]) for name, array in episode.observations.items()}
        found.append(np.asarray(search(parameters, seen, episode.legal[at], key).policy))
    return np.concatenate(found)[: episode.length]


def play(
    pair: Pair,
    search: AnySearch,
    parameters: Parameters,
    key: jax.Array,
    num_games: int,
    *,
    lead: npt.NDArray[np.integer] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Played]:
    """Play ``num_games`` games of one program to the end side by side; yield each.

    Args:
        lead: int[D], for a search on the rules; None: the game of the network alone.
        stop: when it is true, a search on the rules follows its leads to the end; other games end there.
    """
    batch = MallocGameBatch([pair], num_games)
    if isinstance(search, RulesSearch) and lead is None:
        lead, _, _ = next(play(pair, search.prior, parameters, key, 1, stop=stop))
    leads = np.zeros((num_games, batch.games[0].num_decisions), dtype=np.int64)
    if lead is not None:
        leads[:, : len(lead)] = lead
    actions: list[I32] = []
    while not batch.done.all():
        key, now = jax.random.split(key)
        if not actions or not stop():
            actions.append(np.asarray(ask(search, parameters, batch, leads, now).action))
        elif isinstance(search, RulesSearch):
            actions.append(leads[:, len(actions)].astype(np.int32))  # legal: the search has seen to it
        else:
            break
        batch.step(actions[-1])
    for row, moves in enumerate(np.stack(actions, axis=1)):
        yield moves, batch.to_mapping(row), batch.seconds(row)


def observations_of(batch: MallocGameBatch) -> dict[str, npt.NDArray[Any]]:
    """Return the batch's own observation arrays, [B, ...] each."""
    return {name: np.asarray(array) for name, array in batch.observations.items()}


def shapes_of(batch: MallocGameBatch) -> dict[str, list[int]]:
    """Return the shape of each array of one game's observation."""
    return {name: list(array.shape[1:]) for name, array in observations_of(batch).items()}

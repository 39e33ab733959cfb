"""Playing: many games side by side, one search a move for all of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Arrays
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.history import History, compact, expand
from mallocgame.agents.muzero.networks import Parameters
from mallocgame.agents.muzero.replay import Episode
from mallocgame.agents.muzero.rules_search import AnySearch, RulesSearch, ask, none_followed
from mallocgame.agents.muzero.search import Key, Search, next_key, noise_of
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
        self._noise = noise_of(self.num_games)[:, 0]
        self._leads = np.zeros((len(self.pairs), int(self._lengths.max())), dtype=np.int64)  # for new games
        self.leads = self._leads[self.batch.which]  # of the games in flight
        self._followed = none_followed(self.leads)
        self._history = History(observations_of(self.batch), self.batch.num_actions, int(self._lengths.max()))

    def advance(self, parameters: Parameters, key: Key) -> list[Finished]:
        """Make one move in every game; return finished episodes with their mappings and simulated seconds."""
        batch = self.batch
        self._history.see(observations_of(batch), batch.action_masks)
        found = ask(self.search, parameters, batch, self.leads, key, self._followed)
        actions, policy, value = (np.asarray(part) for part in (found.action, found.policy, found.value))
        before = batch.all_seconds()
        actions = self._astray(self._own(actions, found.prior))
        self._followed.note(actions, self.leads, self._history.length)
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
            self._followed.known[rows] = False
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
        self._followed.known[:] = False
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
    batch, length = MallocGameBatch([pair], 1), len(actions)
    shown = [(name, array[0]) for name, array in observations_of(batch).items()]  # written in place
    seen = {name: np.zeros((length, *array.shape), compact(array)) for name, array in shown}
    legal, totals = np.zeros((length, batch.num_actions), dtype=np.bool_), np.zeros(length + 1)
    totals[0] = batch.seconds(0)
    for turn, action in enumerate(np.asarray(actions, dtype=np.int64)[:, None]):
        for name, array in shown:
            seen[name][turn] = array
        legal[turn] = batch.action_masks[0]
        batch.step(action)
        totals[turn + 1] = batch.seconds(0)
    episode = Episode(
        observations=seen,
        legal=legal,
        actions=np.asarray(actions, dtype=np.int32),
        rewards=log_rewards(totals[:-1], totals[1:]).astype(np.float32),
        policies=(legal / legal.sum(axis=1, keepdims=True)).astype(np.float32),
        root_values=np.zeros(length, dtype=np.float32),
        program=pair[0].name,
    )
    return episode, batch.to_mapping(0), batch.seconds(0)


def reconsider(episode: Episode, search: Search, parameters: Parameters, key: Key, num_games: int) -> F32:
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
    key: Key,
    num_games: int,
    *,
    lead: npt.NDArray[np.integer] | None = None,
    stop: Callable[[float], bool] = lambda _: False,
) -> Iterator[Played]:
    """Play ``num_games`` games of one program to the end side by side; yield each.

    Args:
        lead: int[D], for a search on the rules; None: the game of the network alone.
        stop: asked with the part of the game that is played; when it is true a search on the rules follows its leads to
            the end, and other games are given up.
    """
    batch = MallocGameBatch([pair], num_games)
    if isinstance(search, RulesSearch) and lead is None:
        lead, _, _ = next(play(pair, search.prior, parameters, key, 1, stop=stop))
    if isinstance(search, RulesSearch) and lead is not None:
        lead = search.plan(batch.games[0], np.asarray(lead, dtype=np.int64), key, lambda: stop(0.0))
    leads = np.zeros((num_games, batch.games[0].num_decisions), dtype=np.int64)
    if lead is not None:
        leads[:, : len(lead)] = lead
    followed, rows = none_followed(leads), np.zeros(num_games, dtype=np.int64)
    actions: list[I32] = []
    random = np.random.default_rng(key)
    while not batch.done.all():
        now = next_key(random)
        if not stop(len(actions) / leads.shape[1]):
            actions.append(np.asarray(ask(search, parameters, batch, leads, now, followed).action))
            followed.note(actions[-1], leads, rows + len(actions) - 1)
        elif isinstance(search, RulesSearch):
            actions.append(leads[:, len(actions)].astype(np.int32))  # legal: the search has seen to it
        else:
            return
        batch.step(actions[-1])
    for row, moves in enumerate(np.stack(actions, axis=1)):
        yield moves, batch.to_mapping(row), batch.seconds(row)


def observations_of(batch: MallocGameBatch) -> dict[str, npt.NDArray[Any]]:
    """Return the batch's own observation arrays, [B, ...] each."""
    return {name: np.asarray(array) for name, array in batch.observations.items()}


def shapes_of(batch: MallocGameBatch) -> dict[str, list[int]]:
    """Return the shape of each array of one game's observation."""
    return {name: list(array.shape[1:]) for name, array in observations_of(batch).items()}

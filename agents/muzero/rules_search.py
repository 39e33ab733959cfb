"""Search on the true rules: the network says what to try at the root, the rules what it is worth (``tree.py``)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.networks import Model, Parameters
from mallocgame.agents.muzero.planning import plan_lead
from mallocgame.agents.muzero.search import Key, Search, SearchResult, make_search, noise_of
from mallocgame.agents.muzero.tree import Tree, considered_visits, make_tree, search_rows
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.rules import BatchState, Game
from mallocgame.game.threads import in_groups

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

IN_TREE = 16  # simulations of a move, at most: what further ones try in the tree the next moves' searches try again
CHANGES = 2  # of the lead in the place of each further one, and
PLANNED = 1  # more, all over the game, before its first move: one in the tree plays on up to three times
PLANNING = 1  # tells these random numbers from others of the same key
CURIOSITY = 0.1  # of the prior at the root, shared by all actions: a network that is sure is not always right


class RulesSearch:
    """A search from live games. ``leads`` int64[B, D] are the best known ways to go on, and are improved in place."""

    def __init__(self, model: Model, *, num_simulations: int, explore: bool) -> None:
        """Prepare searches.

        Args:
            num_simulations: for each move, at least 1.
            explore: see ``make_search``.
        """
        self.prior = make_search(model, num_simulations=0, explore=False)
        self.explore, self._unit = explore, model.config.rules_value_unit
        in_tree = min(num_simulations, IN_TREE)
        self._changes = CHANGES * (num_simulations - in_tree)
        self._planned = PLANNED * (num_simulations - in_tree)  # for each decision of a game
        counts = [considered_visits(legal, in_tree) for legal in range(model.num_actions + 1)]
        self._sequences = np.array(counts, dtype=np.int64)
        self._scratch: dict[int, tuple[tuple[int, ...], Tree]] = {}  # of each group of rows
        self._decisions: tuple[object, I64] | None = None

    def __call__(
        self,
        parameters: Parameters,
        batch: MallocGameBatch,
        leads: I64,
        key: Key,
        followed: "Followed | None" = None,
    ) -> SearchResult:
        """Search from every row of ``batch``."""
        return self.from_states(
            *(parameters, batch, batch.batch_state, batch.observations, batch.action_masks, leads, key, followed)
        )

    def from_states(
        self,
        parameters: Parameters,
        games: MallocGameBatch,
        states: BatchState,
        observations: Mapping[str, Any],
        legal: npt.NDArray[np.bool_],
        leads: I64,
        key: Key,
        followed: "Followed | None" = None,
    ) -> SearchResult:
        """Search from ``states`` of the games of a batch.

        Args:
            leads: int64[B, D], improved in place.
            followed: of the search one move before, if the games go on from there: saves time, changes nothing.
        """
        totals, known = none_followed(leads) if followed is None else followed
        prior = np.asarray(self.prior(parameters, observations, legal, key).policy, dtype=np.float64)
        rows, num_actions = legal.shape
        chances = (1.0 - CURIOSITY) * prior + CURIOSITY / num_actions
        random, noise = np.random.default_rng(key), np.zeros((rows, num_actions))
        if self.explore:
            noise = noise_of(rows) * random.gumbel(size=(rows, num_actions))
        policy, values, actions = np.zeros((rows, num_actions)), np.zeros(rows), np.zeros(rows, dtype=np.int64)
        logits, decisions = np.log(chances), self._decisions_of(games)
        seeds = random.integers(2**64, size=(rows,), dtype=np.uint64)

        def run(group: int, part: slice) -> None:
            some = states._replace(which=states.which[part], ints=states.ints[part], floats=states.floats[part])
            tree = self._tree(group, states, num_actions, leads.shape[1])
            search_rows(
                some,
                decisions,
                tree,
                legal[part],
                logits[part],
                noise[part],
                self._sequences,
                self._changes,
                self._unit,
                seeds[part],
                leads[part],
                totals[part],
                known[part],
                policy[part],
                values[part],
                actions[part],
            )

        in_groups(rows, run)
        return SearchResult(actions.astype(np.int32), policy.astype(np.float32), values.astype(np.float32), prior)

    def plan(self, game: Game, lead: I64, key: Key, stop: Callable[[], bool]) -> I64:
        """Return a better lead, int64[D], to begin a whole game with (``planning.py``).

        Args:
            game: which.
            lead: int64[D], the best known game.
            key: of the changes.
            stop: asked now and then.
        """
        if not self._planned:
            return lead
        decisions = np.full(len(game.rules.groups), -1, dtype=np.int64)
        decisions[game.rules.decisions] = np.arange(game.num_decisions)
        seed = np.random.default_rng([*key, PLANNING]).integers(2**64, size=1, dtype=np.uint64)
        return plan_lead(game, decisions, lead, self._planned, seed, stop)

    def _tree(self, group: int, states: BatchState, num_actions: int, longest: int) -> Tree:
        key = (states.ints.shape[1], states.floats.shape[1], longest)
        if group not in self._scratch or self._scratch[group][0] != key:
            self._scratch[group] = key, make_tree(states, self._sequences.shape[1] + 1, num_actions, longest)
        return self._scratch[group][1]

    def _decisions_of(self, batch: MallocGameBatch) -> I64:
        """Return int64[games, groups], the decision about each group, -1 where there is none."""
        if self._decisions is None or self._decisions[0] is not batch.games:
            table = np.full((len(batch.games), max(len(game.rules.groups) for game in batch.games)), -1, dtype=np.int64)
            for row, game in zip(table, batch.games, strict=True):
                row[game.rules.decisions] = np.arange(game.num_decisions)
            self._decisions = batch.games, table
        return self._decisions[1]


class Followed(NamedTuple):
    """What the last search knows of the leads of B games, which holds where the games then followed them."""

    totals: F64  # float64[B, D], seconds after each decision of the lead
    known: Bool  # bool[B], whether they are true

    def note(self, actions: npt.NDArray[np.integer], leads: I64, turns: I64) -> None:
        """Take note of the moves, int[B], that were then made at ``turns`` int64[B]."""
        self.known[:] &= actions == leads[np.arange(len(leads)), turns]


def none_followed(leads: I64) -> Followed:
    """Return that nothing is known of these leads, int64[B, D]."""
    return Followed(np.zeros(leads.shape), np.zeros(len(leads), dtype=np.bool_))


AnySearch = Search | RulesSearch


def make_any_search(model: Model, *, num_simulations: int, explore: bool) -> AnySearch:
    """Return the search that the configuration asks for: on the rules or on the learned model, or the prior alone."""
    if num_simulations and model.config.model == "rules":
        return RulesSearch(model, num_simulations=num_simulations, explore=explore)
    return make_search(model, num_simulations=num_simulations, explore=explore)


def ask(
    search: AnySearch,
    parameters: Parameters,
    batch: MallocGameBatch,
    leads: I64,
    key: Key,
    followed: Followed | None = None,
) -> SearchResult:
    """Search from every row of ``batch``; a learned model knows no leads."""
    if isinstance(search, RulesSearch):
        return search(parameters, batch, leads, key, followed)
    return search(parameters, batch.observations, batch.action_masks, key)

"""Self-play on Ray actors, with the replay and the learner in the driver. Actors may die; others take their place.

An actor holds its own games and network; the driver sends it the newest searching weights with each call and gets back
the episodes that ended. What an actor had in flight when it died is lost and nothing else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import make_any_search
from mallocgame.agents.muzero.search import next_key
from mallocgame.agents.muzero.selfplay import Finished, Pair, SelfPlay
from mallocgame.agents.muzero.trainer import Trainer
from mallocgame.errors import MissingExtraError
from mallocgame.mapping import Mapping

try:
    import ray
except ModuleNotFoundError as error:
    raise MissingExtraError("ray", "ray") from error

MOVES_PER_CALL = 32


class Player:
    """What runs in an actor."""

    def __init__(self, pairs: list[Pair], config: Config, num_actions: int, seed: int) -> None:
        """Start the games."""
        model = Model(config, num_actions)
        search = make_any_search(model, num_simulations=config.num_simulations, explore=True)
        self.play = SelfPlay(pairs, config, search, seed)
        self.random = np.random.default_rng(seed)

    def advance(self, weights: Any, moves: int) -> list[Finished]:
        """Make ``moves`` moves in every game with these weights; return what finished."""
        finished: list[Finished] = []
        for _ in range(moves):
            finished += self.play.advance(weights, next_key(self.random))
        return finished


class RayTrainer(Trainer):
    """A trainer whose games are played by ``num_actors`` Ray actors."""

    def __init__(  # noqa: PLR0913 (its options, by name)
        self,
        pairs: Sequence[Pair],
        config: Config,
        folder: Path,
        *,
        seed: int = 0,
        starts: Sequence[Mapping | None] = (),
        known: Sequence[Mapping | None] = (),
        resume: bool = False,
        weights: Path | None = None,
        address: str = "local",
        num_actors: int = 2,
    ) -> None:
        """Connect to the cluster at ``address`` ("local": start one here) and start the actors."""
        super().__init__(pairs, config, folder, seed=seed, starts=starts, known=known, resume=resume, weights=weights)
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        self._remote = ray.remote(num_cpus=1, max_restarts=0)(Player)
        self._born = 0
        self._calls: dict[Any, Any] = {}  # the call under way of each actor
        self.deaths = 0
        for _ in range(num_actors):
            self._hire()

    def _hire(self) -> None:
        self._born += 1
        seed = self.seed + 7919 * self._born
        actor = self._remote.remote(self.play.pairs, self.config, self.model.num_actions, seed)
        self._call(actor)

    def _call(self, actor: Any) -> None:
        weights = ray.put(jax.device_get(self.learner.target))
        self._calls[actor.advance.remote(weights, MOVES_PER_CALL)] = actor

    def _advance(self) -> set[str]:
        """Take the results of actors that are done; replace the dead."""
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=10.0)
        improved: set[str] = set()
        for call in ready:
            actor = self._calls.pop(call)
            try:
                finished = ray.get(call)
            except ray.exceptions.RayActorError:
                self.deaths += 1
                self._hire()
                continue
            improved |= self._keep(finished, MOVES_PER_CALL * self.play.num_games)
            self._call(actor)
        return improved

    def close(self) -> None:
        """End the actors."""
        for actor in self._calls.values():
            ray.kill(actor)
        self._calls.clear()

"""Self-play on Ray actors, with the replay and the learner in the driver. Actors may die; others take their place.

An actor holds its own games and network; the driver sends it the newest searching weights and the best games with each
call and gets back the episodes that ended. What an actor had in flight when it died is lost and nothing else.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.rules_search import make_any_search
from mallocgame.agents.muzero.search import next_key
from mallocgame.agents.muzero.selfplay import Finished, Pair, SelfPlay
from mallocgame.agents.muzero.trainer import Trainer
from mallocgame.errors import InputError, MissingExtraError
from mallocgame.mapping import Mapping

try:
    import ray
except ModuleNotFoundError as error:
    raise MissingExtraError("ray", "ray") from error

I32 = npt.NDArray[np.int32]
MOVES_PER_CALL = 32


class Player:
    """What runs in an actor."""

    def __init__(self, pairs: list[Pair], config: Config, num_actions: int, seed: int) -> None:
        """Start the games."""
        model = Model(config, num_actions)
        self._prior = make_any_search(model, num_simulations=0, explore=True)
        self._searching = make_any_search(model, num_simulations=config.num_simulations, explore=True)
        self.play = SelfPlay(pairs, config, self._prior, seed)
        self.random = np.random.default_rng(seed)

    def advance(self, weights: Any, records: dict[str, I32], moves: int) -> list[Finished]:
        """Make ``moves`` moves in every game; return what finished.

        Args:
            weights: of the network.
            records: int32[D] each, the best game of each program that has one: the leads of the next games. While there
                is none the network plays alone, as in a run without actors.
            moves: in each game.
        """
        if records:
            self.play.search = self._searching
        for name, actions in records.items():
            self.play.lead(name, actions)
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
        """Connect to the cluster at ``address`` ("local": start one here) and start the actors.

        Raises:
            InputError: there is no cluster; nothing was written then.
        """
        _connect(address)
        super().__init__(pairs, config, folder, seed=seed, starts=starts, known=known, resume=resume, weights=weights)
        self._remote = ray.remote(num_cpus=1, max_restarts=0)(Player)
        self._born = 0
        self._calls: dict[Any, Any] = {}  # the call under way of each actor
        self.deaths = 0
        for _ in range(num_actors):
            self._hire()

    def _hire(self) -> None:
        self._born += 1
        seed = self.seed + self.steps + 7919 * self._born  # a resumed run draws other games than the first one did
        actor = self._remote.remote(self.play.pairs, self.config, self.model.num_actions, seed)
        self._call(actor)

    def _call(self, actor: Any) -> None:
        weights = ray.put(jax.device_get(self.learner.target))
        records = {episode.program: episode.actions.copy() for episode in self.records.episodes()}
        self._calls[actor.advance.remote(weights, records, MOVES_PER_CALL)] = actor

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


def _connect(address: str) -> None:
    if ray.is_initialized():
        return
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # Ray's children begin with another program
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"--ray {address}: no cluster to play on: {reason}") from None

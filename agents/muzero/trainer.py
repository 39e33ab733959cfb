"""Training: play, learn, keep the best mapping of each program, save, and go on after a crash as if it had not been."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from mallocgame import system
from mallocgame.agents.muzero.best import Bests
from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.history import expand
from mallocgame.agents.muzero.learner import Learner, Losses, batch_arrays, learning_rate, make_learner, shard
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.replay import Episode, Records, Replay, Store, join
from mallocgame.agents.muzero.reporter import Reporter, TrainingReport
from mallocgame.agents.muzero.rules_search import RulesSearch, ask, make_any_search
from mallocgame.agents.muzero.run import RunFolder, part_of
from mallocgame.agents.muzero.search import make_search, next_key
from mallocgame.agents.muzero.selfplay import Finished, Pair, SelfPlay, demonstrate, reconsider, replayed, shapes_of
from mallocgame.agents.muzero.signals import postponed
from mallocgame.agents.muzero.tree import seek
from mallocgame.errors import InputError, TraceError
from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.finish import finish
from mallocgame.game.variations import Variations
from mallocgame.mapping import Mapping

I64 = npt.NDArray[np.int64]
MOVES_IN_FLIGHT, MOST_IN_FLIGHT = {"cpu": 26_000}, 600_000  # by what JAX runs on: a few hundred games keep a GPU busy
VARIATIONS_AT_ONCE = 1024  # between looks at the network
NOTHING = 1e-5  # what float32 rewards leave uncertain, as a share of the time
FINISH_SECONDS = 3.0  # for the tensors that focusing left out, over all programs of a run
FINISH_MOVES = 600_000  # about as many; a budget in moves knows no clock


class Trainer:
    """One run. ``train`` may be called again after an interruption; ``resume`` goes on from a folder."""

    def __init__(
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
    ) -> None:
        """Prepare games, network and folder.

        Args:
            pairs: the programs to play, whole; they are focused here.
            starts: hybrid mode: a valid mapping for each program (or None), demonstrated, and never made worse.
            known: a mapping for each program (or None) that is not demonstrated, and never made worse.
            resume: continue the run in ``folder``; ``config`` is then the run's own.
            weights: start from the weights of this run or exported agent, whose network must have the same sizes.

        Raises:
            InputError: a folder that holds a run (without ``resume``) or none (with it), or one that does not fit.
        """
        self.folder = RunFolder(folder)
        rows = list(zip(pairs, _padded(starts, pairs), _padded(known, pairs), strict=True))
        if resume:
            config = self.folder.config()
            order = self.folder.check_programs(pairs)
            rows.sort(key=lambda row: order.index(row[0][0].name))
        self.pairs = [pair for pair, _, _ in rows]
        self.best = Bests(self.pairs)
        for (program, _), start, other in rows:
            self.best.offer(program.name, start)
            self.best.offer(program.name, other)
        focused = [(program.focused(config.focus_fraction), hierarchy) for program, hierarchy in self.pairs]
        probe = MallocGameBatch(focused[:1], 1)
        shapes = shapes_of(probe)
        if not config.moves_in_flight:
            config = replace(config, moves_in_flight=MOVES_IN_FLIGHT.get(jax.default_backend(), MOST_IN_FLIGHT))
        self.config, self.seed = config, seed
        self.model = Model(config, probe.num_actions)
        self.learner, self._update = make_learner(self.model, probe.observations, seed)
        if resume:
            self.folder.check(shapes, probe.num_actions)
        if weights is not None:
            fitting = RunFolder(weights)
            fitting.check(shapes, probe.num_actions)
            fitting.check_network(config)
            parameters = fitting.load_parameters(self.learner)
            self.learner = self.learner._replace(parameters=parameters, target=parameters)
        self._prior = make_search(self.model, num_simulations=0, explore=True)
        self._searching = make_any_search(self.model, num_simulations=config.num_simulations, explore=True)
        self._calm = make_any_search(self.model, num_simulations=config.num_simulations, explore=False)
        self.play = SelfPlay(focused, config, self._prior, seed)
        lengths = {game.program.name: game.num_decisions for game in self.play.batch.games}
        self.replay = Replay(
            max(config.replay_steps, 2 * max(lengths.values())),
            priority_exponent=config.priority_exponent,
            bootstrap_steps=config.bootstrap_steps,
        )
        self.records = Records(lengths, priority_exponent=config.priority_exponent)
        self.random = np.random.default_rng(seed)
        self.steps = self.episodes = 0
        self.spent_seconds = 0.0
        self.returns: list[float] = []
        self._debt = 0.0  # updates that the moves made so far still ask for
        self._pending: tuple[list[tuple[Store, I64]], Losses] | None = None  # an update whose errors are not read yet
        self._variations_due = 0.0
        self._varied: Variations | None = None  # the program that was varied last
        self._typical_length = float(np.mean(list(lengths.values())))
        self._number = 0  # of the checkpoint in the folder that this trainer goes on from
        self._held = False
        with self.folder.locked():
            if resume:
                self._restore()
            else:
                self.folder.create(config, shapes, probe.num_actions, self.pairs)
        self._demonstrate({program.name: start for (program, _), start, _ in rows if start is not None})

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other writers out of the folder while in this context; ``train`` does so, too.

        Raises:
            InputError: somebody else writes there, or has done so since this trainer was made.
        """
        if self._held:
            yield
            return
        with self.folder.locked():
            newest = self.folder.newest()
            if (0 if newest is None else int(newest["number"])) != self._number:
                raise InputError(f"{self.folder.path}: another run has gone on from here; resume it again")
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def train(
        self,
        *,
        seconds: float | None = None,
        steps: int | None = None,
        report: Callable[[TrainingReport], None] | None = None,
        report_seconds: float = 1.0,
    ) -> None:
        """Train until ``seconds`` or ``steps`` (moves, over the whole run) are spent, or a signal comes; then save.

        With a budget in ``steps`` alone a run that was stopped or killed and resumed ends as the straight one does, bit
        for bit. SIGINT and SIGTERM are obeyed after the move at hand, a second one at once and without saving.

        Raises:
            InputError: no budget, another writer in the folder, or a loss that is not finite.
            KeyboardInterrupt: passed on after saving (``signals.Interrupted`` for a signal).
        """
        if seconds is None and steps is None:
            raise InputError("training needs a budget: seconds or steps")
        with self.hold():
            if not self._number:
                with postponed() as check:
                    self.save()  # the weights and demonstrations that it begins with
                    check()
            with system.stand_by():  # there is nothing to save yet: a signal need not wait
                self._compile()
            with postponed() as check:
                self._train(seconds, steps, Reporter(self, report, report_seconds), check)

    def _train(self, seconds: float | None, steps: int | None, reporter: Reporter, check: Callable[[], None]) -> None:
        begun, before, whole = time.monotonic(), self.spent_seconds, True
        last_save = begun
        try:
            self._imitate(check)
            while (done := self.progress(seconds, steps)) < 1.0:
                whole = False
                improved = self._advance() | self._vary(done)
                losses = self._learn(done)
                whole = True
                now = time.monotonic()
                self.spent_seconds = before + now - begun
                reporter.tell(done, losses, improved)
                if now - last_save >= self.config.checkpoint_seconds:
                    self.save()
                    last_save = time.monotonic()
                check()
        except KeyboardInterrupt:
            if not whole:  # in the middle of a move: the last checkpoint is all that belongs together
                raise
            self.save()
            reporter.close(self.progress(seconds, steps))
            raise
        improved = self._take_varied()
        self.save()
        if found := self._finish(float("inf") if seconds is None else FINISH_SECONDS):
            self.save()
        improved |= found
        reporter.close(self.progress(seconds, steps), improved)

    def save(self) -> None:
        """Write a checkpoint; a kill at any moment leaves this one or the one before.

        Raises:
            InputError: another writer in the folder, or weights that are not finite.
        """
        self._settle()
        varied = self._varied
        state = {
            "steps": self.steps,
            "episodes_played": self.episodes,
            "spent_seconds": self.spent_seconds,
            "numpy": _written(self.random),
            "games": _written(self.play.random),
            "debt": self._debt,
            "returns": self.returns,
            "variations_due": self._variations_due,
            "varied": None if varied is None else [game is varied.game for game in self.play.batch.games].index(True),
        }
        parts = {"flights": self.play.state(), "best": self.best.arrays()}
        if varied is not None:
            parts["varied"] = varied.state()
        arrays = {f"{part}.{name}": array for part, table in parts.items() for name, array in table.items()}
        with self.hold():
            self._number = self.folder.save(self.learner, state, arrays, self.replay, self.records)

    def _restore(self) -> None:
        state = self.folder.newest()
        if state is None:
            return  # killed before its first checkpoint: nothing but the start is known
        self.learner = self.folder.load(self.learner, state)
        episodes, records = self.folder.load_episodes(state), self.folder.load_records(state)
        arrays = self.folder.load_arrays(state)
        try:
            self._take_back(state)
            self.replay.put_back(episodes, int(state["cursor"]))
            for episode in records:
                self.records.keep(episode)
            self.records.changed.clear()
            self.replay.restore(part_of(arrays, "replay"))
            self.records.restore(part_of(arrays, "records"))
            self.play.restore(part_of(arrays, "flights"))
            self.best.restore(part_of(arrays, "best"))
            if state["varied"] is not None:
                game = self.play.batch.games[state["varied"]]
                self._varied = Variations(game, part_of(arrays, "varied")["actions"])
                self._varied.restore(part_of(arrays, "varied"))
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            where = self.folder.path / f"state-{state['number']}.json"
            raise TraceError(where, None, f"not a state of this run: {error}") from None
        self._number = int(state["number"])

    def _take_back(self, state: dict[str, Any]) -> None:
        self.steps, self.episodes = int(state["steps"]), int(state["episodes_played"])
        self.spent_seconds, self._debt = float(state["spent_seconds"]), float(state["debt"])
        self._variations_due = float(state["variations_due"])
        self.returns = [float(x) for x in state["returns"]]
        self.random.bit_generator.state = _read(state["numpy"])
        self.play.random.bit_generator.state = _read(state["games"])

    def _compile(self) -> None:
        """Compile the searches, the changes and the update before the clock starts; nothing of the run changes."""
        play, random = self.play, np.random.default_rng(0)
        for search in (self._prior, self._searching):
            ask(search, self.learner.target, play.batch, play.leads.copy(), next_key(random))
        if self.config.variations:
            game = play.batch.games[0]
            Variations(game, np.zeros(game.num_decisions, dtype=np.int64)).search(0, random)
        records = self.records
        if not records.num_steps:
            episode, _, _ = demonstrate(play.pairs[0], Mapping())
            records = Records({episode.program: episode.length}, priority_exponent=self.config.priority_exponent)
            records.keep(episode)
        count = self.config.batch_size
        positions = np.zeros(count, dtype=np.int64)
        batch = records.gather(positions, self.config.unroll_steps, np.ones(count, dtype=np.float32), random)
        self._update(self.learner, shard(batch_arrays(join([batch]))), 0.0)

    def progress(self, seconds: float | None, steps: int | None) -> float:
        """Return the share of a budget that the run has spent, 1 where nothing is left of it."""
        shares = [self.spent_seconds / seconds] if seconds else []
        shares += [self.steps / steps] if steps else []
        return min(max(shares, default=1.0), 1.0)

    def _demonstrate(self, starts: dict[str, Mapping]) -> None:
        for program, hierarchy in self.play.pairs:
            start = starts.get(program.name)
            if start is not None:
                episode, _, _ = demonstrate((program, hierarchy), start)
                self._record(episode)

    def _imitate(self, check: Callable[[], None]) -> None:
        """Learn from the demonstrations alone, once, before the first game."""
        total = self.config.imitation_updates
        while self.records.num_steps and not self.steps and (done := int(self.learner.updates)) < total:
            rate = learning_rate(self.config, done / total)
            self._update_from([(self.records, self.config.batch_size)], rate)
            check()

    def _store(self, episode: Episode) -> None:
        self._settle()
        self.replay.add(episode, self.episodes)
        self._record(episode)
        self.episodes += 1

    def _record(self, episode: Episode) -> None:
        """Keep the best game of a program: to imitate, and as the lead of the next games."""
        self._settle()
        if self.records.offer(episode, self.config.imitation_share):
            self.play.lead(episode.program, episode.actions)

    def _advance(self) -> set[str]:
        """Make a move in each game; until the first one ends the network plays alone: there is soon a game to vary."""
        if self.episodes:
            self.play.search = self._searching
        finished = self.play.advance(self.learner.target, next_key(self.random))
        return self._keep(finished, self.play.num_games)

    def _keep(self, finished: list[Finished], moves: int) -> set[str]:
        """Store finished episodes and account for ``moves``; return the programs whose best mapping changed."""
        improved = set()
        for episode, mapping, seconds in finished:
            self._store(episode)
            self.returns = [*self.returns[-63:], float(episode.rewards.sum())]
            if self.best.offer(episode.program, mapping, seconds):
                improved.add(episode.program)
        self.steps += moves
        self._debt += moves * self.config.updates_per_step
        if self.records.returns:
            self._variations_due += moves * self.config.variations / self._typical_length
        return improved

    def _vary(self, progress: float) -> set[str]:
        """Begin the variations of best games that are due; return the programs that got faster by the last ones.

        They are played while the games go on, and what they found is taken when the next ones are due.
        """
        improved: set[str] = set()
        while self._variations_due >= VARIATIONS_AT_ONCE:
            self._variations_due -= VARIATIONS_AT_ONCE
            improved |= self._take_varied()
            self._begin_varying(progress)
        return improved

    def _begin_varying(self, progress: float) -> None:
        """Begin to vary one best game."""
        records = self.records.episodes()
        record = records[self.random.integers(len(records))]
        index = next(i for i, (program, _) in enumerate(self.play.pairs) if program.name == record.program)
        pair, game = self.play.pairs[index], self.play.batch.games[index]
        best = self.best[record.program].home_seconds / math.exp(float(record.rewards.sum()))
        if self._varied is None or self._varied.game is not game or best < self._varied.seconds * (1.0 - NOTHING):
            self._varied = Variations(game, record.actions)
        episode, _, _ = replayed(pair, self._varied.current)
        now = next_key(self.random)
        guide = self._prior if isinstance(self._searching, RulesSearch) else self._searching
        self._varied.guide(reconsider(episode, guide, self.learner.target, now, self.play.num_games))
        temperature = self.config.variation_temperature * (1.0 - progress)
        self._varied.begin(VARIATIONS_AT_ONCE, self.random, temperature)

    def _take_varied(self) -> set[str]:
        """Take what the variations found that were begun last; return the program if it got faster."""
        if self._varied is None or not self._varied.end():
            return set()
        pair = next(pair for pair in self.play.pairs if pair[0].name == self._varied.game.program.name)
        episode, mapping, seconds = replayed(pair, self._varied.actions)
        self._record(episode)
        return {episode.program} if self.best.offer(episode.program, mapping, seconds) else set()

    def _finish(self, seconds: float) -> set[str]:
        """Decide what focusing left out, for each program that was played; return those that got faster."""
        improved, share = set(), 1.0 / len(self.pairs)
        for (program, hierarchy), (focused, _) in zip(self.pairs, self.play.pairs, strict=True):
            mapping = self.best[program.name].mapping
            if mapping.residencies:
                found = finish(program, focused, hierarchy, mapping, seconds * share, moves=FINISH_MOVES * share)
                if self.best.offer(program.name, found):
                    improved.add(program.name)
        return improved

    def _learn(self, progress: float) -> Losses | None:
        """Make the updates that are due; the last one's losses are not waited for."""
        config = self.config
        if self.replay.num_steps < 2 * config.batch_size:
            self._debt = min(self._debt, 1.0)
            return None
        losses = None
        rate = learning_rate(config, progress)
        from_records = int(config.records_share * config.batch_size) if self.records.num_steps else 0
        while self._debt >= 1.0:
            self._debt -= 1.0
            shares = [(self.replay, config.batch_size - from_records), (self.records, from_records)]
            losses = self._update_from([(store, count) for store, count in shares if count], rate)
        return losses

    def _update_from(self, shares: Sequence[tuple[Store, int]], rate: float) -> Losses:
        """Make one update from so many positions of each store; ``_settle`` renews their priorities."""
        self._settle()
        drawn, batches = [], []
        for store, count in shares:
            positions, chances = store.draw(self.random, count)
            weights = (1.0 / chances).astype(np.float32)
            if store is self.replay:
                self._renew(positions[: int(self.config.reanalyse_fraction * len(positions))])
            drawn.append((store, positions))
            batches.append(store.gather(positions, self.config.unroll_steps, weights / weights.max(), self.random))
        self.learner, losses = self._update(self.learner, shard(batch_arrays(join(batches))), rate)
        self._pending = drawn, losses
        return losses

    def _settle(self) -> None:
        """Wait for the last update and renew the priorities of its positions, before anything else touches them.

        Raises:
            InputError: its loss is not finite.
        """
        if self._pending is None:
            return
        (drawn, losses), self._pending = self._pending, None
        if not math.isfinite(total := float(losses.total)):
            what = f"after {int(self.learner.updates)} updates the loss is {total}"
            raise InputError(f"{self.folder.path}: {what}; its last checkpoint is kept (a smaller learning_rate?)")
        errors, begin = np.asarray(losses.errors), 0
        for store, positions in drawn:
            store.prioritise(positions, errors[begin : begin + len(positions)])
            begin += len(positions)

    def _renew(self, positions: I64) -> None:
        """Search whole windows of the replay again, with the newest target network and without noise."""
        if not len(positions):
            return
        found = self.replay.window(positions, self.config.unroll_steps)
        for begin in range(0, len(found), self.play.num_games):
            at = found[np.minimum(np.arange(begin, begin + self.play.num_games), len(found) - 1)]  # always as many
            now = next_key(self.random)
            observations, legal = self.replay.look(at)
            observations = {name: expand(array) for name, array in observations.items()}
            if isinstance(self._calm, RulesSearch):
                states, leads = self._states(at)
                result = self._calm.from_states(
                    self.learner.target, self.play.batch, states, observations, legal, leads, now
                )
            else:
                result = self._calm(self.learner.target, observations, legal, now)
            self.replay.reanalyse(at, np.asarray(result.policy), np.asarray(result.value))

    def _states(self, positions: I64) -> tuple[rules.BatchState, I64]:
        """Return the games at these positions of the replay, and how each went on, int64[B, D]."""
        names = [program.name for program, _ in self.play.pairs]
        which = np.array([names.index(name) for name in self.replay.programs_of(positions)], dtype=np.int64)
        turns, episodes = self.replay.before(positions)
        leads = np.zeros((len(positions), self.play.leads.shape[1]), dtype=np.int64)
        for row, moves in zip(leads, episodes, strict=True):
            row[: len(moves)] = moves
        states = rules.make_batch(self.play.batch.games, which)
        seek(states, turns, leads)
        return states, leads


def _written(random: np.random.Generator) -> dict[str, Any]:
    """Return a generator's state for JSON, whose integers end at 64 bits."""
    state: dict[str, Any] = dict(random.bit_generator.state)
    return state | {"state": {name: hex(value) for name, value in state["state"].items()}}


def _read(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"state": {name: int(value, 16) for name, value in state["state"].items()}}


def _padded(mappings: Sequence[Mapping | None], pairs: Sequence[Pair]) -> list[Mapping | None]:
    return [*mappings, *[None] * (len(pairs) - len(mappings))]


__all__ = ["Learner", "Trainer", "TrainingReport"]

"""Learning, saving, dying and going on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.learner import make_learner
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.search import key_of, make_search, next_key
from mallocgame.agents.muzero.selfplay import Finished, SelfPlay, games_for, play, reconsider
from mallocgame.agents.muzero.solver import muzero
from mallocgame.agents.muzero.trainer import Trainer, TrainingReport
from mallocgame.errors import InputError, TraceError
from mallocgame.game.batch import MallocGameBatch
from mallocgame.game.variations import Variations
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.workloads.make import find_programs
from mallocgame.workloads.synthetic.generate import Recipe, generate

TINY = Config(
    latent_size=32,
    hidden_size=32,
    conv_channels=4,
    num_games=16,
    num_simulations=8,
    batch_size=32,
    updates_per_step=0.1,
    learning_rate=3e-3,
    focus_fraction=0.0,
    checkpoint_seconds=1e9,
)


def test_a_planted_game_is_solved_from_scratch(tmp_path: Path) -> None:
    """The planted family's optimum is known by construction (workloads/synthetic/generate.py)."""
    case = generate(Recipe(family="planted", decisions=12, capacity_pressure=1.0), seed=3)
    trainer = Trainer([(case.program, case.hierarchy)], TINY, tmp_path / "run", seed=1)
    trainer.train(steps=4000)
    best = trainer.best[case.program.name]
    assert validate(case.program, case.hierarchy, best.mapping) == []
    assert best.seconds == pytest.approx(case.optimum_seconds, rel=1e-9)


def test_the_first_games_are_played_without_search(tmp_path: Path) -> None:
    """A record to vary is worth more than good first moves; from the first finished game on, each move is searched."""
    pairs = find_programs(family="chain", decisions=20)
    config = replace(TINY, stray_moves=0.0, variations=0)
    trainer = Trainer(pairs, config, tmp_path / "run", seed=0)
    opening = trainer.play.search
    trainer.train(steps=2 * TINY.num_games * trainer.play.batch.games[0].num_decisions)
    assert trainer.episodes == 2 * TINY.num_games
    assert trainer.play.search is not opening
    prior = make_search(trainer.model, num_simulations=0, explore=True)
    fresh = Trainer(pairs, config, tmp_path / "again", seed=0)
    finished = []
    while not finished:
        finished = fresh.play.advance(fresh.learner.target, next_key(fresh.random))
    first = finished[0][0]
    alone = reconsider(first, prior, fresh.learner.target, key_of(0), TINY.num_games)
    assert first.policies == pytest.approx(alone, abs=1e-3)


def test_reports_checkpoints_and_the_solver_agree(tmp_path: Path) -> None:
    pairs = find_programs(family="chain", decisions=20)
    rows: list[TrainingReport] = []
    trainer = Trainer(pairs, TINY, tmp_path / "run", seed=0)
    trainer.train(steps=1500, report=rows.append, report_seconds=0.0)
    assert rows[-1].steps >= 1500
    assert rows[-1].updates > 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [row.steps for row in rows]
    again = Trainer(pairs, replace(TINY, focus_fraction=0.2), tmp_path / "run", seed=9, resume=True)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), trainer.learner._asdict(), again.learner._asdict())
    assert all(jax.tree.leaves(same))
    assert again.replay.num_steps == trainer.replay.num_steps
    assert (again.steps, again.episodes) == (trainer.steps, trainer.episodes)
    program, hierarchy = pairs[0]
    result = muzero(program, hierarchy, seconds=1.0, run=tmp_path / "run", simulations=4, games=4)
    assert validate(program, hierarchy, result.mapping) == []
    assert result.seconds <= simulate(program, hierarchy, Mapping()).total_seconds
    RunFolder(tmp_path / "run").export(trainer.learner, tmp_path / "exported")
    exported = muzero(program, hierarchy, seconds=0.5, run=tmp_path / "exported", simulations=4, games=4)
    assert validate(program, hierarchy, exported.mapping) == []


def test_a_hybrid_run_never_returns_worse_than_its_start(tmp_path: Path) -> None:
    from mallocgame.baselines.anneal import anneal

    pairs = find_programs(family="residual", decisions=20)
    program, hierarchy = pairs[0]
    start = anneal(program, hierarchy, seconds=0.5)
    trainer = Trainer(pairs, TINY, tmp_path / "run", starts=[start.mapping])
    assert trainer.records.num_steps > 0
    trainer.train(steps=300)
    assert trainer.best[program.name].seconds <= start.seconds + 1e-15


def test_demonstrations_are_learned_before_the_first_game(tmp_path: Path) -> None:
    from mallocgame.baselines.anneal import anneal

    pairs = find_programs(family="residual", decisions=20)
    start = anneal(*pairs[0], steps=100).mapping
    config = replace(TINY, imitation_updates=150)
    trainer = Trainer(pairs, config, tmp_path / "run", starts=[start])
    shown = home_seconds(*pairs[0]) / np.exp(next(iter(trainer.records.returns.values())))
    trainer.train(steps=1)
    search = make_search(trainer.model, num_simulations=0, explore=False)
    ((_, _, seconds),) = play(pairs[0], search, trainer.learner.parameters, key_of(0), 1)
    assert seconds == pytest.approx(shown, rel=1e-6)


def test_a_return_is_the_log_of_the_speed_up(tmp_path: Path) -> None:
    pairs = find_programs(family="chain", decisions=12)
    trainer = Trainer(pairs, TINY, tmp_path / "run")
    home = trainer.best[pairs[0][0].name].home_seconds
    finished: list[Finished] = []
    while not finished:
        finished = trainer.play.advance(trainer.learner.target, key_of(len(finished)))
    for episode, mapping, seconds in finished:
        assert validate(*pairs[0], mapping) == []
        assert float(episode.rewards.sum()) == pytest.approx(np.log(home / seconds), abs=1e-5)


@pytest.mark.parametrize(
    ("lengths", "games"),
    [([20], 64), ([400], 64), ([440], 32), ([800], 32), ([2000], 16), ([9999], 16), ([100, 300], 64)],
)
def test_fewer_games_are_in_flight_where_they_are_long(lengths: list[int], games: int) -> None:
    assert games_for(Config(moves_in_flight=26_000), lengths) == games
    assert games_for(TINY, lengths) == TINY.num_games


def test_strays_are_legal_and_leave_the_first_game_alone() -> None:
    pairs = find_programs(family="chain", decisions=12)
    probe = MallocGameBatch(pairs, 1)
    model = Model(TINY, probe.num_actions)
    learner, _ = make_learner(model, probe.observations, 0)
    search = make_search(model, num_simulations=0, explore=False)
    plans = []
    for moves in (0.0, 1e9):
        play = SelfPlay(pairs, replace(TINY, stray_moves=moves), search, seed=0)
        finished: list[Finished] = []
        while len(finished) < TINY.num_games:
            finished += play.advance(learner.target, key_of(0))
        assert not play.batch.illegal.any()
        plans.append([episode.actions.tolist() for episode, _, _ in finished])
    assert plans[0] == [plans[0][0]] * TINY.num_games  # all alike without
    assert plans[1][0] == plans[0][0]
    assert len({tuple(plan) for plan in plans[1]}) > TINY.num_games // 2


def test_a_run_may_start_from_the_weights_of_another(tmp_path: Path) -> None:
    pairs = find_programs(family="chain", decisions=12)
    first = Trainer(pairs, TINY, tmp_path / "first", seed=1)
    first.train(steps=200)
    second = Trainer(find_programs(family="loop", decisions=12), TINY, tmp_path / "second", weights=tmp_path / "first")
    same = jax.tree.map(np.array_equal, first.learner.target, second.learner.parameters)
    assert all(jax.tree.leaves(same))
    settings = RunFolder(tmp_path / "first").fine_tuning()
    assert (settings.latent_size, settings.conv_channels, settings.batch_size) == (32, 4, Config().batch_size)
    assert settings.learning_rate < Config().learning_rate
    small = replace(TINY, hidden_size=16)
    with pytest.raises(TraceError, match="hidden_size 32, not 16"):
        Trainer(pairs, small, tmp_path / "third", weights=tmp_path / "first")


def test_a_run_that_does_not_fit_is_refused_by_what_differs(tmp_path: Path) -> None:
    pairs = find_programs(family="chain", decisions=20)
    Trainer(pairs, TINY, tmp_path / "run").save()
    with pytest.raises(InputError, match="--resume"):
        Trainer(pairs, TINY, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    for change, message in (
        ({"num_actions": 5}, "5 actions"),
        ({"format": 99}, "99"),
        ({"observation_shapes": about["observation_shapes"] | {"memory": [1, 2, 3]}}, "memory"),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps(about | change))
        with pytest.raises(TraceError, match=message):
            Trainer(pairs, TINY, tmp_path / "run", resume=True)


SCRIPT = """
import sys
from pathlib import Path
from mallocgame.agents.muzero.trainer import Trainer
from mallocgame.workloads.make import find_programs
from tests.agents.muzero.test_training import TINY
from dataclasses import replace
trainer = Trainer(find_programs(family="chain", decisions=20), replace(TINY, checkpoint_seconds=0.5), Path(sys.argv[1]))
trainer.train(seconds=600)
"""


def _states(run: Path) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in run.glob("state-*.json")]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(run)], env=environment)
    try:
        limit = time.monotonic() + 240
        while time.monotonic() < limit and child.poll() is None:
            if len(list(run.glob("replay/*.npz"))) >= 2 and max(_states(run), default=0) >= 2:
                break
            time.sleep(0.1)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    state = RunFolder(run).newest()
    assert state is not None
    resumed = Trainer(find_programs(family="chain", decisions=20), TINY, run, resume=True)
    assert resumed.steps == state["steps"] > 0
    assert len(resumed.replay.kept) == len(state["kept"])
    resumed.train(steps=resumed.steps + 64)
    assert resumed.steps >= state["steps"] + 64


@pytest.mark.ray
def test_an_actor_searches_from_the_best_game_it_is_told() -> None:
    pytest.importorskip("ray")
    from mallocgame.agents.muzero.distributed import Player

    (pair,) = pairs = find_programs(family="training", decisions=30)
    batch = MallocGameBatch(pairs, 1)
    game, config = batch.games[0], replace(TINY, num_simulations=1)
    best = Variations(game, np.zeros(game.num_decisions, dtype=np.int64))
    best.search(3000, np.random.default_rng(0))
    weights = make_learner(Model(config, batch.num_actions), batch.observations, 0)[0].target
    fastest = {}
    for name, records in {"told": {pair[0].name: best.actions.astype(np.int32)}, "untold": {}}.items():
        player = Player(pairs, config, batch.num_actions, 0)
        finished = player.advance(weights, records, 2 * game.num_decisions)  # leads are of the games that begin then
        fastest[name] = min(seconds for _, _, seconds in finished)
    assert fastest["told"] <= best.seconds * (1.0 + 1e-9) < fastest["untold"]


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_actors_play_and_may_die(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from mallocgame.agents.muzero.distributed import RayTrainer

    pairs = find_programs(family="chain", decisions=20)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        trainer = RayTrainer(pairs, TINY, tmp_path / "run", num_actors=2)
        trainer.train(steps=1024)
        before = trainer.steps
        ray.kill(next(iter(trainer._calls.values())))
        trainer.train(steps=before + 2048)
        assert trainer.deaths == 1
        assert trainer.steps >= before + 2048
        assert trainer.replay.num_steps > 0
        trainer.close()
    finally:
        ray.shutdown()

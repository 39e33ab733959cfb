"""Nothing is lost: whatever is stopped or killed when, a run goes on as if it had not been."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.agents.muzero.signals import Interrupted
from mallocgame.agents.muzero.trainer import Trainer, TrainingReport
from mallocgame.errors import InputError, TraceError
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.workloads.make import find_programs
from tests.agents.muzero.test_training import TINY
from tests.paths import ROOT

PAIRS = find_programs(family="chain", decisions=20) + find_programs(family="residual", decisions=14)
REANALYSING = replace(TINY, reanalyse_fraction=0.5, replay_steps=200, variations=400)  # the oldest episodes go


def _weights(trainer: Trainer) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trainer.learner._asdict())]


def _everything(trainer: Trainer) -> dict[str, Any]:
    """Return all that training goes by, but for times."""
    stores = {"replay": trainer.replay, "records": trainer.records}
    found: dict[str, Any] = {f"{name}.{k}": v for name, s in stores.items() for k, v in s.state().items()}
    found |= {f"flights.{k}": v for k, v in trainer.play.state().items()}
    found |= {f"weights.{i}": leaf for i, leaf in enumerate(_weights(trainer))}
    found |= {f"best.{k}": v for k, v in trainer.best.arrays().items()}
    found |= {f"varied.{k}": v for k, v in (trainer._varied.state() if trainer._varied else {}).items()}
    found["counters"] = np.array([trainer.steps, trainer.episodes, trainer._debt, trainer._variations_due])
    return {name: np.array(array) for name, array in found.items()}  # stores are written in place


def _same(one: Trainer, other: Trainer) -> list[str]:
    """Return what differs."""
    mine, theirs = _everything(one), _everything(other)
    return [name for name in mine | theirs if not np.array_equal(mine.get(name), theirs.get(name))]


def _stop_at(steps: int) -> Callable[[TrainingReport], None]:
    def report(row: TrainingReport) -> None:
        if row.steps >= steps:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("stops", [(40,), (96, 560)])
def test_a_stopped_and_resumed_run_is_the_straight_one_bit_for_bit(tmp_path: Path, stops: tuple[int, ...]) -> None:
    straight = Trainer(PAIRS, REANALYSING, tmp_path / "straight", seed=3)
    straight.train(steps=1200)
    assert straight._varied is not None
    assert len(straight.replay.kept) < straight.episodes
    trainer = Trainer(PAIRS, REANALYSING, tmp_path / "run", seed=3)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(steps=1200, report=_stop_at(stop), report_seconds=0.0)
        trainer = Trainer(PAIRS[::-1], TINY, tmp_path / "run", seed=9, resume=True)  # the run knows its order and seed
        assert trainer.steps >= stop
    assert _same(straight, trainer) != []
    trainer.train(steps=1200)
    assert _same(straight, trainer) == []


class _Images:
    """Copies of a folder as a kill just before each write, rename or removal in it would leave it."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self.target, self.on = folder, target, False
        self.taken: list[Path] = []
        self._last: set[tuple[str, int]] = set()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or threading.current_thread() is not threading.main_thread():
            return
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            return
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and str(self.folder) in str(arguments[0]):
            self._take()

    def _take(self) -> None:
        self.on = False  # copying is no part of it
        files = [path for path in self.folder.rglob("*") if "checkpoint-tmp" not in str(path)]
        now = {(str(path), path.stat().st_size) for path in files}
        if now == self._last:  # but for what orbax has not finished
            self.on = True
            return
        self._last = now
        self.taken.append(self.target / str(len(self.taken)))
        shutil.copytree(self.folder, self.taken[-1])
        self.on = True

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False


def test_a_kill_before_any_write_of_a_save_loses_no_more_than_the_moves_since_the_last(tmp_path: Path) -> None:
    """Also where no move was made since, and where the best mapping is all that is new."""
    run = tmp_path / "run"
    config = replace(TINY, variations=0, replay_steps=60)
    trainer = Trainer(PAIRS[:1], config, run)
    trainer.train(steps=400)
    images = _Images(run, tmp_path / "images")
    before = _everything(trainer)
    with images.during():
        trainer.save()
    for _ in range(40):
        trainer._advance()
    with images.during():
        trainer.save()
    assert len(images.taken) > 8, images.taken
    after = _everything(trainer)
    found = []
    for image in images.taken:
        resumed = Trainer(PAIRS[:1], TINY, image, resume=True)
        state = _everything(resumed)
        found.append(next(i for i, known in enumerate((before, after)) if _equal(known, state)))
        resumed.save()
    assert _equal(_everything(Trainer(PAIRS[:1], TINY, images.taken[-1], resume=True)), after)
    assert found == sorted(found)
    assert set(found) == {0, 1}


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_what_a_dead_run_left_behind_is_never_taken_for_the_resumed_ones(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = Trainer(PAIRS[:1], TINY, run)
    trainer.train(steps=640)
    last = max(kept.number for kept in trainer.replay.kept)
    for number in range(last + 1, last + 40):  # written before the kill, never named by a state
        shutil.copy(run / "replay" / f"{last}.npz", run / "replay" / f"{number}.npz")
    resumed = Trainer(PAIRS[:1], TINY, run, resume=True)
    resumed.train(steps=1280)
    assert _same(resumed, Trainer(PAIRS[:1], TINY, run, resume=True)) == []
    assert {file.stem for file in (run / "replay").iterdir()} == {str(kept.number) for kept in resumed.replay.kept}


def test_the_best_mapping_survives(tmp_path: Path) -> None:
    """Here it is much better than anything the resumed games reach."""
    from mallocgame.baselines.anneal import anneal

    program, hierarchy = PAIRS[0]
    known = anneal(program, hierarchy, seconds=0.5).mapping
    trainer = Trainer(PAIRS[:1], replace(TINY, variations=0), tmp_path / "run", known=[known])
    judged = simulate(program, hierarchy, known).total_seconds
    assert trainer.best[program.name].seconds == judged
    assert trainer.records.num_steps == 0  # known, not demonstrated
    trainer.train(steps=32)
    resumed = Trainer(PAIRS[:1], TINY, tmp_path / "run", resume=True)
    assert resumed.best[program.name].seconds <= judged
    resumed.train(steps=64)
    assert resumed.best[program.name].seconds <= judged
    broken = replace(known, residencies=known.residencies * 2)
    fresh = Trainer(PAIRS[:1], TINY, tmp_path / "again", known=[broken])
    assert fresh.best[program.name].mapping == Mapping()


def test_two_writers_are_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = Trainer(PAIRS[:1], TINY, run)
    with trainer.hold():
        child = subprocess.run(
            [sys.executable, "-c", _OTHER, str(run)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert f"process {os.getpid()}" in child.stdout, child.stderr
        with pytest.raises(InputError, match=f"process {os.getpid()}"):
            Trainer(PAIRS[:1], TINY, run, resume=True)
    trainer.train(steps=16)
    late = Trainer(PAIRS[:1], TINY, run, resume=True)
    trainer.train(steps=32)
    with pytest.raises(InputError, match="gone on"):
        late.train(steps=64)
    state = RunFolder(run).newest()
    assert state is not None
    assert state["steps"] == trainer.steps


_OTHER = """
import sys
from pathlib import Path
from mallocgame.agents.muzero.run import RunFolder
from mallocgame.errors import InputError
try:
    with RunFolder(Path(sys.argv[1])).locked():
        print("mine")
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_for_the_move_and_save(tmp_path: Path, number: int) -> None:
    trainer = Trainer(PAIRS[:1], TINY, tmp_path / "run")
    advance = trainer.play.advance

    def hit(*arguments: Any) -> Any:
        if trainer.steps == 64:
            os.kill(os.getpid(), number)
        return advance(*arguments)

    trainer.play.advance = hit  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as caught:
        trainer.train(steps=10_000)
    assert caught.value.exit_code == 128 + number
    assert trainer.steps == 64 + trainer.play.num_games
    assert _same(trainer, Trainer(PAIRS[:1], TINY, tmp_path / "run", resume=True)) == []


def test_a_signal_does_not_wait_for_compilation(tmp_path: Path) -> None:
    trainer, went_on = Trainer(PAIRS[:1], TINY, tmp_path / "run"), []

    def compile_for_long() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        went_on.append(True)

    trainer._compile = compile_for_long  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train(steps=10_000)
    assert (went_on, trainer.steps) == ([], 0)
    assert _same(trainer, Trainer(PAIRS[:1], TINY, tmp_path / "run", resume=True)) == []


def _damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_damage_is_one_line_and_nothing_is_overwritten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Trainer(PAIRS[:1], TINY, run).train(steps=640)
    state = next(run.glob("state-*.json"))
    parts = ("arrays/*.npz", "records/*.npz", "replay/*.npz", "state-*.json", "run.json", "checkpoints/*/_METADATA")
    for number, part in enumerate(parts):
        copy = tmp_path / str(number)
        shutil.copytree(run, copy)
        _damage(next(copy.glob(part)))
        left = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        with pytest.raises(TraceError) as caught:
            Trainer(PAIRS[:1], TINY, copy, resume=True)
        assert "\n" not in str(caught.value)
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == left
    text = json.loads(state.read_text())
    state.write_text(json.dumps({**text, "varied": 7}))
    with pytest.raises(TraceError, match="not a state"):
        Trainer(PAIRS[:1], TINY, run, resume=True)


@pytest.mark.parametrize("theirs", ["checkpoints/epoch-3.pt", "records/2026.csv", "arrays", "state-old.json"])
def test_a_folder_with_files_of_somebody_else_is_refused(tmp_path: Path, theirs: str) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("theirs")
    with pytest.raises(InputError, match="is not of a run of this command; give another --out"):
        Trainer(PAIRS[:1], TINY, tmp_path).train(steps=640)
    assert (tmp_path / theirs).read_text() == "theirs"


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Trainer(PAIRS, TINY, run).train(steps=16)
    program, hierarchy = PAIRS[0]
    with pytest.raises(TraceError, match="name it as well"):
        Trainer(PAIRS[:1], TINY, run, resume=True)
    with pytest.raises(TraceError, match="hoisting"):
        Trainer([(program.without_hoisting(), hierarchy), PAIRS[1]], TINY, run, resume=True)
    with pytest.raises(TraceError, match="not of"):
        Trainer([*PAIRS, (replace(program, name="other"), hierarchy)], TINY, run, resume=True)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"features": ["magic", *about["features"][1:]]}))
    with pytest.raises(TraceError, match="magic"):
        Trainer(PAIRS, TINY, run, resume=True)


def test_weights_that_are_not_finite_are_neither_loaded_nor_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = Trainer(PAIRS[:1], TINY, run)
    trainer.train(steps=320)
    good = _everything(Trainer(PAIRS[:1], TINY, run, resume=True))
    trainer.folder.export(trainer.learner, tmp_path / "exported")
    trainer.learner = trainer.learner._replace(
        parameters=jax.tree.map(lambda x: x * np.nan, trainer.learner.parameters)
    )
    with pytest.raises(InputError, match="NaN"):
        trainer.save()
    with pytest.raises(InputError, match=r"NaN|loss is nan"):
        trainer.train(steps=1000)
    assert _equal(_everything(Trainer(PAIRS[:1], TINY, run, resume=True)), good)
    file = tmp_path / "exported" / "weights.npz"
    with np.load(file) as data:
        arrays = [data[name] for name in data.files]
    arrays[0][...] = np.nan
    np.savez(file, *arrays)
    with pytest.raises(InputError, match=r"weights\.npz.*NaN"):
        Trainer(PAIRS[:1], replace(Config(), **_network()), tmp_path / "new", weights=tmp_path / "exported")
    assert not (tmp_path / "new").exists()
    _damage(file)
    with pytest.raises(TraceError, match=r"weights\.npz"):
        Trainer(PAIRS[:1], replace(Config(), **_network()), tmp_path / "new", weights=tmp_path / "exported")


def _network() -> dict[str, Any]:
    return {name: getattr(TINY, name) for name in ("latent_size", "hidden_size", "conv_channels")}

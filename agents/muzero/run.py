"""A run's folder: configuration, checkpoints, episodes, metrics. No pickle anywhere.

``run.json`` (what the network needs to load), ``checkpoints/N`` (orbax; the newest complete one counts),
``state-N.json`` (counters, random state), ``replay/*.npz`` (episodes), ``records/*.npz`` (the best of each program),
``metrics.jsonl``.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.learner import Learner
from mallocgame.agents.muzero.replay import Episode, Records, Replay
from mallocgame.errors import InputError, TraceError
from mallocgame.files import atomic_path, write_text

FORMAT = 2
FINE_TUNING_RATE = 4e-4
NETWORK_SETTINGS = ("latent_size", "hidden_size", "num_blocks", "conv_channels", "support_size", "value_scale")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    def create(self, config: Config, shapes: dict[str, list[int]], num_actions: int) -> None:
        """Make the folder and write ``run.json``.

        Raises:
            InputError: there is a run in the folder already.
        """
        if (self.path / "run.json").exists():
            raise InputError(f"{self.path} holds a run already; give --resume to continue it, or another --out")
        for part in ("checkpoints", "replay", "records"):
            (self.path / part).mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "config": config.to_dict(),
            "observation_shapes": shapes,
            "num_actions": num_actions,
            "versions": {"jax": jax.__version__},
        }
        write_text(self.path / "run.json", json.dumps(about, indent=1) + "\n")

    def about(self) -> dict[str, Any]:
        """Read ``run.json``.

        Raises:
            TraceError: missing, not JSON, or of another format.
        """
        path = self.path / "run.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise TraceError(path, None, f"not a readable run: {error}") from None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            found = about.get("format") if isinstance(about, dict) else about
            raise TraceError(path, None, f"run format {found!r}, this version reads {FORMAT}")
        return about

    def check(self, shapes: dict[str, list[int]], num_actions: int) -> Config:
        """Return the run's configuration if its network fits games of these shapes.

        Raises:
            TraceError: it does not; the message says what differs.
        """
        about = self.about()
        if about["num_actions"] != num_actions:
            message = f"the network has {about['num_actions']} actions, the game {num_actions} (memory layers differ)"
            raise TraceError(self.path / "run.json", None, message)
        for name, shape in shapes.items():
            trained = about["observation_shapes"].get(name)
            if trained != shape:
                raise TraceError(self.path / "run.json", None, f"{name} has shape {shape}, the network wants {trained}")
        return self.config()

    def check_network(self, config: Config) -> None:
        """See that a network of ``config`` can take this run's weights.

        Raises:
            TraceError: it cannot; the message says which settings differ.
        """
        own = self.config()
        pairs = ((name, getattr(own, name), getattr(config, name)) for name in NETWORK_SETTINGS)
        different = [f"{name} {ours}, not {theirs}" for name, ours, theirs in pairs if ours != theirs]
        if different:
            raise TraceError(self.path / "run.json", None, f"its network has {'; '.join(different)}")

    def save(self, learner: Learner, state: dict[str, Any], replay: Replay, records: Records) -> None:
        """Write a checkpoint; it counts once its ``state-N.json`` is there. Older ones go afterwards."""
        number = int(state["steps"])
        target = (self.path / "checkpoints" / str(number)).absolute()
        if target.exists():
            shutil.rmtree(target)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target, learner._asdict())
        names = {f"{kept.number}.npz" for kept in replay.kept}
        for kept in replay.kept:
            file = self.path / "replay" / f"{kept.number}.npz"
            if not file.exists():
                _write_episode(file, replay.episode(kept.start, kept.program))
        for index, episode in enumerate(records.episodes()):
            _write_episode(self.path / "records" / f"{index}.npz", episode)
        state = {**state, "episodes": [kept.number for kept in replay.kept]}
        write_text(self.path / f"state-{number}.json", json.dumps(state) + "\n")
        for old in self.path.glob("state-*.json"):
            if old.name != f"state-{number}.json":
                old.unlink()
        for folder in (self.path / "checkpoints").iterdir():
            if folder.name != str(number):
                shutil.rmtree(folder, ignore_errors=True)
        for file in (self.path / "replay").glob("*.npz"):
            if file.name not in names:
                file.unlink()

    def newest(self) -> dict[str, Any] | None:
        """Return the state of the newest complete checkpoint, None if there is none."""
        states = sorted(self.path.glob("state-*.json"), key=lambda p: int(p.stem.split("-")[1]))
        if not states:
            return None
        try:
            state: dict[str, Any] = json.loads(states[-1].read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise TraceError(states[-1], None, f"not a readable state: {error}") from None
        return state

    def load(self, like: Learner, state: dict[str, Any]) -> Learner:
        """Return the checkpoint that belongs to ``state``.

        Raises:
            TraceError: it is missing or does not fit ``like``.
        """
        folder = (self.path / "checkpoints" / str(int(state["steps"]))).absolute()
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                restored = checkpointer.restore(folder, jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceError(folder, None, f"not a checkpoint of this network: {str(error).splitlines()[0]}") from None
        return Learner(**restored)

    def config(self) -> Config:
        """Return the run's configuration."""
        return Config.from_dict(self.about()["config"], self.path / "run.json")

    def fine_tuning(self) -> Config:
        """Return the settings with which to go on from this run's weights: its network, smaller steps, defaults."""
        config = self.config()
        network = {name: getattr(config, name) for name in NETWORK_SETTINGS}
        return replace(Config(learning_rate=FINE_TUNING_RATE), **network)

    def export(self, learner: Learner, target: Path) -> None:
        """Write what playing needs (``run.json`` and the searching weights as one npz) into a folder of its own."""
        target.mkdir(parents=True, exist_ok=True)
        leaves = jax.tree.leaves(learner.target)
        with atomic_path(target / "weights.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, *(np.asarray(leaf) for leaf in leaves))
        shutil.copy(self.path / "run.json", target / "run.json")

    def load_parameters(self, like: Learner) -> Any:
        """Return the searching weights of an exported folder, or of the newest checkpoint.

        Raises:
            TraceError: there are none, or they do not fit ``like``.
        """
        file = self.path / "weights.npz"
        if not file.exists():
            state = self.newest()
            if state is None:
                raise TraceError(self.path, None, "the run has no checkpoint yet")
            return self.load(like, state).target
        leaves, tree = jax.tree.flatten(like.target)
        try:
            with np.load(file, allow_pickle=False) as data:
                found = [data[f"arr_{i}"] for i in range(len(leaves))]
        except (OSError, ValueError, KeyError) as error:
            raise TraceError(file, None, f"not the weights of this network: {error}") from None
        if [leaf.shape for leaf in found] != [leaf.shape for leaf in leaves]:
            raise TraceError(file, None, "the weights have other shapes than this version's network")
        return jax.tree.unflatten(tree, found)

    def load_episodes(self, state: dict[str, Any]) -> list[tuple[int, Episode]]:
        """Return the episodes of a state's replay, oldest first."""
        return [(index, _read_episode(self.path / "replay" / f"{index}.npz")) for index in state["episodes"]]

    def load_records(self) -> list[Episode]:
        """Return the best episode of each program."""
        return [_read_episode(file) for file in sorted((self.path / "records").glob("*.npz"))]

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _write_episode(path: Path, episode: Episode) -> None:
    arrays = {f"observation.{name}": array for name, array in episode.observations.items()}
    for name in ("legal", "actions", "rewards", "policies", "root_values"):
        arrays[name] = getattr(episode, name)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, program=np.array(episode.program), **arrays)  # type: ignore[arg-type]


def _read_episode(path: Path) -> Episode:
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError) as error:
        raise TraceError(path, None, f"not a readable episode: {error}") from None
    observations = {k.removeprefix("observation."): v for k, v in arrays.items() if k.startswith("observation.")}
    rest = {k: v for k, v in arrays.items() if not k.startswith("observation.") and k != "program"}
    return Episode(observations=observations, program=str(arrays["program"]), **rest)

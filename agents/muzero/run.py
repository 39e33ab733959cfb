"""A run's folder: settings, checkpoints, episodes, metrics. No pickle anywhere, and nothing is lost by a kill.

``run.json`` says what the run is; it is written first and never again. Everything else belongs to a checkpoint N:
``checkpoints/N`` (orbax), ``arrays/N.npz`` (priorities, games in flight, best mappings), ``replay/*.npz`` and
``records/*.npz`` (episodes, each written once), and ``state-N.json``, which names them and is written last: only with
it the checkpoint counts. A new checkpoint touches nothing that an older ``state-*.json`` names until its own is there.
``lock`` is held by whoever trains (the system lets go of it when the process dies, however it dies).
"""

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mallocgame.agents.muzero.archive import (
    Arrays,
    read_arrays,
    read_episode,
    write_arrays,
    write_episode,
)
from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.learner import Learner, check_finite
from mallocgame.agents.muzero.replay import Episode, Kept, Records, Replay
from mallocgame.errors import InputError, TraceError
from mallocgame.files import append_bytes, atomic_path, read_json, write_text
from mallocgame.game.features import OUTLOOK, OVERVIEW
from mallocgame.game.observation import FORESIGHT, OUTCOMES, global_names, plain_columns, use_names
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program
from mallocgame.system import owner_of, sign, try_lock

FORMAT = 3
FINE_TUNING_RATE = 4e-4
NETWORK_SETTINGS = (
    "foresight",
    "latent_size",
    "hidden_size",
    "num_blocks",
    "conv_channels",
    "support_size",
    "value_scale",
)
FOLDERS = ("checkpoints", "arrays", "replay", "records")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    def create(
        self,
        config: Config,
        shapes: dict[str, list[int]],
        num_actions: int,
        pairs: Sequence[tuple[Program, Hierarchy]] = (),
    ) -> None:
        """Make the folder and write ``run.json``.

        Raises:
            InputError: there is a run in the folder already, or the best mapping of another, or files that a run, which
                removes what its newest checkpoint does not name, would take for its own.
        """
        if (self.path / "run.json").exists():
            raise InputError(f"{self.path} holds a run already; give --resume to continue it, or another --out")
        for program, _ in pairs:
            if self.best_file(program.name).exists():
                raise InputError(f"{self.best_file(program.name)} is there already; give another --out")
        self._refuse_foreign()
        for part in FOLDERS:
            (self.path / part).mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "config": config.to_dict(),
            "observation_shapes": _shown(shapes, config),
            "features": _features(num_actions, config),
            "num_actions": num_actions,
            "programs": {program.name: fingerprint(program, hierarchy) for program, hierarchy in pairs},
            "versions": {"jax": jax.__version__},
        }
        write_text(self.path / "run.json", json.dumps(about, indent=1) + "\n")

    def _refuse_foreign(self) -> None:
        parts = [self.path / part for part in FOLDERS]
        found = [part for part in parts if part.exists() and not (part.is_dir() and not any(part.iterdir()))]
        for path in [*found, *self.path.glob("state-*.json")]:
            raise InputError(f"{path} is not of a run of this command; give another --out")

    def best_file(self, name: str) -> Path:
        """Return where the best mapping of a program is written; no name leads out of the folder."""
        return self.path / f"best-{name.replace('/', '_').replace(os.sep, '_')}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out of the folder.

        Raises:
            InputError: somebody else writes there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("ab+") as file:
            if not try_lock(file.fileno()):
                owner = owner_of(file.fileno())
                raise InputError(f"{self.path} is being written by another run (process {owner}); give another --out")
            sign(file.fileno())
            yield

    def about(self) -> dict[str, Any]:
        """Read ``run.json``.

        Raises:
            TraceError: missing, not JSON, or of another format.
        """
        path = self.path / "run.json"
        about = read_json(path)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            found = about.get("format") if isinstance(about, dict) else about
            raise TraceError(path, None, f"run format {found!r}, this version reads {FORMAT}; train it anew")
        for name, kind in (("config", dict), ("observation_shapes", dict), ("num_actions", int), ("features", list)):
            if not isinstance(about.get(name), kind):
                raise TraceError(path, None, f"{name} is {about.get(name)!r}, expected a {kind.__name__}")
        return about

    def check(self, shapes: dict[str, list[int]], num_actions: int) -> Config:
        """Return the run's configuration if its network fits games of these shapes.

        Raises:
            TraceError: it does not; the message says what differs.
        """
        about, path = self.about(), self.path / "run.json"
        if about["num_actions"] != num_actions:
            message = f"the network has {about['num_actions']} actions, the game {num_actions} (memory layers differ)"
            raise TraceError(path, None, message)
        config = self.config()
        mine, theirs = _features(num_actions, config), about["features"]
        if mine != theirs:
            new, old = [x for x in mine if x not in theirs], [x for x in theirs if x not in mine]
            message = f"the network was trained by another version: it lacks features {new}, and wants {old}"
            raise TraceError(path, None, message)
        for name, shape in _shown(shapes, config).items():
            trained = about["observation_shapes"].get(name)
            if trained != shape:
                raise TraceError(path, None, f"{name} has shape {shape}, the network wants {trained}")
        return config

    def check_programs(self, pairs: Sequence[tuple[Program, Hierarchy]]) -> list[str]:
        """See that this is the run of these programs; return their names in its order.

        Raises:
            TraceError: it is not; the message names the first that differs.
        """
        ours = self.about().get("programs", {})
        for program, hierarchy in pairs:
            known = ours.get(program.name)
            if known is None:
                message = f"the run is of {', '.join(ours) or 'no program'}, not of {program.name}"
                raise TraceError(self.path / "run.json", None, message)
            if known != fingerprint(program, hierarchy):
                message = f"the run is of another {program.name}: its tensors, memory or hoisting (--hoist) differ"
                raise TraceError(self.path / "run.json", None, message)
        missing = [name for name in ours if name not in {program.name for program, _ in pairs}]
        if missing:
            raise TraceError(self.path / "run.json", None, f"the run is of {', '.join(missing)}, too; name it as well")
        return list(ours)

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

    def save(self, learner: Learner, state: dict[str, Any], arrays: Arrays, replay: Replay, records: Records) -> int:
        """Write a checkpoint and return its number; older ones go afterwards.

        Raises:
            InputError: the weights are not finite, or something cannot be written.
        """
        check_finite(learner, f"{self.path}: nothing was saved")
        before = self.newest()
        number = 1 + max([int(p.stem.split("-")[-1].split(".")[0]) for p in self._numbered()], default=0)
        self._save_learner(learner, number)
        written = {row[2] for row in before["kept"]} if before is not None else set()  # a kill may have left others
        for kept in replay.kept:
            if kept.number not in written:
                file = self.path / "replay" / f"{kept.number}.npz"
                write_episode(file, replay.episode(kept.start, kept.program))
        files = dict(before["records"]) if before is not None else {}
        for index, episode in enumerate(records.episodes()):
            if episode.program in records.changed or episode.program not in files:
                files[episode.program] = f"{number}-{index}.npz"
                write_episode(self.path / "records" / files[episode.program], episode)
        write_arrays(
            self.path / "arrays" / f"{number}.npz",
            _flat(replay.state(), "replay") | _flat(records.state(), "records") | arrays,
        )
        kept_rows = [[kept.start, kept.length, kept.number, kept.program] for kept in replay.kept]
        state = {**state, "number": number, "records": files, "kept": kept_rows, "cursor": replay.cursor}
        write_text(self.path / f"state-{number}.json", json.dumps(state) + "\n")
        records.changed.clear()
        self._clean(number, {f"{kept.number}.npz" for kept in replay.kept}, set(files.values()))
        return number

    def _save_learner(self, learner: Learner, number: int) -> None:
        target = (self.path / "checkpoints" / str(number)).absolute()
        with _quiet():
            try:
                with ocp.StandardCheckpointer() as checkpointer:
                    checkpointer.save(target, learner._asdict())
                return
            except Exception as error:  # what orbax and TensorStore raise is not documented
                reason = _reason(error)
        for left in target.parent.glob(f"{number}*"):
            shutil.rmtree(left, ignore_errors=True)
        raise TraceError(target, None, f"cannot write: {reason}")

    def _numbered(self) -> list[Path]:
        """Return all that has a checkpoint's number."""
        found = [p for p in (self.path / "checkpoints").glob("*") if p.name.split(".")[0].isdigit()]
        return found + list(self.path.glob("state-*.json")) + list((self.path / "arrays").glob("*.npz"))

    def _clean(self, number: int, episodes: set[str], records: set[str]) -> None:
        """Remove what the newest state does not name."""
        for old in self.path.glob("state-*.json"):
            if old.name != f"state-{number}.json":
                old.unlink()
        for folder in (self.path / "checkpoints").iterdir():
            if folder.name != str(number):
                shutil.rmtree(folder, ignore_errors=True)
        for part, names in (("arrays", {f"{number}.npz"}), ("replay", episodes), ("records", records)):
            for file in (self.path / part).iterdir():
                if file.name not in names:
                    file.unlink()

    def newest(self) -> dict[str, Any] | None:
        """Return the state of the newest complete checkpoint, None if there is none.

        Raises:
            TraceError: it is not readable.
        """
        states = sorted(self.path.glob("state-*.json"), key=lambda p: int(p.stem.split("-")[1]))
        if not states:
            return None
        try:
            state: dict[str, Any] = read_json(states[-1])
            if not {"number", "records", "kept", "cursor", "steps"} <= state.keys():
                raise ValueError("entries are missing")
        except TraceError:
            raise
        except (ValueError, AttributeError) as error:
            raise TraceError(states[-1], None, f"not a readable state: {error}") from None
        return state

    def load(self, like: Learner, state: dict[str, Any]) -> Learner:
        """Return the checkpoint that belongs to ``state``.

        Raises:
            TraceError: it is missing, damaged, not finite, or does not fit ``like``.
        """
        folder = (self.path / "checkpoints" / str(int(state["number"]))).absolute()
        try:
            with _quiet(), ocp.StandardCheckpointer() as checkpointer:
                restored = checkpointer.restore(folder, jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict()))
        except Exception as error:  # what orbax and TensorStore raise for damaged files is not documented
            raise TraceError(folder, None, f"not a checkpoint of this network: {_reason(error)}") from None
        learner = Learner(**restored)
        check_finite(learner, str(folder))
        return learner

    def load_arrays(self, state: dict[str, Any]) -> Arrays:
        """Return the arrays that belong to ``state``.

        Raises:
            TraceError: missing or damaged.
        """
        return read_arrays(self.path / "arrays" / f"{int(state['number'])}.npz", "the arrays of a checkpoint")

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
        about = {name: value for name, value in self.about().items() if name != "programs"}
        write_text(target / "run.json", json.dumps(about, indent=1) + "\n")

    def load_parameters(self, like: Learner) -> Any:
        """Return the searching weights of an exported folder, or of the newest checkpoint.

        Raises:
            TraceError: there are none, they are damaged or not finite, or they do not fit ``like``.
        """
        file = self.path / "weights.npz"
        if not file.exists():
            state = self.newest()
            if state is None:
                raise TraceError(self.path, None, "the run has no checkpoint yet")
            return self.load(like, state).target
        leaves, tree = jax.tree.flatten(like.target)
        arrays = read_arrays(file, "the weights of this network")
        found = [arrays.get(f"arr_{i}", np.empty(0)) for i in range(len(leaves))]
        if [(leaf.shape, leaf.dtype) for leaf in found] != [(leaf.shape, leaf.dtype) for leaf in leaves]:
            raise TraceError(file, None, "the weights have other shapes or types than this version's network")
        parameters = jax.tree.unflatten(tree, found)
        check_finite(parameters, str(file))
        return parameters

    def load_episodes(self, state: dict[str, Any]) -> list[tuple[Kept, Episode]]:
        """Return the episodes of a state's replay and their places, oldest first.

        Raises:
            TraceError: one is missing, damaged, or of another length.
        """
        found = []
        for row in state["kept"]:
            kept = Kept(*row)
            file = self.path / "replay" / f"{kept.number}.npz"
            episode = read_episode(file)
            if (episode.length, episode.program) != (kept.length, kept.program):
                raise TraceError(file, None, f"not the episode of {kept.program} of {kept.length} moves")
            found.append((kept, episode))
        return found

    def load_records(self, state: dict[str, Any]) -> list[Episode]:
        """Return the best episode of each program.

        Raises:
            TraceError: one is missing or damaged.
        """
        return [read_episode(self.path / "records" / name) for name in state["records"].values()]

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to ``metrics.jsonl``."""
        append_bytes(self.path / "metrics.jsonl", (json.dumps(row) + "\n").encode())


def fingerprint(program: Program, hierarchy: Hierarchy) -> str:
    """Return a digest of what a game of ``program`` depends on; names do not count."""
    instructions = [(i.compute_seconds, i.trip_count, i.fixed_bytes) for i in program.instructions]
    tensors = [(t.size_bytes, t.is_parameter, t.is_output, t.movable, t.holdable, t.hoistable) for t in program.tensors]
    uses = [(u.step, u.bytes, int(u.kind), u.home_only) for t in program.tensors for u in t.uses]
    loops = [(loop.start_step, loop.end_step, loop.trip_count) for loop in program.loops]
    layers = [(x.capacity_bytes, x.bytes_per_second, x.alignment_bytes) for x in hierarchy.layers]
    links = [(x.pairs, x.bytes_per_second, x.shared_layer, x.latency_seconds, x.max_in_flight) for x in hierarchy.links]
    everything = repr((instructions, tensors, uses, loops, layers, links))
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


def part_of(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names begin with ``prefix.``, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in arrays.items() if k.startswith(f"{prefix}.")}


def _flat(arrays: Arrays, prefix: str) -> Arrays:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax and TensorStore from showing the traceback of what they raise, too, once for each of their threads."""
    logging.getLogger("asyncio").addFilter(_is_not_of_orbax)  # its tasks say so when they are collected, much later
    if sys.unraisablehook is not _except_late_answers:
        _shown_by[:] = [sys.unraisablehook]
        sys.unraisablehook = _except_late_answers
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.getMessage()


_shown_by = [sys.unraisablehook]


def _except_late_answers(found: "sys.UnraisableHookArgs") -> None:
    """Show what nobody can catch, unless TensorStore met it telling asyncio of a write after another one had failed.

    Orbax has closed its event loop by then; TensorStore's threads hand what asyncio raises to ``sys.unraisablehook``.
    """
    error = found.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        _shown_by[0](found)


def _reason(error: Exception) -> str:
    """Return the system's words for what orbax or TensorStore met, or else the first line of theirs."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is not None:
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def _features(num_actions: int, config: Config) -> list[str]:
    """Return what the observation's columns mean: weights of another version fit the shapes, perhaps, but not these."""
    num_layers = (num_actions + 1) // 2
    names = use_names(num_layers)
    if not config.foresight:
        return [*(names[i] for i in plain_columns(num_layers)), *global_names(num_layers)]
    return [*names, *OUTCOMES, *OUTLOOK, *OVERVIEW, *global_names(num_layers)]


def _shown(shapes: dict[str, list[int]], config: Config) -> dict[str, list[int]]:
    """Return the shapes of what the network reads of an observation."""
    if config.foresight:
        return shapes
    columns = plain_columns(shapes["globals"][0] - 3)
    shown = {name: shape for name, shape in shapes.items() if name not in FORESIGHT}
    return {**shown, "uses": [shapes["uses"][0], len(columns)]}

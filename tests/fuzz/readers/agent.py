"""Run folders of the agent: configurations, states, weights, records."""

import json
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fuzz.readers.shared import Reader, npz


def _runs() -> list[bytes]:
    return [(_shipped_run() / "run.json").read_bytes()]


@cache
def _shipped_run() -> Path:
    import mallocgame.agents.muzero

    return Path(mallocgame.agents.muzero.__file__).parent / "pretrained"


def _read_run(path: Path) -> Any:
    from mallocgame.agents.muzero.config import Config
    from mallocgame.agents.muzero.run import RunFolder

    shipped = json.loads(_runs()[0])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.json").symlink_to(path.resolve())
        run = RunFolder(Path(folder))
        run.config()
        run.fine_tuning()
        run.check_network(Config())
        return run.check(shipped["observation_shapes"], shipped["num_actions"])


def _read_toml(path: Path) -> Any:
    from mallocgame.agents.muzero.config import Config

    return Config.from_toml(path)


def _read_state(path: Path) -> Any:
    from mallocgame.agents.muzero.run import RunFolder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "state-7.json").symlink_to(path.resolve())
        return RunFolder(Path(folder)).newest()


STATE = b'{"number": 7, "records": {"p": "0.npz"}, "kept": [[0, 0, 5, "p"]], "cursor": 3, "steps": 7}'


WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def _read_weights(path: Path) -> Any:
    from mallocgame.agents.muzero.run import RunFolder

    like: Any = SimpleNamespace(target=WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights.npz").symlink_to(path.resolve())
        found = RunFolder(Path(folder)).load_parameters(like)
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in found.values()), (
        "bad weights accepted"
    )
    return found


def _episodes() -> list[bytes]:
    arrays: dict[str, Any] = {
        "observation.memory": np.zeros((2, 2, 4), np.float32),
        "legal": np.ones((2, 3), bool),
        "actions": np.zeros(2, np.int32),
        "rewards": np.zeros(2, np.float32),
        "policies": np.full((2, 3), 1 / 3, np.float32),
        "root_values": np.zeros(2, np.float32),
        "program": np.array("toy"),
    }
    return [npz(arrays)]


def _read_records(path: Path) -> Any:
    from mallocgame.agents.muzero.run import RunFolder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "records").mkdir()
        (Path(folder) / "records" / "0.npz").symlink_to(path.resolve())
        return RunFolder(Path(folder)).load_records({"records": {"p": "0.npz"}})


def _checkpoints() -> list[bytes]:
    from mallocgame.agents.muzero.archive import mapping_arrays
    from mallocgame.mapping import HOME, Mapping, Residency, Transfer

    place = Residency(tensor=0, layer=1, offset_bytes=0, start_step=0, end_step=2)
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=-1, done_before=1, size_bytes=4)
    return [npz(mapping_arrays(Mapping(residencies=(place,), transfers=(copy,))))]


def _read_checkpoint(path: Path) -> Any:
    from mallocgame.agents.muzero.archive import mapping_from
    from mallocgame.agents.muzero.run import RunFolder
    from mallocgame.errors import TraceError

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "arrays").mkdir()
        (Path(folder) / "arrays" / "7.npz").symlink_to(path.resolve())
        arrays = RunFolder(Path(folder)).load_arrays({"number": 7})
    try:
        return mapping_from(arrays["residencies"], arrays["transfers"])
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:  # as Trainer tells it
        raise TraceError(path, None, f"not a state of this run: {type(error).__name__}") from None


READERS = (
    Reader(name="checkpoint", suffix=".npz", seeds=_checkpoints, read=_read_checkpoint),
    Reader(name="run", suffix=".json", seeds=_runs, read=_read_run),
    Reader(name="state", suffix=".json", seeds=lambda: [STATE], read=_read_state),
    Reader(
        name="config",
        suffix=".toml",
        seeds=lambda: [b'latent_size = 64\npolicy = "gumbel"\nlearning_rate = 1e-3\n'],
        read=_read_toml,
    ),
    Reader(
        name="weights",
        suffix=".npz",
        seeds=lambda: [npz({"arr_0": WEIGHTS["a"], "arr_1": WEIGHTS["b"]})],
        read=_read_weights,
    ),
    Reader(name="records", suffix=".npz", seeds=_episodes, read=_read_records),
)

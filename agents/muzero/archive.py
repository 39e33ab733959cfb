"""Episodes, arrays and mappings as npz files: written whole, read with suspicion, never unpickled."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.replay import Episode
from mallocgame.errors import TraceError
from mallocgame.files import atomic_path
from mallocgame.files.arrays import load_arrays
from mallocgame.mapping import Mapping, Residency, Transfer

Arrays = dict[str, npt.NDArray[Any]]

DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_PLACE = ("tensor", "layer", "offset_bytes", "start_step", "end_step")
_COPY = ("tensor", "source", "target", "start_after", "done_before", "size_bytes", "slice_offset_bytes")


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays by name, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path, what: str) -> Arrays:
    """Return the arrays of a file.

    Args:
        what: what it should be, for the message.

    Raises:
        TraceError: missing, damaged, or with objects that would have to be unpickled.
    """
    try:
        with path.open("rb") as file:
            return load_arrays(file)
    except (*DAMAGE, TypeError) as error:
        raise TraceError(path, None, f"not {what}: {_first_line(error)}") from None


def write_episode(path: Path, episode: Episode) -> None:
    """Write an episode, atomically."""
    arrays: Arrays = {f"observation.{name}": array for name, array in episode.observations.items()}
    for name in ("legal", "actions", "rewards", "policies", "root_values"):
        arrays[name] = getattr(episode, name)
    write_arrays(path, {"program": np.array(episode.program), **arrays})


def read_episode(path: Path) -> Episode:
    """Return a written episode.

    Raises:
        TraceError: damaged, or its arrays do not belong together.
    """
    arrays = read_arrays(path, "a readable episode")
    observations = {k.removeprefix("observation."): v for k, v in arrays.items() if k.startswith("observation.")}
    rest: Any = {k: v for k, v in arrays.items() if not k.startswith("observation.") and k != "program"}
    try:
        episode = Episode(observations=observations, program=str(arrays["program"]), **rest)
        lengths = {len(array) for array in (*observations.values(), *rest.values())}
        is_finite = bool(np.isfinite(episode.rewards).all())
    except (KeyError, TypeError) as error:  # the latter: an array of no length, or of text
        raise TraceError(path, None, f"not a readable episode: {_first_line(error)}") from None
    if len(lengths) != 1 or not is_finite:
        raise TraceError(path, None, "not a readable episode: its arrays do not belong together")
    return episode


def mapping_arrays(mapping: Mapping) -> Arrays:
    """Return a mapping as two integer tables."""
    places = [[getattr(row, name) for name in _PLACE] for row in mapping.residencies]
    copies = [[getattr(row, name) for name in _COPY] for row in mapping.transfers]
    return {
        "residencies": np.array(places, dtype=np.int64).reshape(-1, len(_PLACE)),
        "transfers": np.array(copies, dtype=np.int64).reshape(-1, len(_COPY)),
    }


def mapping_from(residencies: npt.NDArray[Any], transfers: npt.NDArray[Any]) -> Mapping:
    """Return the mapping of two tables of ``mapping_arrays``. Whether it is valid is for ``validate`` to say.

    Raises:
        ValueError: they have other columns.
    """
    return Mapping(
        residencies=tuple(Residency(**dict(zip(_PLACE, row, strict=True))) for row in residencies.tolist()),
        transfers=tuple(Transfer(**dict(zip(_COPY, row, strict=True))) for row in transfers.tolist()),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

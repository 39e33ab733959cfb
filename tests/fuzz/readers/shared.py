"""A reader, and how whole files are made for one."""

import gzip
import io
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.paths import DATA


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One reader: ``seeds`` are whole files, ``read`` takes the path of one; ``suffix`` ends its name.

    ``write``, where there is such a function, writes what ``read`` returns.
    """

    name: str
    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    write: Callable[[Path, Any], Any] | None = None


def written(write: Callable[[Path], Any], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def packed(seeds: Iterable[bytes]) -> list[bytes]:
    found = list(seeds)
    return [*found, gzip.compress(found[0], mtime=0)]


def in_folder(path: Path, name: str, source: Path, read: Callable[[Path], Any]) -> Any:
    """Read a copy of the folder ``source`` in which ``path`` takes the place of file ``name``."""
    with tempfile.TemporaryDirectory() as folder:
        for file in source.iterdir():
            if file.is_file() and file.name != name:
                (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / name).symlink_to(path.resolve())
        return read(Path(folder))


def npz(arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def shipped_files(often: str, seldom: str) -> Callable[[], list[bytes]]:
    """A small file, of which every line is needed, and once in thirty times a real one of which most lines are not."""
    return lambda: [(DATA / often).read_bytes()] * 29 + [(DATA / seldom).read_bytes()]

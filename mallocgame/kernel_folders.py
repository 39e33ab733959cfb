# mypy: disable-error-code="no-untyped-call, attr-defined, misc"
# (Numba's insides have no types)
"""Where machine code is cached: the first of these folders that can be written.

``NUMBA_CACHE_DIR`` if it is set; beside the source, as Python's own caches; ``$XDG_CACHE_HOME/mallocgame``
(``~/.cache/mallocgame``); a folder of the user's among temporary files. What lies beside the source is read even where
it cannot be written: an image that was made with ``mallocgame warm-up`` starts warm for every user.
"""

import os
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

import numba
from numba.core.caching import FunctionCache, _CacheLocator, _SourceFileBackedLocatorMixin

_Numbas: Any = FunctionCache._impl_class


class _Folder(_SourceFileBackedLocatorMixin, _CacheLocator):
    """A folder with one in it for each folder of sources."""

    def __init__(self, function: Any, file: str, folder: Path) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno
        self._path = str(folder / self.get_suitable_cache_subpath(file))

    def get_cache_path(self) -> str:
        """Return the folder for this function."""
        return self._path

    @classmethod
    def below(cls, folder: Path | None, function: Any, file: str) -> Self | None:
        """Return the place for a function in a folder, None if nothing can be written there."""
        if folder is None or not os.path.exists(file):
            return None
        found = cls(function, file, folder)
        with suppress(OSError):
            found.ensure_cache_path()
            return found
        return None


class _UsersFolder(_Folder):
    @classmethod
    def from_function(cls, function: Any, file: str) -> Self | None:
        """Return the place for a function, None if nothing can be written there."""
        return cls.below(users_cache(), function, file)


class _TemporaryFolder(_Folder):
    @classmethod
    def from_function(cls, function: Any, file: str) -> Self | None:
        """Return the place for a function, None if nothing can be written there."""
        return cls.below(temporary_cache(), function, file)


class Places(_Numbas):
    """Numba's search for a folder, with ours in place of the user's one that all programs share."""

    _locator_classes = (
        *(_UsersFolder if x.__name__.endswith("UserWideCacheLocator") else x for x in _Numbas._locator_classes),
        _TemporaryFolder,
    )


def users_cache() -> Path | None:
    """Return the user's folder for our caches, made or not; None if the user has no home."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(folder if os.path.isabs(folder) else os.path.expanduser("~/.cache"))
    return base / "mallocgame" if base.is_absolute() else None


@cache
def temporary_cache() -> Path | None:
    """Make and return a folder that is the user's alone, None if there is none: others could plant code in it."""
    with suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"mallocgame-kernels-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            line = f"no other folder can be written: kernels are cached in {folder} (NUMBA_CACHE_DIR names another)"
            print(f"mallocgame: {line}", file=sys.stderr, flush=True)
            return folder
    return None


def beside_the_source(file: str, written: str) -> str | None:
    """Return where an installation's own machine code may lie, None if it is ``written`` or another was asked for."""
    own = os.path.join(os.path.dirname(file), "__pycache__")
    return None if numba.config.CACHE_DIR or own == written or not os.path.isdir(own) else own

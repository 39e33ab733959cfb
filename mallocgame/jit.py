"""Numba's ``njit`` with the project's settings, a type that mypy understands, and a cache that sees what it should.

Machine code is cached between processes. Where that is impossible (a read-only installation without a writable home, a
full disk) everything works without the cache, and one line on stderr says so. ``warm_up`` compiles or loads kernels
before a clock starts.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.core.event import Event, Listener, install_listener

F = TypeVar("F", bound=Callable[..., Any])
Stamp = tuple[str, str]  # file, hash of its contents

AGAIN = "each start compiles again"

_stamps: dict[Any, frozenset[Stamp]] = {}
_warm: set[str] = set()
_warming = threading.RLock()
_said: set[str] = set()


def jit(function: F) -> F:
    """Compile ``function`` on first call; the machine code is cached between processes and releases the GIL.

    Numba's own cache looks only at the file that holds the function. Here it looks at the files of the kernels that the
    function calls too, so that editing one never leaves stale machine code in its callers.
    """
    return _compile(function, counting=True)


def kernel(function: F) -> F:
    """Compile as ``jit`` does a function that allocates nothing and returns no array: arrays are not counted.

    Numba counts references to an array whenever it is passed or picked from a tuple, atomically: in the rules, whose
    state is a tuple of 34 arrays, that was three quarters of the time. Such a function may call ``jit`` functions.
    """
    return _compile(function, counting=False)


def warm_up(name: str, run: Callable[[], object]) -> None:
    """Call ``run`` once per process, so that the kernels it uses are compiled or loaded before a clock starts.

    If something must be compiled, and is not just loaded from the cache, one line on stderr says so first.

    Args:
        name: what is compiled, for that line; a second call with the same name does nothing.
        run: calls the kernels, with arguments of the types that they will meet.
    """
    with _warming:
        if name in _warm:
            return
        with install_listener("numba:compile", _Announcement(name)):
            run()
        _warm.add(name)


class _Announcement(Listener):
    """Says once that kernels are being compiled; Numba reports no event for what it loads."""

    def __init__(self, name: str) -> None:
        self.line = f"compiling kernels, once: {name} ..."

    def on_start(self, event: Event) -> None:
        if self.line:
            print(self.line, file=sys.stderr, flush=True)
            self.line = ""

    def on_end(self, event: Event) -> None:
        pass


class _Cache(FunctionCache):
    """Numba's cache with the stamps of several files, which never stops a program that could run without it."""

    def __init__(self, function: Callable[..., Any], stamps: frozenset[Stamp]) -> None:
        """Find a folder that can be written.

        Raises:
            RuntimeError: there is none.
        """
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file._source_stamp = tuple(sorted(stamps))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the machine code of a signature, None if it must be compiled."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as problem:  # whatever a damaged file unpickles to
            self._forget()
            _warn("read", f"the kernel cache in {self.cache_path} cannot be read ({problem}): compiling anew")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save machine code, if there is room."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except OSError as problem:
            self._forget()  # Numba writes the index before the code, so it may name older code
            _warn("written", f"the kernel cache in {self.cache_path} cannot be written ({problem}): {AGAIN}")

    def _forget(self) -> None:
        with suppress(OSError):
            os.unlink(self._cache_file._index_path)


def _warn(kind: str, line: str) -> None:
    """Say a line on stderr, once, whatever the number of kernels."""
    if kind not in _said:
        _said.add(kind)
        print(f"mallocgame: {line}", file=sys.stderr, flush=True)


def _compile(function: F, *, counting: bool) -> F:
    options: Any = {"_nrt": counting}  # if not said, it is inherited from the caller
    compiled = numba.njit(nogil=True, **options)(function)
    file = function.__code__.co_filename
    found = {_stamp(file)}
    for called in _kernels(function):
        found |= _stamps.get(called, frozenset())
    _stamps[compiled] = frozenset(found)
    if isinstance(compiled, Dispatcher):  # not with NUMBA_DISABLE_JIT
        try:
            cast(Any, compiled)._cache = _Cache(function, _stamps[compiled])
        except RuntimeError:  # no locator available
            if os.path.exists(file):
                _warn("written", f"no folder for the kernel cache (see NUMBA_CACHE_DIR) can be written: {AGAIN}")
    return cast(F, compiled)


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except OSError:  # code that has no file (a notebook cell): Numba does not cache it either
        return file, ""
    return file, _digest(file, status.st_mtime_ns)


@cache
def _digest(file: str, _modified_ns: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _kernels(function: Callable[..., Any]) -> Iterator[Any]:
    """Yield the compiled functions that ``function`` names, directly or as attributes of a module."""
    names = function.__code__.co_names
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher):
            yield value
        elif isinstance(value, ModuleType):
            yield from (x for x in (getattr(value, other, None) for other in names) if isinstance(x, Dispatcher))

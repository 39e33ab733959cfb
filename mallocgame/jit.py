"""Numba's ``njit`` with the project's settings, a type that mypy understands, and a cache that sees what it should."""

import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar, cast

import numba
from numba.core.dispatcher import Dispatcher

F = TypeVar("F", bound=Callable[..., Any])
Stamp = tuple[str, int, int]  # file, modification time in nanoseconds, bytes

_stamps: dict[Any, frozenset[Stamp]] = {}


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


def _compile(function: F, *, counting: bool) -> F:
    options: Any = {"_nrt": counting}  # if not said, it is inherited from the caller
    compiled = numba.njit(cache=True, nogil=True, **options)(function)
    file = function.__code__.co_filename
    found = {_stamp(file)}
    for called in _kernels(function):
        found |= _stamps.get(called, frozenset())
    _stamps[compiled] = frozenset(found)
    cache_file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = tuple(sorted(found))
    return cast(F, compiled)


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except OSError:  # code that has no file (a notebook cell): Numba does not cache it either
        return file, 0, 0
    return file, status.st_mtime_ns, status.st_size


def _kernels(function: Callable[..., Any]) -> Iterator[Any]:
    """Yield the compiled functions that ``function`` names, directly or as attributes of a module."""
    names = function.__code__.co_names
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher):
            yield value
        elif isinstance(value, ModuleType):
            yield from (x for x in (getattr(value, other, None) for other in names) if isinstance(x, Dispatcher))

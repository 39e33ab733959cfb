"""Numba's ``njit`` with the project's settings and a type that mypy understands."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile ``function`` on first call; the machine code is cached between processes and releases the GIL.

    Numba's cache looks only at the file that holds the function: kernels that call one another belong in one module.
    """
    return cast(F, numba.njit(cache=True, nogil=True)(function))

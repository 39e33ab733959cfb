"""Functions that are differentiated while something is traced: met, looked at, and changed before they are.

``jax.grad`` and ``jax.value_and_grad`` of all libraries end in ``jax.vjp``. While ``differentiated_as`` is active, the
outermost call of it differentiates what ``change`` makes of the function.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import api

Change = Callable[[Callable[..., Any], tuple[Any, ...]], Callable[..., Any]]  # (function, arguments) -> function

_PLACES = ((jax, "vjp"), (api, "vjp"))
_numbers = itertools.count(1)
_jax: Any = jax
_context: Any = _jax.make_user_context(0) if hasattr(jax, "make_user_context") else None


@contextlib.contextmanager
def differentiated_as(change: Change) -> Iterator[None]:
    """Differentiate ``change(function, arguments)`` in place of each function; not thread-safe.

    What was traced before is traced anew: traces that JAX keeps would hide the call.
    """
    original = api.vjp
    depth = 0

    def changed(function: Callable[..., Any], *primals: Any, **options: Any) -> Any:
        nonlocal depth
        if depth:
            return original(function, *primals, **options)
        depth += 1
        try:
            return original(change(function, primals), *primals, **options)
        finally:
            depth -= 1

    for module, name in _PLACES:
        setattr(module, name, changed)
    try:
        with _fresh():
            yield
    finally:
        for module, name in _PLACES:
            setattr(module, name, original)


@contextlib.contextmanager
def _fresh() -> Iterator[None]:
    """Let nothing be taken from JAX's caches of traces, nor left there."""
    if _context is not None:
        with _context(next(_numbers)):
            yield
        return
    _jax.clear_caches()
    try:
        yield
    finally:
        _jax.clear_caches()

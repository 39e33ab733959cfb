"""Plan where the tensors of an ML program live on an accelerator, and when they move."""

from typing import Any

from mallocgame.game.registration import register_when_gymnasium_loads

register_when_gymnasium_loads()

_LAZY = {"load_compiler_options": "mallocgame.compiler_options", "hoist": "mallocgame.hoisting"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)

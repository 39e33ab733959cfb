"""What a user calls his arguments where a library only numbers them.

``flax.nnx.jit`` hands the leaves of modules and optimisers on as a flat tuple: JAX then calls them
``model.states[0][7]``. Here that becomes ``model.blocks[0].up.kernel``.
"""

import inspect
import json
import re
from typing import Any

from mallocgame.workloads.program_reference import Call

NAMED = "mallocgame: arguments:"  # before the names, in the log of a compilation

_NUMBERED = re.compile(r'op_name="(\w+\.states\[\d+\]\[\d+\])"')


def argument_names(call: Call) -> dict[str, str]:
    """Return the names of what is numbered, by how it is; empty where there is nothing of Flax, or no signature."""
    import jax

    try:
        words = list(inspect.signature(call.function).parameters)
    except (TypeError, ValueError):
        return {}
    found: dict[str, str] = {}
    for word, argument in [*zip(words, call.arguments, strict=False), *call.keywords.items()]:
        if not any(base.__module__.startswith("flax.nnx") for base in type(argument).__mro__):
            continue
        for number, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(argument)[0]):
            where: Any = jax.tree_util.keystr(path)
            found[f"{word}.states[0][{number}]"] = word + where.removesuffix(".value")
    return found


def with_users_names(hlo: str, log: str) -> str:
    """Return a module's text with the names that its compilation's log tells.

    >>> log = NAMED + ' {"model.states[0][1]": "model.up.kernel"}'
    >>> with_users_names('parameter(0), metadata={op_name="model.states[0][1]"}', log)
    'parameter(0), metadata={op_name="model.up.kernel"}'
    """
    at = log.find(NAMED)
    if at < 0:
        return hlo
    names = json.loads(log[at + len(NAMED) :].partition("\n")[0])

    def better(found: re.Match[str]) -> str:
        word = names.get(found[1], found[1]).replace('"', "'")
        return f'op_name="{word}"'

    return _NUMBERED.sub(better, hlo)

"""Things by name: what any installed package registers as an entry point, or ``package.module:name``.

A package registers a solver of its own with ``[project.entry-points."mallocgame.solvers"]`` in its ``pyproject.toml``;
what is not installed is named by where it is. Nothing is imported before it is asked for.
"""

import os
import re
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mallocgame.errors import InputError
from mallocgame.foreign import at_users_place, bring

SOLVERS = "mallocgame.solvers"
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def load(group: str, text: str, kind: str) -> tuple[Any, str]:
    """Return what ``text`` names, and the argument after the name's colon (``""``: none).

    Args:
        group: of entry points.
        text: ``NAME``, ``NAME:ARGUMENT`` or ``package.module:attribute``; modules of the current folder are found too.
        kind: what is looked for, for messages.

    Raises:
        InputError: nothing of that name, or it cannot be imported.
    """
    name, colon, argument = text.partition(":")
    known = registered(group)
    if name in known:
        if colon and not argument:
            raise InputError(f"{kind} {text!r}: expected something after the colon")
        return _imported(text, known[name].module, known[name].attr, kind), argument
    if _REFERENCE.fullmatch(text) is None:
        names = f"one of {', '.join(sorted(known))}, or " if known else ""
        raise InputError(f"unknown {kind} {text!r}, expected {names}package.module:name of your own")
    return _imported(text, name, argument, kind), ""


def _imported(text: str, module: str, attribute: str, kind: str) -> Any:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # installed commands do not look where they are run
    bring(module)
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        reason = f"no module named {error.name!r} (looked in {os.getcwd()} too)"
        raise InputError(f"{kind} {text!r}: cannot import {module}: {reason}") from None
    except AttributeError:
        raise InputError(f"{kind} {text!r}: module {module} has no {attribute}") from None
    except (Exception, SystemExit) as error:  # whatever its first lines do
        told = f"{type(error).__name__}: {error}{at_users_place(error)}"
        raise InputError(f"{kind} {text!r}: module {module} cannot be imported ({told})") from error
    return found

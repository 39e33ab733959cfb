"""A hash of a lowered program, by which another compilation sees whether it has the same program before it."""

import hashlib
import re
from typing import Any

LOWERED = "mallocgame: lowered as"  # before the hash, in the log of a compilation
LOOK_CHARACTERS = 1 << 16  # of a log: the line is its first

_MOST_ELEMENTS = 16  # of a constant that is printed: what it holds does not count
_VALUES = re.compile(r"dense(?:_resource)?<[^>]*>")
_LINE = re.compile(rf"{re.escape(LOWERED)} (\w+)")


def digest_of(stage: Any) -> str:
    """Return a hash of the StableHLO of a ``jax.stages.Lowered``, empty where there is none.

    Places in source files do not count, nor do the values of constants (a random key, a learning rate): the compiler
    schedules the program alike.
    """
    try:
        module = stage.compiler_ir("stablehlo").operation
        text = module.get_asm(enable_debug_info=False, large_elements_limit=_MOST_ELEMENTS)
    except Exception:  # a library's own stage, or another JAX: nothing is known then
        return ""
    return digest_of_text(text)


def digest_of_text(text: str) -> str:
    """Return the hash of a module's text.

    >>> digest_of_text("stablehlo.constant dense<1.0>") == digest_of_text("stablehlo.constant dense<[2, 3]>")
    True
    >>> digest_of_text("stablehlo.sine %0") == digest_of_text("stablehlo.cosine %0")
    False
    """
    return hashlib.sha256(_VALUES.sub("dense<>", text).encode()).hexdigest()[:16]


def digest_in(log: str) -> str:
    """Return the hash that the log of a compilation tells, empty if it tells none.

    >>> digest_in(f"{LOWERED} 01ab")
    '01ab'
    """
    found = _LINE.search(log, 0, LOOK_CHARACTERS)
    return found[1] if found else ""

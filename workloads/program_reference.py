"""Which function to compile: ``package.module:function``, with its arguments."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mallocgame.errors import InputError

_ARGUMENT = re.compile(r"\s*([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d, ]*)\]\s*(?:,|$)")
_DTYPES = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "s8": "int8",
    "s16": "int16",
    "s32": "int32",
    "s64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "pred": "bool",
    "bool": "bool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramReference:
    """A function by name, so that another process can import it.

    ``name`` is an attribute of ``module``, or a program of its ``MODELS`` table. ``arguments`` is text such as
    ``bf16[8,128,768],f32[]``; empty: the module's ``example_args()`` (a model brings its own).
    """

    module: str
    name: str
    arguments: str = ""
    folder: str = ""  # put on the import path first, where the module lies outside it

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def parse_reference(text: str, arguments: str = "", folder: str | None = None) -> ProgramReference:
    """Parse ``package.module:function``.

    Raises:
        InputError: not of that form, or ``arguments`` that do not parse.
    """
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise InputError(f"expected a function as package.module:function, got {text!r}")
    parse_arguments(arguments)
    return ProgramReference(
        module=module, name=name, arguments=arguments, folder=os.getcwd() if folder is None else folder
    )


def parse_arguments(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Parse ``bf16[8,128],s32[4]`` into (dtype, shape) pairs.

    Raises:
        InputError: not of that form, or an unknown type.

    >>> parse_arguments("bf16[8,128],f32[]")
    [('bfloat16', (8, 128)), ('float32', ())]
    """
    found, at = [], 0
    while at < len(text):
        match = _ARGUMENT.match(text, at)
        if not match or match[1] not in _DTYPES:
            known = ", ".join(sorted(_DTYPES))
            raise InputError(f"arguments: expected TYPE[SIZE,…] with a type of {known}, got {text[at : at + 40]!r}")
        sizes = tuple(int(size) for size in match[2].replace(" ", "").split(",") if size)
        found.append((_DTYPES[match[1]], sizes))
        at = match.end()
    return found


def resolve(reference: ProgramReference) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...]]:
    """Import the function; return it, its arguments as shapes, and the numbers of the donated ones. Imports JAX.

    Raises:
        InputError: no such module or function, or no arguments.
    """
    if reference.folder and reference.folder not in sys.path:
        sys.path.insert(0, reference.folder)
    try:
        module = importlib.import_module(reference.module)
    except ImportError as error:
        raise InputError(f"{reference}: cannot import {reference.module}: {error}") from error
    models = getattr(module, "MODELS", {})
    if reference.name in models and not reference.arguments:
        model = models[reference.name]
        function, arguments = model.build()
        return function, tuple(arguments), tuple(model.donate_argnums)
    function = getattr(module, reference.name, None)
    if not callable(function):
        raise InputError(f"{reference}: {reference.module} has no function {reference.name}")
    if reference.arguments:
        return function, shapes(reference.arguments), ()
    example = getattr(module, "example_args", None)
    if not callable(example):
        raise InputError(f"{reference}: give --args, or define example_args() in {reference.module}")
    return function, tuple(example()), ()


def shapes(arguments: str) -> tuple[Any, ...]:
    """Return ``arguments`` as ``jax.ShapeDtypeStruct``."""
    import jax
    import jax.numpy as jnp

    struct: Any = jax.ShapeDtypeStruct
    return tuple(struct(shape, jnp.dtype(dtype)) for dtype, shape in parse_arguments(arguments))


def reference_to(function: Callable[..., Any]) -> ProgramReference | None:
    """Return the reference of a function that another process can import by name, None if there is none."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    found = sys.modules.get(module)
    if module in ("", "__main__") or not name.isidentifier() or getattr(found, name, None) is not function:
        return None
    return ProgramReference(module=module, name=name, folder=os.getcwd())

"""Compiler options on disk: what ``mallocgame inject`` and ``tune`` write, and user code passes to JAX.

options = mallocgame.load_compiler_options("step.options.json")
jax.jit(f).lower(*args).compile(compiler_options=options)
"""

import json
import os
from collections.abc import Mapping
from importlib import metadata

from mallocgame.errors import TraceError
from mallocgame.files import read_json, write_text

FORMAT = "mallocgame-compiler-options"
VERSION = 1

Options = dict[str, str | bool]


def save_compiler_options(
    path: str | os.PathLike[str], options: Mapping[str, str | bool], about: Mapping[str, str | float | None]
) -> None:
    """Write options, with what they are for (program, chip, versions, times) beside them.

    Raises:
        TraceError: the file cannot be written.
    """
    value = {"format": FORMAT, "version": VERSION, "about": dict(about), "compiler_options": dict(options)}
    write_text(path, json.dumps(value, indent=1) + "\n")


def load_compiler_options(path: str | os.PathLike[str]) -> Options:
    """Return the options of a file, ready for ``compile(compiler_options=…)``.

    They name instructions of one program as one version of the compiler numbers them: with another program they do
    nothing, or make the compiler refuse. ``versions_that_differ`` tells about the compiler.

    Raises:
        TraceError: not a file of compiler options.
    """
    value = _read(path)["compiler_options"]
    if not isinstance(value, dict) or not all(isinstance(entry, (str, bool)) for entry in value.values()):
        raise TraceError(path, None, "compiler_options: expected an object of strings and booleans")
    return dict(value)


def versions_that_differ(path: str | os.PathLike[str]) -> list[str]:
    """Return one line for each package whose version is not the one that the options were made with.

    Raises:
        TraceError: not a file of compiler options.
    """
    return differing_versions(load_about(path))


def load_about(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return what the options are for: program, chip, versions, judged times in seconds.

    Raises:
        TraceError: not a file of compiler options.
    """
    about = _read(path)["about"]
    return about if isinstance(about, dict) else {}


def is_better(path: str | os.PathLike[str], about: Mapping[str, str | float | None]) -> bool:
    """Whether ``path`` holds options for the same program, chip and versions that are judged faster than ``about``'s.

    A file that is not one of options, or for another program, is not better.
    """
    try:
        there = load_about(path)
    except TraceError:
        return False
    then, now = there.get("judged_seconds"), about.get("judged_seconds")
    same = all(there.get(key) == about.get(key) for key in ("program", "arguments", "chip", "jax", "jaxlib", "libtpu"))
    return same and isinstance(then, (int, float)) and isinstance(now, (int, float)) and then < now


def differing_versions(made_with: Mapping[str, object]) -> list[str]:
    """Return one line for each of jax, jaxlib and libtpu whose version differs from ``made_with``."""
    found = []
    for package in ("jax", "jaxlib", "libtpu"):
        then = made_with.get(package)
        try:
            now = metadata.version(package)
        except metadata.PackageNotFoundError:
            now = ""
        if then and then != now:
            found.append(f"made with {package} {then}, here is {now or 'none'}")
    return found


def _read(path: str | os.PathLike[str]) -> dict[str, object]:
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise TraceError(path, None, f"is not a file of compiler options (format {FORMAT!r})")
    if value.get("version") != VERSION:
        raise TraceError(path, None, f"version {value.get('version')!r}, this package reads {VERSION}")
    if not {"about", "compiler_options"} <= value.keys():
        raise TraceError(path, None, "lacks 'about' or 'compiler_options'")
    return value

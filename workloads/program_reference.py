"""Which function to compile: ``package.module:function``, with its arguments."""

import contextlib
import importlib
import inspect
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from mallocgame.errors import InputError

_ARGUMENT = re.compile(r"\s*([a-z]\w*)\[([\d, ]*)\]\s*(?:,|$)")
MAX_DIGITS = 18  # of a size
_KEY = "key"  # of jax.random.key
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
    "s2": "int2",
    "s4": "int4",
    "u2": "uint2",
    "u4": "uint4",
    "i2": "int2",
    "i4": "int4",
    "c64": "complex64",
    "c128": "complex128",
    "f4e2m1fn": "float4_e2m1fn",
    "f8e3m4": "float8_e3m4",
    "f8e4m3": "float8_e4m3",
    "f8e4m3fn": "float8_e4m3fn",
    "f8e4m3fnuz": "float8_e4m3fnuz",
    "f8e4m3b11fnuz": "float8_e4m3b11fnuz",
    "f8e5m2": "float8_e5m2",
    "f8e5m2fnuz": "float8_e5m2fnuz",
    "f8e8m0fnu": "float8_e8m0fnu",
    "pred": "bool",
    "key": _KEY,
}
_DTYPES |= {name: name for name in _DTYPES.values()}  # NumPy's own names, too


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramReference:
    """A function by name, so that another process can import it.

    ``name`` is an attribute of ``module``, or a program of its ``MODELS`` table. Its arguments are, in this order:
    ``arguments``, text such as ``bf16[8,128,768],f32[]``; what ``arguments_from``, a function of the module, returns;
    the function's own attribute ``example_args``; the module's ``example_args()`` (a model brings its own).
    """

    module: str
    name: str
    arguments: str = ""
    arguments_from: str = ""
    mesh: str = ""  # axes over the chips, such as data=2,model=2
    folder: str = ""  # put on the import path first, where the module lies outside it
    words: str = ""  # of the command line that a script finds, quoted as in a shell; its name comes before them

    def __str__(self) -> str:
        words = f" {self.words}" if self.words else ""
        return f"{self.module}{words}:{self.name}{',' if self.arguments_from else ''}{self.arguments_from}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A function and what it is called with: pytrees of shapes, arrays, numbers, and of anything where static."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    donated: tuple[int, ...] = ()  # numbers of arguments whose memory the results may reuse


def parse_reference(text: str, arguments: str = "", folder: str | None = None, mesh: str = "") -> ProgramReference:
    """Parse ``package.module:function``, ``folder/module.py:function``, or either with ``,args_function``.

    Words behind the module, as in ``train.py --layers 4:step``, are the command line that it finds when imported.

    Raises:
        InputError: not of that form, or ``arguments`` that do not parse.
    """
    script, colon, names = text.rpartition(":")
    module, *words = _split(script, text)
    if module.endswith(".py"):
        folder, module = _module_of(Path(module), text)
    name, comma, arguments_from = names.partition(",")
    names_given = (*module.split("."), *name.split("."), *(arguments_from.split(".") if comma else ()))
    if not colon or not all(given.isidentifier() for given in names_given):
        raise InputError(f"expected a function as package.module:function[,args_function], got {text!r}")
    if arguments and arguments_from:
        raise InputError(f"{text}: arguments are given twice, as text and by {arguments_from}")
    parse_arguments(arguments)
    return ProgramReference(
        module=module,
        name=name,
        arguments=arguments,
        arguments_from=arguments_from,
        mesh=mesh,
        folder=os.getcwd() if folder is None else folder,
        words=shlex.join(words),
    )


def _split(script: str, text: str) -> list[str]:
    """Return a module, or a file whose name may hold blanks, and the words behind it."""
    if os.path.isfile(script):  # False where a name is too long, too
        return [script]
    try:
        return shlex.split(script) or [""]
    except ValueError as error:
        raise InputError(f"{text}: the words behind the module do not parse: {error}") from None


def _module_of(path: Path, text: str) -> tuple[str, str]:
    """Return the folder to import a file from, above the package that it is in, and its module's name."""
    if not os.path.isfile(path):
        raise InputError(f"{text}: there is no file {path}")
    path = path.resolve()
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return str(folder), ".".join(names)


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
            known = "a type as HLO or NumPy call it (bf16, f32, s8, s4, f8e4m3fn, c64, pred, int32, …) or key"
            raise InputError(f"arguments: expected TYPE[SIZE,…] with {known}, got {text[at : at + 40]!r}")
        digits = [size for size in match[2].replace(" ", "").split(",") if size]
        if any(len(size) > MAX_DIGITS for size in digits):
            raise InputError(f"arguments: a size of {max(map(len, digits))} digits, expected at most {MAX_DIGITS}")
        sizes = tuple(map(int, digits))
        found.append((_DTYPES[match[1]], sizes))
        at = match.end()
    return found


def resolve(reference: ProgramReference, mesh: Any = None) -> Call:
    """Import the function, and make its arguments; ``mesh`` is handed to an arguments function that needs
    an argument, or that has one called ``mesh``.

    Raises:
        InputError: no such module or function, no arguments, or a script that ends for want of words. What else the
            user's code raises is let through.
    """
    if reference.folder and reference.folder not in sys.path:
        sys.path.insert(0, reference.folder)
    with _as_script(reference):
        return _resolve(reference, mesh)


@contextlib.contextmanager
def _as_script(reference: ProgramReference) -> Iterator[None]:
    """Let modules that read the command line (argparse, absl flags) find the reference's words in place of ours."""
    own, said = sys.argv, io.StringIO()
    sys.argv = [f"{reference.module.rpartition('.')[2]}.py", *shlex.split(reference.words)]
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as error:
        last = (said.getvalue().strip().splitlines() or [f"exit code {error.code}"])[-1]
        where = f"write its command line behind the module: '{reference.module} --option VALUE:{reference.name}'"
        raise InputError(f"{reference}: the script ended while it was imported: {last}; {where}") from None
    finally:
        sys.argv = own
        sys.stderr.write(said.getvalue())


def _parse_flags(script: str) -> None:
    """Let absl's flags have their values, as ``app.run`` would.

    Where the script defines none itself, some library has them (optax imports absl) and the words are not for them.
    """
    flags: Any = getattr(sys.modules.get("absl.flags"), "FLAGS", None)
    if flags is None:
        return
    has_own = script in flags.flags_by_module_dict()
    if has_own or not flags.is_parsed():
        try:
            flags(sys.argv, known_only=not has_own)
        except sys.modules["absl.flags"].Error as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(1) from None


def _resolve(reference: ProgramReference, mesh: Any) -> Call:
    module = _import(reference)
    _parse_flags(reference.module)
    models = getattr(module, "MODELS", {})
    if reference.name in models and not reference.arguments:
        model = models[reference.name]
        if model.mesh and mesh is None:
            wanted = f"give --topology (such as v5e:2x2) and --mesh {model.mesh}"
            raise InputError(f"{reference}: is for several chips: {wanted}")
        function, arguments = model.build(mesh) if model.mesh else model.build()
        return Call(function=function, arguments=tuple(arguments), donated=tuple(model.donate_argnums))
    function = _attribute(module, reference.name, reference)
    if reference.arguments:
        return Call(function=function, arguments=shapes(reference.arguments))
    return _call(function, _made_arguments(reference, module, function, mesh))


def _import(reference: ProgramReference) -> Any:
    try:
        return importlib.import_module(reference.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if reference.module == missing or reference.module.startswith(f"{missing}."):
            raise InputError(f"{reference}: cannot import {reference.module}: {error}") from error
        raise


def _attribute(module: Any, name: str, reference: ProgramReference) -> Callable[..., Any]:
    found: Any = reduce(lambda holder, word: getattr(holder, word, None), name.split("."), module)
    if not callable(found):
        what = "" if found is None else f": {name} is of type {type(found).__name__}"
        raise InputError(f"{reference}: {reference.module} has no function {name}{what}")
    function: Callable[..., Any] = found
    return function


def _made_arguments(reference: ProgramReference, module: Any, function: Callable[..., Any], mesh: Any) -> Any:
    own: Any = getattr(function, "example_args", None)
    make: Any
    if reference.arguments_from:
        make = _attribute(module, reference.arguments_from, reference)
    elif own is not None and not callable(own):
        return own
    elif own is None and _takes_nothing(function):
        return ()
    else:
        make = own or getattr(module, "example_args", None)
    if not callable(make):
        raise InputError(
            f"{reference}: give --args or {reference.module}:{reference.name},ARGS_FUNCTION, "
            f"or define {reference.name}.example_args or example_args() in {reference.module}"
        )
    parameters = inspect.signature(make).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(p.default is p.empty and p.kind not in several for p in parameters.values()):
        if mesh is None:
            who = getattr(make, "__name__", "what makes its arguments")
            wanted = "give --topology (such as v5e:2x2) and --mesh (such as data=4)"
            raise InputError(f"{reference}: {who} takes a mesh: {wanted}")
        return make(mesh)
    if mesh is not None and "mesh" in parameters:
        return make(mesh=mesh)
    return make()


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        return not inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return False


def _call(function: Callable[..., Any], made: Any) -> Call:
    """Return the call of a tuple or list of arguments, a dict of keywords, or one array."""
    if isinstance(made, dict):
        return Call(function=function, keywords=dict(made))
    if isinstance(made, (tuple, list)) and not hasattr(made, "_fields"):
        return Call(function=function, arguments=tuple(made))
    return Call(function=function, arguments=(made,))


def shapes(arguments: str) -> tuple[Any, ...]:
    """Return ``arguments`` as ``jax.ShapeDtypeStruct``."""
    import jax
    import jax.numpy as jnp

    def dtype_of(name: str) -> Any:
        return jax.eval_shape(lambda: jax.random.key(0)).dtype if name == _KEY else jnp.dtype(name)

    struct: Any = jax.ShapeDtypeStruct
    return tuple(struct(shape, dtype_of(dtype)) for dtype, shape in parse_arguments(arguments))


def reference_to(function: Callable[..., Any]) -> ProgramReference | None:
    """Return the reference of a function that another process can import by name, None if there is none."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    found = sys.modules.get(module)
    if module in ("", "__main__") or not name.isidentifier() or getattr(found, name, None) is not function:
        return None
    return ProgramReference(module=module, name=name, folder=os.getcwd())

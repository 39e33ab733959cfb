"""A module as XLA:TPU has it once it is scheduled, compiled again: without JAX, and without the passes before.

Compilations with other overrides differ in memory-space assignment and in what comes after it alone. What comes before,
lowering in JAX and hundreds of passes, takes most of the time. libtpu dumps the module as it is between the two
(``scheduled_in``). Given that, over PJRT's C interface, it makes no pass again, because the module is scheduled.
"""

import ctypes
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULE, OPTIONS = "module.pb", "options.pb"  # a compilation's files, in its folder
_SUFFIX = "after_optimizations_before_buffer_assignment.hlo.pb"
# Places of functions in PJRT_Api of major version 0, to which new ones are only ever added behind these.
_ERROR_MESSAGE, _ERROR_CODE, _INITIALIZE, _CREATE_TOPOLOGY, _COMPILE = 1, 2, 3, 82, 89
_FIRST_FUNCTION, _WORD = 40, 8  # bytes
_CODES = {  # of absl::Status: those that XLA uses
    3: "INVALID_ARGUMENT",
    5: "NOT_FOUND",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledModule:
    """``hlo`` is a serialised HloModuleProto, ``options`` a CompileOptionsProto as JAX makes it, without overrides."""

    hlo: bytes
    options: bytes

    def write(self, folder: Path) -> None:
        """Write the files that ``compile_scheduled`` reads."""
        (folder / MODULE).write_bytes(self.hlo)
        (folder / OPTIONS).write_bytes(self.options)


class CompilerError(Exception):
    """libtpu's answer to what it would not compile, with the name of its code."""


def scheduled_in(folder: Path, dump: Path) -> ScheduledModule | None:
    """Return the module that a compilation has dumped, None where there is none or not the whole.

    A program may come with helper modules; the largest is the program.
    """
    paths = sorted(dump.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_size)
    options = folder / OPTIONS
    if not paths or not options.exists():
        return None
    hlo = _only_field(paths[-1].read_bytes())
    return ScheduledModule(hlo=hlo, options=options.read_bytes()) if hlo else None


def _only_field(message: bytes) -> bytes:
    r"""Return the first field of a serialised message (HloProto's module), empty unless it is all there is.

    >>> _only_field(b"\x0a\x03abc"), _only_field(b"\x0a\x03ab")
    (b'abc', b'')
    """
    size, at = 0, 1
    for at in range(1, min(len(message), 11)):
        size |= (message[at] & 127) << 7 * (at - 1)
        if message[at] < 128:
            break
    body = message[at + 1 :]
    return body if message[:1] == b"\x0a" and len(body) == size else b""


@contextmanager
def options_kept(path: Path) -> Iterator[None]:
    """Write the options with which JAX compiles inside this context, without overrides, as soon as they are known.

    JAX has no public name for them. Where it has changed none are written, and nothing else happens.
    """
    compiler: Any = None
    try:
        from jax._src import compiler

        compile_in_jax = compiler.backend_compile_and_load
    except (ImportError, AttributeError):
        yield
        return

    def keep(*arguments: Any, **keywords: Any) -> Any:
        for value in (*arguments, *keywords.values()):
            if hasattr(value, "env_option_overrides"):
                own = type(value).ParseFromString(value.SerializeAsString())
                own.env_option_overrides = []
                path.write_bytes(own.SerializeAsString())
        return compile_in_jax(*arguments, **keywords)

    compiler.backend_compile_and_load = keep
    try:
        yield
    finally:
        compiler.backend_compile_and_load = compile_in_jax


class Plugin:
    """libtpu, with the topology that is compiled for.

    Raises:
        OSError: no libtpu.
        CompilerError: no such topology, or an interface of another major version.
    """

    def __init__(self, topology_name: str) -> None:
        libtpu: Any = importlib.import_module("libtpu")
        library = ctypes.CDLL(os.environ.get("TPU_LIBRARY_PATH") or libtpu.get_library_path())
        library.GetPjrtApi.restype = ctypes.c_void_p
        self._api: int = library.GetPjrtApi()
        major, minor = (ctypes.c_int * 2).from_address(self._api + _FIRST_FUNCTION - _WORD)
        if major != 0:
            raise CompilerError(f"UNIMPLEMENTED: PJRT's interface {major}.{minor}, expected 0.x")
        self._call(_INITIALIZE, ())
        name = topology_name.encode()
        self._topology = self._call(_CREATE_TOPOLOGY, (name, len(name), 0, 0, 0))[-1]

    def compile(self, hlo: bytes, options: bytes) -> None:
        """Compile; libtpu logs to standard error."""
        code, kind = ctypes.create_string_buffer(hlo, len(hlo)), ctypes.create_string_buffer(b"hlo", 3)
        program = _words(0, ctypes.addressof(code), len(hlo), ctypes.addressof(kind), 3)
        self._call(_COMPILE, (self._topology, ctypes.addressof(program), options, len(options), 0, 0))

    def _call(self, place: int, fields: tuple[int | bytes, ...]) -> Any:
        """Call a function with the fields of its arguments' structure behind the usual two; return what it holds."""
        kept = [ctypes.create_string_buffer(x, len(x)) if isinstance(x, bytes) else x for x in fields]
        arguments = _words(0, *(x if isinstance(x, int) else ctypes.addressof(x) for x in kept))
        error = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(self._address(place))(ctypes.addressof(arguments))
        if error:
            raise CompilerError(self._told(error))
        return arguments

    def _told(self, error: int) -> str:
        tell = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        message, code = _words(0, error, 0, 0), _words(0, error, 0)
        tell(self._address(_ERROR_MESSAGE))(ctypes.addressof(message))
        ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(self._address(_ERROR_CODE))(ctypes.addressof(code))
        number = code[-1] & 0xFFFFFFFF
        name = _CODES.get(number, f"code {number}")
        return f"{name}: {ctypes.string_at(message[-2], message[-1]).decode('utf-8', errors='replace')}"

    def _address(self, place: int) -> int:
        return int(ctypes.c_size_t.from_address(self._api + _FIRST_FUNCTION + _WORD * place).value)


def _words(*fields: int) -> Any:
    """Return a structure of PJRT's: its size in bytes and these fields, all of which are words."""
    return (ctypes.c_size_t * (len(fields) + 1))(_WORD * (len(fields) + 1), *fields)


def compile_scheduled(plugin: Plugin, folder: Path, overrides: dict[str, str | bool]) -> None:
    """Compile a module whose files are in ``folder``, with compiler options on top of its own. Imports JAX's library.

    Raises:
        CompilerError: libtpu would not.
    """
    import jaxlib.xla_client

    known: Any = jaxlib.xla_client.CompileOptions
    options = known.ParseFromString((folder / OPTIONS).read_bytes())
    options.env_option_overrides = list(overrides.items())
    plugin.compile((folder / MODULE).read_bytes(), options.SerializeAsString())

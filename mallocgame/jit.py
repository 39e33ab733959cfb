# mypy: disable-error-code="no-untyped-call, no-any-return, union-attr, attr-defined"
# (Numba's insides have no types)
"""Numba's ``njit`` with the project's settings, a type that mypy understands, and a cache that sees what it should.

Machine code is cached between processes (``kernel_folders.py`` says where). Where that is impossible (no folder can be
written, a full disk) everything works without the cache, and one line on stderr says so. ``warm_up`` compiles or loads
kernels before a clock starts.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

import numba
from numba.core import types
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.dispatcher import Dispatcher
from numba.core.event import Event, Listener, install_listener
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering
from numba.core.typing import arraydecl

from mallocgame import system
from mallocgame.kernel_folders import Places, beside_the_source

F = TypeVar("F", bound=Callable[..., Any])
Stamp = tuple[str, str]  # file, hash of its contents

AGAIN = "each start compiles again"

_stamps: dict[Any, frozenset[Stamp]] = {}
_warm: set[str] = set()
_warming = threading.RLock()
_said: set[str] = set()


def jit(function: F) -> F:
    """Compile ``function`` on first call; the machine code is cached between processes and releases the GIL.

    Numba's own cache looks only at the file that holds the function. Here it looks at the files of the kernels that the
    function calls too, and of the classes that it names, so that editing one never leaves stale machine code behind.
    """
    return _cached(function, counting=True)


def kernel(function: F) -> F:
    """Compile as ``jit`` does a function that allocates nothing and returns no array: arrays are not counted.

    Numba counts references to an array whenever it is passed or picked from a tuple, atomically, which can take most of
    the time. Such a function may call ``jit`` functions.
    """
    return _cached(function, counting=False)


def part(function: F) -> F:
    """Compile as ``kernel`` does a function that other kernels call: it has no machine code of its own.

    Numba compiles a function with all that it calls, each of its callers with all that they call, and so on: what lies
    deep is optimised a dozen times. Parts are translated once; a ``jit`` or ``kernel`` above them is optimised with all
    of them, once. (A part that is called from Python, say in a test, is compiled for that as a kernel.)
    """
    if numba.config.DISABLE_JIT:
        return function
    compiled = _Part(function, targetoptions=_Part.OPTIONS, pipeline_class=_PartCompiler)
    _note(compiled, function)
    return cast(F, compiled)


def warm_up(name: str, run: Callable[[], object]) -> None:
    """Call ``run`` once per process, so that the kernels it uses are compiled or loaded before a clock starts.

    If something must be compiled, and is not just loaded from the cache, one line on stderr says so first.

    Args:
        name: what is compiled, for that line; a second call with the same name does nothing.
        run: calls the kernels, with arguments of the types that they will meet.
    """
    with _warming:
        if name in _warm:
            return
        with system.stand_by(), install_listener("numba:compile", _Announcement(name)):
            run()
        _warm.add(name)


class _Announcement(Listener):
    """Says once that kernels are being compiled; Numba reports no event for what it loads."""

    def __init__(self, name: str) -> None:
        self.line = f"compiling kernels, once: {name.partition(' ')[0]} ..."  # options follow the name

    def on_start(self, event: Event) -> None:
        if self.line:
            print(self.line, file=sys.stderr, flush=True)
            self.line = ""

    def on_end(self, event: Event) -> None:
        pass


class _Cache(FunctionCache):
    """Numba's cache with the stamps of several files, which never stops a program that could run without it."""

    _impl_class = Places

    def __init__(self, function: Callable[..., Any], stamps: frozenset[Stamp]) -> None:
        """Find a folder that can be written.

        Raises:
            RuntimeError: there is none.
        """
        super().__init__(function)
        self._cache_file._source_stamp = stamp = tuple(sorted(stamps))
        self._installed = None
        installed = beside_the_source(function.__code__.co_filename, self.cache_path)
        if installed is not None:
            self._installed = IndexDataCacheFile(installed, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the machine code of a signature, None if it must be compiled."""
        _skip_blas_check()
        try:
            found = super().load_overload(sig, target_context)
            return self._load_installed(sig, target_context) if found is None else found
        except Exception as problem:  # whatever a damaged file unpickles to
            self._forget()
            _warn("read", f"the kernel cache in {self.cache_path} cannot be read ({problem}): compiling anew")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save machine code, if there is room."""
        try:
            super().save_overload(sig, data)
        except OSError as problem:
            self._forget()  # Numba writes the index before the code, so it may name older code
            _warn("written", f"the kernel cache in {self.cache_path} cannot be written ({problem}): {AGAIN}")
        except RuntimeError:
            return  # Numba has no object code: Ctrl-C came in LLVM's call that hands it over, and is raised again soon

    def _load_installed(self, sig: Any, target_context: Any) -> Any:
        with suppress(Exception):  # as good as none
            if self._installed is not None:
                data = self._installed.load(self._index_key(sig, target_context.codegen()))
                return None if data is None else self._impl.rebuild(target_context, data)
        return None

    def _forget(self) -> None:
        with suppress(OSError):
            os.unlink(self._cache_file._index_path)


@cache
def _skip_blas_check() -> None:
    """Let Numba take for granted that there is a BLAS: to see that, it imports scipy.linalg, which takes 0.2 s.

    SciPy is a dependency of ours. A kernel that needs the BLAS still looks.
    """
    if "numba.np.arraymath" in sys.modules:
        return
    from numba.np import linalg

    check, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = check


class _PartLibrary(JITCodeLibrary):
    """The LLVM code of a part as it was translated, which goes into the code of each kernel above it."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        """Return the code of this part and of all that it calls."""
        module = super()._get_module_for_linking().clone()
        for library in self._called({}):
            own = super(_PartLibrary, library) if isinstance(library, _PartLibrary) else library
            module.link_in(own._get_module_for_linking(), preserve=True)
        return module

    def _called(self, found: dict[Any, None]) -> dict[Any, None]:
        for library in self._linking_libraries:
            if library not in found:
                found[library] = None
                if isinstance(library, _PartLibrary):
                    library._called(found)
        return found


class _NotMachineCode:
    """Stands where Numba has a compiled function, as a key: one for each translation of a part."""


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """Translate to LLVM code and leave it at that."""

    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        stand_in = _NotMachineCode()
        state.targetctx.insert_user_function(stand_in, state["cr"].fndesc, [state.library])
        state.reload_init.extend(getattr(state.library, "_reload_init", ()))  # Numba 0.61 has none
        state["cr"] = state["cr"]._replace(cfunc=stand_in)
        return True


class _PartCompiler(CompilerBase):
    """Numba's compiler with ``_PartLowering``."""

    def define_pipelines(self) -> list[Any]:
        """Return the one pipeline."""
        steps = DefaultPassBuilder.define_nopython_pipeline(self.state, name="part")
        steps.passes = [(_PartLowering if step is NativeLowering else step, why) for step, why in steps.passes]
        steps.finalize()
        return [steps]


class _Kernel(CPUDispatcher):
    """Numba's compiled function, which tells apart calls by the types of their arguments and not by constants."""

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Return how a call in another kernel is typed: one translation for ``-1``, ``0`` and any other int."""
        return super().get_call_template(tuple(map(_any_value, args)), {k: _any_value(v) for k, v in kws.items()})


def _any_value(argument: types.Type) -> types.Type:
    if isinstance(argument, types.Tuple):
        return types.BaseTuple.from_types([_any_value(x) for x in argument])
    return types.unliteral(argument)


class _Part(_Kernel):
    """What ``part`` makes of a function."""

    OPTIONS: ClassVar = {
        "nopython": True, "nogil": True, "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
    }  # fmt: skip
    _in_python: Any = None

    def add_overload(self, cres: Any) -> None:
        self.overloads[tuple(cres.signature.args)] = cres  # and nothing that Python could call

    def _compile_for_args(self, *arguments: Any, **named: Any) -> Any:
        if self._in_python is None:
            self._in_python = kernel(self.py_func)
        return self._in_python._compile_for_args(*arguments, **named)


def _let_enums_be_indices() -> None:
    """Have Numba take members of an IntEnum as indices, too: elsewhere they are integers before 0.68.1 as well."""
    find = arraydecl.get_array_index_type

    def with_integers(array: Any, index: Any) -> Any:
        if isinstance(index, types.BaseTuple):
            return find(array, types.BaseTuple.from_types([_integer(x) for x in index]))
        return find(array, _integer(index))

    arraydecl.get_array_index_type = with_integers


def _integer(index: types.Type) -> types.Type:
    return types.intp if isinstance(index, types.IntEnumMember) else index


if numba.version_info.full < (0, 68, 1):
    _let_enums_be_indices()


def _warn(kind: str, line: str) -> None:
    """Say a line on stderr, once, whatever the number of kernels."""
    if kind not in _said:
        _said.add(kind)
        print(f"mallocgame: {line}", file=sys.stderr, flush=True)


def _cached(function: F, *, counting: bool) -> F:
    """Return a compiled function with its cache."""
    if numba.config.DISABLE_JIT:
        return function
    options = {"nopython": True, "nogil": True, "_nrt": counting}  # _nrt: if not said, it is the caller's
    compiled: Any = _Kernel(function, targetoptions=options)
    stamps = _note(compiled, function)
    try:
        compiled._cache = _Cache(function, stamps)
    except RuntimeError:  # no locator available
        if os.path.exists(function.__code__.co_filename):
            _warn("written", f"no folder for the kernel cache (see NUMBA_CACHE_DIR) can be written: {AGAIN}")
    return cast(F, compiled)


def _note(compiled: Any, function: Callable[..., Any]) -> frozenset[Stamp]:
    """Note and return the stamps of the files that a compiled function is made of."""
    found = {_stamp(function.__code__.co_filename), *map(_stamp, _tables(function))}
    for called in _kernels(function):
        found |= _stamps.get(called, frozenset())
    _stamps[compiled] = frozenset(found)
    return _stamps[compiled]


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except OSError:  # code that has no file (a notebook cell): Numba does not cache it either
        return file, ""
    return file, _digest(file, status.st_mtime_ns)


@cache
def _digest(file: str, _modified_ns: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _kernels(function: Callable[..., Any]) -> Iterator[Any]:
    """Yield the compiled functions that ``function`` names, directly or as attributes of a module."""
    names = function.__code__.co_names
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher):
            yield value
        elif isinstance(value, ModuleType):
            yield from (x for x in (vars(value).get(other) for other in names) if isinstance(x, Dispatcher))


def _tables(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the files of the classes that ``function`` names: machine code holds what they say as numbers."""
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, type) and (file := getattr(sys.modules.get(value.__module__), "__file__", None)):
            yield file

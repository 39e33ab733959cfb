"""A user's function, lowered for chips that are not there. Imports JAX; runs in the compiling process only."""

import contextlib
import functools
import inspect
import math
import os
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mallocgame.errors import InputError
from mallocgame.workloads.program_reference import Call, ProgramReference, resolve
from mallocgame.workloads.xla.arguments import argument_names
from mallocgame.workloads.xla.topology import make_mesh, parse_mesh, topology_name

Leaf = Callable[[Any], Any]

TRACED = "numbers among the arguments are traced, as under jax.jit: bind them, or jit with static_argnames"
NEEDS_A_NUMBER = ("TracerIntegerConversionError", "TracerBoolConversionError", "ConcretizationTypeError")
SEVERAL = "a program for several chips needs --topology, such as v5e:2x2, and --mesh AXIS=N,… for a mesh from outside"


class Lowered(NamedTuple):
    """A function, ready to be compiled: ``stage.compile`` makes libtpu log to standard error."""

    stage: Any  # jax.stages.Lowered, or a library's own
    argument_names: dict[str, str]  # what the user calls arguments that a library numbers


def lower(reference: ProgramReference, target: str) -> Lowered:
    """Return the function lowered for ``target``.

    On one chip everything is placed there. On several, arguments keep the shardings that they have, those without one
    are left to the program. ``jax.devices()``, the default backend and meshes are the topology's, so that programs and
    kernels which look for their chips find them.

    Raises:
        InputError: no such function, arguments or topology.
    """
    from jax.experimental import topologies

    try:
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=topology_name(target)).devices)
    except Exception as error:
        raise InputError(f"libtpu has no topology {topology_name(target)}: {_first_line(error)}") from error
    if target != topology_name(target):
        if reference.mesh and math.prod(parse_mesh(reference.mesh).values()) != 1:
            raise InputError(f"--mesh {reference.mesh} has more than one place, {target} is one chip; {SEVERAL}")
        meshes = _let_programs_find(devices[:1])
        try:
            call = resolve(reference, make_mesh(reference.mesh, devices[:1], target) if reference.mesh else None)
            return _lower_for_one(call, devices[0])
        except Exception as error:
            if meshes.is_asked_for or _speaks_of_several(error):
                error.add_note(SEVERAL)
            raise
    mesh = make_mesh(reference.mesh, devices, target) if reference.mesh else None
    meshes = _let_programs_find(devices)
    call = resolve(reference, mesh)  # outside of the mesh's context: arguments may be arrays on this machine
    with _using(mesh):
        try:
            return _lower_for_several(call, devices)
        except Exception as error:
            if mesh is None and "mesh" in str(error):
                error.add_note("--mesh AXIS=N,… sets a mesh")
            if not meshes.made_by_default:
                raise
            meshes.automatic = True  # as jax.make_mesh was before version 0.9
            with contextlib.suppress(Exception):
                return _lower_for_several(call, devices)
            raise


def _speaks_of_several(error: Exception) -> bool:
    """Whether one chip may be what is wrong: JAX names meshes, axes and shardings, NumPy an array of devices."""
    words = ("mesh", "sharding", "axis name", "number of devices", "array of size 1 into shape", "to squeeze out")
    return any(word in str(error).lower() for word in words)


def _lower_for_one(call: Call, device: Any) -> Lowered:
    import jax
    import numpy
    from jax.sharding import SingleDeviceSharding

    struct: Any = jax.ShapeDtypeStruct

    def placed(leaf: Any) -> Any:
        array = leaf if hasattr(leaf, "dtype") else numpy.asarray(leaf)
        return struct(array.shape, array.dtype, sharding=SingleDeviceSharding(device))

    return Lowered(_lower(call, placed, device), argument_names(call))


def _lower_for_several(call: Call, devices: list[Any]) -> Lowered:
    import jax

    struct: Any = jax.ShapeDtypeStruct

    def described(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        known = sharding is not None and sharding.device_set <= set(devices)
        return struct(leaf.shape, leaf.dtype, sharding=sharding if known else None) if hasattr(leaf, "dtype") else leaf

    return Lowered(_lower(call, described, devices[0]), argument_names(call))


def _lower(call: Call, described: Leaf, device: Any) -> Any:
    """Lower with each array described; static arguments and what is no array are handed on as they are."""
    import jax

    call = _with_data_alone(_unbound(call))
    function, static, names = _jitted(call)
    arguments = [a if i in static else jax.tree.map(described, a) for i, a in enumerate(call.arguments)]
    keywords = {k: a if k in names else jax.tree.map(described, a) for k, a in call.keywords.items()}
    if not hasattr(call.function, "lower") and not call.donated:
        function = _donating(function, call, (arguments, keywords), (static, names))
    leaves = jax.tree.leaves(([a for i, a in enumerate(arguments) if i not in static], keywords))
    placed = any(getattr(leaf, "sharding", None) is not None for leaf in leaves)
    if placed:
        try:
            return function.lower(*arguments, **keywords)
        except Exception:  # a kernel asks what the default device is; but constants cannot be put there
            with contextlib.suppress(Exception), jax.default_device(device):
                return function.lower(*arguments, **keywords)
            raise
    with jax.default_device(device):
        return function.lower(*arguments, **keywords)


def _unbound(call: Call) -> Call:
    """Return a call of what a partial or a bound method calls, where that is jitted: its donation then counts."""
    function = call.function
    if isinstance(function, functools.partial) and hasattr(function.func, "lower"):
        arguments = (*function.args, *call.arguments)
        return Call(function=function.func, arguments=arguments, keywords=function.keywords | call.keywords)
    if isinstance(function, types.MethodType) and hasattr(function.__func__, "lower"):
        return Call(function=function.__func__, arguments=(function.__self__, *call.arguments), keywords=call.keywords)
    return call


def _jitted(call: Call) -> tuple[Any, frozenset[int], frozenset[str]]:
    """Return a jitted function, and which of its arguments are static.

    A function that is jitted already keeps its own options. Otherwise arguments that hold something else than numbers
    and arrays (a string, a function, a configuration) are static.
    """
    import jax

    if hasattr(call.function, "lower"):
        info = getattr(call.function, "_jit_info", None)
        static = frozenset(n % len(call.arguments) for n in getattr(info, "static_argnums", ()) if call.arguments)
        return call.function, static, frozenset(getattr(info, "static_argnames", ()) or ())
    static = frozenset(i for i, argument in enumerate(call.arguments) if not _is_data(argument))
    names = frozenset(name for name, argument in call.keywords.items() if not _is_data(argument))
    run = jax.jit(
        call.function, donate_argnums=call.donated, static_argnums=sorted(static), static_argnames=sorted(names)
    )
    return run, static, names


def _donating(
    function: Any,
    call: Call,
    described: tuple[list[Any], dict[str, Any]],
    static: tuple[frozenset[int], frozenset[str]],
) -> Any:
    """Return the function so jitted that it donates what jitted functions that it calls are given for good.

    ``def step(state, batch): return _step(state, batch, config)`` gives the state away if ``_step`` does; inside
    another ``jit`` JAX would forget that.
    """
    import jax

    arguments, keywords = described
    try:
        jaxpr = function.trace(*arguments, **keywords).jaxpr.jaxpr
    except Exception:  # lowering will say it
        return function
    given = {
        id(value)
        for equation in jaxpr.eqns
        for value, is_given in zip(equation.invars, equation.params.get("donated_invars", ()), strict=False)
        if is_given
    }
    if not given:
        return function
    flags = iter([id(value) in given for value in jaxpr.invars])

    def is_whole(argument: Any) -> bool:
        each = [next(flags) for _ in jax.tree.leaves(argument)]
        return bool(each) and all(each)

    numbers = [i for i, argument in enumerate(arguments) if i not in static[0] and is_whole(argument)]
    words = [name for name in sorted(keywords) if name not in static[1] and is_whole(keywords[name])]
    return jax.jit(
        call.function,
        donate_argnums=numbers,
        donate_argnames=words,
        static_argnums=sorted(static[0]),
        static_argnames=sorted(static[1]),
    )


def _with_data_alone(call: Call) -> Call:
    """Return a call without the leaves that are no data, which a model holds beside its arrays (an activation, say).

    They stay what they are when the function runs; of what it returns they are left out. Equinox's ``filter_jit``,
    whose own way to lower takes descriptions of arrays for such leaves, is taken as a function that donates alike.
    """
    import jax

    is_filtered = type(call.function).__module__.startswith("equinox") and hasattr(call.function, "donate_first")
    given = _numbered(call.arguments, call.keywords)
    if not is_filtered and (hasattr(call.function, "lower") or not any(map(_is_mixed, given.values()))):
        return call
    whole = {} if is_filtered else {key: argument for key, argument in given.items() if _is_data(argument)}
    data = {key: whole.get(key, _arrays(argument)) for key, argument in given.items()}
    rest = {key: _arrays(argument, False) for key, argument in given.items() if key not in whole}

    def run(*arguments: Any, **keywords: Any) -> Any:
        now = _numbered(arguments, keywords)
        now |= {key: jax.tree.map(_either, now[key], other, is_leaf=_is_none) for key, other in rest.items()}
        named = {key: argument for key, argument in now.items() if isinstance(key, str)}
        return _arrays(call.function(*(now[n] for n in range(len(arguments))), **named))

    with contextlib.suppress(TypeError, ValueError):
        run.__signature__ = inspect.signature(call.function)  # type: ignore[attr-defined]
    donated = set(call.donated)
    if is_filtered:
        first, others = call.function.donate_first, call.function.donate_rest  # type: ignore[attr-defined]
        donated = {n for n in range(len(call.arguments)) if (others if n else first)}
    return Call(
        function=jax.jit(run, donate_argnums=sorted(donated)),
        arguments=tuple(data[n] for n in range(len(call.arguments))),
        keywords={name: data[name] for name in call.keywords},
    )


def _numbered(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[int | str, Any]:
    found: dict[int | str, Any] = dict(enumerate(arguments))
    found.update(keywords.items())
    return found


def _arrays(tree: Any, wanted: bool = True) -> Any:
    """Return a tree with its arrays alone (else with all but those), None in place of others."""
    import jax

    return jax.tree.map(lambda leaf: leaf if hasattr(leaf, "dtype") == wanted else None, tree)


def _either(data: Any, other: Any) -> Any:
    return other if data is None else data


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _is_mixed(argument: Any) -> bool:
    import jax

    return not _is_data(argument) and any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(argument))


def _is_data(argument: Any) -> bool:
    import jax

    return all(hasattr(leaf, "dtype") or isinstance(leaf, int | float | complex) for leaf in jax.tree.leaves(argument))


@dataclass(kw_only=True)
class _Meshes:
    """How ``jax.make_mesh`` types the axes of meshes whose maker does not say."""

    made_by_default: bool = False
    automatic: bool = False
    is_asked_for: bool = False  # a program makes a mesh of more than one place


def _let_programs_find(devices: list[Any]) -> _Meshes:
    """Make the topology's devices those that this process's programs see."""
    import jax
    import numpy
    from jax.experimental import mesh_utils
    from jax.sharding import AxisType, Mesh

    meshes = _Meshes()
    build_mesh: Any = jax.make_mesh
    build_devices: Any = mesh_utils.create_device_mesh
    build_map: Any = jax.pmap

    def make(shape: Any, names: Any, axis_types: Any = None, *, devices: Any = None) -> Any:
        meshes.is_asked_for |= math.prod(shape) > 1
        if axis_types is None:
            meshes.made_by_default = True
            axis_types = (AxisType.Auto,) * len(names) if meshes.automatic else None
        places = found() if devices is None else devices
        try:
            return build_mesh(shape, names, axis_types, devices=places)
        except AssertionError:  # v4's two cores a chip, which JAX's own order does not know apart
            kinds = axis_types or (AxisType.Explicit,) * len(names)
            return Mesh(numpy.array(places[: math.prod(shape)]).reshape(shape), names, axis_types=kinds)

    def mapped(*arguments: Any, devices: Any = None, **options: Any) -> Any:
        return build_map(*arguments, devices=found() if devices is None else devices, **options)

    def arranged(shape: Any, devices: Any = None, **options: Any) -> Any:
        return build_devices(shape, found() if devices is None else devices, **options)

    def found(backend: str | None = None) -> list[Any]:
        del backend
        return list(devices)

    def found_here(*places: Any, **options: Any) -> list[Any]:
        del places, options
        return list(devices)

    def count(backend: str | None = None) -> int:
        del backend
        return len(devices)

    def backend() -> str:
        return "tpu"

    changed: Any = jax
    changed.devices, changed.device_count, changed.make_mesh, changed.pmap = found, count, make, mapped
    changed.local_devices, changed.local_device_count, changed.default_backend = found_here, count, backend
    utilities: Any = mesh_utils
    utilities.create_device_mesh = arranged
    return meshes


@contextlib.contextmanager
def _using(mesh: Any) -> Iterator[None]:
    import jax

    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh):
        yield


def describe_failure(error: BaseException, folder: str) -> str:
    """Return an error in one line: its type, its message, and the user's file and line where one is on the way."""
    if isinstance(error, InputError):
        return f"InputError: {error}"
    where = _users_place(error, folder)
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()) if note.startswith(("a program", "--mesh")))
    if type(error).__name__ in NEEDS_A_NUMBER:
        notes += f"; {TRACED}"
    return f"{type(error).__name__}: {error}{f' ({where})' if where else ''}{notes}"


def _users_place(error: BaseException, folder: str) -> str:
    """Return ``file:line, in function`` of the innermost frame in ``folder``, or outside JAX and this package."""
    import jax

    here = Path(__file__).resolve().parent
    ours = (here, here.parent / "checkpointing", here.parent / "program_reference.py")
    own = [str(path) for path in (Path(str(jax.__file__)).resolve().parent, *ours)]
    root = f"{Path(folder).resolve()}{os.sep}" if folder else ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    places = [(str(Path(f.filename).resolve()), f.lineno, f.name) for f in frames]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((str(Path(error.filename).resolve()), error.lineno, ""))
    foreign = [p for p in places if not p[0].startswith(tuple(own))]
    users = [p for p in foreign if root and p[0].startswith(root) and "site-packages" not in p[0]]
    if not (users or foreign):
        return ""
    file, line, name = (users or foreign)[-1]
    return f"{file.removeprefix(root)}:{line}{f', in {name}' if name else ''}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

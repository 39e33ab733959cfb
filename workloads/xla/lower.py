"""A user's function, lowered for chips that are not there. Imports JAX; runs in the compiling process only."""

import contextlib
import math
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mallocgame.errors import InputError
from mallocgame.workloads.calls import Leaf, ReadyCall, prepare
from mallocgame.workloads.program_reference import Call, ProgramReference, resolve
from mallocgame.workloads.xla.arguments import argument_names
from mallocgame.workloads.xla.topology import make_mesh, parse_mesh, topology_name

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
    ready = prepare(call, placed_on(device))
    return Lowered(lower_ready(ready, device), argument_names(call))


def placed_on(device: Any) -> Leaf:
    """Return what describes an array, or a number, as one on this device."""
    import jax
    import numpy
    from jax.sharding import SingleDeviceSharding

    struct: Any = jax.ShapeDtypeStruct

    def placed(leaf: Any) -> Any:
        array = leaf if hasattr(leaf, "dtype") else numpy.asarray(leaf)
        return struct(array.shape, array.dtype, sharding=SingleDeviceSharding(device))

    return placed


def _lower_for_several(call: Call, devices: list[Any]) -> Lowered:
    import jax

    struct: Any = jax.ShapeDtypeStruct

    def described(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        known = sharding is not None and sharding.device_set <= set(devices)
        return struct(leaf.shape, leaf.dtype, sharding=sharding if known else None) if hasattr(leaf, "dtype") else leaf

    return Lowered(lower_ready(prepare(call, described), devices[0]), argument_names(call))


def lower_ready(ready: ReadyCall, device: Any) -> Any:
    """Return a call lowered; ``device`` is the default one where no argument that is used says its own."""
    import jax

    if any(getattr(leaf, "sharding", None) is not None for leaf in ready.leaves):
        try:
            lowered = ready.function.lower(*ready.arguments, **ready.keywords)
        except Exception:  # a kernel asks what the default device is; but constants cannot be put there
            with contextlib.suppress(Exception), jax.default_device(device):
                return ready.function.lower(*ready.arguments, **ready.keywords)
            raise
        own = getattr(getattr(lowered, "_lowering", None), "compile_args", {})
        if own.get("committed", True):
            return lowered
    with jax.default_device(device):
        return ready.function.lower(*ready.arguments, **ready.keywords)


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
    ours = (here, here.parent / "checkpointing", here.parent / "calls.py", here.parent / "program_reference.py")
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

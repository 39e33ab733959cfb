# mypy: disable-error-code="no-untyped-call, untyped-decorator, misc, override"
# (Numba's extension API has no types)
"""Named arrays in two flat buffers, for Python and for kernels: the class that declares them is the only table of them.

A subclass of ``Views`` declares its arrays as annotations, ``served: Annotated[I64, Size.GROUPS]``: int64 or float64,
then its axes, each a size of the game, a table's columns or a number. Where each array begins follows, and stands in
the *layout*, int64[], after the sizes.

In Python an instance has the arrays as attributes. In a kernel it is three pointers: an array is put together where it
is used, from the layout, which never changes. (A tuple of 34 arrays took as long to compile as all the rest.) A kernel
makes an instance as Python does, ``State(layout, ints, floats)``; it does not keep its buffers alive.
"""

import hashlib
from enum import EnumMeta, IntEnum
from math import prod
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, lower_builtin, register_model, type_callable, typeof_impl, unbox
from numba.np import arrayobj

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Axis = IntEnum | int  # a size, that is a place in the layout, or a number
BUFFERS = {"layout": types.int64, "ints": types.int64, "floats": types.float64}


class Field(NamedTuple):
    """An array: the buffer it lies in, its axes, and the place in the layout that says where it begins (None: at 0)."""

    buffer: str
    axes: tuple[Axis, ...]
    slot: int | None

    @property
    def array_type(self) -> types.Array:
        """The Numba type of the array."""
        return types.Array(BUFFERS[self.buffer], len(self.axes), "C")


class Views:
    """See the module. ``num_steps`` is ``Size.STEPS`` of the layout, and so on."""

    fields: ClassVar[dict[str, Field]]
    sizes: ClassVar[dict[str, int]]
    numba_type: ClassVar["ViewsType"]

    def __init__(self, layout: I64, ints: I64, floats: F64) -> None:
        """Look at the buffers, which may be longer than the layout needs."""
        self.layout, self.ints, self.floats = layout, ints, floats

    def __getattr__(self, name: str) -> Any:
        """Return an array, a view of its buffer, and keep it; or a size."""
        if name in self.sizes:
            return int(self.layout[self.sizes[name]])
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        field = self.fields[name]
        begin = int(self.layout[field.slot])
        shape = shape_of(field, self.layout)
        array = self.__dict__[field.buffer][begin : begin + prod(shape)].reshape(shape)
        self.__dict__[name] = array
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the buffers, not each array."""
        return type(self), (self.layout, self.ints, self.floats)


def shape_of(field: Field, layout: I64) -> tuple[int, ...]:
    """Return the shape of an array."""
    return tuple(int(layout[axis]) if isinstance(axis, IntEnum) else axis for axis in field.axes)


def declare(views: type[Views], sizes: type[IntEnum], first_slot: int) -> int:
    """Read the annotations of a subclass, tell Numba, and return the first place of the layout that is left."""
    slot = first_slot
    views.fields, views.sizes = {}, {f"num_{size.name.lower()}": size.value for size in sizes}
    for name, hint in get_type_hints(views, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        array, *axes = get_args(hint)
        counted = tuple(len(axis) if isinstance(axis, EnumMeta) else axis for axis in axes)
        if name in BUFFERS:
            views.fields[name] = Field(name, counted, None)
        else:
            views.fields[name] = Field("floats" if array == F64 else "ints", counted, slot)
            slot += 1
    views.numba_type = ViewsType(views.__name__, views.fields, views.sizes)
    _tell_numba(views)
    return slot


def place_arrays(views: type[Views], layout: I64, first_int: int) -> tuple[int, int]:
    """Write to ``layout``, whose sizes are known, where each array begins; return the lengths of the two buffers."""
    lengths = {"ints": first_int, "floats": 0}
    for field in views.fields.values():
        if field.slot is not None:
            layout[field.slot] = lengths[field.buffer]
            lengths[field.buffer] += prod(shape_of(field, layout))
    return lengths["ints"], lengths["floats"]


class ViewsType(types.Type):
    """The Numba type of a class of views. Its name has a digest of the table: other tables, other machine code."""

    def __init__(self, name: str, fields: dict[str, Field], sizes: dict[str, int]) -> None:
        """Note the table."""
        self.fields, self.sizes = fields, sizes
        digest = hashlib.sha256(repr((fields, sizes)).encode()).hexdigest()
        super().__init__(name=f"{name}-{digest[:12]}")


@register_model(ViewsType)
class _ViewsModel(models.StructModel):
    def __init__(self, manager: Any, numba_type: ViewsType) -> None:
        ints, floats = types.CPointer(types.int64), types.CPointer(types.float64)
        super().__init__(manager, numba_type, [("layout", ints), ("ints", ints), ("floats", floats)])


@infer_getattr
class _ViewsAttributes(AttributeTemplate):
    key = ViewsType

    def generic_resolve(self, views: ViewsType, name: str) -> types.Type | None:
        if name in views.sizes:
            return types.int64
        return views.fields[name].array_type if name in views.fields else None


@lower_getattr_generic(ViewsType)
def _lower_attribute(context: Any, builder: Any, views: ViewsType, value: Any, name: str) -> Any:
    struct = cgutils.create_struct_proxy(views)(context, builder, value)
    if name in views.sizes:
        return _constant_load(context, builder, struct.layout, views.sizes[name])
    field = views.fields[name]
    data = getattr(struct, field.buffer)
    if field.slot is not None:
        data = builder.gep(data, [_constant_load(context, builder, struct.layout, field.slot)], inbounds=True)
    axes = [
        _constant_load(context, builder, struct.layout, axis)
        if isinstance(axis, IntEnum)
        else context.get_constant(types.int64, axis)
        for axis in field.axes
    ]
    strides = [context.get_constant(types.int64, 8)]
    for axis in reversed(axes[1:]):
        strides.insert(0, builder.mul(strides[0], axis, flags=["nsw"]))
    array = arrayobj.make_array(field.array_type)(context, builder)
    arrayobj.populate_array(array, data=data, shape=axes, strides=strides, itemsize=8, meminfo=None)
    return array._getvalue()


def _constant_load(context: Any, builder: Any, layout: Any, place: int) -> Any:
    """Load what no kernel ever changes: it need not be loaded again."""
    found = builder.load(builder.gep(layout, [context.get_constant(types.int64, int(place))], inbounds=True))
    found.set_metadata("invariant.load", builder.module.add_metadata([]))
    return found


def _tell_numba(views: type[Views]) -> None:
    """Let kernels take and make instances."""
    numba_type = views.numba_type

    @typeof_impl.register(views)
    def typeof(_value: Views, _context: Any) -> ViewsType:
        return numba_type

    @type_callable(views)
    def type_call(_context: Any) -> Any:
        def typer(layout: types.Array, ints: types.Array, floats: types.Array) -> ViewsType:
            return numba_type

        return typer

    @lower_builtin(views, types.Array, types.Array, types.Array)
    def make(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        struct = cgutils.create_struct_proxy(numba_type)(context, builder)
        for name, array_type, value in zip(BUFFERS, signature.args, values, strict=True):
            setattr(struct, name, arrayobj.make_array(array_type)(context, builder, value).data)
        return struct._getvalue()


@unbox(ViewsType)
def _unbox(views: ViewsType, instance: Any, c: Any) -> NativeValue:
    struct = cgutils.create_struct_proxy(views)(c.context, c.builder)
    error = cgutils.false_bit
    held = []
    for name in BUFFERS:
        array_type = views.fields[name].array_type
        buffer = c.pyapi.object_getattr_string(instance, name)
        native = c.unbox(array_type, buffer)
        c.pyapi.decref(buffer)  # the instance keeps it
        setattr(struct, name, arrayobj.make_array(array_type)(c.context, c.builder, native.value).data)
        error = c.builder.or_(error, native.is_error)
        held.append((array_type, native.value))

    def let_go() -> None:
        for array_type, value in held:
            c.context.nrt.decref(c.builder, array_type, value)

    return NativeValue(struct._getvalue(), is_error=error, cleanup=let_go if c.context.enable_nrt else None)

"""Which chips a program is compiled for: one, or a slice of several with a mesh of named axes over it."""

import math
import re
from typing import Any

from mallocgame.errors import InputError

ONE_CHIP = {"v4": "v4:1x1x1", "v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}

_TOPOLOGY = re.compile(r"([a-z]\d+[a-z]*):\d{1,4}x\d{1,4}(?:x\d{1,4})?")
_AXIS = re.compile(r"([A-Za-z_]\w*)=(\d{1,6})")


def chip_of(target: str) -> str:
    """Return the chip of a target: ``v5e`` of ``v5e`` and of ``v5e:2x2``.

    Raises:
        InputError: neither a chip nor a topology.

    >>> chip_of("v5e:2x2")
    'v5e'
    """
    match = _TOPOLOGY.fullmatch(target)
    chip = match[1] if match else target
    if chip not in ONE_CHIP:
        chips = ", ".join(ONE_CHIP)
        raise InputError(f"unknown chip {target!r}, expected one of {chips}, or several of one, such as v5e:2x2")
    return chip


def topology_name(target: str) -> str:
    """Return libtpu's name of a target: a chip's smallest topology, or the topology itself."""
    chip_of(target)
    return ONE_CHIP.get(target, target)


def num_devices(target: str) -> int:
    """Return how many chips a target names, by its dimensions.

    >>> num_devices("v5e:2x4"), num_devices("v5e")
    (8, 1)
    """
    return math.prod(int(size) for size in topology_name(target).partition(":")[2].split("x"))


def parse_mesh(text: str) -> dict[str, int]:
    """Parse ``data=2,model=2`` into sizes of named axes; empty text: no axes.

    Raises:
        InputError: not of that form, or an axis that is named twice.

    >>> parse_mesh("data=2,model=4")
    {'data': 2, 'model': 4}
    """
    axes: dict[str, int] = {}
    for word in text.split(",") if text else ():
        match = _AXIS.fullmatch(word.strip())
        if not match or match[1] in axes or int(match[2]) < 1:
            raise InputError(f"mesh: expected AXIS=SIZE,… such as data=2,model=2, got {text!r}")
        axes[match[1]] = int(match[2])
    return axes


def make_mesh(text: str, devices: list[Any], target: str) -> Any:
    """Return the ``jax.sharding.Mesh`` that ``text`` names over a topology's devices. Imports JAX.

    Raises:
        InputError: the mesh has another number of places than there are devices.
    """
    import jax
    import numpy
    from jax.sharding import AxisType, Mesh

    axes = parse_mesh(text)
    places = math.prod(axes.values())
    if places != len(devices):
        raise InputError(f"a mesh {text} has {places} places, {topology_name(target)} has {len(devices)} devices")
    build: Any = jax.make_mesh
    kinds = (AxisType.Auto,) * len(axes)
    try:
        return build(tuple(axes.values()), tuple(axes), axis_types=kinds, devices=devices)
    except AssertionError:  # v4's two cores a chip, which JAX's own order does not know apart
        return Mesh(numpy.array(devices).reshape(tuple(axes.values())), tuple(axes), axis_types=kinds)

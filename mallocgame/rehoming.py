"""A program as it would run with another memory: what follows a tensor's home, and what stays where it was."""

from dataclasses import replace

import numpy as np

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program, Tensor, UseKind
from mallocgame.solver import Problem


def rehome(program: Program, old: Hierarchy, new: Hierarchy) -> Problem:
    """Return ``program``, made for ``old``, as a problem of ``new``.

    Traffic that no mapping can move stays in the layer of the same name, else as far from the fastest one. Where that
    puts the old layer 0, the home of every tensor, above a slower one (a host's memory), homes move down to that:

    - a parameter that nothing writes may be held from run to run, in the old home for ever;
    - what may not leave the old home (immovable tensors, home-only uses) is traffic of that layer. Immovable tensors
      keep their place in it: its capacity is less by the most bytes of them that are live at once.

    Raises:
        InputError: the immovable tensors do not fit.
    """
    layer_of = {layer.name: index for index, layer in enumerate(new.layers)}
    shift = new.num_layers - old.num_layers
    target = [layer_of.get(layer.name, max(index + shift, 0)) for index, layer in enumerate(old.layers)]
    fixed = np.zeros((program.num_steps, new.num_layers), dtype=np.int64)
    np.add.at(fixed.T, np.array(target), program.fixed_bytes(old.num_layers).T)
    home, tensors = target[0], list(program.tensors)
    pinned = {use.step for tensor in program.tensors if home > 0 and not tensor.movable for use in tensor.uses}
    if home > 0:
        for index, tensor in enumerate(program.tensors):
            for use in tensor.uses:
                if use.home_only or not tensor.movable:
                    fixed[use.step, home] += use.bytes
            tensors[index] = _moved_down(tensor)
        new = _without_pinned(program, new, home)
    instructions = tuple(
        replace(i, fixed_bytes=tuple(row), is_replaceable=i.is_replaceable and step not in pinned)
        for step, (i, row) in enumerate(zip(program.instructions, fixed.tolist(), strict=True))
    )
    return Problem(replace(program, instructions=instructions, tensors=tuple(tensors)), new)


def _moved_down(tensor: Tensor) -> Tensor:
    if not tensor.movable:  # its traffic and its place are counted: nothing of it is left to plan
        return replace(tensor, uses=(), is_parameter=True, is_output=False)
    uses = tuple(replace(use, bytes=0, home_only=False) if use.home_only else use for use in tensor.uses)
    is_constant = tensor.is_parameter and all(use.kind == UseKind.READ for use in uses)
    return replace(tensor, uses=uses, holdable=tensor.holdable or is_constant)


def _without_pinned(program: Program, new: Hierarchy, home: int) -> Hierarchy:
    change = np.zeros(program.num_steps + 1, dtype=np.int64)
    for tensor, spans in zip(program.tensors, program.live_steps, strict=True):
        for start, end in spans if not tensor.movable else ():
            change[start] += tensor.size_bytes
            change[end] -= tensor.size_bytes
    pinned = int(np.cumsum(change).max(initial=0))
    if not pinned:
        return new
    layer = new.layers[home]
    if pinned >= layer.capacity_bytes:
        raise InputError(
            f"{program.name}: tensors that may not leave {layer.name} take {pinned} bytes of it,"
            f" hierarchy {new.name} has {layer.capacity_bytes}"
        )
    smaller = replace(layer, capacity_bytes=layer.capacity_bytes - pinned)
    return replace(new, layers=(*new.layers[:home], smaller, *new.layers[home + 1 :]))

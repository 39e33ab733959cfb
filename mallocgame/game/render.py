"""Pictures of a game: the memory map as it fills, time across and addresses up, one colour per tensor.

The time axis shows the steps that use a movable tensor; schedules are full of others (parameters, tuples). Below lies
a strip for the tensor whose use is being decided: a block per use, the current use outlined. A space that is taken
while its copy is still under way is drawn in a lighter shade.
Around the map stand the axes, what is being decided, and what the shades mean.
"""

import colorsys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mallocgame.errors import printable
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping, Residency
from mallocgame.program import Program

if TYPE_CHECKING:
    from PIL import ImageDraw

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

WIDTH = 640  # of the map
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 24, 40  # of what stands around it
PANEL_HEIGHT = 240  # of one layer's map
STRIP_HEIGHT = 24
GAP = 4
BACKGROUND = (244, 244, 240)
FREE = (255, 255, 255)
INK = (20, 20, 20)
FONT_SIZE = 11
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ANSI_WIDTH, ANSI_HEIGHT = 72, 16


def time_axis(program: Program) -> I64:
    """Return int64[T + 1], how many steps before each boundary use a movable tensor."""
    busy = np.zeros(program.num_steps + 1, dtype=np.int64)
    for tensor in program.tensors:
        if tensor.movable:
            busy[[use.step + 1 for use in tensor.uses]] = 1
    axis: I64 = np.cumsum(busy)
    return axis


def tensor_colour(tensor: int) -> tuple[int, int, int]:
    """Return the RGB colour of a tensor: hues a golden ratio apart, so that neighbours differ."""
    hue = tensor * 0.6180339887498949 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.25 * (tensor % 3) / 2, 0.9 - 0.2 * (tensor % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def render_rgb(program: Program, hierarchy: Hierarchy, mapping: Mapping, tensor: int, step: int) -> U8:
    """Return uint8[height, LEFT + WIDTH + RIGHT, 3], the memory map under ``mapping`` in its frame.

    ``tensor`` and ``step`` are the use being decided; -1 and T when the game is over.
    """
    inside = _map(program, hierarchy, mapping, tensor, step)
    height = inside.shape[0]
    image = np.empty((TOP + height + BOTTOM, LEFT + WIDTH + RIGHT, 3), dtype=np.uint8)
    image[:] = BACKGROUND
    image[TOP : TOP + height, LEFT : LEFT + WIDTH] = inside
    return _labelled(image, program, hierarchy, tensor, step)


def _map(program: Program, hierarchy: Hierarchy, mapping: Mapping, tensor: int, step: int) -> U8:
    """Return uint8[height, WIDTH, 3], a panel for each fast layer and the strip."""
    layers = hierarchy.num_layers - 1
    height = layers * (PANEL_HEIGHT + GAP) + STRIP_HEIGHT + GAP
    image = np.empty((height, WIDTH, 3), dtype=np.uint8)
    image[:] = BACKGROUND
    axis, fills = time_axis(program), mapping.fill_boundaries
    panels = [image[(layers - layer) * (PANEL_HEIGHT + GAP) :][:PANEL_HEIGHT] for layer in range(1, layers + 1)]
    for panel in panels:
        panel[:] = FREE
    for index, r in enumerate(mapping.residencies):
        _draw(program, hierarchy, axis, panels[r.layer - 1], r, int(fills[index]), r.tensor == tensor)
    if step < program.num_steps:
        for panel in panels:
            now = panel[:, _columns(axis, step, step + 1)]
            now[:] = now // 4 * 3
    if tensor >= 0:
        _draw_strip(program, axis, image[-STRIP_HEIGHT:], tensor, step)
    return image


def _labelled(image: U8, program: Program, hierarchy: Hierarchy, tensor: int, step: int) -> U8:
    """Return the picture with its axes, the decision in words, and a legend."""
    from PIL import Image, ImageDraw, ImageFont  # matplotlib brings it

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_SIZE)

    def write(x: float, y: float, text: str, anchor: str) -> None:
        draw.text((x, y), printable(text), fill=INK, font=font, anchor=anchor)

    write(LEFT, TOP / 2, _decision(program, tensor, step), "lm")
    for layer in range(1, hierarchy.num_layers):
        top = TOP + (hierarchy.num_layers - 1 - layer) * (PANEL_HEIGHT + GAP)
        unit, name = _unit(hierarchy.layers[layer].capacity_bytes)
        for quarter in range(5):
            y = top + PANEL_HEIGHT * (4 - quarter) / 4
            value = hierarchy.layers[layer].capacity_bytes * quarter / 4 / unit
            draw.line([(LEFT - 4, y), (LEFT - 1, y)], fill=INK)
            write(LEFT - 6, min(max(y, top + 6), top + PANEL_HEIGHT - 6), f"{value:.4g}", "rm")
        write(LEFT - 6, top + PANEL_HEIGHT / 8, hierarchy.layers[layer].name[:9], "rm")
        write(LEFT - 6, top + PANEL_HEIGHT / 8 + FONT_SIZE + 2, name, "rm")
    below = image.shape[0] - BOTTOM
    write(LEFT - 6, below - STRIP_HEIGHT / 2, "its uses" if tensor >= 0 else "", "rm")
    _label_time(draw, write, program, below)
    _label_shades(draw, write, below + 28)
    return np.array(picture)


def _decision(program: Program, tensor: int, step: int) -> str:
    if tensor < 0 or step >= program.num_steps:
        return f"{_short(program.name)}: the game is over"
    chosen = program.tensors[tensor]
    uses = sorted({use.step for use in chosen.uses})
    which = f"use {uses.index(step) + 1} of {len(uses)}" if step in uses else f"uses {len(uses)}"
    unit, name = _unit(chosen.size_bytes)
    size = f"{chosen.size_bytes / unit:.3g} {name}"
    where = f"step {step} of {program.num_steps}, {_short(program.instructions[step].name)}"
    return f"{_short(program.name)}: {where}: where is {_short(chosen.name)} ({size}, {which})?"


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _unit(size_bytes: int) -> tuple[int, str]:
    return next(
        ((1 << k, name) for k, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if size_bytes >= 1 << k), (1, "B")
    )


def _label_time(draw: "ImageDraw.ImageDraw", write: Callable[..., None], program: Program, below: int) -> None:
    """Number steps under the map: they are as far apart as there are steps that use a movable tensor between them."""
    axis = time_axis(program)
    whole = max(int(axis[-1]), 1)
    for fifth in range(6):
        step = min(int(np.searchsorted(axis, fifth * whole / 5)), program.num_steps)
        x = LEFT + int(axis[step]) * (WIDTH - 1) / whole
        draw.line([(x, below), (x, below + 3)], fill=INK)
        write(x, below + 4, f"step {step}" if fifth == 0 else str(step), ("la", "ma", "ra")[(fifth > 0) + (fifth == 5)])


def _label_shades(draw: "ImageDraw.ImageDraw", write: Callable[..., None], y: int) -> None:
    colour = tensor_colour(2)
    light = tuple((np.array(colour) + 2 * 255) // 3)
    kinds = (
        (colour, "a tensor"),
        (light, "its copy is under way"),
        (FREE, "the one to decide"),
        (tuple(c // 4 * 3 for c in FREE), "now"),
    )
    x = LEFT
    for fill, text in kinds:
        frame = INK if "decide" in text else None
        draw.rectangle([(x, y - 4), (x + 12, y + 4)], fill=fill, outline=frame, width=2)
        write(x + 17, y, text, "lm")
        x += 160


def _columns(axis: I64, start: int, end: int) -> slice:
    left, right, whole = axis[max(start, 0)], axis[end], max(int(axis[-1]), 1)
    first = min(int(left * WIDTH // whole), WIDTH - 1)
    return slice(first, max(int(-(-right * WIDTH // whole)), first + 1))


def _draw(program: Program, hierarchy: Hierarchy, axis: I64, panel: U8, r: Residency, fill: int, current: bool) -> None:
    capacity = hierarchy.layers[r.layer].capacity_bytes
    low = int(r.offset_bytes * PANEL_HEIGHT / capacity)
    high = int(np.ceil((r.offset_bytes + program.tensors[r.tensor].size_bytes) * PANEL_HEIGHT / capacity))
    rows = slice(PANEL_HEIGHT - max(high, low + 1), PANEL_HEIGHT - low)
    columns = _columns(axis, r.start_step, r.end_step)
    colour = np.array(tensor_colour(r.tensor))
    panel[rows, columns] = colour
    if fill > max(r.start_step, 0):
        panel[rows, _columns(axis, r.start_step, fill)] = (colour + 2 * 255) // 3
    outline(panel[rows, columns], 2 if current else 1, INK if current else tuple((colour * 0.7).astype(int)))


def outline(area: U8, thickness: int, colour: tuple[int, ...]) -> None:
    """Draw a frame just inside ``area``, where it is large enough to keep its middle."""
    if min(area.shape[:2]) <= 2 * thickness:
        if colour == INK:
            area[:] = colour
        return
    area[:thickness] = area[-thickness:] = colour
    area[:, :thickness] = area[:, -thickness:] = colour


def _draw_strip(program: Program, axis: I64, strip: U8, tensor: int, step: int) -> None:
    strip[:] = FREE
    uses = {use.step for use in program.tensors[tensor].uses}
    for at in sorted(uses):
        columns = _columns(axis, at, at + 1)
        wide = slice(columns.start, max(columns.stop, columns.start + 4))
        strip[4:-4, wide] = tensor_colour(tensor)
        if at == step:
            box = slice(max(wide.start - 4, 0), wide.stop + 4)
            outline(strip[:, box], 2, INK)


def render_ansi(program: Program, hierarchy: Hierarchy, mapping: Mapping, tensor: int, step: int, status: str) -> str:
    """Return the same map as text: ``status``, then each layer's grid, a letter per tensor, ``.`` where free."""
    axis = time_axis(program)
    whole = max(int(axis[-1]), 1)
    width = min(ANSI_WIDTH, whole)
    lines = [status]
    for layer in range(hierarchy.num_layers - 1, 0, -1):
        capacity = hierarchy.layers[layer].capacity_bytes
        grid = np.full((ANSI_HEIGHT, width), ".", dtype="<U1")
        for r in mapping.residencies:
            if r.layer == layer:
                low = int(r.offset_bytes * ANSI_HEIGHT / capacity)
                high = -(-(r.offset_bytes + program.tensors[r.tensor].size_bytes) * ANSI_HEIGHT // capacity)
                left, right = axis[max(r.start_step, 0)] * width // whole, -(-axis[r.end_step] * width // whole)
                grid[low:high, left:right] = LETTERS[r.tensor % len(LETTERS)]
        lines.append(f"{hierarchy.layers[layer].name} ({capacity} bytes)")
        lines += ["|" + "".join(row) + "|" for row in grid[::-1]]
        lines.append(" " + "".join("^" if c == axis[step] * width // whole else " " for c in range(width)))
    if tensor >= 0:
        letter = LETTERS[tensor % len(LETTERS)]
        lines.append(f"step {step} ({program.instructions[step].name}) uses {letter} = {program.tensors[tensor].title}")
    return "\n".join(lines) + "\n"
